"""Quarter turns."""

from random import Random
from typing import Literal

import numpy as np

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View


def rotate(task: Task, rng: Random, *, quarter_turns: Literal["any", 1, 2, 3] = "any") -> View:
    """Rotate every grid clockwise by quarter turns.

    Args:
        task: The task to show.
        rng: Draws the turns when they are not given.
        quarter_turns: How many quarter turns clockwise; `any` draws 0 to 3 afresh at each call.
    """
    turns = rng.randrange(4) if quarter_turns == "any" else quarter_turns

    def invert(grid: Grid) -> Grid:
        return grid.mapped(lambda cells: np.rot90(cells, turns))

    return View(task.map_grids(lambda grid: grid.mapped(lambda cells: np.rot90(cells, -turns))), invert)
