"""One task from self-edits to attempts: what `python -m arc_seal.solve` does."""

import math
import threading
import time
from dataclasses import replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from arc_seal.arc.html import figure, section, side_by_side, text
from arc_seal.arc.task import Solution, Task, binary_reward, mean_score
from arc_seal.errors import InputError, ModelError, Status, plural
from arc_seal.inner_loop.job import Attempt, LoadJob, Result, pooled, vote
from arc_seal.models.weights import local_path
from arc_seal.outer_loop.author import Author, RolloutSettings
from arc_seal.outer_loop.confidence import CALIBRATION, Calibration
from arc_seal.outer_loop.provenance import check_policy, policy_location, versions
from arc_seal.outer_loop.rollout import Rollout, Runner, View, concurrently, derived_seed, grids
from arc_seal.outer_loop.stages import Adapters, LoadClock, roll_out_best, solve_until
from arc_seal.sandbox.worker import Executor
from arc_seal.self_edit.edit import SelfEdit, canonical
from arc_seal.settings import shortened

EARLY, DOUBLED = (8000, 30000), 2
"""With a deadline: tokens of the first stages, and how often those of the last are doubled while there is time."""


PAST_WANTED = 0.1
"""How much of the gain of another stage is left once a task has the tokens that its self-edits want."""


class SolveSettings(RolloutSettings):
    """How to solve a task: conf/solve.yaml; each setting is described there."""

    seed: int = Field(ge=0, lt=2**63)
    samples: int = Field(ge=1)
    select: Literal["all", "held_out"]
    margin: float = Field(ge=0)
    stages: tuple[int, ...] | None
    confidence: float | None = Field(gt=0, le=1)
    abstain_below: float | None = Field(gt=0, le=1)
    deadline_s: float | None = Field(gt=0)
    policy: str | None = Field(min_length=1)
    train: bool

    def check(self, *, policy_writes: bool = False) -> None:
        """As `RolloutSettings.check`; what has no effect beside the other settings is refused too."""
        super().check(policy_writes=policy_writes)
        if any(more <= less for less, more in pairwise((-1, *(self.stages or ())))):
            raise InputError("stages", "", "numbers of tokens that rise, 0 or more", shortened(self.stages))
        if self.calibration is None and self.abstain_below is not None:
            raise InputError("abstain_below", "", "a model that comes with a calibration", self.model_name)
        if not self.train and (self.policy is not None or self.select == "held_out"):
            found = "policy" if self.policy is not None else "select=held_out"
            raise InputError("train", "", f"true, for {found} is about self-edits", "false")
        if (policy := self.author.policy) is not None:  # the author refuses what it cannot be, too
            check_policy(policy, self.model)

    @property
    def budgets(self) -> tuple[int | None, ...]:
        """Tokens that are read in all after each stage; None, the last, for as many as there are, or where none are."""
        most, stages, further = self.ttt.token_budget, self.stages, ()
        if self.select != "all" or not self.train:
            return (None,)
        if self.deadline_s is not None:
            stages = EARLY if stages is None else stages
            further = () if most is None else tuple(most * 2**doubled for doubled in range(1, DOUBLED + 1))
        return (*(tokens for tokens in stages or () if most is None or tokens < most), most, *further)

    @property
    def rollouts(self) -> int:
        """Roll-outs of a task at most."""
        return sum(1 if tokens == 0 else self.samples for tokens in self.budgets)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What the model's attempts are judged by; None where none comes with its weights."""
        location = self.model.get("location")
        try:
            weights = local_path(location) if isinstance(location, str) else None
        except ModelError:  # a package that is not here may be where the workers are
            weights = None
        if weights is None or not weights.exists():
            return None
        file = (weights if weights.is_dir() else weights.parent) / CALIBRATION
        return Calibration.load(file) if file.is_file() else None

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
            return Author("hand", self.seed, by_hand=(self.given(by_hand, "self_edit.json", in_any_form=True),))
        return Author("policy", self.seed, policy=policy_location(self.policy or self.self_edit.policy))


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
            figure(attempt.grid, f"test {query}, {attempt_title(number, attempt)}")
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
    limit_s = None if settings.select == "held_out" else settings.deadline_s  # examinations keep to it themselves
    solve_until(None if limit_s is None else time.monotonic() + limit_s, [solving], executor)
    return solving.solved()


class Solving:
    """A task on its way through its stages, each of which trains on where the last ended; all candidates so far vote.

    It is done when it is sure of its attempts, or after its last stage.

    Args:
        task: The task.
        solution: Its solution, only compared with finished attempts.
        executor: Where its jobs run.
        settings: How it is solved.
        view: Told what happens.
        before: What came of its first stages, to go on behind them.
        adapters: Where its adapters are between stages, under `owner`; those that are not there are trained anew.
        owner: What tells it from other tasks there.

    Attributes:
        attempts: The best so far at each query, at most two, with their confidence where there is a calibration.
        chance: How probable it is that every query has a right attempt, 0 to 1; None where nothing tells.
    """

    def __init__(
        self,
        task: Task,
        solution: Solution | None,
        executor: Executor,
        settings: SolveSettings,
        view: View,
        before: Solved | None = None,
        adapters: Adapters | None = None,
        owner: str = "",
    ) -> None:
        self.task, self._solution, self._executor, self._settings = task, solution, executor, settings
        self._adapters, self._owner = adapters or Adapters(), owner
        self._clock = LoadClock(view, before.seconds.get("load", 0.0) if before is not None else 0.0)
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
        wanted = self._wanted if self._settings.deadline_s is None else math.inf
        if self._stages and not any(rollout.result for rollout in self._stages[-1]):  # more would fail alike
            wanted = min(wanted, _or_all(self._settings.ttt.token_budget))
        return tuple(tokens for tokens in self._settings.budgets if self._read < min(_or_all(tokens), wanted))

    @property
    def _read(self) -> float:
        """Tokens of the last stage; -1 before any."""
        return max((_or_all(rollout.token_budget) for rollout in self.rollouts), default=-1)

    @property
    def _wanted(self) -> float:
        """Tokens that the self-edits want, at most."""
        edits = [rollout.self_edit for rollout in self.rollouts if rollout.self_edit is not None]
        return max((_or_all(edit.training.tokens) for edit in edits), default=math.inf)

    @property
    def rollouts(self) -> list[Rollout]:
        """What was tried so far."""
        return [rollout for made in self._stages for rollout in made]

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

    @property
    def gain(self) -> float:
        """How probably one more stage solves it; 1 where nothing tells."""
        calibration, share = self._settings.calibration, 1.0 if self._read < self._wanted else PAST_WANTED
        return share * (1.0 if calibration is None or self.chance is None else calibration.gain * (1 - self.chance))

    def advance(self, budget: int | None, ends: float | None, turns: threading.Semaphore) -> None:
        """Do a stage of so many tokens until a time of `time.monotonic`, each job in a turn of its own.

        A roll-out that time cuts off counts as never begun.
        """
        start, settings = time.monotonic(), self._settings
        if settings.select == "held_out":
            proposed = self._runner.propose(self.task, settings.samples)
            made = roll_out_best(
                proposed, self.task, self._solution, self._runner, settings.margin, settings.deadline_s, start
            )
        else:
            made = self._compared(self._tried(budget, ends, turns), ends, turns)
        if made:
            self._stages.append(made)
            self._judge()
        if self.done:
            self._adapters.let_go(self._owner)
        self._spent_s += time.monotonic() - start

    def load(self) -> None:
        """Wait until a worker has its model. What keeps it from loading, the first job tells."""
        start = time.monotonic()
        self._executor.run(LoadJob(), lambda progress: self._clock.progress(0, progress))
        self._spent_s += time.monotonic() - start

    def solved(self) -> Solved:
        """What has come of it so far."""
        attempts, least = self.attempts, self._settings.abstain_below
        if least is not None:
            sure = (sum(attempt.confidence or 0.0 for attempt in query) >= least for query in attempts)
            attempts = tuple(query if each else () for query, each in zip(attempts, sure, strict=True))
        seconds = {"load": self._clock.seconds} if self._clock.seconds else {}
        for rollout in self.rollouts:
            for stage, spent in rollout.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + spent
        seconds["other"] = max(0.0, self._spent_s - sum(seconds.values()))
        solution = self._solution
        return Solved(
            task_id=self.task.id,
            seed=self._settings.seed,
            rollouts=tuple(self.rollouts),
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
        attempts, calibration = vote(pooled(flat, last), len(self.task.queries)), self._settings.calibration
        self.chance: float | None = None
        if calibration is not None and last:
            attempts = calibration.judged(attempts, [*flat, *last])
            self.chance = math.prod(sum(each.confidence or 0.0 for each in query) for query in attempts)
        self.attempts = attempts

    def _tried(self, budget: int | None, ends: float | None, turns: threading.Semaphore) -> list[Rollout]:
        """The roll-outs of a stage that have ended before time was up."""
        known = tuple(map(tuple, grids(self.attempts))) if self._settings.decode.score and self._stages else ()

        def tried(sample: int) -> Rollout | None:
            rollout, own = proposed[sample], (self._owner, sample)
            with turns:
                if ends is not None and time.monotonic() >= ends:
                    return None
                made = self._runner.roll_out(
                    rollout, self.task, self._solution, known, self._limit_s(ends),
                    begin=self._adapters.get(*own) if budget != 0 else None,
                    keep=budget != 0 and (compares or goes_on),
                )  # fmt: skip
            if made.result is not None and made.result.adapter is not None:
                self._adapters.keep(*own, made.result.adapter)
                made = made.model_copy(update={"result": replace(made.result, adapter=None)})
            cut = made.status is Status.TIMEOUT and ends is not None and time.monotonic() >= ends
            return None if cut else made

        with turns:
            proposed = self._of_stage(budget, self._limit_s(ends))
        compares = len(proposed) > 1 and self._settings.decode.score
        goes_on = _or_all(budget) < _or_all(self._settings.budgets[-1])
        made = [each for each in concurrently(self._executor, tried, range(len(proposed))) if each is not None]
        return sorted(made, key=lambda rollout: rollout.sample)

    def _compared(self, made: list[Rollout], ends: float | None, turns: threading.Semaphore) -> list[Rollout]:
        """The roll-outs of a stage, each with the scores that the attempts of all have under its own adapter.

        Scores under different adapters do not compare, and an adapter that has overfitted is sure of its mistakes.
        """
        begin = len(self.rollouts)
        results = [each.result for each in made if each.result is not None]
        asked = [
            dict.fromkeys(grid for each in results for grid in grids(each.attempts)[query])
            for query in range(len(self.task.queries))
        ]

        def compared(rollout: Rollout) -> Rollout:
            adapter, result = self._adapters.get(self._owner, rollout.sample - begin), rollout.result
            if adapter is None or result is None:
                return rollout
            scored = {(each.query, each.grid) for each in (*result.candidates, *result.known)}
            known = tuple(
                tuple(grid for grid in each if (query, grid) not in scored) for query, each in enumerate(asked)
            )
            if not any(known):
                return rollout
            with turns:
                return self._runner.score(rollout, self.task, known, adapter, self._limit_s(ends))

        if len(results) < 2 or not self._settings.decode.score:
            return made
        return sorted(concurrently(self._executor, compared, made), key=lambda rollout: rollout.sample)

    def _limit_s(self, ends: float | None) -> float | None:
        """The time left, where that is less than any job may take; None for the executor's own limit."""
        left_s = math.inf if ends is None else max(0.0, ends - time.monotonic())
        return left_s if left_s < float(self._settings.executor.get("timeout_s", math.inf)) else None

    def _of_stage(self, budget: int | None, timeout_s: float | None) -> list[Rollout]:
        """The roll-outs of a stage, to be tried: one in context where nothing is trained on."""
        settings = self._settings
        if budget == 0:
            author = replace(settings.author, kind="none", by_hand=(), policy=None)
            proposed = Runner(self._executor, settings, author, self._clock).propose(self.task, 1)
        else:
            if self._proposed is None:
                self._proposed = self._runner.propose(self.task, settings.samples, timeout_s=timeout_s, distinct=True)
            proposed = self._proposed
        begin = len(self.rollouts)
        # Writing is counted once.
        once = {"writing_s": 0.0} if any(each.token_budget for each in self.rollouts) else {}

        def numbered(number: int, rollout: Rollout) -> Rollout:
            seed, edit = derived_seed(settings.seed, self.task.id, "adapt", number), rollout.self_edit
            if edit is not None and settings.deadline_s is not None and _or_all(budget) > _or_all(edit.training.tokens):
                edit = edit.of_tokens(budget)
            changes = {"sample": number, "seed": seed, "token_budget": budget, "self_edit": edit, **once}
            return rollout.model_copy(update=changes)

        return [numbered(number, each) for number, each in enumerate(proposed, start=begin)]


def _or_all(tokens: int | None) -> float:
    """Tokens to compare by; None is as many as there are."""
    return math.inf if tokens is None else tokens


def attempt_title(number: int, attempt: Attempt) -> str:
    """Such as `attempt 1, 7 votes, 87 % sure`; how sure only where a calibration tells."""
    sure = "" if attempt.confidence is None else f", {100 * attempt.confidence:.0f} % sure"
    return f"attempt {number}, {plural(attempt.votes, 'vote')}{sure}"
