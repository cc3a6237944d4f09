"""Tools one after another."""

from random import Random
from typing import Annotated

from pydantic import Field

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import Inverse, Step, View


def chain(task: Task, rng: Random, *, steps: Annotated[list[Step], Field(min_length=2, max_length=4)]) -> View:
    """Apply other tools one after another.

    Each step draws from the same generator in turn. There is a way back where every step has one.
    """
    inverses: list[Inverse | None] = []
    for step in steps:
        view = step(task, rng)
        task = view.task
        inverses.insert(0, view.invert)
    known = [inverse for inverse in inverses if inverse is not None]

    def invert(grid: Grid) -> Grid:
        for inverse in known:
            grid = inverse(grid)
        return grid

    return View(task, invert if len(known) == len(inverses) else None)
