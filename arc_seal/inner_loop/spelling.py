"""The grammar of a grid: which symbol may follow, and what the symbols written so far spell.

The automaton knows the rules of ARC grids and nothing of the task: digits, a row end after a row, an end
after the last. The width of a grid is the width of its first row; a later row of another width makes the
spelling void at once, as does outgrowing 30x30.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid

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
