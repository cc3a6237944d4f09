"""Grids, tasks and solutions for property tests."""

from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Solution, Task


@st.composite
def grids(draw: st.DrawFn, max_side: int = 5) -> Grid:
    """Grids of up to `max_side` cells a side."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    size = height * width
    return Grid(height, width, bytes(draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))))


@st.composite
def tasks(draw: st.DrawFn, task_id: str = "aa") -> Task:
    """Tasks of up to three demonstrations and three queries."""
    pairs = draw(st.lists(st.builds(Demonstration, grids(), grids()), min_size=1, max_size=3))
    return Task(task_id, tuple(pairs), tuple(draw(st.lists(grids(), min_size=1, max_size=3))))


@st.composite
def solved_tasks(draw: st.DrawFn, task_id: str = "aa") -> tuple[Task, Solution]:
    """A task with a solution for it."""
    task = draw(tasks(task_id))
    return task, Solution(task_id, tuple(draw(grids()) for _ in task.queries))
