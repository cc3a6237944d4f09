"""The grammar of a grid: which symbol may follow, and what the symbols written so far spell.

The automaton knows the rules of ARC grids and nothing of the task: digits, a row end after a row, an end
after the last. The width of a grid is the width of its first row; a later row of another width makes the
spelling void at once, as does outgrowing 30x30.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.errors import Diverged
from arc_seal.models.generate import Reader
from arc_seal.models.model import logits_of

ROW_END = COLOURS
"""Index of the row end among the symbols."""

END = COLOURS + 1
"""Index of the end among the symbols."""

SYMBOLS = COLOURS + 2


class Spelling:
    """One grid in the making. Symbols are 0-9 for colours, then `ROW_END` and `END`."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = [[]]
        self.ended = False
        self.void = False

    @property
    def open(self) -> bool:
        """Whether more symbols can come."""
        return not (self.ended or self.void)

    def allowed(self) -> NDArray[np.bool_]:
        """Which symbols the grammar lets come next, [12]: always a digit, and after a cell a row end or the end."""
        mask = np.ones(SYMBOLS, np.bool_)
        mask[COLOURS:] = bool(self._rows[-1])
        return mask

    def take(self, symbol: int) -> None:
        """Go on with an allowed symbol; the spelling may end or become void by it."""
        row = self._rows[-1]
        if symbol < COLOURS:
            row.append(symbol)
            widest = len(self._rows[0]) if len(self._rows) > 1 else MAX_SIDE
            self.void = len(row) > widest
            return
        self.void = len(row) != len(self._rows[0])
        if symbol == END:
            self.ended = not self.void
        else:
            self._rows.append([])
            self.void = self.void or len(self._rows) > MAX_SIDE

    @property
    def grid(self) -> Grid | None:
        """The grid, once it is ended; None before that, or when it is void."""
        return Grid.from_rows(self._rows) if self.ended else None


def symbols_of(grid: Grid) -> Sequence[int]:
    """The symbols that spell a grid, the end included."""
    symbols: list[int] = []
    for row in grid.rows:
        symbols.extend((*row, ROW_END))
    return [*symbols[:-1], END]


# Greedy decoding of grids: all views side by side, each with its own cache, bound to the grid's grammar.


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


# How likely a model holds a given grid to be, behind each of several prompts.


@torch.inference_mode()
def score(reader: Reader, grids: Sequence[Grid | None]) -> list[float | None]:
    """Log-probability of a grid behind each prompt, over the symbols that the grammar allows, as in decoding.

    Args:
        reader: It has read its prompts; what it read behind them is forgotten.
        grids: One for each prompt; None where there is nothing to score.

    Returns:
        Summed over a grid's symbols, its end included, in nats; None where there was no grid.
    """
    spelled = [[] if grid is None else list(symbols_of(grid)) for grid in grids]
    longest = max(map(len, spelled))
    if longest == 0:
        return [None] * len(grids)
    wanted = np.full((len(grids), longest), END, np.int64)
    allowed = np.ones((len(grids), longest, SYMBOLS), np.bool_)
    for row, symbols in enumerate(spelled):
        wanted[row, : len(symbols)] = symbols
        allowed[row, : len(symbols)] = _allowed(symbols)
    alphabet = torch.tensor(reader.model.codec.symbols.all)
    ids = alphabet.numpy()[wanted[:, :-1]]  # the last symbol is predicted and not read
    hidden = torch.cat([reader.first[:, None], reader.read_instead(ids)], dim=1)  # [views, longest, width]
    logits = logits_of(reader.model.network, hidden, alphabet.to(hidden.device)).cpu()  # [views, longest, 12]
    each = torch.log_softmax(logits.masked_fill(~torch.from_numpy(allowed), float("-inf")), dim=-1)
    taken = each.gather(-1, torch.from_numpy(wanted)[..., None])[..., 0]  # [views, longest]
    return [float(taken[row, : len(symbols)].sum()) if symbols else None for row, symbols in enumerate(spelled)]


def _allowed(symbols: Sequence[int]) -> NDArray[np.bool_]:
    """What the grammar allows at each symbol of a grid's spelling, [symbols, 12]."""
    spelling = Spelling()
    masks = np.empty((len(symbols), SYMBOLS), np.bool_)
    for index, symbol in enumerate(symbols):
        masks[index] = spelling.allowed()
        spelling.take(symbol)
    return masks
