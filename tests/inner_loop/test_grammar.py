"""The grammar of grids: all grids and nothing else."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import MAX_SIDE, Grid
from arc_seal.inner_loop.predict import GridGrammar
from arc_seal.models.prompt import END, ROW_END, SYMBOLS, grid_symbols
from tests.arc.strategies import grids

LONGEST = MAX_SIDE * (MAX_SIDE + 1)
"""Symbols of a 30x30 grid: its cells, and a row end or the end after each row."""


def taken(symbols: list[int]) -> GridGrammar:
    """Take symbols for as long as the grid is open and allows them."""
    grammar = GridGrammar()
    for symbol in symbols:
        assert grammar.open
        assert grammar.allowed()[symbol]
        grammar.take(symbol)
    return grammar


@given(grid=grids(MAX_SIDE))
def test_every_grid_can_be_taken(grid: Grid) -> None:
    symbols = grid_symbols(grid.array).tolist()
    assert len(symbols) == grid.height * (grid.width + 1)
    grammar = taken(symbols)
    assert grammar.grid is not None and not grammar.open
    assert grammar.grid == grid


@given(grid=grids())
def test_there_is_no_grid_before_the_end(grid: Grid) -> None:
    grammar = taken(grid_symbols(grid.array).tolist()[:-1])
    assert grammar.open
    assert grammar.grid is None


@given(
    seed=st.integers(0, 2**32),
    width=st.integers(1, MAX_SIDE + 1),
    row_end=st.floats(0, 1),
    slip=st.sampled_from([0.0, 0.01]),
)
def test_whatever_is_allowed_ends_in_a_grid_or_is_void(seed: int, width: int, row_end: float, slip: float) -> None:
    """Walks that mostly keep to a width, so that large grids come about too."""
    rng, grammar, count = Random(seed), GridGrammar(), 0
    column = 0
    while grammar.open:
        allowed = np.flatnonzero(grammar.allowed()).tolist()
        closing = [symbol for symbol in (ROW_END, END) if symbol in allowed]
        if closing and (column == width or rng.random() < slip):
            symbol = closing[0] if rng.random() < row_end else closing[-1]
        else:
            symbol = rng.randrange(10)
        grammar.take(symbol)
        count += 1
        column = 0 if symbol == ROW_END else column + 1
    assert count <= LONGEST
    assert not grammar.open
    if grammar.grid is not None:
        assert len(grid_symbols(grammar.grid.array)) == count


def test_an_empty_row_is_never_allowed() -> None:
    digits_only = [True] * 10 + [False] * 2
    assert GridGrammar().allowed().tolist() == digits_only
    assert taken([1, 2, ROW_END]).allowed().tolist() == digits_only
    assert taken([1]).allowed().tolist() == [True] * SYMBOLS
    assert taken([1, 2, ROW_END, 3]).allowed().all()


@pytest.mark.parametrize(
    "symbols",
    [
        [1, 2, ROW_END, 3, END],  # too narrow at the end
        [1, 2, ROW_END, 3, ROW_END],  # too narrow within
        [1, 2, ROW_END, 3, 4, 5],  # too wide, seen at the first cell that is too many
        [1] * (MAX_SIDE + 1),
        [1, ROW_END] * MAX_SIDE,
    ],
)
def test_a_grid_of_unequal_rows_is_void_at_once(symbols: list[int]) -> None:
    assert taken(symbols[:-1]).open
    grammar = taken(symbols)
    assert (grammar.open, grammar.grid) == (False, None)


def test_the_largest_grid_fits() -> None:
    symbols = ([7] * MAX_SIDE + [ROW_END]) * MAX_SIDE
    assert taken([*symbols[:-1], END]).grid == Grid(MAX_SIDE, MAX_SIDE, bytes([7]) * MAX_SIDE**2)
