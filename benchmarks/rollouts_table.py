"""The table of `rollouts_per_hour.py`: what was measured, in Markdown.

- *an hour*: roll-outs in an hour of wall time in which the executor had at least one roll-out under way. In the table
  of one self-edit, beside which others ran: in an hour of the seconds spent on it, divided by the workers.
- *against plain*: the ratio of that to the baseline's, over the roll-outs that both have done; in brackets the 95 %
  interval of a bootstrap over tasks, of the seconds spent on them divided by the workers.
- *over tasks*: median and range of the tasks' own ratios: of the seconds spent on a task, divided by the workers.
- *target tokens*: the same ratio for target tokens learnt in an hour. One pass of arc-seal's learns more outputs than
  one of the baseline's, unless `--plain-passes outputs` gives the baseline a pass for each.
- *train / predict s*: medians of one roll-out. *padding*: median share of the tokens computed in training.
- *solved*: roll-outs of reward 1.

Failed roll-outs count as not solved and in no time.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from arc_seal.outer_loop.statistics import DRAWS

Row = dict[str, Any]
"""One roll-out, as rollouts_per_hour.py keeps it."""

Seconds = Callable[[Iterable[Row]], float]
"""What roll-outs have taken."""

HEADER = (
    "executor", "workers x threads", "roll-outs", "an hour", "against plain", "over tasks: median (range)",
    "target tokens", "train / predict s", "padding", "solved",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """A table over all self-edits and, where there are several, one for each; lines in the order of the roll-outs."""
    names = list(dict.fromkeys(row["executor"] for row in rows))
    edits = list(dict.fromkeys(row["edit"] for row in rows))
    parts = [_part(edits, rows, names, wall_s)]
    if len(edits) > 1:
        parts += [_part([edit], rows, names, spent_s) for edit in edits]
    return "\n\n".join(parts)


def workers_of(executor: str) -> int:
    """How many workers an executor has, by its name, such as `process:2`."""
    return int(executor.partition(":")[2] or 1)


def wall_s(rows: Iterable[Row]) -> float:
    """Wall seconds in which at least one of the roll-outs was under way."""
    total, until = 0.0, 0.0
    for began, ended in sorted((row["began"], row["ended"]) for row in rows):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def spent_s(rows: Iterable[Row]) -> float:
    """Seconds spent on roll-outs, divided by the workers."""
    return sum(float(row["seconds"]) / workers_of(row["executor"]) for row in rows)


def _part(edits: Sequence[str], rows: Sequence[Row], names: Sequence[str], seconds: Seconds) -> str:
    of_edits = [row for row in rows if row["edit"] in edits]
    lines = [
        _joined(HEADER),
        "|---" * len(HEADER) + "|",
        *(_joined(_cells(name, of_edits, seconds)) for name in names),
    ]
    return "\n".join([f"Self-edits: {', '.join(edits)}", "", *lines])


def _joined(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(name: str, rows: Sequence[Row], seconds: Seconds) -> list[str]:
    own = [row for row in rows if row["executor"] == name]
    done = [row for row in own if row["status"] == "ok"]
    plain = [row for row in rows if row["executor"] == "plain" and row["status"] == "ok"]
    failed = f" and {len(own) - len(done)} failed" if len(done) < len(own) else ""
    workers = workers_of(name)
    head = [name, f"{workers} x {max(1, own[0]['threads'] // workers)}", f"{len(done)}{failed}"]
    solved = f"{sum(row['reward'] or 0 for row in own)}/{len(own)}"
    if not done:
        return [*head, *["-"] * 6, solved]
    train, predict = (median(row["stages"].get(stage, 0.0) for row in done) for stage in ("train", "predict"))
    padding = median(row["padding"] or 0.0 for row in done)
    per_hour = f"{3600 * len(done) / seconds(done):.0f}"
    return [*head, per_hour, *_ratios(done, plain, seconds), f"{train:.1f} / {predict:.1f}", f"{padding:.0%}", solved]


def _ratios(own: Sequence[Row], plain: Sequence[Row], seconds: Seconds) -> tuple[str, str, str]:
    """Against the baseline over what both have done: all together, over tasks, and by target tokens learnt."""
    common = {_what(row) for row in own} & {_what(row) for row in plain}
    if not common:
        return "-", "-", "-"
    own, plain = ([row for row in rows if _what(row) in common] for rows in (own, plain))
    together = seconds(plain) / seconds(own)
    learnt, learnt_by_plain = (sum(row["targets"] for row in rows) for rows in (own, plain))
    of_tasks = [[[row for row in rows if row["task"] == task] for rows in (own, plain)] for task in _tasks(own)]
    spent = np.array([[spent_s(by_plain), spent_s(by_own)] for by_own, by_plain in of_tasks])  # [tasks, 2]
    each = (spent[:, 0] / spent[:, 1]).tolist()
    low, high = _interval(spent)
    spread = f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
    return f"{together:.2f} ({low:.2f} to {high:.2f})", spread, f"{together * learnt / max(1, learnt_by_plain):.2f}"


def _interval(spent: np.ndarray) -> tuple[float, float]:
    """95 % interval of the ratio of the sums of two columns, [tasks, 2], by a bootstrap over tasks."""
    drawn = np.random.default_rng(0).integers(0, len(spent), (DRAWS, len(spent)))  # [draws, tasks]
    sums = spent[drawn].sum(1)  # [draws, 2]
    low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    return float(low), float(high)


def _what(row: Row) -> tuple[str, str]:
    return row["task"], row["edit"]


def _tasks(rows: Iterable[Row]) -> list[str]:
    """In the same order every time, so that the bootstrap draws the same sets."""
    return sorted({row["task"] for row in rows})
