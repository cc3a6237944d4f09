"""A shift that wraps."""

from random import Random
from typing import Annotated

import numpy as np
from pydantic import Field

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View


def translate(task: Task, rng: Random, *, max_shift: Annotated[int, Field(ge=1, le=8)] = 4) -> View:
    """Shift every grid by the same random amount, wrapping round.

    The shift down and the shift right, each at most `max_shift` cells either way, are drawn afresh at each call. Input
    and output move together; the paper's code moved them apart, which teaches a rule that is not the task's.
    """
    down, right = rng.randint(-max_shift, max_shift), rng.randint(-max_shift, max_shift)
    return View.mapped(
        task,
        lambda cells: np.roll(cells, (down, right), axis=(0, 1)),
        lambda cells: np.roll(cells, (-down, -right), axis=(0, 1)),
    )
