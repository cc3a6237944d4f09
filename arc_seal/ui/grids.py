"""Grids in a terminal: coloured cells with their digits, laid out side by side as far as the width allows.

The digits alone carry the information; the colours follow them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from arc_seal.arc.grid import Grid
from arc_seal.arc.html import PALETTES, Palette
from arc_seal.arc.task import Demonstration

MARK = "!"
"""Stands before a cell that differs from the solution, and after a row with one where cells are one character wide."""

_GAP, _ARROW = 3, " -> "
"""Characters between two blocks that stand side by side, and what stands between input and output."""

_Block = tuple[Text, ...]
"""Lines that are moved about as one; a block is as wide as the longest."""


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """A rich renderable: each demonstration as input -> output, as many in a row as fit."""

    demos: Sequence[Demonstration]
    palette: Palette = PALETTES["arc"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Cells two characters wide where that fits, else one; outputs stand below inputs where not even that fits."""
        for cell_width in (2, 1, 0):
            pairs = [_pair(demo, cell_width, self.palette) for demo in self.demos]
            if all(_width(pair) <= options.max_width for pair in pairs):
                break
        blocks = []
        for number, (demo, pair) in enumerate(zip(self.demos, pairs, strict=True), start=1):
            caption = Text(f"demo {number}: {size(demo.input)}{_ARROW}{size(demo.output)}", style="bold")
            blocks.append((caption, *pair))
        yield from _packed(blocks, options.max_width)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A rich renderable: each a name, a remark, a grid and what it should be, side by side, as many in a row as fit."""

    grids: Sequence[tuple[str, str, Grid | None, Grid | None]]
    palette: Palette = PALETTES["arc"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Cells two characters wide where every grid fits so, else one."""
        cell_width = 2 if all(2 * grid.width <= options.max_width for _, _, grid, _ in self.grids if grid) else 1
        blocks = []
        for name, remark, grid, solution in self.grids:
            rows = grid_lines(grid, cell_width, self.palette, differing_cells(grid, solution)) if grid else ()
            blocks.append((Text(name, style="bold"), Text(remark), *rows))
        yield from _packed(blocks, options.max_width)


def grid_lines(
    grid: Grid, cell_width: int, palette: Palette, differing: frozenset[tuple[int, int]] = frozenset()
) -> _Block:
    """A grid as lines of digits on their colours, 1 or 2 characters a cell; the differing (row, column) are marked."""
    lines = []
    for row, colours in enumerate(grid.rows):
        line, marked = Text(no_wrap=True), False
        for column, colour in enumerate(colours):
            differs = (row, column) in differing
            marked |= differs
            background, digit = palette[colour]
            style = Style(color=digit, bgcolor=background, reverse=differs, bold=differs, underline=differs)
            line.append(f"{MARK if differs else ' '}{colour}"[-cell_width:], style=style)
        lines.append(line.append(f" {MARK}") if marked and cell_width == 1 else line)
    return tuple(lines)


def differing_cells(grid: Grid | None, solution: Grid | None) -> frozenset[tuple[int, int]]:
    """The cells (row, column) in which two grids differ; none where their sizes differ or one is missing."""
    if grid is None or solution is None or grid.array.shape != solution.array.shape:
        return frozenset()
    return frozenset((row, column) for row, column in np.argwhere(grid.array != solution.array).tolist())


def size(grid: Grid) -> str:
    """The size as people write it, rows first: `3x4`."""
    return f"{grid.height}x{grid.width}"


def _pair(demo: Demonstration, cell_width: int, palette: Palette) -> _Block:
    """Input and output side by side, an arrow at half the height; for a width of 0 one above the other."""
    if not cell_width:
        return (*grid_lines(demo.input, 1, palette), Text(_ARROW.strip()), *grid_lines(demo.output, 1, palette))
    height = max(demo.input.height, demo.output.height)
    arrow = tuple(Text(_ARROW if row == (height - 1) // 2 else "") for row in range(height))
    left, right = (grid_lines(grid, cell_width, palette) for grid in (demo.input, demo.output))
    return _beside([left, arrow, right], gap=0)


def _packed(blocks: Sequence[_Block], width: int) -> Iterator[Text]:
    """Blocks in rows, as many in each as fit, an empty line between rows."""
    rows: list[list[_Block]] = []
    for block in blocks:
        if rows and sum(_width(each) + _GAP for each in rows[-1]) + _width(block) <= width:
            rows[-1].append(block)
        else:
            rows.append([block])
    for number, row in enumerate(rows):
        yield from [Text("")] if number else []
        yield from _beside(row, _GAP)


def _beside(blocks: Sequence[_Block], gap: int) -> _Block:
    """Blocks side by side as one, without trailing spaces."""
    lines = []
    for parts in zip_longest(*blocks, fillvalue=Text()):
        line, column = Text(no_wrap=True, overflow="crop"), 0
        for block, part in zip(blocks, parts, strict=True):
            if part:
                line.append(" " * (column - line.cell_len))
                line.append_text(part)
            column += _width(block) + gap
        line.rstrip()
        lines.append(line)
    return tuple(lines)


def _width(block: _Block) -> int:
    """Characters of the longest line."""
    return max((line.cell_len for line in block), default=0)
