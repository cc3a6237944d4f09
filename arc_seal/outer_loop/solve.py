"""One task from self-edits to attempts: what `python -m arc_seal.solve` does."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from arc_seal.arc.html import figure, section, side_by_side, text
from arc_seal.arc.task import Solution, Task, binary_reward, mean_score
from arc_seal.errors import InputError, Status, plural
from arc_seal.inner_loop.job import Attempt, LoadJob, Progress, Result, pooled, vote
from arc_seal.models.weights import local_path
from arc_seal.outer_loop.confidence import CALIBRATION, Calibration
from arc_seal.outer_loop.rollout import (
    Author,
    Rollout,
    RolloutSettings,
    Runner,
    View,
    check_policy,
    concurrently,
    derived_seed,
    grids,
    versions,
)
from arc_seal.sandbox.worker import Executor
from arc_seal.self_edit.edit import SelfEdit, canonical
from arc_seal.settings import shortened

GUESSED_TOKEN_S, LEFT_SHARE = 2e-4, 0.9
"""Seconds a training token before any was read; how much of the time left a stage is planned to fill."""


class SolveSettings(RolloutSettings):
    """How to solve a task: conf/solve.yaml; each setting is described there."""

    seed: int = Field(ge=0, lt=2**63)
    samples: int = Field(ge=1)
    select: Literal["all", "held_out"]
    margin: float = Field(ge=0)
    stages: tuple[int, ...] | None = Field(min_length=1)
    confidence: float | None = Field(gt=0, le=1)
    abstain_below: float | None = Field(gt=0, le=1)
    deadline_s: float | None = Field(gt=0)
    policy: str | None = Field(min_length=1)
    train: bool

    def check(self, *, policy_writes: bool = False) -> None:
        """As `RolloutSettings.check`; what has no effect beside the other settings is refused too."""
        super().check(policy_writes=policy_writes)
        if self.stages is not None:
            self._check_stages(self.stages)
        if self.abstain_below is not None and self.calibration is None:
            raise InputError("abstain_below", "", "a model that comes with a calibration", self.model_name)
        if not self.train and (self.policy is not None or self.select == "held_out"):
            found = "policy" if self.policy is not None else "select=held_out"
            raise InputError("train", "", f"true, for {found} is about self-edits", "false")
        if (policy := self.author.policy) is not None:  # the author refuses what it cannot be, too
            check_policy(Path(policy), self.model)

    def _check_stages(self, stages: tuple[int, ...]) -> None:
        if any(tokens < 0 for tokens in stages) or any(more <= less for less, more in pairwise(stages)):
            raise InputError("stages", "", "numbers of tokens that rise, 0 or more", shortened(stages))
        if self.select != "all" or not self.train:
            found = "train=false" if not self.train else f"select={self.select}"
            raise InputError("stages", "", "select=all and train=true, or stages=null", found)

    @property
    def rollouts(self) -> int:
        """Roll-outs of a task at most."""
        stages = self.stages or (1,)
        return sum(self.samples if tokens else 1 for tokens in stages)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What the model's attempts are judged by; None where none comes with its weights."""
        location = self.model.get("location")
        file = local_path(location) / CALIBRATION if isinstance(location, str) else None
        return Calibration.load(file) if file is not None and file.is_file() else None

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
    rollouts: tuple[Rollout, ...]  # one for each self-edit in each stage
    # For each query at most two answers, voted by the views of all roll-outs together.
    attempts: tuple[tuple[Attempt, ...], ...]
    reward: Literal[0, 1] | None  # binary reward of the attempts; None without a solution
    score: float | None  # share of the test outputs that an attempt gets right; None without a solution
    seconds: dict[str, float]  # wall time by stage
    model: str  # name of the model
    versions: dict[str, str]  # versions of what can change a result
    open: bool = False  # whether time was up before it was sure or its stages were done

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
            figure(attempt.grid, f"test {query}, attempt {number}, {plural(attempt.votes, 'vote')}{sureness(attempt)}")
            for query, made in enumerate(self.attempts, start=1)
            for number, attempt in enumerate(made, start=1)
        ]
        lines = [f"Self-edit: {canonical(self.self_edit)}"] if self.self_edit else []
        lines += [f"{each.status}: {each.message}" for each in self.rollouts if each.message]
        seconds = f"{sum(self.seconds.values()):.1f} s"
        said = (f"<p>{text(line)}</p>" for line in lines)
        return section(f"Task {self.task_id}, seed {self.seed}: {verdict}, {seconds}", side_by_side(attempts), *said)


def solve_task(
    task: Task,
    solution: Solution | None,
    executor: Executor,
    settings: SolveSettings,
    view: View,
    before: Solved | None = None,
) -> Solved:
    """Solve a task: self-edits, an inner loop for each that is chosen, one vote over all their candidates.

    The solution is only compared with finished attempts. `before` is what came of it until time was up. InputError
    where the settings contradict one another.
    """
    solving = Solving(task, solution, executor, settings, view, before)
    ends = None if settings.deadline_s is None else time.monotonic() + settings.deadline_s
    solve_until(ends, [solving], executor)
    return solving.solved()


class Solving:
    """A task on its way through its stages, each of which trains on more tokens; all candidates so far vote.

    It is done when it is sure of its attempts, or after its last stage. Without `stages` there is one.

    Args:
        task: The task.
        solution: Its solution, only compared with finished attempts.
        executor: Where its jobs run.
        settings: How it is solved.
        view: Told what happens.
        before: What came of its first stages, to go on behind them.
    """

    def __init__(
        self,
        task: Task,
        solution: Solution | None,
        executor: Executor,
        settings: SolveSettings,
        view: View,
        before: Solved | None = None,
    ) -> None:
        self.task, self._solution, self._executor, self._settings = task, solution, executor, settings
        self._clock = _LoadClock(view)
        self._runner = Runner(executor, settings, settings.author, self._clock)
        self._proposed: list[Rollout] | None = None
        self._stages: list[list[Rollout]] = []
        if before is not None:
            self._stages = [list(made) for _, made in groupby(before.rollouts, key=lambda each: each.token_budget)]
        self._spent_s = sum(before.seconds.values()) if before is not None else 0.0
        self._judge()

    @property
    def budgets(self) -> tuple[int | None, ...]:
        """Tokens of each stage that is left."""
        stages = self._settings.stages
        if stages is None:
            return () if self._stages else (None,)
        read = max((rollout.token_budget or 0 for made in self._stages for rollout in made), default=-1)
        return tuple(tokens for tokens in stages if tokens > read)

    @property
    def results(self) -> list[list[Result]]:
        """What came of the roll-outs of each stage that had any result."""
        made = ([each.result for each in stage if each.result is not None] for stage in self._stages)
        return [results for results in made if results]

    @property
    def done(self) -> bool:
        """Whether it is sure, or nothing is left to do."""
        wanted, chance = self._settings.confidence, self.chance
        return not self.budgets or (wanted is not None and chance is not None and chance >= wanted)

    def advance(self, budget: int | None, left_s: float | None = None) -> None:
        """Do a stage of so many tokens; a roll-out that the time left cuts off counts as never begun."""
        start = time.monotonic()
        if self._settings.select == "held_out":
            proposed = self._runner.propose(self.task, self._settings.samples)
            made = roll_out_best(proposed, self.task, self._solution, self._runner, self._settings, start)
        else:
            limit_s = float(self._settings.executor.get("timeout_s", math.inf))
            cut_s = left_s if left_s is not None and left_s < limit_s else None
            known = tuple(map(tuple, grids(self.attempts))) if self._settings.decode.score and self._stages else ()
            made = list(
                concurrently(
                    self._executor,
                    lambda rollout: self._runner.roll_out(rollout, self.task, self._solution, known, cut_s),
                    self._of_stage(budget),
                )
            )
            if cut_s is not None:
                made = [each for each in made if each.status is not Status.TIMEOUT]
        if made:
            self._stages.append(sorted(made, key=lambda rollout: rollout.sample))
            self._judge()
        self._spent_s += time.monotonic() - start

    def load(self) -> None:
        """Wait until a worker has its model. What keeps it from loading, the first job tells."""
        self._executor.run(LoadJob(), lambda progress: self._clock.progress(0, progress))

    def solved(self) -> Solved:
        """What has come of it so far."""
        rollouts = [rollout for made in self._stages for rollout in made]
        attempts, least = self.attempts, self._settings.abstain_below
        if least is not None:
            sure = (sum(attempt.confidence or 0.0 for attempt in query) >= least for query in attempts)
            attempts = tuple(query if each else () for query, each in zip(attempts, sure, strict=True))
        seconds = {"load": self._clock.seconds} if self._clock.seconds else {}
        for rollout in rollouts:
            for stage, spent in rollout.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + spent
        seconds["other"] = max(0.0, self._spent_s - sum(seconds.values()))
        solution = self._solution
        return Solved(
            task_id=self.task.id,
            seed=self._settings.seed,
            rollouts=tuple(rollouts),
            attempts=attempts,
            reward=None if solution is None else binary_reward(grids(attempts), solution),  # type: ignore[arg-type]
            score=None if solution is None else mean_score(grids(attempts), solution),
            seconds=seconds,
            model=self._settings.model_name,
            versions=versions(),
            open=not self.done,
        )

    def _judge(self) -> None:
        """Vote anew, and say how sure it is."""
        *earlier, last = [*self.results] or [[]]
        flat = [result for results in earlier for result in results]
        # The best attempts so far at each query, with their confidence where there is a calibration.
        self.attempts = vote(pooled(flat, last), len(self.task.queries))
        # How probable it is that every query has a right attempt; None where nothing tells.
        self.chance: float | None = None
        calibration = self._settings.calibration
        if calibration is not None and last:
            self.attempts = calibration.judged(self.attempts, [*flat, *last])
            self.chance = math.prod(sum(each.confidence or 0.0 for each in query) for query in self.attempts)

    def _of_stage(self, budget: int | None) -> list[Rollout]:
        """The roll-outs of a stage, to be tried: one in context where nothing is trained on."""
        settings = self._settings
        if budget == 0:
            author = replace(settings.author, kind="none", by_hand=None, policy=None)
            return Runner(self._executor, settings, author, self._clock).propose(self.task, 1)
        if self._proposed is None:
            self._proposed = self._runner.propose(self.task, settings.samples)
        if settings.stages is None:
            return self._proposed
        begin = sum(map(len, self._stages))
        # Writing is counted once.
        once = {"writing_s": 0.0} if any(each.self_edit for made in self._stages for each in made) else {}

        def numbered(number: int, rollout: Rollout) -> Rollout:
            seed = derived_seed(settings.seed, self.task.id, "adapt", number)
            return rollout.model_copy(update={"sample": number, "seed": seed, "token_budget": budget, **once})

        return [numbered(number, each) for number, each in enumerate(self._proposed, start=begin)]


def sureness(attempt: Attempt) -> str:
    """Such as `, 87 % sure`; nothing where nothing tells."""
    return "" if attempt.confidence is None else f", {attempt.confidence:.0%}".replace("%", " % sure")


def solve_until(
    ends: float | None, tasks: Sequence[Solving], executor: Executor, kept: Callable[[int], None] | None = None
) -> None:
    """Take tasks through their stages until all are done, or until a time of `time.monotonic`.

    Each worker takes up, of the tasks that nobody is at, one that has not begun, the smallest first; after these the
    whose next stage probably gains most solved tasks a second. `kept` is called after each stage.
    """
    change, busy = threading.Condition(), set[int]()

    def left_s() -> float | None:
        return None if ends is None else ends - time.monotonic()

    def work(_: int) -> None:
        while (found := take()) is not None:
            number, budget = found
            try:
                tasks[number].advance(budget, left_s())
                if kept is not None:
                    kept(number)
            finally:
                with change:
                    busy.discard(number)
                    change.notify_all()

    def take() -> tuple[int, int | None] | None:
        """A task and the tokens of its next stage; None where there is nothing more to do."""
        with change:
            while True:
                idle = [number for number in range(len(tasks)) if number not in busy]
                steps = {number: _next_step(tasks[number], tasks, left_s()) for number in idle}
                worth = {number: step[1] for number, step in steps.items() if step is not None}
                if worth:
                    number = max(worth, key=lambda each: worth[each])
                    busy.add(number)
                    return number, steps[number][0]  # type: ignore[index]
                if not busy:
                    return None
                change.wait()

    workers = range(min(executor.workers, len(tasks)))
    if ends is not None and not all(each.done for each in tasks):  # the limit of a job does not count loading
        for _ in concurrently(executor, lambda worker: tasks[worker].load(), workers):
            pass
    for _ in concurrently(executor, work, workers):
        pass


def _next_step(
    solving: Solving, tasks: Sequence[Solving], left_s: float | None
) -> tuple[int | None, tuple[bool, float]] | None:
    """The tokens of a task's next stage, and what it is worth; None where it is done, or too little time is left.

    A stage that would take too long is shortened, to no less than twice the tokens of the one before.
    """
    if solving.done or (left_s is not None and left_s <= 0):
        return None
    budget, results = solving.budgets[0], [result for stage in solving.results for result in stage]
    if not results or budget is None:
        return budget, (True, -solving.task.cells)
    trained = [each for other in tasks for stage in other.results for each in stage]
    read = sum(each.training.tokens for each in trained if each.training is not None)
    spent_s = sum(each.seconds.get("train", 0.0) for each in trained)
    token_s = spent_s / read if read else GUESSED_TOKEN_S
    predict_s = results[-1].seconds.get("predict", 0.0)
    before = results[-1].training.tokens if results[-1].training else 0
    if left_s is not None and predict_s + token_s * budget > left_s:
        budget = int((LEFT_SHARE * left_s - predict_s) / token_s)
        if budget < 2 * max(before, 1):
            return None
    gain = 1 - (solving.chance or 0.0)
    return budget, (False, gain / (predict_s + token_s * budget))


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
