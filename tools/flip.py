"""Mirror images."""

from random import Random
from typing import Literal

import numpy as np

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import Change, View

MIRRORS: dict[str, Change] = {"none": np.asarray, "left_right": np.fliplr, "up_down": np.flipud}


def flip(task: Task, rng: Random, *, direction: Literal["any", "left_right", "up_down"] = "any") -> View:
    """Mirror every grid left-right or up-down.

    `any` draws one of both or none afresh at each call.
    """
    mirror = MIRRORS[rng.choice(tuple(MIRRORS)) if direction == "any" else direction]
    return View.mapped(task, mirror, mirror)
