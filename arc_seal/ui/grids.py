"""Grids in a terminal: coloured cells with their digits, laid out side by side as far as the width allows.

The digits alone carry the information; the colours follow them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration

PALETTE = (
    ("#000000", "#ffffff"),
    ("#0072b2", "#ffffff"),
    ("#d55e00", "#000000"),
    ("#009e73", "#000000"),
    ("#f0e442", "#000000"),
    ("#999999", "#000000"),
    ("#cc79a7", "#000000"),
    ("#e69f00", "#000000"),
    ("#56b4e9", "#000000"),
    ("#882255", "#ffffff"),
)
"""Background and digit of each colour, near ARC's own hues: the eight of Okabe and Ito's palette for all kinds of
colour vision (Wong, Nature Methods 8, 441, 2011), a grey, and for ARC's maroon the wine of Paul Tol's muted scheme."""

MARK = "!"
"""Stands before a cell that differs from the solution, and after a row with one where cells are one character wide."""

_GAP = 3
"""Characters between two blocks that stand side by side."""

_ARROW = " -> "


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of text that are moved about as one.

    Attributes:
        lines: The lines; the block is as wide as the longest.
    """

    lines: tuple[Text, ...]

    @property
    def width(self) -> int:
        """Characters of the longest line."""
        return max((line.cell_len for line in self.lines), default=0)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A grid under a caption.

    Attributes:
        caption: What the grid is, two lines.
        grid: The grid; None where there is none to show.
        solution: A grid to mark the differences from; None to mark nothing.
    """

    caption: tuple[str, str]
    grid: Grid | None
    solution: Grid | None = None

    def block(self, cell_width: int) -> Block:
        """The caption and the grid below it, each cell `cell_width` (1 or 2) characters wide."""
        rows = grid_lines(self.grid, cell_width, differing_cells(self.grid, self.solution)) if self.grid else ()
        name, remark = self.caption
        return Block((Text(name, style="bold"), Text(remark), *rows))


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """A rich renderable: each demonstration as input -> output, as many in a row as fit."""

    demos: Sequence[Demonstration]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Cells two characters wide where that fits, else one; outputs stand below inputs where not even that fits."""
        width = options.max_width
        fitting = (size for size in (2, 1) if all(_pair(demo, size).width <= width for demo in self.demos))
        size = next(fitting, 0)
        pairs = [_pair(demo, size) if size else _stacked(demo) for demo in self.demos]
        captions = [f"demo {number + 1}: {_sizes(demo)}" for number, demo in enumerate(self.demos)]
        blocks = [
            Block((Text(caption, style="bold"), *pair.lines)) for caption, pair in zip(captions, pairs, strict=True)
        ]
        yield from _packed(blocks, width)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A rich renderable: labelled grids side by side, as many in a row as fit."""

    grids: Sequence[Labelled]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Cells two characters wide where every grid fits so, else one."""
        width = options.max_width
        cell_width = 2 if all(2 * labelled.grid.width <= width for labelled in self.grids if labelled.grid) else 1
        yield from _packed([labelled.block(cell_width) for labelled in self.grids], width)


def grid_lines(grid: Grid, cell_width: int, differing: frozenset[tuple[int, int]] = frozenset()) -> tuple[Text, ...]:
    """A grid as lines of digits on their colours.

    Args:
        grid: The grid.
        cell_width: Characters a cell, 1 or 2.
        differing: Cells to mark, as (row, column).
    """
    lines = []
    for row, colours in enumerate(grid.rows):
        line = Text(no_wrap=True)
        for column, colour in enumerate(colours):
            differs = (row, column) in differing
            before = (MARK if differs else " ") if cell_width == 2 else ""
            line.append(f"{before}{colour}", style=_style(colour, differs))
        if cell_width == 1 and any((row, column) in differing for column in range(grid.width)):
            line.append(f" {MARK}")
        lines.append(line)
    return tuple(lines)


def differing_cells(grid: Grid | None, solution: Grid | None) -> frozenset[tuple[int, int]]:
    """The cells (row, column) in which two grids differ; none where their sizes differ or one is missing."""
    if grid is None or solution is None or (grid.height, grid.width) != (solution.height, solution.width):
        return frozenset()
    pairs = enumerate(zip(grid.cells, solution.cells, strict=True))
    return frozenset(divmod(index, grid.width) for index, (found, wanted) in pairs if found != wanted)


def size(grid: Grid) -> str:
    """The size as people write it, rows first: `3x4`."""
    return f"{grid.height}x{grid.width}"


def _style(colour: int, differs: bool) -> Style:
    background, digit = PALETTE[colour]
    return Style(color=digit, bgcolor=background, reverse=differs, bold=differs, underline=differs)


def _sizes(demo: Demonstration) -> str:
    return f"{size(demo.input)}{_ARROW}{size(demo.output)}"


def _pair(demo: Demonstration, cell_width: int) -> Block:
    """Input and output side by side, the arrow at half the height of the higher one."""
    given, wanted = Block(grid_lines(demo.input, cell_width)), Block(grid_lines(demo.output, cell_width))
    height = max(demo.input.height, demo.output.height)
    arrow = Block(tuple(Text(_ARROW if row == (height - 1) // 2 else "") for row in range(height)))
    return _beside([given, arrow, wanted], gap=0)


def _stacked(demo: Demonstration) -> Block:
    return Block((*grid_lines(demo.input, 1), Text(_ARROW.strip()), *grid_lines(demo.output, 1)))


def _packed(blocks: Sequence[Block], width: int) -> RenderResult:
    """Blocks in rows, each row as many as fit, an empty line between rows."""
    row: list[Block] = []
    first = True
    for block in [*blocks, None]:
        if row and (block is None or sum(each.width + _GAP for each in row) + block.width > width):
            yield from ([] if first else [Text("")])
            yield from _beside(row, _GAP).lines
            row, first = [], False
        if block is not None:
            row.append(block)


def _beside(blocks: Sequence[Block], gap: int) -> Block:
    height = max(len(block.lines) for block in blocks)
    return Block(tuple(_line(blocks, row, gap) for row in range(height)))


def _line(blocks: Sequence[Block], row: int, gap: int) -> Text:
    """One line through all blocks, without trailing spaces."""
    line, column = Text(no_wrap=True, overflow="crop"), 0
    for block in blocks:
        if row < len(block.lines) and block.lines[row]:
            line.append(" " * (column - line.cell_len))
            line.append_text(block.lines[row])
        column += block.width + gap
    line.rstrip()
    return line
