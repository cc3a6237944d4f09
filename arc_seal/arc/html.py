"""ARC's colours, and grids as HTML for a notebook: styled in place, without scripts, every text escaped.

As in a terminal the digits alone carry the information; the colours follow them.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from arc_seal.errors import printable

if TYPE_CHECKING:
    from arc_seal.arc.grid import Grid

Palette = Sequence[tuple[str, str]]
"""Background and digit of each colour."""

PALETTES: Mapping[str, Palette] = {
    # ARC's own, as its testing interface shows them (github.com/fchollet/ARC-AGI, apps/css/common.css).
    "arc": (
        ("#000000", "#ffffff"), ("#0074d9", "#ffffff"), ("#ff4136", "#000000"), ("#2ecc40", "#000000"),
        ("#ffdc00", "#000000"), ("#aaaaaa", "#000000"), ("#f012be", "#000000"), ("#ff851b", "#000000"),
        ("#7fdbff", "#000000"), ("#870c25", "#ffffff"),
    ),
    # Near those: the eight of Okabe and Ito's palette for all kinds of colour vision (Wong, Nature Methods 8, 441,
    # 2011), a grey, and for ARC's maroon the wine of Paul Tol's muted scheme.
    "colour_blind": (
        ("#000000", "#ffffff"), ("#0072b2", "#ffffff"), ("#d55e00", "#000000"), ("#009e73", "#000000"),
        ("#f0e442", "#000000"), ("#999999", "#000000"), ("#cc79a7", "#000000"), ("#e69f00", "#000000"),
        ("#56b4e9", "#000000"), ("#882255", "#ffffff"),
    ),
}  # fmt: skip
"""By the names that `palette=` takes."""

_SIDE = 20
"""Pixels of a cell's side."""

_ROW = f"display:flex;font:14px/{_SIDE}px monospace;letter-spacing:calc({_SIDE}px - 1ch);text-indent:6px"
"""How a row looks: letters are moved apart until each is as wide as a cell."""


def section(title: str, *parts: str) -> str:
    """Parts under a title."""
    return f"<section><h4>{text(title)}</h4>{''.join(parts)}</section>"


def side_by_side(figures: Iterable[str]) -> str:
    """Figures in a row, which breaks where it is full."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px;margin:8px 0">{"".join(figures)}</div>'


def figure(grid: "Grid", caption: str = "") -> str:
    """A grid in ARC's colours, a digit a cell, under its caption and size."""
    name = ", ".join([*([text(caption)] if caption else []), f"{grid.height}x{grid.width}"])
    rows = "".join(f'<div style="{_ROW}">{_pieces(row)}</div>' for row in grid.rows)
    label = f'<figcaption style="font-size:12px">{name}</figcaption>'
    return f'<figure style="margin:0" title="{name}">{label}{rows}</figure>'


def text(value: object) -> str:
    """A text as HTML that shows it and does nothing else."""
    return escape(printable(str(value)))


def _pieces(row: Iterable[int]) -> str:
    """The cells of a row; neighbours of one colour are one piece, for a large task would be a megabyte otherwise."""
    pieces = []
    for colour, cells in groupby(row):
        digits, (background, ink) = "".join(map(str, cells)), PALETTES["arc"][colour]
        style = f"width:{_SIDE * len(digits)}px;background:{background};color:{ink}"
        pieces.append(f'<span style="{style}">{digits}</span>')
    return "".join(pieces)
