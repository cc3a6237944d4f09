"""Which code and which weights a result was made by, and when."""

import os
import platform
import random
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

from arc_seal import __version__
from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution, Task, binary_reward
from arc_seal.errors import InputError, InvalidSelfEdit, Status
from arc_seal.inner_loop.job import (
    AdaptJob,
    Attempt,
    DecodeSettings,
    Examination,
    ExamineJob,
    Progress,
    Result,
    TrainingSettings,
    WriteJob,
)
from arc_seal.models.prompt import Sampling
from arc_seal.models.weights import fingerprint
from arc_seal.sandbox.worker import Executor, Outcome
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.random_edit import draw_edit
from arc_seal.self_edit.schema import Schema

_PACKAGE = Path(__file__).resolve().parents[1]

_TIMEOUT_S = 10.0


def git_commit(package: Path = _PACKAGE) -> str | None:
    """The commit of the checkout that arc-seal runs from, with `+changes` when its tracked files differ from it.

    Args:
        package: The package's folder; a checkout has it at its top.

    Returns:
        None when arc-seal is installed, or git is missing or has nothing to say.
    """
    checkout = package.parent
    if not (checkout / ".git").exists():  # an environment's packages often lie somewhere in another project's checkout
        return None
    command = ["git", f"--git-dir={checkout / '.git'}", f"--work-tree={checkout}", "describe"]
    command += ["--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env={**clean, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def model_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings as they are recorded: with what tells its weights from others at the same place."""
    location = model.get("location")
    return {**model, "weights": fingerprint(location)} if isinstance(location, str) else dict(model)


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# Roll-outs: a self-edit is proposed, tried in the sandbox, and rewarded.

LIBRARIES = ("torch", "transformers", "peft", "numpy", "llguidance")
"""Libraries whose versions can change a result."""


@dataclass(frozen=True)
class RolloutSettings:
    """How self-edits are proposed and tried; documented in conf/solve.yaml and conf/self_edit/.

    Attributes:
        author: Who writes the self-edits: the model (`policy`), chance (`random`), the user (`hand`), or nobody
            (`none`), and the model predicts in context.
        by_hand: The user's, as JSON.
        policy: Folder of the adapter that the model writes with; None writes with the model as it is.
        adapt_from: Folder of the adapter that the inner loop begins from; None begins from the model as it is.
        folds: Demonstrations left out in an examination, at most.
    """

    model: str
    seed: int
    author: Literal["policy", "random", "hand", "none"]
    by_hand: str | None
    schema: Schema
    example: str
    temperature: float
    max_tokens: int
    max_resamples: int
    training: TrainingSettings
    decode: DecodeSettings
    toolbox: tuple[str, ...]
    max_training_tokens: int
    policy: str | None = None
    adapt_from: str | None = None
    folds: int = 2


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


@dataclass(frozen=True, slots=True)
class Rollout:
    """One self-edit and what came of it.

    Attributes:
        sample: Which of the task's samples it is.
        seed: Seed of its inner loop.
        completion: What the model wrote; None when the self-edit was given, drawn, or there is none.
        self_edit: The parsed self-edit; None when it was invalid or nothing is trained.
        status: How the job ended.
        message: One line on a failure, else empty.
        result: What the inner loop made; None on a failure.
        reward: 1 when every test output is right in either attempt, else 0; None without a solution.
        held_out: What an examination on the demonstrations said; None where there was none.
    """

    sample: int
    seed: int
    completion: str | None
    self_edit: SelfEdit | None
    status: Status
    message: str
    result: Result | None
    reward: int | None
    held_out: Examination | None = None


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


def propose(
    task: Task, samples: int, executor: Executor, settings: RolloutSettings, watch: Watch
) -> tuple[tuple[Proposal, ...], float]:
    """The self-edits to try on a task, and the seconds that the model took to write them.

    An invalid one is written anew up to `max_resamples` times; then that is its outcome.

    Raises:
        InputError: When a self-edit that was given by hand is invalid.
    """
    match settings.author:
        case "none":
            return (Proposal(None, None),) * samples, 0.0
        case "hand":
            made = [_by_hand(settings.by_hand or "", settings.schema)] * samples
        case "random":
            made = [_drawn(task, sample, settings) for sample in range(samples)]
        case "policy":
            return _written(task, samples, executor, settings, watch)
    for sample, edit in enumerate(made if settings.author == "random" else made[:1]):
        watch.proposed(sample, settings.schema.canonical(edit), edit)
    return tuple(Proposal(None, edit) for edit in made), 0.0


def roll_out(
    sample: int,
    proposal: Proposal,
    task: Task,
    solution: Solution | None,
    executor: Executor,
    settings: RolloutSettings,
    watch: Watch,
) -> Rollout:
    """Try one self-edit in the sandbox; the solution is only compared with finished attempts."""
    seed = derived_seed(settings.seed, task.id, "adapt", sample)
    status, message, result = proposal.status, proposal.message, None
    if status is Status.OK:
        job = adapt_job(task, proposal.self_edit, seed, settings)
        outcome = executor.run(job, lambda progress: watch.progress(sample, progress))
        status, message, result = outcome.status, outcome.message, outcome.result
    watch.finished(sample, status, message)
    reward = None if solution is None else 0
    if result is not None and solution is not None:
        reward = binary_reward(grids(result.attempts), solution)
    return Rollout(sample, seed, proposal.completion, proposal.self_edit, status, message, result, reward)


def examine(
    sample: int, proposal: Proposal, task: Task, executor: Executor, settings: RolloutSettings, watch: Watch
) -> Outcome[Examination]:
    """Ask the demonstrations themselves how good a self-edit is.

    All self-edits of one task are asked the same: which demonstrations are left out does not depend on the sample.
    """
    if proposal.status is not Status.OK:
        return Outcome(proposal.status, None, proposal.message, 0.0)
    rng = random.Random(derived_seed(settings.seed, task.id, "leave out"))
    left_out = rng.sample(range(len(task.demos)), min(settings.folds, len(task.demos)))
    seed = derived_seed(settings.seed, task.id, "examine", sample)
    job = ExamineJob(adapt_job(task, proposal.self_edit, seed, settings), tuple(left_out))
    return executor.run(job, lambda progress: watch.progress(sample, progress))


def adapt_job(task: Task, self_edit: SelfEdit | None, seed: int, settings: RolloutSettings) -> AdaptJob:
    """The inner loop of one self-edit."""
    return AdaptJob(
        task=task,
        self_edit=self_edit,
        toolbox=settings.toolbox,
        seed=seed,
        training=settings.training,
        decode=settings.decode,
        max_training_tokens=settings.max_training_tokens,
        adapt_from=settings.adapt_from,
    )


def derived_seed(seed: int, *path: object) -> int:
    """A seed for one part of a run, 0 to 2**31 - 1: parts do not share their draws."""
    return random.Random(" ".join(map(str, (seed, *path)))).getrandbits(31)


def grids(attempts: Sequence[Sequence[Attempt]]) -> list[list[Grid]]:
    """The answers alone, for each query."""
    return [[attempt.grid for attempt in query] for query in attempts]


def versions() -> dict[str, str]:
    """Versions of arc-seal, Python and the libraries that can change a result."""
    found = {"arc-seal": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _by_hand(text: str, schema: Schema) -> SelfEdit:
    try:
        return schema.parse(text)
    except InvalidSelfEdit as error:
        raise InputError("self_edit.json", "", "a valid self-edit", str(error)) from None


def _drawn(task: Task, sample: int, settings: RolloutSettings) -> SelfEdit:
    return draw_edit(settings.schema, random.Random(derived_seed(settings.seed, task.id, "draw", sample)))


def _written(
    task: Task, samples: int, executor: Executor, settings: RolloutSettings, watch: Watch
) -> tuple[tuple[Proposal, ...], float]:
    """Have the model write, and those that are not valid anew."""
    proposals, seconds = _write(range(samples), 0, task, executor, settings, watch)
    for attempt in range(1, settings.max_resamples + 1):
        invalid = [sample for sample, each in proposals.items() if each.status is Status.INVALID_SELF_EDIT]
        if invalid:
            again, spent = _write(invalid, attempt, task, executor, settings, watch)
            proposals, seconds = proposals | again, seconds + spent
    for sample, proposal in sorted(proposals.items()):
        watch.proposed(sample, proposal.completion or "", proposal.self_edit)
    return tuple(proposals[sample] for sample in range(samples)), seconds


def _write(
    samples: Sequence[int], attempt: int, task: Task, executor: Executor, settings: RolloutSettings, watch: Watch
) -> tuple[dict[int, Proposal], float]:
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
        policy=settings.policy,
    )
    outcome = executor.run(job, lambda progress: watch.progress(samples[0], progress))
    if outcome.result is None:
        return dict.fromkeys(samples, Proposal(None, None, outcome.status, outcome.message)), outcome.seconds
    written = zip(samples, outcome.result, strict=True)
    found = {sample: _parsed(each.text, each.finished, settings.schema) for sample, each in written}
    return found, outcome.seconds


def _parsed(text: str, finished: bool, schema: Schema) -> Proposal:
    if not finished:
        return Proposal(text, None, Status.INVALID_SELF_EDIT, "the self-edit was cut off at max_tokens")
    try:
        return Proposal(text, schema.parse(text))
    except InvalidSelfEdit as error:
        return Proposal(text, None, error.status, str(error))
