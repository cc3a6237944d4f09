"""Another order."""

from random import Random

from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View, unchanged


def shuffle_demos(task: Task, rng: Random) -> View:
    """Put the demonstrations in random order."""
    return View(task.with_demos(tuple(rng.sample(task.demos, len(task.demos)))), unchanged)
