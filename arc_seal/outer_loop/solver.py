"""One task from self-edits to attempts: what `python -m arc_seal.solve` does."""

import time
from dataclasses import dataclass, field
from typing import Literal

from arc_seal.arc.reward import binary_reward, mean_score
from arc_seal.arc.task import Solution, Task
from arc_seal.inner_loop.job import Attempt, Progress
from arc_seal.inner_loop.vote import vote
from arc_seal.outer_loop.rollout import Rollout, RolloutSettings, Watch, grids, propose, roll_out, versions
from arc_seal.outer_loop.selection import SelectSettings, roll_out_best
from arc_seal.sandbox.base import Executor


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
