"""A grid beside its mirror image."""

from random import Random
from typing import Literal

import numpy as np

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.errors import GridError
from arc_seal.self_edit.toolbox import View

SIDES = ("above", "below", "left", "right")


def reflect(task: Task, rng: Random, *, side: Literal["any", "above", "below", "left", "right"] = "any") -> View:
    """Put the mirror image of every grid beside it.

    Args:
        task: The task to show.
        rng: Draws the side when it is not given.
        side: Where the mirror image stands; `any` draws one of the four afresh at each call.

    Raises:
        GridError: When a grid grows beyond 30x30.
    """
    drawn = rng.choice(SIDES) if side == "any" else side
    axis = 0 if drawn in ("above", "below") else 1
    image_first = drawn in ("above", "left")

    def join(grid: Grid) -> Grid:
        image = np.flip(grid.array, axis)
        return grid.mapped(lambda cells: np.concatenate((image, cells) if image_first else (cells, image), axis))

    def invert(grid: Grid) -> Grid:
        halves = np.array_split(grid.array, 2, axis)  # an odd side gives a longer first half, which fails the check
        original = Grid.from_array(halves[1 if image_first else 0])
        if join(original) != grid:
            raise GridError(f"{grid.height}x{grid.width} cells are not a grid with its mirror image {drawn}")
        return original

    return View(task.map_grids(join), invert)
