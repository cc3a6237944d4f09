"""Fewer demonstrations."""

from random import Random
from typing import Literal

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View, unchanged


def drop_demos(task: Task, rng: Random, *, keep: Literal["any", 2, 3, 4] = "any") -> View:
    """Keep a random few of the demonstrations.

    They stay in order. `any` draws how many, 2 or more, leaving at least one out where the task has more than two.
    """
    shown = len(task.demos)
    kept = min(shown, rng.randint(2, max(2, shown - 1)) if keep == "any" else keep)
    indices = sorted(rng.sample(range(shown), kept))
    return View(task.with_demos(tuple(task.demos[index] for index in indices)), unchanged)
