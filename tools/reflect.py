"""A grid beside its mirror image."""

from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View

SIDES = ("above", "below", "left", "right")


def reflect(task: Task, rng: Random, *, side: Literal["any", "above", "below", "left", "right"] = "any") -> View:
    """Put the mirror image of every grid beside it.

    `any` draws one of the four sides afresh at each call. A grid that would grow beyond 30x30 is a GridError.
    """
    drawn = rng.choice(SIDES) if side == "any" else side
    axis = 0 if drawn in ("above", "below") else 1
    image_first = drawn in ("above", "left")

    def join(cells: NDArray[Any]) -> NDArray[Any]:
        image = np.flip(cells, axis)
        return np.concatenate((image, cells) if image_first else (cells, image), axis)

    return View.mapped(task, join, lambda cells: np.array_split(cells, 2, axis)[1 if image_first else 0])
