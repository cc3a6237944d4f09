"""The grid and the task: what may be one, and what follows from it."""

import pickle
from copy import copy
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import GridError
from tests.arc.strategies import grids, tasks


@given(grids())
def test_rows_array_text_and_json_say_the_same(grid: Grid) -> None:
    assert Grid.from_rows(grid.rows) == Grid.from_array(grid.array) == grid
    assert [[int(cell) for cell in line] for line in str(grid).split("\n")] == [list(row) for row in grid.rows]
    adapter = TypeAdapter(Grid)
    assert adapter.validate_json(adapter.dump_json(grid)) == grid


@given(grids())
def test_equal_grids_are_equal_keys_and_shape_counts(grid: Grid) -> None:
    assert len({grid, Grid.from_rows(grid.rows)}) == 1
    assert (grid == Grid(grid.width, grid.height, grid.cells)) == (grid.width == grid.height)


@given(grids())
def test_a_grid_is_made_of_rows_and_stays_itself(grid: Grid) -> None:
    for other in (Grid(grid.rows), Grid(grid.array), eval(repr(grid)), pickle.loads(pickle.dumps(grid)), copy(grid)):
        assert other == grid and hash(other) == hash(grid)
    assert repr(Grid([[1, 2], [3, 4]])) == "Grid([[1, 2], [3, 4]])"
    with pytest.raises(FrozenInstanceError):
        grid.height = 1  # type: ignore[misc]
    with pytest.raises(GridError, match=r"rows: expected a list of rows, found 2"):
        Grid(2)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "rows", [[], [[]], [[1], [1, 2]], [[10]], [[-1]], [[True]], [[1.0]], [["1"]], [[0]] * 31, [[0] * 31]]
)
def test_what_is_no_grid_is_refused(rows: list[list[int]]) -> None:
    for make in (Grid, Grid.from_rows):
        with pytest.raises(GridError):
            make(rows)
    with pytest.raises(ValidationError):
        TypeAdapter(Grid).validate_python(rows)


@given(grids())
def test_arrays_are_taken_for_rows(grid: Grid) -> None:
    wide = grid.array.astype(np.int64)
    for rows in (grid.array, wide, np.asfortranarray(wide), [list(row) for row in wide]):
        assert Grid.from_rows(rows) == grid


@pytest.mark.parametrize(
    "rows",
    [None, 3, "12", b"12", {}, [None], np.array(None), np.array(3), np.zeros(3, int), np.zeros((1, 1, 1), int),
     np.zeros((2, 2)), np.zeros((2, 2), bool), np.full((1, 1), 10), np.zeros((0, 3), int), [np.array(1)],
     [[np.int64(-1)]], [[np.bool_(True)]]],
)  # fmt: skip
def test_rows_that_are_none_are_refused(rows: Any) -> None:
    with pytest.raises(GridError, match=r"expected .*, found "):
        Grid.from_rows(rows)
    with pytest.raises(ValidationError):
        TypeAdapter(Grid).validate_python(rows)


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros(3, int), np.full((1, 1), 10), np.full((1, 1), -1)])
def test_an_array_that_is_no_grid_is_refused(array: np.ndarray) -> None:
    with pytest.raises(GridError):
        Grid.from_array(array)


def test_cells_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(GridError, match="4 cells, not 3"):
        Grid(2, 2, bytes(3))


def test_an_array_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Grid.from_rows([[1]]).array[0, 0] = 2


@given(tasks())
def test_a_change_reaches_every_grid_of_a_task(task: Task) -> None:
    turned = task.map_grids(lambda grid: grid.mapped(np.transpose))
    assert turned.map_grids(lambda grid: grid.mapped(np.transpose)) == task
    for one, other in zip(turned.demos, task.demos, strict=True):
        assert (one.input.height, one.output.height) == (other.input.width, other.output.width)


def test_a_task_needs_a_demonstration_and_a_query() -> None:
    grid = Grid.from_rows([[1]])
    for demos, queries in (((), (grid,)), ((Demonstration(grid, grid),), ())):
        with pytest.raises(ValueError, match="needs a demonstration and a query"):
            Task("aa", demos, queries)
