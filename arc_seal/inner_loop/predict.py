"""Grids behind prompts, held to the grammar of grids: decoded greedily, or given and scored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.errors import Diverged
from arc_seal.models.generate import CachedContext
from arc_seal.models.model import logits_of
from arc_seal.models.prompt import END, SYMBOLS, grid_symbols

NOT_FINITE = "the network's outputs are not finite"
"""What is said of a model that has diverged."""


class GridGrammar:
    """Which symbol may come next in one grid, whatever the task, and which grid the symbols taken so far make.

    The first row sets the width; a row of another width makes the grid void at once, as does outgrowing 30x30.
    """

    def __init__(self) -> None:
        self._rows: list[list[int]] = [[]]
        self.open = True  # whether more symbols can come
        self.grid: Grid | None = None  # the grid, once it is ended; None before that, or when it is void

    def allowed(self) -> NDArray[np.bool_]:
        """Which symbols may come next, [12]: always a digit, and after a cell a row end or the end."""
        mask = np.ones(SYMBOLS, np.bool_)
        mask[COLOURS:] = bool(self._rows[-1])
        return mask

    def take(self, symbol: int) -> None:
        """Go on with an allowed symbol; the grid may end or become void by it."""
        row, width = self._rows[-1], len(self._rows[0])
        if symbol < COLOURS:
            row.append(symbol)
            self.open = len(row) <= (width if len(self._rows) > 1 else MAX_SIDE)
        elif symbol == END:
            self.open = False
            self.grid = Grid.from_rows(self._rows) if len(row) == width else None
        else:
            self._rows.append([])
            self.open = len(row) == width and len(self._rows) <= MAX_SIDE


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was decoded from one prompt."""

    grid: Grid | None  # None when a row departs from the width or the grid outgrows 30x30
    log_probability: float  # mean over its symbols, in nats
    symbols: int  # symbols written, the end included


@torch.inference_mode()
def decode(
    context: CachedContext, on_step: Callable[[int, float], None], lost: set[int] | None = None
) -> list[Decoded]:
    """Decode a grid after each prompt, greedily and side by side; the time it takes is bounded by 30x30 alone.

    Nothing has been read of the prompts, each of which ends where the model is to answer. After every step `on_step` is
    told the steps done and the tokens written a second. Once half of the rows have ended, only the others are read on
    in: their keys and values are copied once, and far fewer are looked at for each symbol. Diverged where the network's
    outputs are no longer finite, as after a last update that went astray.

    Rows of several adapters: those in `lost` are not waited for, and those whose outputs are not finite are added to
    it instead of an error. What is returned of them means nothing. `on_step` may add some too.
    """
    grammars = [GridGrammar() for _ in context.prompts]
    sums, lengths = [0.0] * len(grammars), [0] * len(grammars)
    hidden, reading, rows = context.read_prompts(), context, list(range(len(grammars)))
    start = time.monotonic()
    for step in count(1):
        allowed = np.stack([grammars[row].allowed() for row in rows])
        best, chosen = (each.tolist() for each in _log_probabilities(context, hidden, allowed, lost).max(dim=-1))
        for place, row in enumerate(rows):
            if grammars[row].open and row not in (lost or ()):
                grammars[row].take(chosen[place])
                sums[row] += best[place]
                lengths[row] += 1
            else:
                chosen[place] = END
        on_step(step, sum(lengths) / max(time.monotonic() - start, 1e-9))
        still = [place for place, row in enumerate(rows) if grammars[row].open and row not in (lost or ())]
        if not still:
            break
        if lost is None and 2 * len(still) <= len(rows):  # else an adapter's rows would not be where it looks for them
            reading = reading.part(still)
            rows, chosen = [rows[place] for place in still], [chosen[place] for place in still]
        hidden = reading.read([context.model.codec.symbols[symbol] for symbol in chosen])
    decoded = zip(grammars, sums, lengths, strict=True)
    return [Decoded(grammar.grid, total / max(1, length), length) for grammar, total, length in decoded]


@torch.inference_mode()
def score(context: CachedContext, grids: Sequence[Grid | None], lost: set[int] | None = None) -> list[float | None]:
    """Log-probability of a grid behind each prompt, summed over its symbols and its end, in nats; None for no grid.

    The context has read its prompts; what it read behind them is forgotten. Diverged, or a row in `lost`, as in
    decoding.
    """
    sequences = [[] if grid is None else grid_symbols(grid.array).tolist() for grid in grids]
    longest = max(map(len, sequences))
    if longest == 0:
        return [None] * len(grids)
    wanted = np.full((len(grids), longest), END, np.int64)
    allowed = np.ones((len(grids), longest, SYMBOLS), np.bool_)
    for row, symbols in enumerate(sequences):
        wanted[row, : len(symbols)] = symbols
        grammar = GridGrammar()
        for column, symbol in enumerate(symbols):
            allowed[row, column] = grammar.allowed()
            grammar.take(symbol)
    ids = np.array(context.model.codec.symbols)[wanted[:, :-1]]  # the last symbol is predicted and not read
    hidden = torch.cat([context.first[:, None], context.read_instead(ids)], dim=1)  # [views, longest, width]
    each = _log_probabilities(context, hidden, allowed, lost)
    taken = each.gather(-1, torch.from_numpy(wanted)[..., None])[..., 0]  # [views, longest]
    return [float(taken[row, : len(symbols)].sum()) if symbols else None for row, symbols in enumerate(sequences)]


def _log_probabilities(
    context: CachedContext, hidden: Tensor, allowed: NDArray[np.bool_], lost: set[int] | None
) -> Tensor:
    """Among the symbols that the grammar allows, on the CPU: states [..., width], allowed [..., 12] -> [..., 12]."""
    symbols = torch.tensor(context.model.codec.symbols, device=hidden.device)
    logits = logits_of(context.model.network, hidden, symbols).cpu()
    finite = logits.isfinite().flatten(1).all(dim=1)  # [rows]
    if not bool(finite.all()):
        if lost is None:
            raise Diverged(NOT_FINITE)
        lost.update(torch.nonzero(~finite)[:, 0].tolist())
    return torch.log_softmax(logits.masked_fill(~torch.from_numpy(allowed), float("-inf")), dim=-1)
