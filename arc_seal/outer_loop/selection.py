"""Choosing among self-edits without a solution: the demonstrations hold their own examination."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from arc_seal.arc.task import Solution, Task
from arc_seal.errors import Status
from arc_seal.inner_loop.job import Examination
from arc_seal.outer_loop.rollout import Proposal, Rollout, RolloutSettings, Watch, examine, roll_out
from arc_seal.sandbox.base import Executor, Outcome


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
