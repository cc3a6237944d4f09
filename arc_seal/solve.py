"""Solve ARC tasks: `python -m arc_seal.solve task.json`."""

import math
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from arc_seal.cli import command

if TYPE_CHECKING:
    from arc_seal.api import TaskLike
    from arc_seal.arc.task import Entry, Task
    from arc_seal.config import Composed, SolveConfig
    from arc_seal.outer_loop.solve import Solved
    from arc_seal.sandbox.worker import Executor
    from arc_seal.ui.run_folder import Run
    from arc_seal.ui.task_view import TaskView
    from arc_seal.ui.views import SweepView

USAGE = """\
Solve ARC tasks: a language model writes a self-edit, trains on it, and predicts the test outputs.

Usage: python -m arc_seal.solve TASK... [NAME=VALUE...] [-m]

  TASK is a file, a folder, a Kaggle file, or a task of a set, such as
  arcagi1/0d3d703e. Several make a sweep, of which each is shown as a line.

Examples:
  python -m arc_seal.solve tasks/5582e5ca.json
  python -m arc_seal.solve arcagi1/0d3d703e samples=5 seed=3
  python -m arc_seal.solve -m tasks/*.json seed=1,2
  python -m arc_seal.solve -m tasks/*.json hydra/launcher=joblib
  python -m arc_seal.solve tasks/5582e5ca.json self_edit=paper
  python -m arc_seal.solve tasks/5582e5ca.json self_edit.json='{"tools": [], "training": {...}}'

A run is kept in runs/: result.json, submission.json in Kaggle's form, submission/ for ARC Prize's own scorer. A sweep
keeps summary.json and submissions of all its tasks too. A run that was stopped goes on with resume=FOLDER.
Exit code: 0 when every task was worked on, 1 when a job failed, 2 for bad input.
"""


ADAPTERS = ".adapters.sqlite"
"""The file in a sweep's folder that adapters are in between stages, where there is a deadline."""


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    title = " ".join(["python -m arc_seal.solve", *argv])
    return command("solve", USAGE, argv, lambda jobs: work(jobs, title), takes_tasks=True, interrupted="interrupted")


def work(jobs: "list[Composed]", title: str = "") -> int:
    """Solve every task of every job; in a sweep bad input is recorded and the rest goes on."""
    from arc_seal.errors import InputError, Status
    from arc_seal.ui.run_folder import RESULT, Run, claim
    from arc_seal.ui.views import SweepView

    picture = next((Path(str(job.values["save_svg"])) for job in jobs if job.values.get("save_svg")), None)
    items, several, left_out = _items(jobs)
    resumed = bool(jobs[0].values.get("resume"))
    if not several and isinstance(items[0], Run) and items[0].error is not None:
        raise items[0].error  # before anything is made
    top = jobs[0].sweep or jobs[0].folder
    if resumed and not top.is_dir():
        raise InputError("resume", "", "the folder of a run", f"no folder {top}")
    if picture is not None and not can_be_written(picture.expanduser()):
        raise InputError("save_svg", "", "a file that can be written", str(picture))  # before the work, not after it
    kept = top.resolve() if resumed else claim(top)  # `runs/latest` may lead elsewhere soon
    view = _view(items, several, picture is not None)
    session = _Session(view, top, kept, several, resumed)
    for line in left_out:
        view.note(line)
    try:
        own = {session.place(item.folder) for item in items}
        others = [path.parent for path in kept.rglob(RESULT) if path.parent not in own] if resumed else []
        if others:  # the common files would lose what they have of it
            raise InputError("resume", "", "a run of the same tasks and seeds", f"a result in {min(others)}")
        known = {number: session.known(item) for number, item in enumerate(items)}
        session.keep({number: run for number, run in known.items() if run is not None and not is_open(run)})
        session.keep({number: run for number, run in known.items() if run is not None and is_open(run)}, ended=False)
        wanted = [item for item in items if isinstance(item, _Item) and is_open(known[item.number])]
        if wanted and jobs[0].launcher:
            session.launch(wanted, jobs)
        else:
            for _, same in groupby(wanted, key=lambda item: (item.config.model, item.config.executor)):
                session.solve_all(list(same))
    finally:
        runs = [session.runs[number] for number in sorted(session.runs)]
        if isinstance(view, SweepView) and runs:
            view.sum_up(runs, kept)
        if picture is not None:
            view.save_svg(picture.expanduser(), title)
    if any(run.solved is None for run in runs):
        return 2
    return int(not all(any(each.status is Status.OK for each in run.solved.rollouts) for run in runs if run.solved))


@dataclass(frozen=True)
class _Item:
    """One task under one configuration: its place in the order of the command, and the folder that it is kept in."""

    number: int
    job: int  # the number of the command's job that it is of
    entry: "Entry"
    config: "SolveConfig"
    folder: Path

    @property
    def limit_s(self) -> float | None:
        """Wall seconds for all items together; None without, and where examinations keep to them in each task."""
        return None if self.config.select == "held_out" else self.config.deadline_s


@dataclass
class _Session:
    """The runs of one command."""

    view: "TaskView | SweepView"
    top: Path  # where the command was to be kept
    kept: Path  # where it is kept: another folder where that one was taken
    several: bool  # whether there are files of all runs together
    resumed: bool
    began: float = field(default_factory=time.monotonic)
    runs: "dict[int, Run]" = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)  # items that nothing more is done for
    lock: "threading.RLock" = field(default_factory=threading.RLock)

    def place(self, folder: Path) -> Path:
        """Where a run is kept."""
        return self.kept / folder.relative_to(self.top)

    def keep(self, runs: "Mapping[int, Run]", ended: bool = True) -> None:
        """Note what came of items; the files of all runs together are written anew. What has ended is shown."""
        from arc_seal.ui.run_folder import write_sweep
        from arc_seal.ui.views import SweepView

        with self.lock:
            self.runs.update(runs)
            self.ended |= runs.keys() if ended else set()
            for run in runs.values():
                if isinstance(self.view, SweepView) and ended:
                    self.view.ran(run)
                elif run.error is not None:
                    raise run.error
            if self.several and runs:
                new = {run.name for run in runs.values()}
                write_sweep(self.kept, [self.runs[key] for key in sorted(self.runs)], new)

    def known(self, item: "_Item | Run") -> "Run | None":
        """What came of an item before anything is done: bad input, or the result that an earlier command has of it.

        Raises:
            InputError: When that is of another task, or was made under another configuration.
        """
        from arc_seal.errors import InputError
        from arc_seal.ui.run_folder import RESULT, Run, load_result

        folder = self.place(item.folder)
        if isinstance(item, Run):
            return replace(item, folder=folder)
        if not (self.resumed and (folder / RESULT).is_file()):
            return None
        solved, task = load_result(folder, item.config.recorded), item.entry[0].id
        if solved.task_id != task:
            raise InputError(str(folder), "", f"a result of task {task}", f"one of {solved.task_id}")
        return Run(solved.task_id, solved.seed, folder, solved)

    def solve_all(self, items: "list[_Item]") -> None:
        """Solve items that ask for the same model and executor, side by side where there are workers for it."""
        from arc_seal.config import make
        from arc_seal.errors import InputError
        from arc_seal.outer_loop.rollout import concurrently
        from arc_seal.ui.run_folder import Run

        settings = dict(items[0].config.executor)
        if "workers" in settings:  # none loads a model for nothing
            settings["workers"] = min(settings["workers"], max(len(items), *(item.config.samples for item in items)))
        try:
            executor = make(settings)(make(items[0].config.model))
        except InputError as error:
            for item in items:
                name, seed = item.entry[0].id, item.config.seed
                self.keep({item.number: Run(name, seed, self.place(item.folder), None, error)})
            return
        try:
            if self.several:
                self.view.stage("tasks", len(self.ended), len(self.ended) + len(items))
            until = [each for each in items if self.several and each.limit_s is not None]
            if until:
                self.solve_until(until, executor)
            others = [each for each in items if each not in until]
            ordered = sorted(others, key=lambda item: -item.entry[0].cells) if executor.workers > 1 else others
            for _ in concurrently(executor, partial(self.solve, executor=executor), ordered):
                pass
        finally:
            self.view.close()
            executor.close()

    def solve(self, item: _Item, executor: "Executor") -> None:
        """Solve one item."""
        from arc_seal.errors import InputError
        from arc_seal.outer_loop.solve import solve_task
        from arc_seal.ui.run_folder import Run, write_run
        from arc_seal.ui.task_view import TaskView

        (task, solution), config, folder = item.entry, item.config, self.place(item.folder)
        alone = self.view if isinstance(self.view, TaskView) else None
        try:
            if alone is not None:
                alone.begin(task, config.seed, config.rollouts)
            solved = solve_task(task, solution, executor, config, self.view, self.before(item))
            write_run(folder, solved, item.entry, config.recorded)
            if alone is not None:
                alone.end(task, solution, solved, folder)
        except InputError as error:
            self.keep({item.number: Run(task.id, config.seed, folder, None, error)})
        else:
            self.keep({item.number: Run(task.id, config.seed, folder, solved)})

    def before(self, item: _Item) -> "Solved | None":
        """What came of an item until an earlier command's time was up."""
        run = self.runs.get(item.number)
        return run.solved if run is not None else None

    def solve_until(self, items: "list[_Item]", executor: "Executor") -> None:
        """Solve items until their deadline, a stage at a time; the submission names all of them from the beginning."""
        from arc_seal.errors import InputError
        from arc_seal.outer_loop.solve import Solving
        from arc_seal.outer_loop.stages import Adapters, solve_until
        from arc_seal.ui.run_folder import Run, write_run
        from arc_seal.ui.views import SweepView

        adapters = Adapters(self.kept / ADAPTERS)

        def solving(item: _Item) -> Solving:
            owner = str(item.folder.relative_to(self.top))
            return Solving(*item.entry, executor, item.config, self.view, self.before(item), adapters, owner)

        tasks = [solving(each) for each in items]
        ends = self.began + min(each.limit_s or math.inf for each in items)

        def run_of(number: int) -> Run:
            item = items[number]
            return Run(item.entry[0].id, item.config.seed, self.place(item.folder), tasks[number].solved())

        def kept(number: int, last: bool = False) -> None:
            run, item = run_of(number), items[number]
            if run.solved is not None:
                write_run(run.folder, run.solved, item.entry, item.config.recorded)
            self.keep({item.number: run}, ended=last or tasks[number].done)
            if isinstance(self.view, SweepView):
                self.view.foreseen([each.chance for each in tasks], ends - time.monotonic())

        def failed(number: int, error: InputError) -> None:
            self.keep({items[number].number: replace(run_of(number), solved=None, error=error)})

        self.keep({item.number: run_of(number) for number, item in enumerate(items)}, ended=False)
        solve_until(ends, tasks, executor, kept, failed)
        adapters.remove()  # unless the command is killed before, to go on with them
        for number, item in enumerate(items):
            if item.number not in self.ended:
                try:
                    kept(number, last=True)
                except InputError as error:
                    failed(number, error)

    def launch(self, items: "list[_Item]", jobs: "list[Composed]") -> None:
        """Have the jobs of items done by the sweep's launcher; what they have kept is then read.

        A job goes on in its folder as a run that was stopped does, so it may be sent again.
        """
        from arc_seal.config import OUTPUT, launch
        from arc_seal.errors import InputError, plural
        from arc_seal.ui.progress import near
        from arc_seal.ui.run_folder import Run

        self.resumed, sent = True, {item.job: jobs[item.job] for item in items}
        self.view.note(f"{plural(len(sent), 'job')} by {jobs[0].launcher}; each shows in {near(self.kept)}/*/{OUTPUT}")
        alone = [
            replace(job, folder=place, values={**job.values, "resume": str(place), "save_svg": None})
            for job, place in ((job, self.place(job.folder)) for job in sent.values())
        ]
        returned: Sequence[Exception | None]
        try:
            returned = launch("solve", alone, self.kept)
        except InputError as lost:  # one job is, which says nothing of the others
            returned = [lost] * len(sent)
        errors = dict(zip(sent, returned, strict=True))
        for item in items:
            error, name = errors[item.job], item.entry[0].id
            if not isinstance(error, InputError):
                error = InputError(name, "", "a result", f"none: see {OUTPUT} in its folder")
            nothing = Run(name, item.config.seed, self.place(item.folder), None, error)
            self.keep({item.number: self.known(item) or nothing})
        if fault := next((each for each in returned if each is not None and not isinstance(each, InputError)), None):
            raise fault


def is_open(run: "Run | None") -> bool:
    """Whether there is more to do: nothing came of it yet, or time was up."""
    return run is None or (run.solved is not None and run.solved.open)


def can_be_written(path: Path) -> bool:
    """Whether a file can be made there, with the folders above it."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    return not path.is_dir() and above.is_dir() and os.access(above, os.W_OK)


def _view(items: "list[_Item | Run]", several: bool, recorded: bool) -> "TaskView | SweepView":
    """One task is shown in full, of several a line each."""
    from arc_seal.arc.html import PALETTES
    from arc_seal.ui.progress import recording_console, terminal_console
    from arc_seal.ui.run_folder import Run
    from arc_seal.ui.task_view import TaskView
    from arc_seal.ui.views import SweepView

    consoles = terminal_console(), recording_console() if recorded else None
    if not several:
        (item,) = items
        return TaskView(*consoles, palette=PALETTES["arc" if isinstance(item, Run) else item.config.palette])
    named = [
        (item.name, item.seed) if isinstance(item, Run) else (item.entry[0].id, item.config.seed) for item in items
    ]
    width = min(24, max((len(name) for name, _ in named), default=0))
    return SweepView(*consoles, total=len(items), width=width, seeds=len({seed for _, seed in named}) > 1)


def _items(jobs: "list[Composed]") -> "tuple[list[_Item | Run], bool, list[str]]":
    """What to work on, bad input in its place; whether that is more than one task; and what was left out of folders."""
    from arc_seal.arc.datasets import read_tasks
    from arc_seal.arc.task import NotATask
    from arc_seal.config import SolveConfig, read_config, run_name
    from arc_seal.errors import InputError
    from arc_seal.ui.run_folder import Run

    items: list[_Item | Run] = []
    tasks: dict[str, Task] = {}
    left_out: list[str] = []
    several = jobs[0].sweep is not None
    for number, job in enumerate(jobs):
        try:
            config = read_config(job.values, SolveConfig)
            config.check()
            read = read_tasks(str(Path(config.task).expanduser()))
        except InputError as error:
            items.append(Run(str(job.values.get("task")), job.values.get("seed", 0), job.folder, None, error))
            continue
        left_out += [str(each) for each in read if isinstance(each, NotATask)]
        entries = [each for each in read if not isinstance(each, NotATask)]
        several = several or len(entries) > 1
        for entry in entries:
            name = entry.source if isinstance(entry, InputError) else entry[0].id
            folder = job.folder / run_name(name, config.seed) if len(entries) > 1 else job.folder
            if isinstance(entry, InputError):
                items.append(Run(name, config.seed, folder, None, entry))
            elif tasks.setdefault(name, entry[0]) != entry[0]:
                twice = InputError(config.task, "", f"one task of the id {name} in a sweep", "another")
                items.append(Run(name, config.seed, folder, None, twice))
            else:
                items.append(_Item(len(items), number, entry, config, folder))
    return items, several, list(dict.fromkeys(left_out))


class _Callable(ModuleType):
    """Importing this module puts it in the place of the package's function of the same name, so it is called alike."""

    def __call__(self, task: "TaskLike", **settings: Any) -> "Solved":
        """As `arc_seal.api.solve`."""
        from arc_seal.api import solve

        return solve(task, **settings)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
