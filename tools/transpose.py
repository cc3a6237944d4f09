"""Rows become columns."""

from random import Random

import numpy as np

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View


def transpose(task: Task, rng: Random) -> View:
    """Swap rows and columns of every grid.

    Args:
        task: The task to show.
        rng: Not used: a transpose has no choice.
    """

    def swap(grid: Grid) -> Grid:
        return grid.mapped(np.transpose)

    return View(task.map_grids(swap), swap)
