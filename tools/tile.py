"""A grid beside itself."""

from random import Random
from typing import Literal

import numpy as np

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.errors import GridError
from arc_seal.self_edit.toolbox import View

COPIES = {"rows": (2, 1), "columns": (1, 2), "both": (2, 2)}
"""How many copies stand one under another, and side by side."""


def tile(task: Task, rng: Random, *, along: Literal["any", "rows", "columns", "both"] = "any") -> View:
    """Repeat every grid along rows, columns or both.

    Args:
        task: The task to show.
        rng: Draws the direction when it is not given.
        along: `rows` adds a copy below, `columns` one to the right, `both` makes two by two; `any` draws one of the
            three afresh at each call.

    Raises:
        GridError: When a grid grows beyond 30x30.
    """
    down, across = COPIES[rng.choice(tuple(COPIES)) if along == "any" else along]

    def repeat(grid: Grid) -> Grid:
        return grid.mapped(lambda cells: np.tile(cells, (down, across)))

    def invert(grid: Grid) -> Grid:
        original = grid.mapped(lambda cells: cells[: grid.height // down, : grid.width // across])
        if repeat(original) != grid:
            raise GridError(f"{grid.height}x{grid.width} cells are not {down}x{across} copies of one grid")
        return original

    return View(task.map_grids(repeat), invert)
