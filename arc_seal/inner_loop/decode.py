"""Greedy decoding of grids: all views side by side, each with its own cache, bound to the grid's grammar."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from arc_seal.arc.grid import Grid
from arc_seal.errors import Diverged
from arc_seal.inner_loop.spelling import END, Spelling
from arc_seal.models.base import Encoded
from arc_seal.models.head import logits_of
from arc_seal.models.positions import Cursors, model_positions

if TYPE_CHECKING:
    from arc_seal.models.base import Model


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was decoded from one prompt.

    Attributes:
        grid: The grid; None when a row departs from the width or the grid outgrows 30x30.
        log_probability: Mean log-probability of its symbols in nats.
        symbols: Symbols written, the end included.
    """

    grid: Grid | None
    log_probability: float
    symbols: int


@torch.inference_mode()
def decode(model: "Model", prompts: Sequence[Encoded], on_step: Callable[[int, float], None]) -> list[Decoded]:
    """Decode a grid after each prompt, greedily.

    Probabilities are over the symbols that the grammar allows. The time it takes is bounded by 30x30 alone.

    Args:
        model: Any model.
        prompts: Encoded, each ending where the model is to answer.
        on_step: Told the steps done and the tokens written a second after every step.

    Raises:
        Diverged: When the network's outputs stopped being finite, as after a last update that went astray.
    """
    spellings = [Spelling() for _ in prompts]
    sums, counts = [0.0] * len(prompts), [0] * len(prompts)
    symbols = torch.tensor(model.codec.symbols.all, device=model.network.device)
    reader = _Reader(model, prompts)
    hidden = reader.read_prompts()
    start, step = time.monotonic(), 0
    while True:
        logits = logits_of(model.network, hidden, symbols).cpu()  # [views, 12]
        if not bool(logits.isfinite().all()):
            raise Diverged("the network's outputs are not finite")
        allowed = torch.from_numpy(np.stack([spelling.allowed() for spelling in spellings]))
        log_probabilities = torch.log_softmax(logits.masked_fill(~allowed, float("-inf")), dim=-1)
        best, chosen = log_probabilities.max(dim=-1)
        for row, spelling in enumerate(spellings):
            if spelling.open:
                spelling.take(int(chosen[row]))
                sums[row] += float(best[row])
                counts[row] += 1
            else:
                chosen[row] = END
        step += 1
        on_step(step, sum(counts) / max(time.monotonic() - start, 1e-9))
        if not any(spelling.open for spelling in spellings):
            break
        hidden = reader.read([model.codec.symbols.all[symbol] for symbol in chosen.tolist()])
    return [
        Decoded(spelling.grid, total / count, count)
        for spelling, total, count in zip(spellings, sums, counts, strict=True)
    ]


class _Reader:
    """Reads tokens of several prompts side by side, keeping keys and values.

    Prompts are padded on the left, so that the next token of every row stands in the same column.
    """

    def __init__(self, model: "Model", prompts: Sequence[Encoded]) -> None:
        self._prompts = prompts
        self._decoder = model.network.get_decoder()
        self._device = model.network.device
        longest = max(len(prompt.ids) for prompt in prompts)
        self._mask = torch.zeros((len(prompts), longest), dtype=torch.long, device=self._device)
        for row, prompt in enumerate(prompts):
            self._mask[row, longest - len(prompt.ids) :] = 1
        self._cursors = Cursors(model.codec, prompts)
        self._cache: object = None

    def read_prompts(self) -> Tensor:
        """Read all prompts; returns the last hidden states, [views, width]."""
        views, longest = self._mask.shape
        ids = np.zeros((views, longest), np.int64)
        positions = np.zeros((self._prompts[0].positions.shape[0], views, longest), np.int64)
        for row, prompt in enumerate(self._prompts):
            begin = longest - len(prompt.ids)
            ids[row, begin:], positions[:, row, begin:] = prompt.ids, prompt.positions
        return self._forward(ids, positions)

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token in every row; returns the last hidden states, [views, width]."""
        ids = np.array(tokens, np.int64)[:, None]
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        return self._forward(ids, self._cursors.advance(ids))

    def _forward(self, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        """ids [views, tokens], positions [axes, views, tokens] -> [views, width]."""
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
        return hidden[:, -1]
