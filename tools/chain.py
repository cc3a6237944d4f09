"""Tools one after another."""

from random import Random
from typing import Annotated

from pydantic import Field

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import Inverse, Step, View


def chain(task: Task, rng: Random, *, steps: Annotated[list[Step], Field(min_length=2, max_length=4)]) -> View:
    """Apply other tools one after another.

    Args:
        task: The task to show.
        rng: Handed to each step in turn.
        steps: Calls of other tools, first one first.

    Raises:
        GridError: When a step makes something that is not a grid.
    """
    inverses: list[Inverse | None] = []
    for step in steps:
        view = step(task, rng)
        task = view.task
        inverses.append(view.invert)
    known = [inverse for inverse in inverses if inverse is not None]
    return View(task, _last_to_first(known) if len(known) == len(inverses) else None)


def _last_to_first(inverses: list[Inverse]) -> Inverse:
    def invert(grid: Grid) -> Grid:
        for inverse in reversed(inverses):
            grid = inverse(grid)
        return grid

    return invert
