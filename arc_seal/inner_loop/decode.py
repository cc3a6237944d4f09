"""Greedy decoding of grids: all views side by side, each with its own cache, bound to the grid's grammar."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from arc_seal.arc.grid import Grid
from arc_seal.errors import Diverged
from arc_seal.inner_loop.reader import Reader
from arc_seal.inner_loop.spelling import END, Spelling
from arc_seal.models.head import logits_of


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
def decode(reader: Reader, on_step: Callable[[int, float], None]) -> list[Decoded]:
    """Decode a grid after each prompt, greedily.

    Probabilities are over the symbols that the grammar allows. The time it takes is bounded by 30x30 alone.

    Args:
        reader: Of prompts that each end where the model is to answer; nothing has been read yet.
        on_step: Told the steps done and the tokens written a second after every step.

    Raises:
        Diverged: When the network's outputs stopped being finite, as after a last update that went astray.
    """
    model, views = reader.model, len(reader.prompts)
    spellings = [Spelling() for _ in range(views)]
    sums, counts = [0.0] * views, [0] * views
    symbols = torch.tensor(model.codec.symbols.all, device=model.network.device)
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
