"""The table of an evaluation as people read it: the words and figures of its cells, and Markdown made of them."""

from collections.abc import Mapping, Sequence

from arc_seal.outer_loop.table import Difference, Measured, Table

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
