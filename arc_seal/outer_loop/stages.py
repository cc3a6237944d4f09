"""What is tried next in the time there is: stages of many tasks, and self-edits of one."""

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from arc_seal.arc.task import Solution, Task
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Progress, TrainedAdapter
from arc_seal.outer_loop.rollout import Rollout, Runner, View, concurrently
from arc_seal.sandbox.worker import Executor

GUESSED_TOKEN_S = 2e-4
"""Seconds a training token before any was read."""

LEFT_SHARE, LEAST_TOKENS, LEAST_SHARE = 0.9, 1000, 0.25
"""How much of the time left a shortened stage is planned to fill; training on fewer tokens, or on a smaller share of
what was read before, is not worth a stage."""

Step = tuple[int | None, tuple[bool, float]]
"""Tokens that are read in all after a stage, None for as many as there are; and what it is worth, the highest first."""


class Staged(Protocol):
    """A task on its way through its stages."""

    task: Task

    @property
    def rollouts(self) -> Sequence[Rollout]:
        """What was tried so far."""

    @property
    def budgets(self) -> Sequence[int | None]:
        """Tokens of each stage that is left."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""

    @property
    def gain(self) -> float:
        """How probably one more stage solves it; 1 where nothing tells."""

    def load(self) -> None:
        """Wait until a worker has its model."""

    def advance(self, budget: int | None, ends: float | None, turns: threading.Semaphore) -> None:
        """Do a stage of so many tokens until a time of `time.monotonic`, each job in a turn of its own."""


def solve_until(
    ends: float | None,
    tasks: Sequence[Staged],
    executor: Executor,
    kept: Callable[[int], None] = lambda number: None,
    failed: Callable[[int, InputError], None] | None = None,
) -> None:
    """Take tasks through their stages until all are done or time is up.

    Each worker takes up, of the tasks that nobody is at, one that has not begun, the smallest first; after these the
    one whose next stage probably gains most solved tasks a second.

    Args:
        ends: When time is up, as `time.monotonic` tells it; None for never.
        tasks: The tasks.
        executor: Where their jobs run.
        kept: Called with a task's number after each of its stages, in the thread that did the stage.
        failed: Called with a task's number and what is wrong with its input, which ends the task; without it the
            fault is raised and ends all.
    """
    order, turns = _Order(tasks, ends), threading.Semaphore(executor.workers)

    def load(number: int) -> None:
        with suppress(InputError):  # which the first job tells
            tasks[number].load()

    def work(_: int) -> None:
        try:
            while (found := order.take()) is not None:
                number, budget = found
                order.give_back(number, over=not advanced(number, budget))
        except BaseException:
            order.stop()  # nobody is to wait for a task that this thread was at
            raise

    def advanced(number: int, budget: int | None) -> bool:
        """Do a stage; whether the task's input is good."""
        try:
            tasks[number].advance(budget, ends, turns)
            kept(number)
        except InputError as error:
            if failed is None:
                raise
            failed(number, error)
            return False
        return True

    workers = range(min(executor.workers, len(tasks)))
    if _in_time(ends) and ends is not None and not all(each.done for each in tasks):  # a job's limit leaves loading out
        for _ in concurrently(executor, load, workers):
            pass
    for _ in concurrently(executor, work, workers if _in_time(ends) else ()):
        pass


class _Order:
    """Which stage is next; used by several threads."""

    def __init__(self, tasks: Sequence[Staged], ends: float | None) -> None:
        self._tasks, self._ends = tasks, ends
        self._change = threading.Condition()
        self._taken = set[int]()  # tasks that somebody is at
        self._over = set[int]()  # tasks that nobody is to take any more
        self._stopped = False

    def take(self) -> tuple[int, int | None] | None:
        """A task and the tokens of its next stage, once there is one; None where there is nothing more to do."""
        with self._change:
            while not self._stopped:
                steps = self._steps()
                if steps:
                    number = max(steps, key=lambda each: steps[each][1])
                    self._taken.add(number)
                    return number, steps[number][0]
                if not self._taken:
                    break
                self._change.wait()
            return None

    def give_back(self, number: int, over: bool) -> None:
        """Let others take a task, unless it is over."""
        with self._change:
            self._taken.discard(number)
            self._over |= {number} if over else set()
            self._change.notify_all()

    def stop(self) -> None:
        """Give out no more."""
        with self._change:
            self._stopped = True
            self._change.notify_all()

    def _steps(self) -> dict[int, Step]:
        """The next stage of each task that can be taken."""
        token_s, barred = seconds_a_token(self._tasks), self._taken | self._over
        left_s = None if self._ends is None else self._ends - time.monotonic()
        idle = {number: each for number, each in enumerate(self._tasks) if number not in barred}
        steps = {number: next_step(each, token_s, left_s) for number, each in idle.items()}
        return {number: step for number, step in steps.items() if step is not None}


def seconds_a_token(tasks: Sequence[Staged]) -> float:
    """What training has taken so far; a guess before any."""
    results = [made.result for each in tasks for made in each.rollouts if made.result is not None]
    read = sum(each.training.tokens for each in results if each.training is not None)
    return sum(each.seconds.get("train", 0.0) for each in results) / read if read else GUESSED_TOKEN_S


def next_step(solving: Staged, token_s: float, left_s: float | None) -> Step | None:
    """The next stage of a task; None where it is done, or too little time is left.

    A stage that would take too long is shortened.
    """
    if solving.done or (left_s is not None and left_s <= 0):
        return None
    made, (budget, *_) = solving.rollouts, solving.budgets
    if budget is None:
        return None, (True, -solving.task.cells)
    last = next((each for each in reversed(made) if each.result is not None), None)
    record = last.result.training if last and last.result else None
    read = record.total if record else 0
    predict_s = last.result.seconds.get("predict", 0.0) if last and last.result else 0.0
    tokens = budget - read
    if last and record and record.tokens < ((last.token_budget or 0) - record.before) / 2:
        tokens = min(tokens, record.tokens)  # it gave less than half of what it might: a stage has no more examples
    if left_s is not None and predict_s + token_s * tokens > left_s:
        tokens = int((LEFT_SHARE * left_s - predict_s) / token_s)
        budget = read + tokens
        allowed = max((each.token_budget or 0 for each in made), default=0)
        if tokens < max(LEAST_TOKENS, LEAST_SHARE * read) or budget <= allowed:
            return None
    if not made:
        return budget, (True, -solving.task.cells)
    return budget, (False, solving.gain / max(1e-9, predict_s + token_s * tokens))


def _in_time(ends: float | None) -> bool:
    return ends is None or time.monotonic() < ends


def roll_out_best(
    proposed: Sequence[Rollout],
    task: Task,
    solution: Solution | None,
    runner: Runner,
    margin: float,
    deadline_s: float | None,
    start: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Rollout]:
    """Examine every self-edit on left-out demonstrations, then try the best and those close to it, the best first.

    Equal self-edits are examined once. One that is not tried is recorded as `NOT_CHOSEN`. With `deadline_s` nothing
    more is begun that would probably end too late, but for one inner loop; seconds count from `start` on the clock.
    """
    longest_s = 0.0

    def in_time(examinations: int = 0) -> bool:
        """Whether so many more examinations, and an inner loop after them, would probably end in time."""
        if deadline_s is None:
            return True
        # An inner loop has more demonstrations than one that is examined.
        inner_loop_s = 1.5 * longest_s / min(runner.settings.folds, len(task.demos))
        return clock() - start + examinations * longest_s + inner_loop_s <= deadline_s

    examined: dict[int, Rollout] = {}
    for rollout in proposed:
        if rollout.status is not Status.OK or any(rollout.self_edit == each.self_edit for each in examined.values()):
            continue
        if examined and not in_time(examinations=1):
            break
        begun = clock()
        examined[rollout.sample] = runner.examine(rollout, task)
        longest_s = max(longest_s, clock() - begun)
    scores = {sample: each.held_out for sample, each in examined.items() if each.held_out is not None}
    best = max(scores.values(), default=0.0)
    ranked = sorted((sample for sample in scores if scores[sample] >= best - margin), key=lambda n: -scores[n])
    if not ranked:
        # No examination came to anything. It is several inner loops in one job, so one that was stopped says little
        # about a single one: the first self-edit is tried, if there is one that was not examined.
        valid = [each.sample for each in proposed if each.status is Status.OK]
        ranked = sorted(valid, key=lambda sample: sample in examined)[:1]
    done: dict[int, Rollout] = {}
    for sample in ranked:
        if not done or in_time():
            held_out = examined[sample].examination if sample in examined else None
            chosen = proposed[sample].model_copy(update={"examination": held_out})
            done[sample] = runner.roll_out(chosen, task, solution)
    for rollout in proposed:
        if rollout.sample not in done:
            twin = any(each.self_edit == rollout.self_edit for each in proposed[: rollout.sample])
            barred = _not_tried(rollout, examined.get(rollout.sample), "equal to another" if twin else "time was up")
            done[rollout.sample] = runner.roll_out(barred, task, solution)
    return [done[rollout.sample] for rollout in proposed]


def _not_tried(rollout: Rollout, examined: Rollout | None, unexamined: str) -> Rollout:
    """Say why a roll-out is not tried."""
    if rollout.status is not Status.OK:
        return rollout
    if examined is None:
        return rollout.model_copy(update={"status": Status.NOT_CHOSEN, "message": f"not examined: {unexamined}"})
    if examined.held_out is None:
        return examined
    message = f"held-out log-probability {examined.held_out:.3f} a symbol"
    return examined.model_copy(update={"status": Status.NOT_CHOSEN, "message": message})


class Adapters:
    """Adapters that tasks go on from, on disk: in memory those of some hundred that wait would take gigabytes.

    Used by several threads. What cannot be kept or read is trained anew, so no fault of the file is told.

    Args:
        path: The file, with what is in it; None for one without a name that goes with the process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._turn = path, threading.Lock()
        try:
            self._file = sqlite3.connect("" if path is None else str(path), check_same_thread=False)
        except sqlite3.Error:
            self._file = sqlite3.connect("", check_same_thread=False)
        with suppress(sqlite3.Error):
            self._file.execute("PRAGMA synchronous = OFF")  # a process that is killed loses nothing by it
            keys = "owner, sample, tokens, weights, PRIMARY KEY (owner, sample)"
            self._file.execute(f"CREATE TABLE IF NOT EXISTS adapter ({keys})")

    def keep(self, owner: str, sample: int, adapter: TrainedAdapter) -> None:
        """Keep one in the place of the owner's last for this sample."""
        with suppress(sqlite3.Error), self._turn, self._file:
            row = (owner, sample, adapter.tokens, adapter.weights)
            self._file.execute("INSERT OR REPLACE INTO adapter VALUES (?, ?, ?, ?)", row)

    def get(self, owner: str, sample: int) -> TrainedAdapter | None:
        """The owner's last for a sample, if there is one."""
        with suppress(sqlite3.Error), self._turn:
            asked = "SELECT weights, tokens FROM adapter WHERE owner = ? AND sample = ?"
            if (found := self._file.execute(asked, (owner, sample)).fetchone()) is not None:
                return TrainedAdapter(*found)
        return None

    def let_go(self, owner: str) -> None:
        """Let all of an owner's go."""
        with suppress(sqlite3.Error), self._turn, self._file:
            self._file.execute("DELETE FROM adapter WHERE owner = ?", (owner,))

    def remove(self) -> None:
        """Remove the file."""
        self._file.close()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()

    def __del__(self) -> None:
        """Close the file."""
        self._file.close()


class LoadClock:
    """A view that adds up how long the model was waited for, and passes everything on."""

    def __init__(self, view: View, seconds: float = 0.0) -> None:
        self.note, self.stage, self.advance = view.note, view.stage, view.advance
        self.proposed, self.finished = view.proposed, view.finished
        self.seconds = seconds
        self._view, self._begun = view, 0.0

    def progress(self, sample: int, progress: Progress) -> None:
        """Note when loading begins and ends."""
        if progress.stage == "load":
            if progress.step == 0:
                self._begun = time.monotonic()
            else:
                self.seconds += time.monotonic() - self._begun
        self._view.progress(sample, progress)
