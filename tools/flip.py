"""Mirror images."""

from random import Random
from typing import Literal

import numpy as np

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View, unchanged


def flip(task: Task, rng: Random, *, direction: Literal["any", "left_right", "up_down"] = "any") -> View:
    """Mirror every grid left-right or up-down.

    Args:
        task: The task to show.
        rng: Draws the direction when it is not given.
        direction: Which sides change places; `any` draws one of both or none afresh at each call.
    """
    drawn = rng.choice(("none", "left_right", "up_down")) if direction == "any" else direction
    if drawn == "none":
        return View(task, unchanged)

    def mirror(grid: Grid) -> Grid:
        return grid.mapped(np.fliplr if drawn == "left_right" else np.flipud)

    return View(task.map_grids(mirror), mirror)
