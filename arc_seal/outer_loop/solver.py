"""One task from self-edits to attempts: what `solve` does once and a training round does often."""

import platform
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from arc_seal import __version__
from arc_seal.arc.grid import Grid
from arc_seal.arc.reward import binary_reward, mean_score
from arc_seal.arc.task import Solution, Task
from arc_seal.errors import InputError, InvalidSelfEdit, Status
from arc_seal.inner_loop.job import AdaptJob, Attempt, DecodeSettings, Progress, Result, TrainingSettings
from arc_seal.inner_loop.vote import vote
from arc_seal.models.base import Sampling
from arc_seal.outer_loop.policy import WriteJob
from arc_seal.sandbox.base import Executor
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.schema import Schema

LIBRARIES = ("torch", "transformers", "peft", "numpy", "llguidance")
"""Libraries whose versions can change a result."""


@dataclass(frozen=True)
class SolveSettings:
    """How to solve; documented in conf/solve.yaml."""

    model: str
    samples: int
    seed: int
    self_edit_json: str | None
    schema: Schema
    example: str
    temperature: float
    max_tokens: int
    max_resamples: int
    training: TrainingSettings
    decode: DecodeSettings
    toolbox: tuple[str, ...]
    max_training_tokens: int
    train: bool


@dataclass(frozen=True, slots=True)
class Rollout:
    """One self-edit and what came of it.

    Attributes:
        sample: Which of the task's samples it is.
        seed: Seed of its inner loop.
        completion: What the model wrote; None when the self-edit was given or there is none.
        self_edit: The parsed self-edit; None when it was invalid or nothing is trained.
        status: How the job ended.
        message: One line on a failure, else empty.
        result: What the inner loop made; None on a failure.
        reward: 1 when every test output is right in either attempt, else 0; None without a solution.
    """

    sample: int
    seed: int
    completion: str | None
    self_edit: SelfEdit | None
    status: Status
    message: str
    result: Result | None
    reward: int | None


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


class Watch(Protocol):
    """Who wants to see what happens."""

    def proposed(self, sample: int, completion: str, self_edit: SelfEdit | None) -> None:
        """A self-edit is there: as it was written, and parsed unless it is invalid."""
        ...

    def progress(self, sample: int, progress: Progress) -> None:
        """A job is this far."""
        ...

    def finished(self, sample: int, status: Status, message: str) -> None:
        """A roll-out has ended."""
        ...


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


@dataclass(frozen=True, slots=True)
class Proposal:
    """A self-edit before it is tried.

    Attributes:
        completion: What the model wrote; None when it wrote nothing.
        self_edit: The parsed self-edit; None when there is none.
        status: `OK`, or why there is nothing to try.
        message: One line on a failure, else empty.
    """

    completion: str | None
    self_edit: SelfEdit | None
    status: Status = Status.OK
    message: str = ""


def solve_task(
    task: Task, solution: Solution | None, executor: Executor, settings: SolveSettings, watch: Watch
) -> Solved:
    """Solve a task: self-edits, an inner loop for each, one vote over all their candidates.

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
    by_hand = None if settings.self_edit_json is None else _by_hand(settings.self_edit_json, settings.schema)
    executor.start()
    start = time.monotonic()
    seconds: dict[str, float] = {}
    watch = _LoadClock(watch, seconds)
    proposals = _propose(task, by_hand, executor, settings, watch, seconds)
    rollouts = tuple(
        _roll_out(sample, proposal, task, solution, executor, settings, watch)
        for sample, proposal in enumerate(proposals)
    )
    results = [rollout.result for rollout in rollouts if rollout.result is not None]
    for result in results:
        for stage, spent in result.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    attempts = vote([each for result in results for each in result.candidates], len(task.queries))
    total = time.monotonic() - start
    seconds["other"] = max(0.0, total - sum(seconds.values()))
    return Solved(
        task_id=task.id,
        seed=settings.seed,
        rollouts=rollouts,
        attempts=attempts,
        reward=None if solution is None else binary_reward(_grids(attempts), solution),
        score=None if solution is None else mean_score(_grids(attempts), solution),
        seconds=seconds,
        model=settings.model,
        versions=versions(),
    )


def derived_seed(seed: int, *path: object) -> int:
    """A seed for one part of a run, 0 to 2**31 - 1: parts do not share their draws."""
    return random.Random(" ".join(map(str, (seed, *path)))).getrandbits(31)


def versions() -> dict[str, str]:
    """Versions of arc-seal, Python and the libraries that can change a result."""
    found = {"arc-seal": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _propose(
    task: Task,
    by_hand: SelfEdit | None,
    executor: Executor,
    settings: SolveSettings,
    watch: Watch,
    seconds: dict[str, float],
) -> list[Proposal]:
    """The self-edits to try: none at all, the one given by hand, or as many as are asked for."""
    if not settings.train:
        return [Proposal(None, None)] * settings.samples
    if by_hand is not None:
        watch.proposed(0, settings.schema.canonical(by_hand), by_hand)
        return [Proposal(None, by_hand)] * settings.samples
    proposals = _write(list(range(settings.samples)), 0, task, executor, settings, watch, seconds)
    for attempt in range(1, settings.max_resamples + 1):
        invalid = [sample for sample, each in proposals.items() if each.status is Status.INVALID_SELF_EDIT]
        if invalid:
            proposals |= _write(invalid, attempt, task, executor, settings, watch, seconds)
    for sample, proposal in sorted(proposals.items()):
        watch.proposed(sample, proposal.completion or "", proposal.self_edit)
    return [proposals[sample] for sample in sorted(proposals)]


def _by_hand(text: str, schema: Schema) -> SelfEdit:
    try:
        return schema.parse(text)
    except InvalidSelfEdit as error:
        raise InputError("self_edit.json", "", "a valid self-edit", str(error)) from None


def _write(
    samples: Sequence[int],
    attempt: int,
    task: Task,
    executor: Executor,
    settings: SolveSettings,
    watch: Watch,
    seconds: dict[str, float],
) -> dict[int, Proposal]:
    """Have the model write one self-edit for each sample, all at once."""
    job = WriteJob(
        task=task,
        menu=settings.schema.menu(),
        example=settings.example,
        schema=settings.schema.json_schema(),
        sampling=Sampling(
            count=len(samples),
            temperature=settings.temperature,
            seed=derived_seed(settings.seed, task.id, "write", attempt),
            max_tokens=settings.max_tokens,
        ),
    )
    outcome = executor.run(job, lambda progress: watch.progress(samples[0], progress))
    seconds["write"] = seconds.get("write", 0.0) + outcome.seconds
    if outcome.result is None:
        return dict.fromkeys(samples, Proposal(None, None, outcome.status, outcome.message))
    written = zip(samples, outcome.result, strict=True)
    return {sample: _parsed(each.text, each.finished, settings.schema) for sample, each in written}


def _parsed(text: str, finished: bool, schema: Schema) -> Proposal:
    if not finished:
        return Proposal(text, None, Status.INVALID_SELF_EDIT, "the self-edit was cut off at max_tokens")
    try:
        return Proposal(text, schema.parse(text))
    except InvalidSelfEdit as error:
        return Proposal(text, None, error.status, str(error))


def _roll_out(
    sample: int,
    proposal: Proposal,
    task: Task,
    solution: Solution | None,
    executor: Executor,
    settings: SolveSettings,
    watch: Watch,
) -> Rollout:
    """Try one self-edit in the sandbox."""
    seed = derived_seed(settings.seed, task.id, "adapt", sample)
    status, message, result = proposal.status, proposal.message, None
    if status is Status.OK:
        job = AdaptJob(
            task=task,
            self_edit=proposal.self_edit,
            toolbox=settings.toolbox,
            seed=seed,
            training=settings.training,
            decode=settings.decode,
            max_training_tokens=settings.max_training_tokens,
        )
        outcome = executor.run(job, lambda progress: watch.progress(sample, progress))
        status, message, result = outcome.status, outcome.message, outcome.result
    watch.finished(sample, status, message)
    reward = None if solution is None else 0
    if result is not None and solution is not None:
        reward = binary_reward(_grids(result.attempts), solution)
    return Rollout(sample, seed, proposal.completion, proposal.self_edit, status, message, result, reward)


def _grids(attempts: Sequence[Sequence[Attempt]]) -> list[list[Grid]]:
    return [[attempt.grid for attempt in query] for query in attempts]
