"""Solve a whole file of tasks in a given time, on all GPUs, with a submission that is whole at any moment.

`kaggle.py` makes the notebook that calls this; it needs nothing of Kaggle's.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from arc_seal.cli import quote
from arc_seal.errors import InputError

if TYPE_CHECKING:
    from arc_seal.outer_loop.solve import Solved

SHARE = 0.8
"""Of the time that is left, for the tasks; the rest is for starting processes, and workers after a job was killed."""

LEAST_TASK_S = 20.0
"""No task is given less: where time is short, few tasks that are solved are worth more than many that are cut off."""

RESTARTS = 3
"""How often a process of one pass that died is started again."""

POLL_S = 1.0
"""Seconds between two looks at the processes and their results."""

STOP_S = 10.0
"""Seconds that a process has to end by itself when time is up."""


def solve_competition(
    challenges: Path, submission: Path, seconds: float, settings: Sequence[str] = (), *, passes: int = 1
) -> int:
    """Solve a competition's file on all GPUs, or all cores, within wall seconds.

    The submission is whole from the beginning, two attempts for every query, and is written anew with every result.
    In each pass tasks that have no answer are tried once more, with what is left of the time.

    Args:
        challenges: Kaggle's file of tasks.
        submission: The file to write.
        seconds: Wall seconds from now on.
        settings: More arguments of `python -m arc_seal.solve`.
        passes: How often all tasks are solved, each time with the next seed; their attempts vote together.

    Returns:
        How many tasks have an attempt at each of their queries.
    """
    from arc_seal.arc.task import read_json

    ends, tasks = time.monotonic() + seconds, read_json(challenges)
    if not isinstance(tasks, dict) or not tasks:
        raise InputError(str(challenges), "", "an object with a task for each id", "none")
    folder, (devices, more) = Path(mkdtemp(prefix="arc-seal.")), machine()
    answers = _Answers(tasks, submission, folder)
    answers.write()
    print(f"{len(tasks)} tasks, {len(devices)} processes; what they say and keep is in {folder}", flush=True)
    for seed in range(passes):
        for again in (False, True):
            wanted = {name: tasks[name] for name in tasks if not (again and name in answers.found)}
            if wanted and time.monotonic() + LEAST_TASK_S < ends:
                place = folder / (f"seed{seed}-again" if again else f"seed{seed}")
                _solve_once(wanted, place, ends, devices, [f"seed={seed}", *more, *settings], answers)
    return len(answers.found)


def machine() -> tuple[list[str], list[str]]:
    """`CUDA_VISIBLE_DEVICES` of each process, one a GPU or else one a core; and the settings that the GPUs ask for."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
        capabilities = [float(line) for line in said.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        capabilities = []
    if not capabilities:
        return [""] * _cores(), []
    slow = min(capabilities) < 8  # before Ampere bfloat16 is emulated
    allowed = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    devices = allowed or [str(number) for number in range(len(capabilities))]
    return devices, ["model.dtype=float32"] if slow else []


def _cores() -> int:
    """Cores that this process may use, as far as the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def deal(tasks: Mapping[str, Any], processes: int) -> list[list[str]]:
    """The ids of tasks for each of so many processes at most: the longest first, in turn, so that all end alike."""
    ordered = sorted(tasks, key=lambda name: len(json.dumps(tasks[name])), reverse=True)
    return [ordered[number::processes] for number in range(min(processes, len(ordered)))]


def task_seconds(left_s: float, tasks: int) -> float:
    """Seconds that each of a process's tasks may take, so that all have their turn in what is left of the time."""
    return max(LEAST_TASK_S, SHARE * left_s / tasks)


def _solve_once(
    tasks: Mapping[str, Any], place: Path, ends: float, devices: list[str], arguments: list[str], answers: "_Answers"
) -> None:
    """Solve tasks side by side until a time of the monotonic clock, when what still runs is stopped."""
    place.mkdir()
    parts = deal(tasks, len(devices))
    limit = f"executor.timeout_s={task_seconds(ends - time.monotonic(), len(parts[0])):.1f}"
    threads = str(max(1, _cores() // len(parts)))
    processes = []
    for number, (ids, device) in enumerate(zip(parts, devices, strict=False)):
        file = place / f"{number}_challenges.json"
        file.write_text(json.dumps({name: tasks[name] for name in ids}))
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device, "OMP_NUM_THREADS": threads}
        processes.append(_Process(file, place / str(number), len(ids), [limit, *arguments], environment))
    try:
        while (processes := [each for each in processes if each.goes_on()]) and time.monotonic() < ends:
            time.sleep(POLL_S)
            if answers.collect():
                found, left = f"{len(answers.found)}/{len(answers.tasks)}", (ends - time.monotonic()) / 60
                print(f"{place.name}: {found} tasks answered, {left:.0f} minutes left", flush=True)
    finally:
        for process in processes:
            process.end()
        for process in processes:
            process.stop()
        answers.collect()


@dataclass
class _Process:
    """A `solve` command that works on a part of the tasks, and is started again when it dies."""

    file: Path  # its tasks
    folder: Path  # what it keeps
    tasks: int
    arguments: list[str]
    environment: dict[str, str]
    starts: int = 0
    running: "subprocess.Popen[bytes] | None" = None

    def goes_on(self) -> bool:
        """Whether it runs; it is started where it never was, or died before all its tasks had a result."""
        from arc_seal.ui.run_folder import RESULT

        if self.running is not None:
            code = self.running.poll()
            done = len(list(self.folder.rglob(RESULT)))
            if code is None or done == self.tasks:
                return code is None
            log = self.file.with_suffix(".log").read_text("utf-8", "replace").strip()
            print(f"{self.file.stem}: ended with {code} after {done}/{self.tasks} tasks: {log[-500:]}", flush=True)
            if code == 2 or self.starts > RESTARTS:  # bad input stays bad
                return False
        to = f"resume={quote(str(self.folder))}" if self.folder.is_dir() else f"hydra.run.dir={quote(str(self.folder))}"
        argv = [sys.executable, "-m", "arc_seal.solve", str(self.file), to, *self.arguments]
        with self.file.with_suffix(".log").open("ab") as log_file:
            self.running = subprocess.Popen(
                argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=log_file, stderr=subprocess.STDOUT
            )
        self.starts += 1
        return True

    def end(self) -> None:
        """Ask it to end, which it does by itself."""
        if self.running is not None and self.running.poll() is None:
            self.running.terminate()

    def stop(self) -> None:
        """Wait until it has ended, but not for long."""
        if self.running is not None and self.running.poll() is None:
            try:
                self.running.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait()


@dataclass
class _Answers:
    """What is known of every task so far, and the submission that says it."""

    tasks: Mapping[str, Any]
    submission: Path
    folder: Path
    read: "dict[Path, Solved]" = field(default_factory=dict)
    found: set[str] = field(default_factory=set)  # tasks with an attempt at each of their queries

    def collect(self) -> bool:
        """Read the results that are new, and write the submission anew where there are any; whether there are."""
        from arc_seal.ui.run_folder import RESULT, load_result

        waiting = [path for path in self.folder.rglob(RESULT) if path not in self.read or self.read[path].open]
        new = {path: made for path in waiting if (made := load_result(path)) != self.read.get(path)}
        self.read.update(new)
        if new:
            self.write()
        return bool(new)

    def write(self) -> None:
        """Write the submission."""
        from arc_seal.arc.task import write_submission
        from arc_seal.inner_loop.job import pool_attempts
        from arc_seal.outer_loop.rollout import grids

        made: dict[str, list[Any]] = {}
        for solved in self.read.values():
            made.setdefault(solved.task_id, []).append(solved.attempts)
        answers = {name: grids(pool_attempts(attempts)) for name, attempts in made.items()}
        self.found = {name for name, queries in answers.items() if all(queries)}
        blank: dict[str, list[list[Any]]] = {name: [[]] * _queries(task) for name, task in self.tasks.items()}
        write_submission(self.submission, {**blank, **answers})


def _queries(task: Any) -> int:
    """How many test inputs a task has, be it a broken one."""
    queries = task.get("test") if isinstance(task, dict) else None
    return max(1, len(queries)) if isinstance(queries, list) else 1
