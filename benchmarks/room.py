"""How much could be gained by choosing a self-edit by task, beyond noise: runs of `solve` under one self-edit each.

    python -m arc_seal.solve -m arcagi1/dev seed=0,1,2 self_edit=choices self_edit.json='{"tokens": 8000, ...}' \
        hydra.sweep.dir=runs/room/8000
    python benchmarks/room.py runs/room/*

All runs are of the same tasks and seeds. With each seed in turn left out, the others choose the best self-edit of each
task and the best one for all tasks; what is compared is the seed that was left out, so that luck with the others gains
nothing. With few seeds a choice by task is often wrong, so choosing well may gain more than this. For each field the
choice is among the self-edits that differ from the best fixed one in it alone. Intervals are 95 %, bootstraps over
tasks. The views that are right, a share from 0 to 1, vary less with the seed than whether a task is solved.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from arc_seal.outer_loop.statistics import Interval, paired_difference
from arc_seal.self_edit.edit import canonical
from arc_seal.ui.run_folder import Kept, read_folder


@dataclass(frozen=True)
class Mark:
    """What a self-edit came to on one task under one seed."""

    solved: float  # 1 or 0
    views: float  # share of the views that predicted the true output, mean over queries, 0 to 1
    seconds: float  # wall time without loading


@dataclass(frozen=True)
class Measured:
    """A self-edit and its marks."""

    fields: Mapping[str, Any]  # what it says, by field
    marks: Mapping[str, Mapping[int, Mark]]  # by task and seed


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs of solve, each under another self-edit")
    parser.add_argument("--by", choices=("views", "solved"), default="views", help="what the choice goes by")
    arguments = parser.parse_args()
    edits = [measured(folder) for folder in arguments.runs]
    check_alike(edits)
    print(shown_edits(edits))
    print(shown_gains(edits, arguments.by))


def measured(folder: Path) -> Measured:
    """What a run says of its self-edit."""
    run = read_folder(folder)
    if run.failed or not run.kept:
        raise SystemExit(f"{folder}: expected a result of every task, found {len(run.failed)} with bad input")
    marks: dict[str, dict[int, Mark]] = {}
    for kept in run.kept:
        marks.setdefault(kept.solved.task_id, {})[kept.solved.seed] = mark_of(kept)
    edit, budget = run.configuration["self_edit"]["json"], run.configuration["ttt"]["token_budget"]
    if not isinstance(edit, dict):
        raise SystemExit(f"{folder}: expected a run under one self-edit by hand, found {edit}")
    return Measured({**fields_of(edit), "token_budget": budget}, marks)


def mark_of(kept: Kept) -> Mark:
    """The mark of one result; what failed has no view that is right."""
    if kept.entry is None or kept.entry[1] is None:
        raise SystemExit(f"{kept.solved.task_id}: expected a task with its solution in result.json")
    made = [each for rollout in kept.solved.rollouts if rollout.result for each in rollout.result.candidates]
    right = []
    for query, output in enumerate(kept.entry[1].outputs):
        own = [each.grid == output for each in made if each.query == query]
        right.append(fmean(own) if own else 0.0)
    seconds = sum(spent for stage, spent in kept.solved.seconds.items() if stage != "load")
    return Mark(float(kept.solved.reward or 0), fmean(right), seconds)


def fields_of(edit: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a self-edit of any form, those of its parts beside its own; calls of tools as their text."""
    found: dict[str, Any] = {}
    for name, value in edit.items():
        found |= value if isinstance(value, dict) else {name: canonical(value) if isinstance(value, list) else value}
    return found


def check_alike(edits: Sequence[Measured]) -> None:
    """Refuse runs of other tasks or seeds than the first's, and a single seed."""
    known = {task: set(marks) for task, marks in edits[0].marks.items()}
    for each in edits:
        if {task: set(marks) for task, marks in each.marks.items()} != known:
            raise SystemExit(f"expected the same tasks and seeds in all runs, found others under {each.fields}")
    if len({frozenset(seeds) for seeds in known.values()}) != 1 or len(seeds_of(edits)) < 2:
        raise SystemExit("expected the same seeds of every task, two or more")


def seeds_of(edits: Sequence[Measured]) -> list[int]:
    """The seeds, in order."""
    return sorted(next(iter(edits[0].marks.values())))


def mean(edit: Measured, what: str, seeds: Sequence[int], task: str | None = None) -> float:
    """The mean of a mark over some seeds, of one task or all."""
    tasks = edit.marks if task is None else (task,)
    return fmean(getattr(edit.marks[each][seed], what) for each in tasks for seed in seeds)


def differing(edits: Sequence[Measured]) -> list[str]:
    """The fields in which some of them differ; one that is missing is a value too."""
    names = dict.fromkeys(name for each in edits for name in each.fields)
    return [name for name in names if len({str(each.fields.get(name)) for each in edits}) > 1]


def gain(edits: Sequence[Measured], field: str | None, by: str, of: str) -> Interval:
    """By how much the best self-edit of each task is better than the best fixed one, on seeds that chose neither.

    With a field the choice is among those that differ from the best fixed one in it alone; where two are as good, the
    fixed one is chosen.
    """
    chosen: dict[str, list[float]] = {task: [] for task in edits[0].marks}
    fixed: dict[str, list[float]] = {task: [] for task in edits[0].marks}
    for seed in seeds_of(edits):
        others = [each for each in seeds_of(edits) if each != seed]
        best = max(edits, key=lambda each: mean(each, by, others))
        among = [each for each in edits if field is None or set(differing([best, each])) <= {field}]
        for task in chosen:
            own = max(among, key=lambda each: (mean(each, by, others, task), each is best))
            chosen[task].append(getattr(own.marks[task][seed], of))
            fixed[task].append(getattr(best.marks[task][seed], of))
    return paired_difference(chosen, fixed)


def shown_edits(edits: Sequence[Measured]) -> str:
    """Markdown: a line a self-edit, the one that solves most first."""
    seeds, names, total = seeds_of(edits), differing(edits), len(edits[0].marks)
    lines = [f"| {' | '.join(names)} | solved of {total} | views right | mean s |", "|---" * (len(names) + 3) + "|"]
    for each in sorted(edits, key=lambda each: (-mean(each, "solved", seeds), -mean(each, "views", seeds))):
        said = " | ".join(str(each.fields.get(name, "-")) for name in names)
        solved, views, seconds = (mean(each, what, seeds) for what in ("solved", "views", "seconds"))
        lines.append(f"| {said} | {total * solved:.1f} | {views:.1%} | {seconds:.1f} |")
    return "\n".join([*lines, f"\nMeans over the seeds {seeds}.\n"])


def shown_gains(edits: Sequence[Measured], by: str) -> str:
    """Markdown: a line a field, and one for all together."""
    lines = ["| chosen by task | solved, points | views right, points |", "|---|---|---|"]
    for name, field in (*((name, name) for name in differing(edits)), ("all fields", None)):
        found = (gain(edits, field, by, of) for of in ("solved", "views"))
        points = (f"{100 * it.mean:+.1f} ({100 * it.low:+.1f} to {100 * it.high:+.1f})" for it in found)
        lines.append(f"| {name} | {' | '.join(points)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
