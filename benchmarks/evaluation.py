"""What runs of `solve` came to: counts with their intervals, by seed, by length of contexts, and each task's marks.

    python -m arc_seal.solve -m arcagi1/evaluation_sample seed=0,1,2 executor.workers=2 executor.threads=1 \
        hydra.sweep.dir=runs/sample
    python benchmarks/evaluation.py runs/sample --out benchmarks/evaluation/arcagi1_evaluation_sample.json
    python benchmarks/evaluation.py runs/sample --beside runs/other     # paired by task

A run has tasks under one configuration, with one or more seeds; `--tasks` takes those of one set. The file has the form
`{"total": TASKS, "solved": MEAN OVER SEEDS, ...}`, so that anyone can count again from its marks.
"""

import argparse
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Entry, binary_reward
from arc_seal.files import write_whole
from arc_seal.inner_loop.job import vote
from arc_seal.models.grid_codec import GridCodec
from arc_seal.models.prompt import query_prompt
from arc_seal.outer_loop.provenance import recorded_model
from arc_seal.outer_loop.rollout import grids
from arc_seal.outer_loop.solve import Solved
from arc_seal.outer_loop.statistics import paired_difference, wilson
from arc_seal.ui.run_folder import read_folder

LENGTHS = (512, 1024, 2048, 4096)
"""Bounds of the groups of tasks by the tokens of a context with all demonstrations and the first query."""


def main() -> None:
    """Count, print, and keep what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run of solve")
    parser.add_argument("--tasks", help="count those of this set alone, such as arcagi1/evaluation")
    parser.add_argument("--beside", type=Path, help="another run of the same tasks, to be compared with task by task")
    parser.add_argument("--out", type=Path, help="the file to keep the marks in")
    arguments = parser.parse_args()
    wanted = {task.id for task, _ in load_tasks(arguments.tasks)} if arguments.tasks else None
    found = counted(arguments.run, wanted)
    print(shown(found))
    if arguments.beside is not None:
        other = counted(arguments.beside, wanted)
        sides = ({name: marks["solved"] for name, marks in each["tasks"].items()} for each in (found, other))
        difference = paired_difference(*sides)
        print(f"minus {arguments.beside}: {difference}")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        text = as_text(found)
        write_whole(arguments.out, lambda file: file.write(text.encode()))


def counted(folder: Path, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """What a run came to on the tasks wanted, or all; every task counts, failed ones as not solved."""
    run = read_folder(folder)
    # A task that is in two sets is there twice, with the same results.
    once = {(kept.solved.task_id, kept.solved.seed): kept for kept in run.kept}
    results = [kept for kept in once.values() if wanted is None or kept.solved.task_id in wanted]
    if missing := set(wanted or ()) - {kept.solved.task_id for kept in results}:
        raise SystemExit(f"{folder}: no result of {len(missing)} tasks, such as {min(missing)}")
    if not results:
        raise SystemExit(f"{folder}: expected results, found none")
    tasks: dict[str, dict[str, Any]] = {}
    for kept in sorted(results, key=lambda each: (each.solved.task_id, each.solved.seed)):
        if kept.entry is None or kept.entry[1] is None:
            raise SystemExit(f"{kept.solved.task_id}: expected a task with its solution in result.json")
        lists = ("solved", "first", "by_votes", "found", "seconds")
        marks = tasks.setdefault(kept.solved.task_id, {"tokens": tokens(kept.entry), **{name: [] for name in lists}})
        for name, value in marks_of(kept.solved, kept.entry).items():
            marks[name].append(value)
    seeds = sorted({kept.solved.seed for kept in results})
    ragged = [name for name, marks in tasks.items() if len(marks["solved"]) != len(seeds)]
    if ragged or run.failed:
        raise SystemExit(f"{folder}: not every task has a result for each of the seeds {seeds}: {ragged[:3]}")
    by_seed = [sum(marks["solved"][number] for marks in tasks.values()) for number in range(len(seeds))]
    first = results[0].solved
    return {
        "total": len(tasks),
        "solved": fmean(by_seed),
        "seeds": seeds,
        "solved_by_seed": by_seed,
        "model": recorded_model(run.configuration["model"]),
        "self_edit": run.configuration["self_edit"]["json"],
        **{
            name: run.configuration[name]
            for name in ("samples", "stages", "ttt", "decode")
            if name in run.configuration
        },
        "versions": first.versions,
        "tasks": tasks,
    }


def marks_of(solved: Solved, entry: Entry) -> dict[str, int | float]:
    """Whether the attempts, the first alone, and those by votes are right, whether some candidates are; and seconds."""
    queries, solution = len(entry[0].queries), entry[1]
    assert solution is not None
    results = [each.result for each in solved.rollouts if each.result is not None]
    by_votes = vote([replace(each, score=None) for made in results for each in made.candidates], queries)
    right = {each.query for made in results for each in made.candidates if each.grid == solution.outputs[each.query]}
    return {
        "solved": int(solved.reward or 0),
        "first": int(
            all(made and made[0].grid == output for made, output in zip(solved.attempts, solution.outputs, strict=True))
        ),
        "by_votes": binary_reward(grids(by_votes), solution),
        "found": int(len(right) == queries),
        "seconds": round(sum(spent for stage, spent in solved.seconds.items() if stage != "load"), 1),
    }


def tokens(entry: Entry) -> int:
    """Of a context with all demonstrations and the first query, one a cell."""
    task, _ = entry
    return len(GridCodec().encode(query_prompt(task, task.queries[0])).ids)


def shown(found: dict[str, Any]) -> str:
    """Markdown: the counts of all tasks, of each seed and of each group by length."""
    marks = list(found["tasks"].values())
    groups = [("all", marks)]
    for low, high in zip((0, *LENGTHS), (*LENGTHS, 10**9), strict=True):
        own = [each for each in marks if low < each["tokens"] <= high]
        groups += [(f"{low + 1} to {high} tokens" if high < 10**9 else f"over {low}", own)] if own else []
    lines = ["| tasks | solved | first attempt | by votes | among the candidates | mean s | median s | longest s |"]
    lines.append("|---" * 8 + "|")
    for name, own in groups:
        counts = [_count(own, mark) for mark in ("solved", "first", "by_votes", "found")]
        seconds = [each for task in own for each in task["seconds"]]
        times = f"{fmean(seconds):.1f} | {median(seconds):.1f} | {max(seconds):.1f}"
        lines.append(f"| {name} ({len(own)}) | {' | '.join(counts)} | {times} |")
    return "\n".join([*lines, "", f"Solved by seed {found['seeds']}: {found['solved_by_seed']} of {found['total']}."])


def as_text(found: dict[str, Any]) -> str:
    """JSON with a line a task."""
    tasks = ",\n".join(f"  {json.dumps(name)}: {json.dumps(marks)}" for name, marks in found["tasks"].items())
    head = json.dumps({name: value for name, value in found.items() if name != "tasks"}, indent=1)
    return f'{head[:-2]},\n "tasks": {{\n{tasks}\n }}\n}}\n'


def _count(tasks: Sequence[dict[str, Any]], mark: str) -> str:
    """The mean over seeds of tasks with a mark, and Wilson's interval for so many of them."""
    right = sum(fmean(task[mark]) for task in tasks)
    low, high = wilson(round(right), len(tasks))
    return f"{right:.1f}/{len(tasks)} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
