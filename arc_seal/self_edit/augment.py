"""What a self-edit makes of a task: examples to train on, and views to predict in.

Everything drawn comes from the generator that is handed in, in an order that the self-edit fixes, so one seed gives the
same data on every run and machine.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import GridError
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.toolbox import BoundCall, Toolbox, View, unchanged

TRIES = 32
"""How often a source of views is drawn from in its turn, before it is taken to have no more distinct ones."""


@dataclass(frozen=True, slots=True)
class Augmented:
    """A training set.

    Attributes:
        examples: Contexts, each of demonstrations in order, all distinct.
        skipped: How often a tool could not make an example of this task.
    """

    examples: tuple[tuple[Demonstration, ...], ...]
    skipped: int


@dataclass(frozen=True, slots=True)
class NamedView:
    """A view to predict in.

    Attributes:
        name: What it does, for people, such as `rotate(quarter_turns=2), order 312`: the tool's call, and the order of
            the demonstrations that it gave.
        view: The view; it has an inverse.
        show: How the view shows an output grid of the task; None where it cannot, or not as it did its task's own.
    """

    name: str
    view: View
    show: Callable[[Grid], Grid | None]


def augment(task: Task, self_edit: SelfEdit, toolbox: Toolbox, rng: Random) -> Augmented:
    """Make the training set that a self-edit asks for.

    The sources are the task itself, then each tool call. They take turns: in round r each is called afresh and gives
    one example, its demonstrations turned so that number r (modulo their number) comes last. Repeats are left out. It
    ends at `max_examples`, or when as many rounds as the task has demonstrations brought nothing new.

    Args:
        task: The task whose demonstrations are used; its queries go through the tools but not into the examples.
        self_edit: Which tools, and how many examples at most.
        toolbox: Where the tools are.
        rng: Draws whatever the tools leave open.

    Raises:
        InvalidSelfEdit: When the toolbox has no such tool.
    """
    sources: list[BoundCall] = [_as_given, *map(toolbox.bind, self_edit.tools)]
    limit, patience = self_edit.training.max_examples, len(task.demos)
    examples: dict[tuple[Demonstration, ...], None] = {}  # a set in order of making
    skipped, turn, last_new = 0, 0, 0
    while len(examples) < limit and turn - last_new < patience:
        made = len(examples)
        for source in tuple(sources):
            before = rng.getstate()
            try:
                demos = source(task, rng).task.demos
            except GridError:
                skipped += 1
                if rng.getstate() == before:  # it drew nothing, so it would fail again
                    sources.remove(source)
                continue
            if len(examples) < limit:
                examples.setdefault(_turned(demos, turn % len(demos)))
        turn += 1
        last_new = turn if len(examples) > made else last_new
    return Augmented(tuple(examples), skipped)


def views(task: Task, self_edit: SelfEdit | None, toolbox: Toolbox, rng: Random, count: int) -> tuple[NamedView, ...]:
    """Distinct views of a task to predict its queries in.

    The first is the task as given. The others come from the self-edit's calls in turn, as far as they have an inverse
    and do not enlarge a query (a larger view costs more and shows nothing new), each with its demonstrations freshly
    shuffled. Where those run out, the task's own demonstrations are shuffled.

    Args:
        task: The task to predict.
        self_edit: Whose tools to use; None uses none.
        toolbox: Where the tools are.
        rng: Draws the order and whatever the tools leave open.
        count: How many, at least one; fewer come back when there are not that many distinct ones.

    Raises:
        InvalidSelfEdit: When the toolbox has no such tool.
    """
    found = {task: NamedView("as given", View(task, unchanged), unchanged)}
    calls = [(str(call), toolbox.bind(call)) for call in (self_edit.tools if self_edit else ())]
    for sources in (calls, [("", _as_given)]):
        made = 0
        while made < len(found) < count:
            made = len(found)
            for name, source in sources:
                new = _unlike(found, task, name, source, rng)
                if new is not None and len(found) < count:
                    found[new.view.task] = new
    return tuple(found.values())


def _as_given(task: Task, rng: Random) -> View:
    return View(task, unchanged)


def _turned(demos: tuple[Demonstration, ...], last: int) -> tuple[Demonstration, ...]:
    """The demonstrations turned cyclically so that number `last` comes last."""
    return demos[last + 1 :] + demos[: last + 1]


def _unlike(found: Mapping[Task, NamedView], task: Task, name: str, source: BoundCall, rng: Random) -> NamedView | None:
    """A view from one source that is not among those found; None when the source seems to have no more."""
    for _ in range(TRIES):
        before = rng.getstate()
        try:
            view = source(task, rng)
        except GridError:
            continue
        if view.invert is None or _grows(task, view.task):
            continue
        named = _shuffled(name, view, partial(_shown, task, source, before, view), rng)
        if named.view.task not in found:
            return named
    return None


def _grows(task: Task, shown: Task) -> bool:
    pairs = zip(task.queries, shown.queries, strict=True)
    return any(larger.height * larger.width > query.height * query.width for query, larger in pairs)


def _shown(task: Task, source: BoundCall, state: tuple[Any, ...], view: View, grid: Grid) -> Grid | None:
    """How a view shows one more grid: its source is called again, with the same draws and one query more."""
    rng = Random()
    rng.setstate(state)
    try:
        again = source(Task(task.id, task.demos, (*task.queries, grid)), rng).task
    except GridError:
        return None
    return again.queries[-1] if again.demos == view.task.demos else None


def _shuffled(name: str, view: View, show: Callable[[Grid], Grid | None], rng: Random) -> NamedView:
    demos = view.task.demos
    order = rng.sample(range(len(demos)), len(demos))
    shown = view.task.with_demos(tuple(demos[index] for index in order))
    return NamedView(", ".join(filter(None, (name, f"order {_spelled(order)}"))), View(shown, view.invert), show)


def _spelled(order: Iterable[int]) -> str:
    """An order counted from 1: `312`, with dashes where a number has two digits."""
    numbers = [str(index + 1) for index in order]
    return ("-" if len(numbers) > 9 else "").join(numbers)
