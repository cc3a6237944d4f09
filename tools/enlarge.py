"""Every cell becomes a block."""

from random import Random
from typing import Literal

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View

BLOCKS = {"both": (2, 2), "height": (2, 1), "width": (1, 2)}
"""Rows and columns of the block that a cell becomes."""


def enlarge(task: Task, rng: Random, *, sides: Literal["any", "both", "height", "width"] = "both") -> View:
    """Double the height, the width or both of every grid.

    `any` draws one of the three afresh at each call. A grid that would grow beyond 30x30 is a GridError.
    """
    rows, columns = BLOCKS[rng.choice(tuple(BLOCKS)) if sides == "any" else sides]
    return View.mapped(
        task,
        lambda cells: cells.repeat(rows, axis=0).repeat(columns, axis=1),
        lambda cells: cells[::rows, ::columns],
    )
