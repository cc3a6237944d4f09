"""A task and its solution, kept apart on purpose.

A `Task` has no field where a test output would fit. Whatever prompts, trains or decodes is given a `Task`,
so a leak cannot be written by accident; only `reward.py` sees a task's attempts and its `Solution` together.
"""

from collections.abc import Callable
from dataclasses import dataclass

from arc_seal.arc.grid import Grid


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One solved pair that a task shows."""

    input: Grid
    output: Grid


@dataclass(frozen=True, slots=True)
class Task:
    """An ARC task as a solver sees it: solved pairs, and inputs to solve.

    Attributes:
        id: The task's name, such as `0d3d703e`.
        demos: At least one demonstration.
        queries: At least one test input.
    """

    id: str
    demos: tuple[Demonstration, ...]
    queries: tuple[Grid, ...]

    def __post_init__(self) -> None:
        if not self.demos or not self.queries:
            raise ValueError(f"task {self.id} needs a demonstration and a query")

    def map_grids(self, change: Callable[[Grid], Grid]) -> "Task":
        """The task with `change` applied to every grid, inputs and outputs alike.

        Raises:
            GridError: When `change` makes something that is not a grid.
        """
        demos = tuple(Demonstration(change(demo.input), change(demo.output)) for demo in self.demos)
        return Task(self.id, demos, tuple(change(query) for query in self.queries))

    def with_demos(self, demos: tuple[Demonstration, ...]) -> "Task":
        """The task with other demonstrations and the same queries."""
        return Task(self.id, demos, self.queries)


@dataclass(frozen=True, slots=True)
class Solution:
    """The test outputs of a task, in the order of its queries."""

    task_id: str
    outputs: tuple[Grid, ...]
