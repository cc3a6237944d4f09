"""Grids in a terminal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.html import PALETTES, Palette
from arc_seal.arc.task import Demonstration
from arc_seal.ui.grids import MARK, Comparison, Demonstrations, differing_cells, grid_lines, size
from tests.ui.builders import RIGHT, TASK, WRONG, grid
from tests.ui.golden import assert_golden, colour_console, plain_console, shown

GRIDS = st.builds(
    lambda height, width, seed: Grid(height, width, bytes((seed * 7 + i * i) % 10 for i in range(height * width))),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(0, 99),
)


@given(GRIDS, st.sampled_from([1, 2]))
def test_the_digits_alone_are_the_grid(one: Grid, cell_width: int) -> None:
    lines = [line.plain for line in grid_lines(one, cell_width, PALETTES["arc"])]
    assert [len(line) for line in lines] == [cell_width * one.width] * one.height
    assert "\n".join(line.replace(" ", "") for line in lines) == str(one)


@given(GRIDS, GRIDS)
def test_differing_cells_are_those_that_differ(one: Grid, other: Grid) -> None:
    found = differing_cells(one, other)
    if (one.height, one.width) == (other.height, other.width):
        every = {(row, column) for row in range(one.height) for column in range(one.width)}
        assert found == {place for place in every if one.rows[place[0]][place[1]] != other.rows[place[0]][place[1]]}
    else:
        assert not found


def test_a_differing_cell_is_marked_without_colour() -> None:
    wrong, right = WRONG.grid, RIGHT.grid
    lines = [line.plain for line in grid_lines(wrong, 2, PALETTES["arc"], differing_cells(wrong, right))]
    assert lines == [f" 8 8{MARK}1", " 8 8 8", f"{MARK}1 8 8"]
    lines = [line.plain for line in grid_lines(wrong, 1, PALETTES["arc"], differing_cells(wrong, right))]
    assert lines == [f"881 {MARK}", "888", f"188 {MARK}"]


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_every_digit_can_be_read_on_its_colour(palette: Palette) -> None:
    for background, digit in palette:
        light, dark = sorted((luminance(background), luminance(digit)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, success criterion 1.4.3
    assert len({background for background, _ in palette}) == 10


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, as WCAG defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("width", [80, 40, 20])
def test_demonstrations_wrap_to_the_width(width: int) -> None:
    console = plain_console(width)
    console.print(Demonstrations(TASK.demos))
    assert_golden(f"demonstrations_{width}.txt", shown(console))


@pytest.mark.parametrize(("width", "cells"), [(124, 2), (123, 1), (64, 1)])
def test_wide_grids_shrink_to_one_character_a_cell(width: int, cells: int) -> None:
    wide = Grid(2, 30, bytes(range(10)) * 6)
    console = plain_console(width)
    console.print(Demonstrations([Demonstration(wide, wide)]))
    row = (" " * (cells - 1)).join(["", *(str(wide.rows[0])[1:-1].split(", "))]) if cells == 2 else "0123456789" * 3
    assert shown(console).splitlines()[1] == f"{row} -> {row}"


def test_grids_that_fit_no_terminal_stand_one_below_the_other() -> None:
    wide = Grid(1, 30, bytes(30))
    console = plain_console(40)
    console.print(Demonstrations([Demonstration(wide, wide)]))
    assert shown(console).splitlines()[1:] == ["0" * 30, "->", "0" * 30]


def test_comparison_in_colour() -> None:
    console = colour_console(60)
    console.print(
        Comparison(
            [
                ("input", "1x2", grid("09"), None),
                ("attempt 1, 1 vote", "2 of 9 cells wrong", WRONG.grid, RIGHT.grid),
                ("solution", "3x3", RIGHT.grid, None),
            ]
        )
    )
    assert_golden("comparison_colour.txt", shown(console))


def test_another_palette_has_other_colours_and_the_same_digits() -> None:
    arc, other = colour_console(), colour_console()
    for console, name in ((arc, "arc"), (other, "colour_blind")):
        console.print(Comparison([("input", "1x2", grid("12"), None)], PALETTES[name]))
        console.print(Demonstrations(TASK.demos, PALETTES[name]))
    assert "48;2;255;65;54" in shown(arc) and "48;2;213;94;0" in shown(other)
    escapes = re.compile(r"\x1b\[[\d;]*m")
    assert shown(arc) != shown(other) and escapes.sub("", shown(arc)) == escapes.sub("", shown(other))


def test_comparison_keeps_marks_in_a_narrow_terminal() -> None:
    wide, other = Grid(1, 30, bytes(30)), Grid(1, 30, bytes(29) + b"\x01")
    console = plain_console(40)
    console.print(Comparison([("attempt", "?", wide, other)]))
    assert shown(console).splitlines() == ["attempt", "?", "0" * 30 + f" {MARK}"]


def test_size_says_rows_first() -> None:
    assert size(grid("123", "456")) == "2x3"
