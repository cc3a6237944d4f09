"""Reading prompts and what is written behind them, several side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arc_seal.models.base import Encoded
from arc_seal.models.positions import Cursors, model_positions

if TYPE_CHECKING:
    from arc_seal.models.base import Model


class Reader:
    """Reads tokens of several prompts side by side, keeping keys and values.

    Prompts are padded on the left, so that the next token of every row stands in the same column.

    Args:
        model: Any model.
        prompts: Encoded; as many rows are read.
    """

    def __init__(self, model: "Model", prompts: Sequence[Encoded]) -> None:
        self.model, self.prompts = model, prompts
        self._decoder = model.network.get_decoder()
        self._device = model.network.device
        longest = max(len(prompt.ids) for prompt in prompts)
        self._mask = torch.zeros((len(prompts), longest), dtype=torch.long, device=self._device)
        for row, prompt in enumerate(prompts):
            self._mask[row, longest - len(prompt.ids) :] = 1
        self._cursors = Cursors(model.codec, prompts)
        self._cache: Any = None

    def read_prompts(self) -> Tensor:
        """Read all prompts; returns the last hidden states, [views, width]. They are kept as `first`."""
        views, longest = self._mask.shape
        ids = np.zeros((views, longest), np.int64)
        positions = np.zeros((self.prompts[0].positions.shape[0], views, longest), np.int64)
        for row, prompt in enumerate(self.prompts):
            begin = longest - len(prompt.ids)
            ids[row, begin:], positions[:, row, begin:] = prompt.ids, prompt.positions
        self.first = self._forward(ids, positions)[:, -1]
        return self.first

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token in every row; returns the last hidden states, [views, width]."""
        ids = np.array(tokens, np.int64)[:, None]
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        return self._forward(ids, self._cursors.advance(ids))[:, -1]

    def read_instead(self, tokens: NDArray[np.int64]) -> Tensor:
        """Read tokens right behind the prompts, in place of whatever was read there.

        [views, tokens] -> last hidden states, [views, tokens, width].
        Padding may stand on the right; what is computed there means nothing.
        """
        longest = max(len(prompt.ids) for prompt in self.prompts)
        if beyond := self._cache.get_seq_length() - longest:
            self._cache.crop(-beyond)
        self._mask = torch.nn.functional.pad(self._mask[:, :longest], (0, tokens.shape[1]), value=1)
        return self._forward(tokens, Cursors(self.model.codec, self.prompts).advance(tokens))

    def _forward(self, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        """ids [views, tokens], positions [axes, views, tokens] -> [views, tokens, width]."""
        # Without padding there is nothing to mask, and attention is faster for it.
        output = self._decoder(
            input_ids=torch.from_numpy(ids).to(self._device),
            position_ids=model_positions(torch.from_numpy(positions).to(self._device)),
            attention_mask=None if bool(self._mask.all()) else self._mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        hidden: Tensor = output.last_hidden_state
        return hidden
