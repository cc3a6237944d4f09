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
from arc_seal.models.prompt import END, ROW_END, SYMBOLS, grid_symbols

NOT_FINITE = "the network's outputs are not finite"
"""What is said of a model that has diverged."""

FIRST_AHEAD = 16
"""How many symbols of a draft are read at once at first."""

PATIENCE = 8
"""After so many steps a draft may be given up."""


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


class Greedy:
    """What greedy decoding writes behind one prompt, as far as it is known."""

    def __init__(self) -> None:
        self.symbols: list[int] = []
        self._grammar, self._log_probability = GridGrammar(), 0.0

    @property
    def open(self) -> bool:
        """Whether more is to be written."""
        return self._grammar.open

    @property
    def decoded(self) -> Decoded:
        """What has been written."""
        symbols = len(self.symbols)
        return Decoded(self._grammar.grid, self._log_probability / max(1, symbols), symbols)

    def allowed(self) -> NDArray[np.bool_]:
        """Which symbols may come next, [12]."""
        return self._grammar.allowed()

    def take(self, symbol: int, log_probability: float) -> None:
        """Go on with the likeliest symbol."""
        self._grammar.take(symbol)
        self.symbols.append(symbol)
        self._log_probability += log_probability

    def take_along(self, draft: Sequence[int], likeliest: Sequence[int], log_probabilities: Sequence[float]) -> None:
        """Take the likeliest symbols, one behind the other, for as long as what was read before each is what it took.

        `likeliest[i]` follows what is known and the first i symbols of a draft of what comes next.
        """
        for place, symbol in enumerate(likeliest):
            self.take(symbol, log_probabilities[place])
            if not self.open or list(draft[place : place + 1]) != [symbol]:
                break


@torch.inference_mode()
def decode(
    context: CachedContext, on_step: Callable[[int, float], None], lost: set[int] | None = None
) -> list[Decoded]:
    """Decode a grid after each prompt, greedily and side by side; the time it takes is bounded by 30x30 alone.

    Nothing has been read of the prompts, each of which ends where the model is to answer. For the rest see `decode_on`.
    """
    context.read_prompts()
    written = [Greedy() for _ in context.prompts]
    decode_on(context, written, on_step, lost)
    return [each.decoded for each in written]


@torch.inference_mode()
def decode_on(
    context: CachedContext,
    written: Sequence[Greedy],
    on_step: Callable[[int, float], None],
    lost: set[int] | None = None,
) -> None:
    """Write on side by side behind prompts that have been read, from where the least is known, to the end of each grid.

    After every step `on_step` is told the symbols that the longest grid has, and how many were written a second. Once
    half of the rows have ended, only the others are read on in: their keys and values are copied once, and far fewer
    are looked at for each symbol. Diverged where the network's outputs are no longer finite, as after a last update
    that went astray.

    Rows of several adapters: those in `lost` are not waited for, and those whose outputs are not finite are added to
    it instead of an error. What is written in them means nothing. `on_step` may add some too.
    """
    start, new, reading, rows = time.monotonic(), 0, context, list(range(len(written)))
    known = min(len(each.symbols) for each in written)
    prefixes = np.array([each.symbols[:known] for each in written], np.int64)  # [rows, known]
    hidden = _states_along(context, prefixes)[:, -1]
    for place in count(known):
        allowed = np.stack([written[row].allowed() for row in rows])
        best, chosen = (each.tolist() for each in _log_probabilities(context, hidden, allowed, lost).max(dim=-1))
        for row, symbol, log_probability in zip(rows, chosen, best, strict=True):
            if written[row].open and row not in (lost or ()) and len(written[row].symbols) == place:
                written[row].take(symbol, log_probability)
                new += 1
        on_step(place + 1, new / max(time.monotonic() - start, 1e-9))
        still = [index for index, row in enumerate(rows) if written[row].open and row not in (lost or ())]
        if not still:
            break
        if lost is None and 2 * len(still) <= len(rows):  # else an adapter's rows would not be where it looks for them
            reading, rows = reading.part(still), [rows[index] for index in still]
        symbols = [(written[row].symbols[place : place + 1] or [END])[0] for row in rows]
        hidden = reading.read([context.model.codec.symbols[symbol] for symbol in symbols])


@torch.inference_mode()
def decode_along(
    context: CachedContext, own: Greedy, draft: Sequence[int], on_step: Callable[[int, float], None], least: float = 0.0
) -> None:
    """Write on behind the only prompt, many symbols a step where they are those of a draft.

    A step reads the next symbols of the draft at once, and what greedy decoding takes of them is kept: twice as many as
    the last step took, so that a poor draft costs little. It gives up before the grid's end where a step takes fewer
    symbols than `least` on average. Otherwise as `decode_on`.
    """
    start, known, keep, ahead, steps = time.monotonic(), len(own.symbols), 0, FIRST_AHEAD, 0
    while own.open:
        begin = len(own.symbols)
        guess = list(draft[begin : begin + ahead])
        symbols = [*own.symbols, *guess]
        hidden = _states_along(context, np.array([symbols[keep:]], np.int64), keep)[:, -1 - len(guess) :]
        allowed = _allowed_behind(np.array([[ROW_END, *symbols][begin:]]))
        behind = _log_probabilities(context, hidden, allowed, None)[0]  # [guess + 1, 12]
        best, likeliest = (found.tolist() for found in behind.max(dim=-1))
        own.take_along(guess, likeliest, best)
        steps, keep, ahead = steps + 1, len(own.symbols) - 1, 2 * (len(own.symbols) - begin)
        on_step(len(own.symbols), (len(own.symbols) - known) / max(time.monotonic() - start, 1e-9))
        if steps >= PATIENCE and len(own.symbols) - known < least * steps:
            break


@torch.inference_mode()
def score(
    context: CachedContext,
    grids: Sequence[Grid | None],
    lost: set[int] | None = None,
    written: Sequence[Greedy] | None = None,
) -> list[float | None]:
    """Log-probability of a grid behind each prompt, summed over its symbols and its end, in nats; None for no grid.

    The context has read its prompts; what it read behind them is forgotten. Diverged, or a row in `lost`, as in
    decoding. The grids are also drafts of what is `written`: each row takes what greedy decoding has in common with
    its own.
    """
    sequences = [[] if grid is None else grid_symbols(grid.array).tolist() for grid in grids]
    longest = max(map(len, sequences))
    if longest == 0:
        return [None] * len(grids)
    wanted = np.full((len(grids), longest), END, np.int64)
    for row, symbols in enumerate(sequences):
        wanted[row, : len(symbols)] = symbols
    hidden = _states_along(context, wanted[:, :-1])  # the last symbol is predicted and not read
    allowed = _allowed_behind(np.pad(wanted[:, :-1], ((0, 0), (1, 0)), constant_values=ROW_END))
    each = _log_probabilities(context, hidden, allowed, lost)  # [views, longest, 12]
    if written is not None:
        best, likeliest = (found.tolist() for found in each.max(dim=-1))
        for row, own in enumerate(written):
            known, end = len(own.symbols), len(sequences[row])
            if own.open and own.symbols == sequences[row][:known]:
                own.take_along(sequences[row][known:], likeliest[row][known:end], best[row][known:end])
    taken = each.gather(-1, torch.from_numpy(wanted)[..., None])[..., 0]  # [views, longest]
    return [float(taken[row, : len(symbols)].sum()) if symbols else None for row, symbols in enumerate(sequences)]


def _states_along(context: CachedContext, symbols: NDArray[np.int64], keep: int = 0) -> Tensor:
    """Last states of the prompts and behind each symbol that is written: [rows, n] -> [rows, 1 + n, width].

    The first `keep` symbols that were written before stay.
    """
    ids = np.array(context.model.codec.symbols)[symbols]
    return torch.cat([context.first[:, None], context.read_instead(ids, keep)], dim=1)


def _allowed_behind(symbols: NDArray[np.int64]) -> NDArray[np.bool_]:
    """What `GridGrammar.allowed` says behind each symbol, a row end standing for none: [...] -> [..., 12]."""
    allowed = np.ones((*symbols.shape, SYMBOLS), np.bool_)
    allowed[..., COLOURS:] = (symbols != ROW_END)[..., None]
    return allowed


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
