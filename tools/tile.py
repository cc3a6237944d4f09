"""A grid beside itself."""

from random import Random
from typing import Literal

import numpy as np

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View

COPIES = {"rows": (2, 1), "columns": (1, 2), "both": (2, 2)}
"""How many copies stand one under another, and side by side."""


def tile(task: Task, rng: Random, *, along: Literal["any", "rows", "columns", "both"] = "any") -> View:
    """Repeat every grid along rows, columns or both.

    `rows` adds a copy below, `columns` one to the right, `both` makes two by two; `any` draws one of the three afresh
    at each call. A grid that would grow beyond 30x30 is a GridError.
    """
    down, across = COPIES[rng.choice(tuple(COPIES)) if along == "any" else along]
    return View.mapped(
        task,
        lambda cells: np.tile(cells, (down, across)),
        lambda cells: cells[: len(cells) // down, : len(cells[0]) // across],
    )
