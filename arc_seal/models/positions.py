"""Where tokens stand, as networks are told."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from arc_seal.models.base import Codec, Encoded


def model_positions(positions: Tensor) -> Tensor:
    """Positions as networks take them: [1, batch, tokens] -> [batch, tokens]; more axes stay as they are."""
    return positions[0] if positions.shape[0] == 1 else positions


class Cursors:
    """Where texts or grids that are written side by side have got to.

    Args:
        codec: Knows where the next token stands.
        prompts: What each is written behind.
    """

    def __init__(self, codec: Codec, prompts: Sequence[Encoded]) -> None:
        self._codec = codec
        self._places = [prompt.positions[:, -1] for prompt in prompts]
        self._tokens = [int(prompt.ids[-1]) for prompt in prompts]

    def advance(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Go on by some tokens in each; returns where these stand. [prompts, tokens] -> [axes, prompts, tokens]."""
        return np.stack([self._step(column.tolist()) for column in tokens.T], axis=-1)

    def _step(self, tokens: list[int]) -> NDArray[np.int64]:
        """One token in each. [prompts] -> [axes, prompts]."""
        before = zip(self._places, self._tokens, strict=True)
        self._places = [self._codec.next_position(place, token) for place, token in before]
        self._tokens = tokens
        return np.stack(self._places, axis=-1)
