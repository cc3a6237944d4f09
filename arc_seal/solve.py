"""Solve ARC tasks: `python -m arc_seal.solve task.json`."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from arc_seal.cli import command

if TYPE_CHECKING:
    from arc_seal.arc.task import Entry, Task
    from arc_seal.config import Composed, SolveConfig
    from arc_seal.sandbox.worker import Executor
    from arc_seal.ui.run_folder import Run

USAGE = """\
Solve ARC tasks: a language model writes a self-edit, trains on it, and predicts the test outputs.

Usage: python -m arc_seal.solve TASK... [NAME=VALUE...] [-m]

  TASK is a file, a folder, a Kaggle file, or a task of a set, such as arcagi1/0d3d703e. Several make a sweep.

Examples:
  python -m arc_seal.solve tasks/5582e5ca.json
  python -m arc_seal.solve arcagi1/0d3d703e samples=5 seed=3
  python -m arc_seal.solve -m tasks/*.json seed=1,2
  python -m arc_seal.solve tasks/5582e5ca.json self_edit=paper
  python -m arc_seal.solve tasks/5582e5ca.json self_edit.json='{"tools": [], "training": {...}}'

A run is kept in runs/, as result.json and submission.json; a sweep adds summary.json and one submission.json of all.
Exit code: 0 when every task was worked on, 1 when a job failed, 2 for bad input.

Flags: -m sweeps over values with commas, -cd DIR adds a folder of configuration, --cfg job shows the configuration
instead of running (--resolve with its interpolations resolved), --version.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    title = " ".join(["python -m arc_seal.solve", *argv])
    return command("solve", USAGE, argv, lambda jobs: _work(jobs, title), takes_tasks=True, interrupted="interrupted")


def _work(jobs: "list[Composed]", title: str) -> int:
    """Solve every task of every job; in a sweep bad input is recorded and the rest goes on."""
    from arc_seal.config import make
    from arc_seal.errors import InputError, Status
    from arc_seal.outer_loop.rollout import concurrently
    from arc_seal.outer_loop.solve import solve_task
    from arc_seal.ui.run_folder import Run, write_run, write_sweep
    from arc_seal.ui.views import RunView, TaskView, recording_console, summary, terminal_console

    picture = next((Path(str(job.values["save_svg"])) for job in jobs if job.values.get("save_svg")), None)
    view = TaskView(terminal_console(), recording_console() if picture else None)
    items, sweep = _items(jobs)
    runs: dict[int, Run] = {}
    shown = threading.RLock()

    def keep(number: int, run: Run) -> None:
        """Note what came of an item; a sweep's files are rewritten after each."""
        if run.error is not None and sweep is None:
            raise run.error
        with shown:
            runs[number] = run
            if run.error is not None:
                view.fail(run.error)
            if sweep is not None:
                write_sweep(sweep, [runs[key] for key in sorted(runs)])

    def solve(item: _Item, executor: "Executor", total: RunView | None) -> None:
        (task, solution), config = item.entry, item.config
        try:
            if total is None:
                with view:
                    view.begin(task, config.seed, config.samples)
                    solved = solve_task(task, solution, executor, config, view)
                    write_run(item.folder, solved, config.model_dump(mode="json", by_alias=True))
                    view.end(task, solution, solved, item.folder)
            else:  # what is shown of tasks that are worked on side by side is shown when each is done
                solved = solve_task(task, solution, executor, config, total)
                write_run(item.folder, solved, config.model_dump(mode="json", by_alias=True))
                with shown, view:
                    total.close()
                    view.begin(task, config.seed, config.samples)
                    for rollout in solved.rollouts[: 1 if config.author.kind == "hand" else None]:
                        view.proposed(rollout)
                    view.end(task, solution, solved, item.folder)
                    total.advance(solved=int(solved.reward == 1))
        except InputError as error:
            keep(item.number, Run(task.id, config.seed, item.folder, None, error))
        else:
            keep(item.number, Run(task.id, config.seed, item.folder, solved))

    try:
        for number, item in enumerate(items):
            if isinstance(item, Run):
                keep(number, item)
        wanted = [item for item in items if isinstance(item, _Item)]
        for _, same in groupby(wanted, key=lambda item: (item.config.model, item.config.executor)):
            group = list(same)
            config = group[0].config
            used = max(len(group), *(item.config.samples for item in group))
            limited = {"workers": min(config.executor["workers"], used)} if "workers" in config.executor else {}
            try:
                executor = make({**config.executor, **limited})(make(config.model))
            except InputError as error:
                for item in group:
                    keep(item.number, Run(item.entry[0].id, item.config.seed, item.folder, None, error))
                continue
            try:
                total = RunView(terminal_console()) if executor.workers > 1 and len(group) > 1 else None
                if total is not None:
                    total.stage("tasks", 0, len(group))
                for _ in concurrently(executor, partial(solve, executor=executor, total=total), group):
                    pass
                if total is not None:
                    total.close()
            finally:
                executor.close()
    finally:
        ended = [runs[key] for key in sorted(runs)]
        if sweep is not None and ended:
            view.show(summary(ended))
        if picture is not None:
            view.save_svg(picture.expanduser(), title)
    if any(run.solved is None for run in ended):
        return 2
    ok = [any(each.status is Status.OK for each in run.solved.rollouts) for run in ended if run.solved]
    return int(not all(ok))


@dataclass(frozen=True)
class _Item:
    """One task under one configuration: its place in the order of the command, and the folder that it is kept in."""

    number: int
    entry: "Entry"
    config: "SolveConfig"
    folder: Path


def _items(jobs: "list[Composed]") -> "tuple[list[_Item | Run], Path | None]":
    """What to work on, bad input in its place; and the folder of the sweep that they make, None for one task."""
    from arc_seal.arc.datasets import load_tasks
    from arc_seal.config import SolveConfig, read_config, run_name
    from arc_seal.errors import InputError
    from arc_seal.ui.run_folder import Run

    items: list[_Item | Run] = []
    tasks: dict[str, Task] = {}
    sweep = jobs[0].sweep
    for job in jobs:
        try:
            config = read_config(job.values, SolveConfig)
            config.check()
            config.author  # noqa: B018  # for what it refuses
            entries = load_tasks(str(Path(config.task).expanduser()))
        except InputError as error:
            items.append(Run(str(job.values.get("task")), job.values.get("seed", 0), job.folder, None, error))
            continue
        if len(entries) > 1:
            sweep = sweep or job.folder
        for entry in entries:
            task = entry[0]
            folder = job.folder / run_name(task.id, config.seed) if len(entries) > 1 else job.folder
            if tasks.setdefault(task.id, task) != task:
                twice = InputError(config.task, "", f"one task of the id {task.id} in a sweep", "another")
                items.append(Run(task.id, config.seed, folder, None, twice))
            else:
                items.append(_Item(len(items), entry, config, folder))
    return items, sweep


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
