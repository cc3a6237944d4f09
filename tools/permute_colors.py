"""Other colours."""

from random import Random

import numpy as np

from arc_seal.arc.grid import COLOURS
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View


def permute_colors(task: Task, rng: Random, *, keep_background: bool = True) -> View:
    """Swap colours at random, the same way in every grid.

    The permutation is drawn afresh at each call. The background is colour 0.
    """
    fixed = [0] if keep_background else []
    drawn = list(range(len(fixed), COLOURS))
    rng.shuffle(drawn)
    forward = np.array(fixed + drawn)
    back = np.argsort(forward)
    return View.mapped(task, lambda cells: forward[cells], lambda cells: back[cells])
