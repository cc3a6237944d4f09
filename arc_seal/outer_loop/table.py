"""The table of an evaluation: what each way to solve came to, how sure that is, and what it cost.

A *row* is a way to solve, such as SEAL or in-context only; a *mark* is what one roll-out of it was worth. Roll-outs
that failed are marks like others, not solved, and stay in every denominator.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from arc_seal.arc.task import Solution, binary_reward
from arc_seal.errors import Status
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.outer_loop.statistics import DRAWS, bootstrap_over_tasks, paired_difference, wilson

HEADINGS = ("row", "solved", "%", "Wilson", "by task", "pass@1", "score", "mean s", "max s")
NOTE = (
    "Solved: roll-outs with every test output right in two attempts; failed ones count as not solved. "
    "Wilson: 95 % interval in percent, were all roll-outs independent. By task: the same by a bootstrap over tasks, "
    "each weighing the same. Pass@1: solved by the first attempt. Score: mean share of test outputs right, in percent. "
    "Seconds: wall time of a roll-out; of the best of several, of all of them together."
)
"""The headings of `cells`, and what they mean."""

_DECIMALS = 6
"""Of figures in JSON, and of a bound compared with zero: the noise of binary fractions is cut off."""

Table = dict[str, Any]
"""The content of `table.json`, which `make_table` makes: shares and bounds are 0 to 1, `percent` is 0 to 100."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What one roll-out was worth; ValueError where what failed is solved, or what is unsolved right at first."""

    task: str
    sample: int
    seed: int  # of the run that it belongs to
    solved: bool  # whether every test output is right in either attempt
    score: float | None  # share of the test outputs that are; None, which counts as 0, without attempts
    pass_at_1: bool  # whether the first attempts alone are right
    seconds: float  # wall time of all that was done for it
    status: str  # `ok`, or how it failed

    def __post_init__(self) -> None:
        if (self.solved and self.status != Status.OK) or (self.pass_at_1 and not self.solved):
            raise ValueError(f"a mark that contradicts itself: {self}")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A way to solve, and the marks of all its roll-outs, of all seeds together; ValueError where one comes twice."""

    name: str
    marks: tuple[Mark, ...]

    def __post_init__(self) -> None:
        twice = [key for key, count in Counter((m.task, m.sample, m.seed) for m in self.marks).items() if count > 1]
        if twice:
            raise ValueError(f"{self.name}: more than one mark of (task, sample, seed) {twice}")

    def solved(self) -> dict[str, list[bool]]:
        """By task, in the order in which tasks first come, whether each of its roll-outs solved it."""
        found: dict[str, list[bool]] = {}
        for mark in self.marks:
            found.setdefault(mark.task, []).append(mark.solved)
        return found


def mark(rollout: Rollout, solution: Solution, seed: int) -> Mark:
    """What a roll-out of the run under a seed was worth."""
    first = [[attempt.grid for attempt in query[:1]] for query in rollout.attempts]
    solved, at_first = rollout.reward == 1, bool(first) and binary_reward(first, solution) == 1
    seconds = float(sum(rollout.seconds.values()))
    return Mark(rollout.task, rollout.sample, seed, solved, rollout.score, at_first, seconds, rollout.status)


def make_table(
    rows: Sequence[TableRow],
    run: Mapping[str, Any],
    difference: tuple[str, str] | None = None,
    further: Sequence[tuple[str, str]] = (),
    draws: int = DRAWS,
) -> Table:
    """Measure every row, and the difference between some: of each pair of names the first row minus the second.

    What was run (model, data, seeds, versions and the like, JSON values) is kept for whoever reads the table later.
    ValueError where two rows have the same name.
    """
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"expected rows of different names, found {names}")
    found = [_difference(rows, pair, draws) if pair else None for pair in (difference, *further)]
    return {
        "run": dict(run),
        "rows": [_measured(row, draws) for row in rows],
        "difference": found[0],
        "further_differences": [each for each in found[1:] if each],
        "bootstrap": {"seed": 0, "draws": draws},
    }


def best_of(rows: Sequence[TableRow], name: str | None = None) -> TableRow:
    """The ceiling: a task's one mark is that of its best roll-out in any row, and took as long as all of them together.

    Without a name the row is called "best of K" after the number of roll-outs a task.
    """
    tries: dict[str, list[Mark]] = {}
    for each in (mark for row in rows for mark in row.marks):
        tries.setdefault(each.task, []).append(each)
    best = []
    for marks in tries.values():
        first = max(marks, key=lambda it: (it.solved, it.pass_at_1, it.score or 0.0, it.status == Status.OK))
        best.append(replace(first, seconds=sum(one.seconds for one in marks)))
    counts = sorted({len(marks) for marks in tries.values()}) or [0]
    return TableRow(name or f"best of {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}", tuple(best))


def to_json(table: Table) -> str:
    """The table as the text of `table.json`."""
    figures = json.dumps({**table, "run": None}, allow_nan=False)
    rounded = json.loads(figures, parse_float=lambda text: round(float(text), _DECIMALS) + 0.0)  # -0.0 becomes 0.0
    return json.dumps({**rounded, "run": table["run"]}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(table: Table) -> str:
    """The table as GitHub shows it: the rows, what they mean and what was run, then how often each task was solved."""
    rows = table["rows"]
    parts = [_markdown_table((*HEADINGS, "failed"), [(*cells(row), failures_text(row) or "-") for row in rows])]
    parts += [*(_escaped(difference_text(each)) for each in differences(table)), NOTE]
    parts += ["\n".join(f"- {_escaped(line)}" for line in run_lines(table))] if table["run"] else []
    parts += [_markdown_table(("task", *(row["name"] for row in rows)), task_cells(table))]
    return "\n\n".join(parts) + "\n"


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row under `HEADINGS`, as people read it; `-` is a figure that has no meaning without marks."""
    seconds = (row["seconds_mean"], row["seconds_longest"])
    return (
        row["name"],
        f"{row['correct']}/{row['total']}",
        "-" if row["percent"] is None else f"{row['percent']:.1f}",
        f"{100 * row['wilson_low']:.0f}-{100 * row['wilson_high']:.0f}",
        "-" if row["task_mean"] is None else f"{100 * row['bootstrap_low']:.0f}-{100 * row['bootstrap_high']:.0f}",
        str(row["pass_at_1"]),
        "-" if row["score"] is None else f"{100 * row['score']:.1f}",
        *("-" if each is None else f"{each:.{int(each < 99.95)}f}" for each in seconds),
    )


def task_cells(table: Table) -> list[tuple[str, ...]]:
    """A line a task: its id, then for each row how many of its roll-outs solved it, such as `3/5`; `-` without any."""
    tasks = dict.fromkeys(task for row in table["rows"] for task in row["tasks"])
    counts = [{task: f"{it['correct']}/{it['total']}" for task, it in row["tasks"].items()} for row in table["rows"]]
    return [(task, *(each.get(task, "-") for each in counts)) for task in tasks]


def failures_text(row: Mapping[str, Any]) -> str:
    """How roll-outs failed, such as `2 timeout, 1 diverged`; empty when none did."""
    return ", ".join(f"{count} {status}" for status, count in row["failures"].items())


def differences(table: Table) -> list[dict[str, Any]]:
    """Every difference that there is."""
    return [each for each in (table["difference"], *table["further_differences"]) if each]


def side(difference: Mapping[str, Any]) -> int:
    """1 when the whole interval is above zero, -1 when it is below, 0 when it holds zero."""
    low, high = (round(difference[bound], _DECIMALS) for bound in ("low", "high"))
    return int(low > 0) - int(high < 0)


def difference_text(difference: Mapping[str, Any]) -> str:
    """The difference in one line, and what it says: nothing where its interval holds zero."""
    tasks, left_out = difference["tasks"], difference["left_out"]
    mean, low, high = (f"{round(100 * difference[it], 1) + 0.0:+.1f}" for it in ("mean", "low", "high"))  # no -0.0
    where = {1: "better", 0: "not shown to differ", -1: "worse"}[side(difference)]
    return (
        f"{difference['first']} minus {difference['second']}: {mean} points; 95 % interval {low} to {high} "
        f"(bootstrap over {tasks}{f' of {tasks + left_out}' if left_out else ''} tasks, paired): {where}."
    )


def run_lines(table: Table) -> list[str]:
    """What was run, a line each."""
    return [f"{key}: {_said(value)}" for key, value in table["run"].items()]


def _measured(row: TableRow, draws: int) -> dict[str, Any]:
    """A row of the table; of no marks, what has no meaning is None. The most frequent failures stand first."""
    marks, solved = row.marks, row.solved()
    correct, total = sum(mark.solved for mark in marks), len(marks)
    low, high = wilson(correct, total)
    by_task = asdict(bootstrap_over_tasks(solved, draws=draws)) if marks else {}
    failures = Counter(str(mark.status) for mark in sorted(marks, key=lambda it: it.status) if mark.status != Status.OK)
    return {
        "name": row.name,
        "correct": correct,
        "total": total,
        "percent": 100 * correct / total if marks else None,
        "wilson_low": low,
        "wilson_high": high,
        "task_mean": by_task.get("mean"),
        "bootstrap_low": by_task.get("low"),
        "bootstrap_high": by_task.get("high"),
        "score": fmean(mark.score or 0.0 for mark in marks) if marks else None,
        "seconds_mean": fmean(mark.seconds for mark in marks) if marks else None,
        "seconds_longest": max((mark.seconds for mark in marks), default=None),
        "pass_at_1": sum(mark.pass_at_1 for mark in marks),
        "failures": dict(failures.most_common()),
        "tasks": {task: {"correct": sum(each), "total": len(each)} for task, each in solved.items()},
    }


def _difference(rows: Sequence[TableRow], pair: tuple[str, str], draws: int) -> dict[str, Any] | None:
    """What the first row solves more, over the tasks that both have; None when one is missing or they share none."""
    by_name = {row.name: row.solved() for row in rows}
    one, other = (by_name.get(name, {}) for name in pair)
    both = one.keys() & other.keys()
    if not both:
        return None
    first, second = ({task: side[task] for task in both} for side in (one, other))
    interval = paired_difference(first, second, draws=draws)
    left_out = len(one.keys() ^ other.keys())
    return {"first": pair[0], "second": pair[1], **asdict(interval), "tasks": len(both), "left_out": left_out}


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column flush left and the others flush right."""
    ruler = "|".join(["", "---", *["---:"] * (len(headings) - 1), ""])
    first, *others = (f"| {' | '.join(map(_escaped, line))} |" for line in (headings, *rows))
    return "\n".join([first, ruler, *others])


def _escaped(text: str) -> str:
    """The text in one line, without signs that would end a cell or begin a tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(item)}" for key, item in value.items())
    return ", ".join(map(_said, value)) if isinstance(value, list | tuple) else str(value)
