"""What a policy is taught: self-edits that worked, each with its task in more than one picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from arc_seal.arc.grid import COLOURS
from arc_seal.arc.task import Task


@dataclass(frozen=True, slots=True)
class Lesson:
    """A self-edit worth imitating on a task.

    Attributes:
        task: The task; its queries are not shown.
        self_edit: The self-edit's canonical text.
    """

    task: Task
    self_edit: str


def presentations(lessons: Sequence[Lesson], count: int, seed: int) -> Iterator[Lesson]:
    """Each lesson as it is, then `count` - 1 times with its task presented differently.

    Args:
        lessons: What is to be imitated.
        count: How often each comes, at least once.
        seed: Draws the presentations.
    """
    rng = Random(f"{seed} presentations")
    for lesson in lessons:
        yield lesson
        for _ in range(count - 1):
            yield replace(lesson, task=presented(lesson.task, rng))


def presented(task: Task, rng: Random) -> Task:
    """The task in other colours, with its demonstrations in another order.

    Colour 0 stays what it is, as tools may keep it, and nothing is turned, as tools may have a direction: what a
    self-edit does for one picture it does for the other, so the policy learns from the rule and not from the picture.
    """
    drawn = rng.sample(range(1, COLOURS), COLOURS - 1)
    colours = np.array([0, *drawn], dtype=np.uint8)
    shown = task.map_grids(lambda grid: grid.mapped(lambda cells: colours[cells]))
    return shown.with_demos(tuple(rng.sample(shown.demos, len(shown.demos))))
