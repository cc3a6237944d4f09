"""Quarter turns."""

from random import Random
from typing import Literal

import numpy as np

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View


def rotate(task: Task, rng: Random, *, quarter_turns: Literal["any", 1, 2, 3] = "any") -> View:
    """Rotate every grid clockwise by quarter turns.

    `any` draws 0 to 3 quarter turns afresh at each call.
    """
    turns = rng.randrange(4) if quarter_turns == "any" else quarter_turns
    return View.mapped(task, lambda cells: np.rot90(cells, -turns), lambda cells: np.rot90(cells, turns))
