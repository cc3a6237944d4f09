"""One task from self-edits to attempts: what `python -m arc_seal.solve` does."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from arc_seal.arc.html import figure, section, side_by_side, text
from arc_seal.arc.task import Solution, Task, binary_reward, mean_score
from arc_seal.errors import InputError, Status, plural
from arc_seal.inner_loop.job import Attempt, Progress, vote
from arc_seal.outer_loop.rollout import (
    Author,
    Rollout,
    RolloutSettings,
    Runner,
    View,
    check_policy,
    concurrently,
    grids,
    versions,
)
from arc_seal.sandbox.worker import Executor
from arc_seal.self_edit.edit import SelfEdit, canonical


class SolveSettings(RolloutSettings):
    """How to solve a task: conf/solve.yaml; each setting is described there."""

    seed: int = Field(ge=0, lt=2**63)
    samples: int = Field(ge=1)
    select: Literal["all", "held_out"]
    margin: float = Field(ge=0)
    deadline_s: float | None = Field(gt=0)
    policy: str | None = Field(min_length=1)
    train: bool

    def check(self, *, policy_writes: bool = False) -> None:
        """As `RolloutSettings.check`; what has no effect beside the other settings is refused too."""
        super().check(policy_writes=policy_writes)
        if self.deadline_s is not None and self.select != "held_out":
            raise InputError("deadline_s", "", "select=held_out, which alone can end early", f"select={self.select}")
        if not self.train and (self.policy is not None or self.select == "held_out"):
            found = "policy" if self.policy is not None else "select=held_out"
            raise InputError("train", "", f"true, for {found} is about self-edits", "false")
        if (policy := self.author.policy) is not None:  # the author refuses what it cannot be, too
            check_policy(Path(policy), self.model)

    @property
    def author(self) -> Author:
        """Who writes the self-edits; InputError where one by hand is not valid, or a policy is to write its own."""
        by_hand = self.self_edit.by_hand
        if self.policy is not None and by_hand is not None:
            expected = "self_edit=default, for the policy to write its own"
            raise InputError("policy", "", expected, "a self-edit given by hand")
        if not self.train:
            return Author("none", self.seed)
        if by_hand is not None:
            return Author("hand", self.seed, by_hand=self.given(by_hand, "self_edit.json"))
        folder = self.policy and str(Path(self.policy).expanduser().absolute())  # for workers elsewhere
        return Author("policy", self.seed, policy=folder)


class Solved(BaseModel):
    """One task under one seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    task_id: str  # the task
    seed: int  # the seed that everything else is drawn from
    rollouts: tuple[Rollout, ...]  # one for each self-edit
    # For each query at most two answers, voted by the views of all roll-outs together.
    attempts: tuple[tuple[Attempt, ...], ...]
    reward: Literal[0, 1] | None  # binary reward of the attempts; None without a solution
    score: float | None  # share of the test outputs that an attempt gets right; None without a solution
    seconds: dict[str, float]  # wall time by stage
    model: str  # name of the model
    versions: dict[str, str]  # versions of what can change a result

    @property
    def self_edit(self) -> SelfEdit | None:
        """The self-edit whose views most often gave the first attempts; None where nothing was trained, or all failed.

        Of several that are equal in this it is the first.
        """
        first = [[attempt.grid for attempt in query[:1]] for query in self.attempts]
        votes = [
            (sum(one.grid in first[one.query] for one in each.result.candidates), each.self_edit)
            for each in self.rollouts
            if each.result is not None
        ]
        return max(votes, key=lambda each: each[0], default=(0, None))[1]

    def _repr_html_(self) -> str:
        """What a notebook shows: the attempts, the self-edit, and what failed."""
        verdict = {None: "without a solution to compare with", 0: "not solved", 1: "solved"}[self.reward]
        attempts = [
            figure(attempt.grid, f"test {query}, attempt {number}, {plural(attempt.votes, 'vote')}")
            for query, made in enumerate(self.attempts, start=1)
            for number, attempt in enumerate(made, start=1)
        ]
        lines = [f"Self-edit: {canonical(self.self_edit)}"] if self.self_edit else []
        lines += [f"{each.status}: {each.message}" for each in self.rollouts if each.message]
        seconds = f"{sum(self.seconds.values()):.1f} s"
        said = (f"<p>{text(line)}</p>" for line in lines)
        return section(f"Task {self.task_id}, seed {self.seed}: {verdict}, {seconds}", side_by_side(attempts), *said)


def solve_task(
    task: Task, solution: Solution | None, executor: Executor, settings: SolveSettings, view: View
) -> Solved:
    """Solve a task: self-edits, an inner loop for each that is chosen, one vote over all their candidates.

    The solution is only compared with finished attempts. InputError where the settings contradict one another.
    """
    start, clock = time.monotonic(), _LoadClock(view)
    runner = Runner(executor, settings, settings.author, clock)
    executor.start()
    proposed = runner.propose(task, settings.samples)
    if settings.select == "held_out":
        rollouts = roll_out_best(proposed, task, solution, runner, settings, start)
    else:
        made = concurrently(executor, lambda rollout: runner.roll_out(rollout, task, solution), proposed)
        rollouts = sorted(made, key=lambda rollout: rollout.sample)
    attempts = vote([each for made in rollouts if made.result for each in made.result.candidates], len(task.queries))
    seconds = {"load": clock.seconds} if clock.seconds else {}
    for rollout in rollouts:
        for stage, spent in rollout.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    seconds["other"] = max(0.0, time.monotonic() - start - sum(seconds.values()))
    return Solved(
        task_id=task.id,
        seed=settings.seed,
        rollouts=tuple(rollouts),
        attempts=attempts,
        reward=None if solution is None else binary_reward(grids(attempts), solution),  # type: ignore[arg-type]
        score=None if solution is None else mean_score(grids(attempts), solution),
        seconds=seconds,
        model=settings.model_name,
        versions=versions(),
    )


def roll_out_best(
    proposed: Sequence[Rollout],
    task: Task,
    solution: Solution | None,
    runner: Runner,
    settings: SolveSettings,
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
        if settings.deadline_s is None:
            return True
        # An inner loop has more demonstrations than one that is examined.
        inner_loop_s = 1.5 * longest_s / min(settings.folds, len(task.demos))
        return clock() - start + examinations * longest_s + inner_loop_s <= settings.deadline_s

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
    ranked = sorted((sample for sample in scores if scores[sample] >= best - settings.margin), key=lambda n: -scores[n])
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


class _LoadClock:
    """A view that adds up how long the model was waited for, and passes everything on."""

    def __init__(self, view: View) -> None:
        self.note, self.stage, self.advance = view.note, view.stage, view.advance
        self.proposed, self.finished = view.proposed, view.finished
        self.seconds = 0.0
        self._view, self._begun = view, 0.0

    def progress(self, sample: int, progress: Progress) -> None:
        """Note when loading begins and ends."""
        if progress.stage == "load":
            if progress.step == 0:
                self._begun = time.monotonic()
            else:
                self.seconds += time.monotonic() - self._begun
        self._view.progress(sample, progress)
