"""Rows become columns."""

from random import Random

import numpy as np

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View


def transpose(task: Task, rng: Random) -> View:
    """Swap rows and columns of every grid."""
    return View.mapped(task, np.transpose, np.transpose)
