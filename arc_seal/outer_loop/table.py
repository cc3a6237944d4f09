"""The table of an evaluation: what each way to solve came to, how sure that is, and what it cost.

A *row* is a way to solve, such as SEAL or in-context only; a *mark* is what one roll-out of it was worth. Roll-outs
that failed are marks like others, not solved, and stay in every denominator.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from arc_seal.errors import Status
from arc_seal.outer_loop.statistics import DRAWS, Interval, bootstrap_over_tasks, paired_difference, wilson

_DECIMALS = 6
"""Of shares and seconds in JSON, and of a bound compared with zero: the noise of binary fractions is cut off."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What one roll-out was worth.

    Attributes:
        task: The task's id.
        sample: Which of the task's samples it is.
        seed: The seed of the run that it belongs to.
        solved: Whether every test output is right in either attempt.
        score: The official score, the share of test outputs that an attempt gets right; None, which counts as 0, when
            it failed before there were attempts.
        pass_at_1: Whether the first attempts alone are right.
        seconds: Wall time of all that was done for it.
        status: How it ended; `ok`, or why it failed.

    Raises:
        ValueError: When what failed is said to be solved, or what is not solved to be right at the first attempt.
    """

    task: str
    sample: int
    seed: int
    solved: bool
    score: float | None
    pass_at_1: bool
    seconds: float
    status: str

    def __post_init__(self) -> None:
        if (self.solved and self.status != Status.OK) or (self.pass_at_1 and not self.solved):
            raise ValueError(f"a mark that contradicts itself: {self}")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A way to solve and all its roll-outs, those of all seeds together.

    Attributes:
        name: What people read.
        marks: One for each roll-out, in any order; tasks are shown in the order in which they first come.

    Raises:
        ValueError: When a roll-out comes twice.
    """

    name: str
    marks: tuple[Mark, ...]

    def __post_init__(self) -> None:
        twice = [key for key, count in Counter((m.task, m.sample, m.seed) for m in self.marks).items() if count > 1]
        if twice:
            raise ValueError(f"{self.name}: more than one mark of (task, sample, seed) {twice}")

    def by_task(self) -> dict[str, list[Mark]]:
        """The marks of each task."""
        found: dict[str, list[Mark]] = {}
        for mark in self.marks:
            found.setdefault(mark.task, []).append(mark)
        return found

    def solved(self) -> dict[str, list[bool]]:
        """By task whether each of its roll-outs solved it."""
        return {task: [mark.solved for mark in marks] for task, marks in self.by_task().items()}


@dataclass(frozen=True, slots=True)
class Count:
    """So many right of so many."""

    correct: int
    total: int

    def __str__(self) -> str:
        return f"{self.correct}/{self.total}"


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of the finished table. What has no meaning without a mark is None where there is none.

    Attributes:
        name: The way to solve.
        solved: Roll-outs that solved their task.
        wilson: Lower and upper bound of the 95 % interval of their share, 0 to 1, were they independent.
        over_tasks: Mean over tasks of the share solved, 0 to 1, with the interval of a bootstrap over tasks.
        pass_at_1: Roll-outs that solved their task with the first attempts alone.
        score: Mean official score of the roll-outs, 0 to 1.
        seconds_mean: Wall time of a roll-out, on the average.
        seconds_longest: Wall time of the one that took longest.
        failures: Roll-outs that failed, by status, most frequent first.
        tasks: Roll-outs that solved the task, by task.
    """

    name: str
    solved: Count
    wilson: tuple[float, float]
    over_tasks: Interval | None
    pass_at_1: int
    score: float | None
    seconds_mean: float | None
    seconds_longest: float | None
    failures: Mapping[str, int]
    tasks: Mapping[str, Count]


@dataclass(frozen=True, slots=True)
class Difference:
    """What one row solves more than another.

    Attributes:
        first: Name of the one row.
        second: Name of the row that is subtracted from it.
        interval: Difference of the shares solved, -1 to 1, paired by task, with the interval of a bootstrap over tasks.
        tasks: How many tasks both rows have; those that one lacks are left out.
        left_out: How many these are.
    """

    first: str
    second: str
    interval: Interval
    tasks: int
    left_out: int

    def side(self) -> int:
        """1 when the whole interval is above zero, -1 when it is below, 0 when it holds zero."""
        low, high = _rounded(self.interval.low), _rounded(self.interval.high)
        return (low > 0) - (high < 0)


@dataclass(frozen=True, slots=True)
class Table:
    """The finished table.

    Attributes:
        rows: In the order given.
        difference: Between two of them; None when one is missing or they share no task.
        further: More differences, those that there are.
        run: What was run: model, data, seeds, versions and the like; JSON values.
        seed: Seed of every bootstrap.
        draws: How many draws it made.
    """

    rows: tuple[Measured, ...]
    difference: Difference | None
    further: tuple[Difference, ...]
    run: Mapping[str, Any]
    seed: int
    draws: int

    def tasks(self) -> list[str]:
        """The tasks of all rows, in the order in which they first come."""
        return list(dict.fromkeys(task for row in self.rows for task in row.tasks))


def make_table(
    rows: Sequence[TableRow],
    run: Mapping[str, Any],
    difference: tuple[str, str] | None = None,
    further: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    draws: int = DRAWS,
) -> Table:
    """Measure every row.

    Args:
        rows: The ways to solve, as they shall stand in the table.
        run: What was run: model, data, seeds, versions and the like, for whoever reads the table later; JSON values.
        difference: Names of two rows, such as the trained and the untrained policy: the first minus the second.
        further: More such pairs.
        seed: Seed of the bootstraps.
        draws: Draws of the bootstraps.

    Raises:
        ValueError: When two rows have the same name.
    """
    by_name = {row.name: row for row in rows}
    if len(by_name) < len(rows):
        raise ValueError(f"expected rows of different names, found {[row.name for row in rows]}")
    found = [_difference(by_name, pair, seed, draws) if pair else None for pair in (difference, *further)]
    return Table(
        rows=tuple(_measured(row, seed, draws) for row in rows),
        difference=found[0],
        further=tuple(each for each in found[1:] if each is not None),
        run=run,
        seed=seed,
        draws=draws,
    )


def best_of(rows: Sequence[TableRow], name: str | None = None) -> TableRow:
    """The ceiling: a task counts when any roll-out of any of the rows solved it, as if one knew which to keep.

    A task's one mark is its best roll-out's, and took as long as all of them together.

    Args:
        rows: Whose roll-outs to choose among.
        name: What people read; "best of K" unless given, K being the number of roll-outs a task.
    """
    tries: dict[str, list[Mark]] = {}
    for row in rows:
        for task, marks in row.by_task().items():
            tries.setdefault(task, []).extend(marks)
    counts = [len(marks) for marks in tries.values()] or [0]
    few, many = min(counts), max(counts)
    best = (replace(max(marks, key=_worth), seconds=sum(mark.seconds for mark in marks)) for marks in tries.values())
    return TableRow(name or f"best of {many if few == many else f'{few} to {many}'}", tuple(best))


def _worth(mark: Mark) -> tuple[bool, bool, float, bool]:
    return mark.solved, mark.pass_at_1, mark.score or 0.0, mark.status == Status.OK


def _measured(row: TableRow, seed: int, draws: int) -> Measured:
    marks, solved = row.marks, row.solved()
    right = sum(mark.solved for mark in marks)
    failures = Counter(mark.status for mark in marks if mark.status != Status.OK)
    return Measured(
        name=row.name,
        solved=Count(right, len(marks)),
        wilson=wilson(right, len(marks)),
        over_tasks=bootstrap_over_tasks(solved, seed, draws) if marks else None,
        pass_at_1=sum(mark.pass_at_1 for mark in marks),
        score=fmean(mark.score or 0.0 for mark in marks) if marks else None,
        seconds_mean=fmean(mark.seconds for mark in marks) if marks else None,
        seconds_longest=max((mark.seconds for mark in marks), default=None),
        failures={str(status): failures[status] for status in sorted(failures, key=lambda it: (-failures[it], it))},
        tasks={task: Count(sum(each), len(each)) for task, each in solved.items()},
    )


def _difference(rows: Mapping[str, TableRow], pair: tuple[str, str], seed: int, draws: int) -> Difference | None:
    one, other = (rows[name].solved() if name in rows else {} for name in pair)
    both = one.keys() & other.keys()
    if not both:
        return None
    interval = paired_difference({task: one[task] for task in both}, {task: other[task] for task in both}, seed, draws)
    return Difference(*pair, interval, len(both), len(one.keys() ^ other.keys()))


def to_json(table: Table) -> str:
    """The table as `table.json`: everything that is in it, shares and bounds as 0 to 1, `percent` as 0 to 100."""
    value = {
        "run": dict(table.run),
        "rows": [_row_json(row) for row in table.rows],
        "difference": None if table.difference is None else _difference_json(table.difference),
        "further_differences": [_difference_json(each) for each in table.further],
        "bootstrap": {"seed": table.seed, "draws": table.draws},
    }
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _row_json(row: Measured) -> dict[str, object]:
    interval = row.over_tasks
    measures: dict[str, float | None] = {
        "percent": 100 * row.solved.correct / row.solved.total if row.solved.total else None,
        "wilson_low": row.wilson[0],
        "wilson_high": row.wilson[1],
        "task_mean": interval.mean if interval else None,
        "bootstrap_low": interval.low if interval else None,
        "bootstrap_high": interval.high if interval else None,
        "score": row.score,
        "seconds_mean": row.seconds_mean,
        "seconds_longest": row.seconds_longest,
    }
    return {
        "name": row.name,
        "correct": row.solved.correct,
        "total": row.solved.total,
        **{key: None if value is None else _rounded(value) for key, value in measures.items()},
        "pass_at_1": row.pass_at_1,
        "failures": dict(row.failures),
        "tasks": {task: {"correct": count.correct, "total": count.total} for task, count in row.tasks.items()},
    }


def _difference_json(difference: Difference) -> dict[str, object]:
    interval = difference.interval
    return {
        "first": difference.first,
        "second": difference.second,
        "mean": _rounded(interval.mean),
        "low": _rounded(interval.low),
        "high": _rounded(interval.high),
        "tasks": difference.tasks,
        "left_out": difference.left_out,
    }


def _rounded(value: float) -> float:
    return round(value, _DECIMALS) + 0.0  # the sum makes 0.0 of -0.0


# The table of an evaluation as people read it: the words and figures of its cells, and Markdown made of them.

HEADINGS = ("row", "solved", "%", "Wilson", "by task", "pass@1", "score", "mean s", "max s")
"""Headings of `cells`."""

NOTE = (
    "Solved: roll-outs with every test output right in two attempts; failed ones count as not solved. "
    "Wilson: 95 % interval in percent, were all roll-outs independent. By task: the same by a bootstrap over tasks, "
    "each weighing the same. Pass@1: solved by the first attempt. Score: mean share of test outputs right, in percent. "
    "Seconds: wall time of a roll-out; of the best of several, of all of them together."
)
"""What the headings mean."""


def to_markdown(table: Table) -> str:
    """The table as GitHub shows it: the rows, what they mean and what was run, then how often each task was solved."""
    rows = [[*cells(row), failures_text(row) or "-"] for row in table.rows]
    parts = ["\n".join(_markdown_table([*HEADINGS, "failed"], rows))]
    parts += [_escaped(difference_text(each)) for each in differences(table)]
    parts += [NOTE]
    parts += ["\n".join(f"- {_escaped(line)}" for line in run_lines(table))] if table.run else []
    parts += ["\n".join(_markdown_table(["task", *(row.name for row in table.rows)], task_cells(table)))]
    return "\n\n".join(parts) + "\n"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its first column flush left and the others flush right."""
    ruler = "|".join(["", "---", *["---:"] * (len(headings) - 1), ""])
    return [f"| {' | '.join(map(_escaped, line))} |" if line else ruler for line in (headings, (), *rows)]


def _escaped(text: str) -> str:
    """The text in one line, without signs that would end a cell or begin a tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def cells(row: Measured) -> tuple[str, ...]:
    """A row under `HEADINGS`, as people read it."""
    total, interval = row.solved.total, row.over_tasks
    return (
        row.name,
        str(row.solved),
        f"{100 * row.solved.correct / total:.1f}" if total else "-",
        _bounds(*row.wilson),
        "-" if interval is None else _bounds(interval.low, interval.high),
        str(row.pass_at_1),
        "-" if row.score is None else f"{100 * row.score:.1f}",
        _seconds(row.seconds_mean),
        _seconds(row.seconds_longest),
    )


def task_cells(table: Table) -> list[tuple[str, ...]]:
    """A line a task: its id, then for each row how many of its roll-outs solved it, such as `3/5`; `-` without any."""
    return [(task, *(str(row.tasks.get(task, "-")) for row in table.rows)) for task in table.tasks()]


def failures_text(row: Measured) -> str:
    """How roll-outs failed, such as `2 timeout, 1 diverged`; empty when none did."""
    return ", ".join(f"{count} {status}" for status, count in row.failures.items())


def differences(table: Table) -> list[Difference]:
    """Every difference that there is."""
    return [each for each in (table.difference, *table.further) if each is not None]


def difference_text(difference: Difference) -> str:
    """The difference in one line, and whether its interval holds zero."""
    interval = difference.interval
    of = f" of {difference.tasks + difference.left_out}" if difference.left_out else ""
    side = {1: "above zero", 0: "zero is in it", -1: "below zero"}[difference.side()]
    bounds = f"{_points(interval.low)} to {_points(interval.high)}"
    return (
        f"{difference.first} minus {difference.second}: {_points(interval.mean)} points; 95 % interval {bounds} "
        f"(bootstrap over {difference.tasks}{of} tasks, paired): {side}."
    )


def run_lines(table: Table) -> list[str]:
    """What was run, a line each."""
    return [f"{key}: {_said(value)}" for key, value in table.run.items()]


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # the sum makes 0.0 of -0.0


def _bounds(low: float, high: float) -> str:
    return f"{100 * low:.0f}-{100 * high:.0f}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}" if seconds < 99.95 else f"{seconds:.0f}"


def _said(value: object) -> str:
    match value:
        case Mapping():
            return ", ".join(f"{key} {_said(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(map(_said, value))
        case _:
            return str(value)
