"""What a self-edit makes of a task: examples to train on, and views to predict in, the same everywhere for one seed."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import GridError
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.toolbox import BoundCall, Inverse, Toolbox, View, unchanged

TRIES = 32
"""How often a source of views is drawn from in its turn, before it is taken to have no more distinct ones."""


@dataclass(frozen=True, slots=True)
class NamedView:
    """A view to predict in."""

    name: str  # the tool's call and the order of its demonstrations, such as `rotate(quarter_turns=2), order 312`
    task: Task  # as the view shows it
    invert: Inverse  # the way back for an output predicted in this view
    # How the view shows an output grid of the task; None where it cannot, or not as it did its task's own.
    show: Callable[[Grid], Grid | None]


def augment(
    task: Task, self_edit: SelfEdit, toolbox: Toolbox, rng: Random
) -> tuple[tuple[tuple[Demonstration, ...], ...], int]:
    """Make the training set that a self-edit asks for of a task's demonstrations; `rng` draws what tools leave open.

    Returns distinct contexts of demonstrations, and how often a tool could not make one of this task.

    The sources are the task itself, then each tool call. They take turns: in round r each is called afresh and gives
    one example, its demonstrations turned so that number r (modulo their number) comes last. Repeats are left out. It
    ends at `max_examples`, or when as many rounds as the task has demonstrations brought nothing new. No tool sees the
    task's queries, so none fails because of a large one. InvalidSelfEdit where the toolbox has no such tool.
    """
    sources: list[BoundCall] = [_as_given, *map(toolbox.bind, self_edit.tools)]
    shown = Task(task.id, task.demos, (task.demos[0].input,))  # a task needs a query
    limit, patience = self_edit.training.max_examples, len(task.demos)
    examples: dict[tuple[Demonstration, ...], None] = {}  # a set in order of making
    skipped, turn, last_new = 0, 0, 0
    while len(examples) < limit and turn - last_new < patience:
        made = len(examples)
        for source in tuple(sources):
            before = rng.getstate()
            try:
                demos = source(shown, rng).task.demos
            except GridError:
                skipped += 1
                if rng.getstate() == before:  # it drew nothing, so it would fail again
                    sources.remove(source)
                continue
            if len(examples) < limit:
                after = turn % len(demos) + 1
                examples.setdefault(demos[after:] + demos[:after])
        turn += 1
        last_new = turn if len(examples) > made else last_new
    return tuple(examples), skipped


def views(task: Task, self_edit: SelfEdit | None, toolbox: Toolbox, rng: Random, count: int) -> tuple[NamedView, ...]:
    """Up to `count` distinct views of a task to predict its queries in; `rng` draws what the tools leave open.

    The first is the task as given. The others come from the self-edit's calls in turn, as far as they have an inverse
    and do not enlarge a query (a larger view costs more and shows nothing new), each with its demonstrations freshly
    shuffled. Where those run out, the task's own demonstrations are shuffled. InvalidSelfEdit as in `augment`.
    """
    found = {task: NamedView("as given", task, unchanged, unchanged)}
    calls = [(str(call), toolbox.bind(call)) for call in (self_edit.tools if self_edit else ())]
    for sources in (calls, [("", _as_given)]):
        made = 0
        while made < len(found) < count:
            made = len(found)
            for name, source in sources:
                tries = (_drawn(task, name, source, rng) for _ in range(TRIES))
                new = next((each for each in tries if each and each.task not in found), None)
                if new and len(found) < count:
                    found[new.task] = new
    return tuple(found.values())


def _as_given(task: Task, rng: Random) -> View:
    return View(task, unchanged)


def _drawn(task: Task, name: str, source: BoundCall, rng: Random) -> NamedView | None:
    """A view from one source, its demonstrations shuffled; None where it has no way back or enlarges a query."""
    state = rng.getstate()
    try:
        view = source(task, rng)
    except GridError:
        return None
    pairs = zip(task.queries, view.task.queries, strict=True)
    if view.invert is None or any(len(shown.cells) > len(query.cells) for query, shown in pairs):
        return None
    demos = view.task.demos
    order = rng.sample(range(len(demos)), len(demos))
    numbers = ("-" if len(order) > 9 else "").join(str(index + 1) for index in order)

    def show(grid: Grid) -> Grid | None:
        same_draws = Random()
        same_draws.setstate(state)
        try:
            again = source(Task(task.id, task.demos, (*task.queries, grid)), same_draws).task
        except GridError:
            return None
        return again.queries[-1] if again.demos == demos else None

    shuffled = view.task.with_demos(tuple(demos[index] for index in order))
    return NamedView(f"{name}, order {numbers}".removeprefix(", "), shuffled, view.invert, show)
