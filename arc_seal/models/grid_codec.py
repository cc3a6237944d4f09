"""The grid model's tokens: a colour each, a handful of marks, and a byte each for the self-edit's JSON. No torch.

    INPUT 0 0 3 ROW_END 0 3 0 END  OUTPUT 3 3 0 ROW_END 3 0 3 END   one demonstration
    ASK { " t o o l s " : ... } END                                 a self-edit

Input and output are written alike, `END` included, so that copying is the same at every token. A token's position is
(segment, row, column). Every grid, and every text, is a segment of its own; its opening mark stands at row 0, column 0,
cells from row 0, column 1 on, a row end behind the last cell of its row.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.grid import Grid
from arc_seal.models.prompt import END, ROW_END, SYMBOLS, Encoded, Positions, Prompt, grid_symbols

INPUT, OUTPUT, ASK, PAD, FIRST_BYTE = range(SYMBOLS, SYMBOLS + 5)
"""Marks that open a grid that is given, one that is answered, a self-edit; what fills a batch and is never read by any
real token; byte b of UTF-8 text is token FIRST_BYTE + b."""

VOCABULARY = FIRST_BYTE + 256

AXES = 3
"""Segment, row, column."""


def next_positions(positions: Positions, ids: Positions) -> Positions:
    """The position behind each token if no segment opens there: next column or row. [3, ...], [...] -> [3, ...]."""
    row_ends = ids == ROW_END
    following = positions + 1
    following[0] = positions[0]
    following[1] = positions[1] + row_ends
    following[2] = positions[2] * ~row_ends + 1
    return following


class Segment(NamedTuple):
    """One grid or one text, from its opening mark on: ids [tokens], rows and columns [2, tokens], not to be changed."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]


class GridCodec:
    """Encodes prompts for the grid model, which reads neither system turns nor a user's text.

    - Grids of a user's turn are inputs, or inputs and outputs in turn where text stands among them; a last one is
      followed by the mark of what is asked for: an output behind grids, a self-edit behind text.
    - A grid of the assistant's is an output, a text of the assistant's a self-edit.
    """

    symbols = tuple(range(SYMBOLS))
    next_positions = staticmethod(next_positions)

    def encode(self, prompt: Prompt, *, target_all: bool = False) -> Encoded:
        """Encode a prompt; see `Codec.encode`. In a target turn all but the opening mark is target."""
        segments, in_target = zip(*_segments(prompt), strict=True)
        ids, positions = join(segments)
        if target_all:
            target = np.arange(len(ids)) > 0
        else:
            marks = positions[2] == 0  # nothing else stands at column 0
            target = np.repeat(in_target, [len(segment.ids) for segment in segments]) & ~marks
        return Encoded(ids, positions, target)


def join(segments: Sequence[Segment]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segments behind one another: ids [tokens] and positions [3, tokens]. The first is segment 0."""
    ids = np.concatenate([segment.ids for segment in segments])
    positions = np.empty((AXES, len(ids)), np.int64)
    positions[0] = np.repeat(np.arange(len(segments)), [len(segment.ids) for segment in segments])
    np.concatenate([segment.positions for segment in segments], axis=1, out=positions[1:])
    return ids, positions


def grid_segment(cells: NDArray[np.uint8], mark: int) -> Segment:
    """A grid [height, width] behind its mark, `INPUT` or `OUTPUT`."""
    return Segment(np.append(mark, grid_symbols(cells)), _grid_positions(*cells.shape))


def text_segment(text: str) -> Segment:
    """A text: the mark that asks for it, its bytes, its end."""
    content = np.frombuffer(text.encode(), np.uint8).astype(np.int64) + FIRST_BYTE
    ids = np.concatenate([[ASK], content, [END]])
    return Segment(ids, np.stack([np.zeros_like(ids), np.arange(len(ids))]))


def _segments(prompt: Prompt) -> Iterator[tuple[Segment, bool]]:
    """What is read of a prompt, with whether it stands in a target turn."""
    for turn in prompt.turns:
        grids = [part for part in turn.content if isinstance(part, Grid)]
        has_text = len(grids) < len(turn.content)
        if turn.role == "user":
            for index, grid in enumerate(grids):
                yield grid_segment(grid.array, OUTPUT if has_text and index % 2 else INPUT), turn.target
        elif turn.role == "assistant":
            for part in turn.content:
                yield grid_segment(part.array, OUTPUT) if isinstance(part, Grid) else text_segment(part), turn.target
    if turn.role == "user":
        yield Segment(np.array([ASK if has_text else OUTPUT], np.int64), np.zeros((2, 1), np.int64)), False


@cache  # at most 900 shapes, in all less than 5 MB
def _grid_positions(height: int, width: int) -> NDArray[np.int64]:
    """Rows and columns of the mark, then of every cell, row end and the end, [2, 1 + height * (width + 1)]."""
    rows, columns = np.indices((height, width + 1)).reshape(2, -1)
    positions = np.zeros((2, 1 + rows.size), np.int64)
    positions[:, 1:] = rows, columns + 1
    positions.flags.writeable = False
    return positions
