"""A view: what a tool makes of a task, and the way back."""

from collections.abc import Callable
from dataclasses import dataclass

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task

Inverse = Callable[[Grid], Grid]
"""Turns an output grid of the view into an output grid of the task; raises GridError where it cannot."""


@dataclass(frozen=True, slots=True)
class View:
    """A task as a tool shows it.

    Attributes:
        task: The changed task.
        invert: The way back for an output predicted in this view; None where a tool has no way back.
    """

    task: Task
    invert: Inverse | None


def unchanged(grid: Grid) -> Grid:
    """The inverse of a tool that leaves grids as they are."""
    return grid
