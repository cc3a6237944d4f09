"""Every cell becomes a block."""

from random import Random
from typing import Literal

import numpy as np

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.errors import GridError
from arc_seal.self_edit.toolbox import View

FACTORS = {"both": (2, 2), "height": (2, 1), "width": (1, 2)}
"""Rows and columns of the block that a cell becomes."""


def enlarge(task: Task, rng: Random, *, sides: Literal["any", "both", "height", "width"] = "both") -> View:
    """Double the height, the width or both of every grid.

    Args:
        task: The task to show.
        rng: Draws the sides when they are not given.
        sides: Which sides double; `any` draws one of the three afresh at each call.

    Raises:
        GridError: When a grid grows beyond 30x30.
    """
    block = FACTORS[rng.choice(tuple(FACTORS)) if sides == "any" else sides]

    def grow(grid: Grid) -> Grid:
        return grid.mapped(lambda cells: np.kron(cells, np.ones(block, dtype=np.uint8)))

    def invert(grid: Grid) -> Grid:
        small = grid.mapped(lambda cells: cells[:: block[0], :: block[1]])
        if grow(small) != grid:
            raise GridError(f"{grid.height}x{grid.width} cells are not uniform blocks of {block[0]}x{block[1]}")
        return small

    return View(task.map_grids(grow), invert)
