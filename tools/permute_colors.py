"""Other colours."""

from random import Random

import numpy as np

from arc_seal.arc.grid import COLOURS, Grid
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View


def permute_colors(task: Task, rng: Random, *, keep_background: bool = True) -> View:
    """Swap colours at random, the same way in every grid.

    Args:
        task: The task to show.
        rng: Draws the permutation afresh at each call.
        keep_background: Whether colour 0 stays 0.
    """
    fixed = [0] if keep_background else []
    drawn = list(range(len(fixed), COLOURS))
    rng.shuffle(drawn)
    forward = np.array(fixed + drawn, dtype=np.uint8)
    back = np.argsort(forward).astype(np.uint8)

    def invert(grid: Grid) -> Grid:
        return grid.mapped(lambda cells: back[cells])

    return View(task.map_grids(lambda grid: grid.mapped(lambda cells: forward[cells])), invert)
