"""Choosing among self-edits without a solution: the demonstrations hold their own examination."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from arc_seal.arc.task import Solution, Task, binary_reward, mean_score
from arc_seal.errors import Status
from arc_seal.inner_loop.job import Attempt, Examination, Progress
from arc_seal.inner_loop.vote import vote
from arc_seal.outer_loop.rollout import (
    Proposal,
    Rollout,
    RolloutSettings,
    Watch,
    examine,
    grids,
    propose,
    roll_out,
    versions,
)
from arc_seal.sandbox.worker import Executor, Outcome


@dataclass(frozen=True, slots=True)
class SelectSettings:
    """How to choose; documented in conf/solve.yaml.

    Attributes:
        margin: Self-edits whose mean held-out log-probability is at most this far below the best are tried too, in
            nats a symbol.
        deadline_s: Wall seconds that a task may take, examinations and roll-outs together; None for no limit. The
            best self-edit is always tried.
    """

    margin: float = 0.02
    deadline_s: float | None = None


def roll_out_best(
    proposals: Sequence[Proposal],
    task: Task,
    solution: Solution | None,
    executor: Executor,
    settings: RolloutSettings,
    select: SelectSettings,
    watch: Watch,
    start: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Rollout, ...]:
    """Examine every self-edit, then try the best and those close to it, the best first.

    Equal self-edits are examined once. One that is not tried is recorded as `NOT_CHOSEN`.

    Args:
        proposals: One for each sample.
        task: What to solve.
        solution: Only compared with finished attempts.
        executor: Where the jobs run.
        settings: How self-edits are tried.
        select: How to choose.
        watch: Told what happens.
        start: When the work on the task began, on the clock.
        clock: Seconds from any starting point.
    """
    time_left = _TimeLeft(start, select.deadline_s, folds=min(settings.folds, len(task.demos)), clock=clock)
    outcomes = _examined(proposals, task, executor, settings, watch, time_left)
    ranked = _ranked(outcomes, select.margin) or _first_open(proposals, outcomes)
    rollouts: dict[int, Rollout] = {}
    for sample in ranked:
        if not rollouts or time_left.allows():
            tried = roll_out(sample, proposals[sample], task, solution, executor, settings, watch)
            rollouts[sample] = replace(tried, held_out=_examination(outcomes, sample))
    for sample, proposal in enumerate(proposals):
        if sample not in rollouts:
            status, message = _why_not(proposal, outcomes.get(sample))
            barred = roll_out(
                sample, replace(proposal, status=status, message=message), task, solution, executor, settings, watch
            )
            rollouts[sample] = replace(barred, held_out=_examination(outcomes, sample))
    return tuple(rollouts[sample] for sample in range(len(proposals)))


class _TimeLeft:
    """Knows how long jobs take, and whether there is time for one more."""

    def __init__(self, start: float, deadline_s: float | None, folds: int, clock: Callable[[], float]) -> None:
        self._start, self._deadline_s, self._folds, self._clock = start, deadline_s, folds, clock
        self.longest_s = 0.0

    def allows(self, examinations: int = 0) -> bool:
        """Whether so many more examinations, and an inner loop after them, would probably end in time."""
        if self._deadline_s is None:
            return True
        inner_loop_s = 1.5 * self.longest_s / self._folds  # it has more demonstrations than one that is examined
        return self._clock() - self._start + examinations * self.longest_s + inner_loop_s <= self._deadline_s


def _examined(
    proposals: Sequence[Proposal],
    task: Task,
    executor: Executor,
    settings: RolloutSettings,
    watch: Watch,
    time_left: _TimeLeft,
) -> dict[int, Outcome[Examination]]:
    """The examinations that there was time for, by sample; of equal self-edits the first stands for all."""
    outcomes: dict[int, Outcome[Examination]] = {}
    seen = set()
    for sample, proposal in enumerate(proposals):
        if proposal.status is not Status.OK or proposal.self_edit in seen:
            continue
        if outcomes and not time_left.allows(examinations=1):
            break
        seen.add(proposal.self_edit)
        outcomes[sample] = examine(sample, proposal, task, executor, settings, watch)
        time_left.longest_s = max(time_left.longest_s, outcomes[sample].seconds)
    return outcomes


def _ranked(outcomes: dict[int, Outcome[Examination]], margin: float) -> list[int]:
    """The samples to try, the best first."""
    scores = {sample: each.result.log_probability for sample, each in outcomes.items() if each.result is not None}
    best = max(scores.values(), default=0.0)
    return sorted((sample for sample in scores if scores[sample] >= best - margin), key=lambda sample: -scores[sample])


def _first_open(proposals: Sequence[Proposal], outcomes: dict[int, Outcome[Examination]]) -> list[int]:
    """Where no examination came to anything: the first self-edit, if there is one that was not examined.

    An examination is several inner loops in one job, so one that was stopped says little about a single one.
    """
    valid = [sample for sample, each in enumerate(proposals) if each.status is Status.OK]
    return sorted(valid, key=lambda sample: sample in outcomes)[:1]


def _examination(outcomes: dict[int, Outcome[Examination]], sample: int) -> Examination | None:
    return outcomes[sample].result if sample in outcomes else None


def _why_not(proposal: Proposal, outcome: Outcome[Examination] | None) -> tuple[Status, str]:
    if proposal.status is not Status.OK:
        return proposal.status, proposal.message
    if outcome is None:
        return Status.NOT_CHOSEN, "not examined: equal to another, or time was up"
    if outcome.result is None:
        return outcome.status, outcome.message
    return Status.NOT_CHOSEN, f"held-out log-probability {outcome.result.log_probability:.3f} a symbol"


# One task from self-edits to attempts: what `python -m arc_seal.solve` does.


@dataclass(frozen=True)
class SolveSettings:
    """How to solve; documented in conf/solve.yaml.

    Attributes:
        rollouts: How self-edits are proposed and tried.
        samples: How many.
        select: `all` tries every one and pools their candidates; `held_out` first asks the demonstrations which are
            best.
        selection: How that is done.
    """

    rollouts: RolloutSettings
    samples: int
    select: Literal["all", "held_out"] = "all"
    selection: SelectSettings = field(default_factory=SelectSettings)


@dataclass(frozen=True, slots=True)
class Solved:
    """One task under one seed.

    Attributes:
        task_id: The task.
        seed: The seed that everything else is drawn from.
        rollouts: One for each self-edit.
        attempts: For each query at most two answers, voted by the views of all roll-outs together.
        reward: Binary reward of the attempts; None without a solution.
        score: Share of the test outputs that an attempt gets right; None without a solution.
        seconds: Wall time by stage.
        model: Name of the model.
        versions: Versions of what can change a result.
    """

    task_id: str
    seed: int
    rollouts: tuple[Rollout, ...]
    attempts: tuple[tuple[Attempt, ...], ...]
    reward: int | None
    score: float | None
    seconds: dict[str, float]
    model: str
    versions: dict[str, str]


def solve_task(
    task: Task, solution: Solution | None, executor: Executor, settings: SolveSettings, watch: Watch
) -> Solved:
    """Solve a task: self-edits, an inner loop for each that is chosen, one vote over all their candidates.

    The solution is only compared with finished attempts.

    Args:
        task: What to solve.
        solution: Its test outputs, for the reward; None when they are not known.
        executor: Where the jobs run.
        settings: How.
        watch: Told what happens.

    Raises:
        InputError: When a self-edit that was given by hand is invalid.
    """
    start = time.monotonic()
    seconds: dict[str, float] = {}
    watch = _LoadClock(watch, seconds)
    executor.start()
    proposals, writing = propose(task, settings.samples, executor, settings.rollouts, watch)
    if writing:
        seconds["write"] = writing
    if settings.select == "held_out":
        rollouts = roll_out_best(
            proposals, task, solution, executor, settings.rollouts, settings.selection, watch, start
        )
    else:
        rollouts = tuple(
            roll_out(sample, proposal, task, solution, executor, settings.rollouts, watch)
            for sample, proposal in enumerate(proposals)
        )
    results = [rollout.result for rollout in rollouts if rollout.result is not None]
    _add_up(rollouts, seconds)
    attempts = vote([each for result in results for each in result.candidates], len(task.queries))
    total = time.monotonic() - start
    seconds["other"] = max(0.0, total - sum(seconds.values()))
    return Solved(
        task_id=task.id,
        seed=settings.rollouts.seed,
        rollouts=rollouts,
        attempts=attempts,
        reward=None if solution is None else binary_reward(grids(attempts), solution),
        score=None if solution is None else mean_score(grids(attempts), solution),
        seconds=seconds,
        model=settings.rollouts.model,
        versions=versions(),
    )


def _add_up(rollouts: tuple[Rollout, ...], seconds: dict[str, float]) -> None:
    """Add what the roll-outs took to the seconds of each stage."""
    for rollout in rollouts:
        if rollout.held_out is not None:
            seconds["examine"] = seconds.get("examine", 0.0) + sum(rollout.held_out.seconds.values())
        if rollout.result is not None:
            for stage, spent in rollout.result.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + spent


class _LoadClock:
    """A watch that notes how long the model was waited for, and passes everything on."""

    def __init__(self, watch: Watch, seconds: dict[str, float]) -> None:
        self.proposed, self.finished = watch.proposed, watch.finished
        self._watch, self._seconds, self._begun = watch, seconds, 0.0

    def progress(self, sample: int, progress: Progress) -> None:
        if progress.stage == "load":
            if progress.step == 0:
                self._begun = time.monotonic()
            else:
                self._seconds["load"] = self._seconds.get("load", 0.0) + time.monotonic() - self._begun
        self._watch.progress(sample, progress)
