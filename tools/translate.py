"""A shift that wraps."""

from random import Random
from typing import Annotated

import numpy as np
from pydantic import Field

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View


def translate(task: Task, rng: Random, *, max_shift: Annotated[int, Field(ge=1, le=8)] = 4) -> View:
    """Shift every grid by the same random amount, wrapping round.

    Input and output move together; the paper's code moved them apart, which teaches a rule that is not the task's.

    Args:
        task: The task to show.
        rng: Draws the shift down and the shift right, afresh at each call.
        max_shift: Furthest shift either way in rows and in columns, in cells.
    """
    shift = (rng.randint(-max_shift, max_shift), rng.randint(-max_shift, max_shift))
    back = (-shift[0], -shift[1])

    def invert(grid: Grid) -> Grid:
        return grid.mapped(lambda cells: np.roll(cells, back, axis=(0, 1)))

    return View(task.map_grids(lambda grid: grid.mapped(lambda cells: np.roll(cells, shift, axis=(0, 1)))), invert)
