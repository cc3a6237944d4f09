"""Where the tokens of a grid model stand and ask, and how its attention is turned by that.

Shapes: batch B, tokens T, heads H, width D, head width D / H; places are [AXES, B, T], (segment, row, column).
"""

import torch
from torch import Tensor

from arc_seal.models.grid_vocabulary import ASK, AXES, INPUT, OUTPUT, ROW_END


class Rotation:
    """Turns pairs of a head's dimensions by angles that grow with the place (RoPE, arXiv 2104.09864).

    Args:
        places: [AXES, B, T].
        frequencies: Radians a step of each pair on each axis, [AXES, D / H / 2].
        dtype: Of what is turned.
    """

    def __init__(self, places: Tensor, frequencies: Tensor, dtype: torch.dtype) -> None:
        angles = torch.einsum("abt,af->btf", places.float(), frequencies)[:, None]  # [B, 1, T, D / H / 2]
        self.cos = torch.cat([angles.cos(), angles.cos()], dim=-1).to(dtype)  # [B, 1, T, D / H]
        self.sin = torch.cat([-angles.sin(), angles.sin()], dim=-1).to(dtype)  # [B, 1, T, D / H]

    def turn(self, heads: Tensor) -> Tensor:
        """[B, H, T, D / H] -> [B, H, T, D / H]. Dimension i and the one half a head further are a pair."""
        half = heads.shape[-1] // 2
        return heads * self.cos + heads.roll(half, dims=-1) * self.sin


def rotary_frequencies(head: int, base: float) -> Tensor:
    """Radians a step of each pair of dimensions on each axis, [AXES, head / 2]; zero where another axis turns the pair.

    A quarter of the pairs tells segments apart, the others are halved between rows and columns.
    """
    pairs = head // 2
    segment = pairs // 4
    row = (pairs - segment) // 2
    frequencies = torch.zeros(AXES, pairs)
    begin = 0
    for axis, count in enumerate((segment, row, pairs - segment - row)):
        frequencies[axis, begin : begin + count] = base ** -(torch.arange(count) / max(1, count))
        begin += count
    return frequencies


def next_places(places: Tensor, ids: Tensor) -> Tensor:
    """Where the token after each would stand. [AXES, B, T], [B, T] -> [AXES, B, T]; see grid_vocabulary.next_place."""
    segment, row, column = places
    row_ends = ids == ROW_END
    return torch.stack([segment, row + row_ends, torch.where(row_ends, 1, column + 1)])


def places_of(ids: Tensor) -> Tensor:
    """Places of whole sequences, worked out from their tokens. [B, T] -> [AXES, B, T]. Padding on the left has none."""
    opens = (ids == INPUT) | (ids == OUTPUT) | (ids == ASK)
    row_ends = ids == ROW_END
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    segment = opens.long().cumsum(1)
    rows = row_ends.long().cumsum(1) - row_ends.long()  # row ends before each token
    opened = torch.where(opens, index, 0).cummax(1).values  # where its segment opened
    row = rows - rows.gather(1, opened)
    ended = torch.where(row_ends, index, 0).cummax(1).values.roll(1, 1)  # the last row end before it, or 0
    ended[:, 0] = 0
    column = index - torch.maximum(opened, ended)
    return torch.stack([segment - 1, row, column]) * (segment > 0)
