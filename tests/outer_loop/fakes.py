"""An executor without a model: it answers a job by the job alone, and writes down what it was asked."""

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from threading import Lock
from typing import Any, TypeVar

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Entry, Solution, Task
from arc_seal.errors import ExecutorClosed, Status
from arc_seal.inner_loop.job import (
    AdaptJob,
    Attempt,
    Candidate,
    DecodeSettings,
    Examination,
    ExamineJob,
    FinetuneJob,
    LoadJob,
    LookJob,
    Progress,
    Report,
    Result,
    ScoreJob,
    TrainingRecord,
    TrainingSettings,
    WriteJob,
)
from arc_seal.models.prompt import Completion
from arc_seal.outer_loop.author import Author, RolloutSettings, SelfEditSettings
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.sandbox.worker import Outcome
from arc_seal.self_edit.edit import ToolCall, canonical
from tests.self_edit.builders import edit, random_task

J = TypeVar("J")
S = TypeVar("S", bound=RolloutSettings)

RIGHT, WRONG = Grid.from_rows([[1, 2]]), Grid.from_rows([[0]])
"""What solves every task of this module, and what solves none."""

BOUNDS = {"epochs": {"low": 1, "high": 500}, "learning_rate": {"low": 0.001, "high": 0.05, "step": 0.001}}

SETTINGS = RolloutSettings(
    temperature=1.0,
    max_tokens=500,
    max_resamples=2,
    max_training_tokens=10**9,
    toolbox=(),
    folds=2,
    model={"name": "scripted"},
    executor={},
    ttt=TrainingSettings(),
    decode=DecodeSettings(views=2),
    self_edit=SelfEditSettings.model_validate(
        {
            "json": None,
            "policy": None,
            "example": canonical(edit(ToolCall.of("rotate", quarter_turns=1), learning_rate=0.01)),
            "candidates": (),
            "difficulty": False,
            "bounds": {"form": "default", **BOUNDS},
        }
    ),
)
SCHEMA = SETTINGS.edit_schema


def changed(settings: S, **changes: Any) -> S:
    """The settings, some of them others."""
    return type(settings).model_validate({**settings.model_dump(by_alias=True), **changes})


ROLLOUTS = changed(SETTINGS, max_resamples=0)

POLICY = Author("policy", 0)
"""The model as it is."""

TEXTS = [SCHEMA.canonical(edit(learning_rate=rate / 1000)) for rate in range(1, 51)]
"""Self-edits, no two equal."""


def entries(count: int = 2, queries: int = 1, solved: bool = True) -> list[Entry]:
    """Tasks that `RIGHT` solves, or without a solution."""
    tasks = [random_task(seed, queries=queries) for seed in range(count)]
    return [(task, Solution(task.id, (RIGHT,) * queries) if solved else None) for task in tasks]


def drawn(job: WriteJob) -> list[str]:
    """Self-edits by the job's task and seed."""
    rng = Random(f"{job.task.id} {job.sampling.seed}")
    return rng.sample(TEXTS, job.sampling.count)


def spoken(*texts: str) -> Callable[[WriteJob], Sequence[str]]:
    """The same self-edits for every task."""
    return lambda job: texts[: job.sampling.count]


def rate(job: AdaptJob | ExamineJob) -> float:
    """The learning rate of what is tried."""
    inner = job.adapt if isinstance(job, ExamineJob) else job
    return inner.self_edit.training.learning_rate if inner.self_edit else 0.0


@dataclass
class FakeExecutor:
    """Runs no model.

    Attributes:
        texts: What is written; as many texts as are asked for.
        solves: Whether an inner loop finds the answer.
        foresees: Held-out log-probability of an examination.
        grades: Log-probability of each grid that an inner loop is given to score, in nats a symbol.
        fails: How a job fails; None where it does not.
        seconds: What a job claims to have taken.
        workers: Jobs that run at the same time.
        jobs: What was asked, in the order of asking.
        limits: In how many seconds each was to be done.
        starts: How often a model was to be loaded.
        closed: Whether it was closed.
    """

    texts: Callable[[WriteJob], Sequence[str]] = drawn
    solves: Callable[[AdaptJob], bool] = lambda job: job.seed % 2 == 0
    foresees: Callable[[ExamineJob], float] = lambda job: -rate(job)
    grades: Callable[[AdaptJob], float] = lambda job: -rate(job)
    fails: Callable[[Any], Status | None] = lambda job: None
    seconds: float = 1.0
    workers: int = 1
    jobs: list[Any] = field(default_factory=list)
    limits: list[float | None] = field(default_factory=list)
    starts: int = 0
    closed: bool = False
    _lock: Lock = field(default_factory=Lock)

    def start(self) -> None:
        """Load no model."""
        self.starts += 1

    def close(self) -> None:
        """Take no more."""
        self.closed = True

    def run(self, job: Any, report: Report, timeout_s: float | None = None) -> Outcome[Any]:
        """Answer, after a moment that depends on the job, so that workers overtake one another."""
        if self.closed:
            raise ExecutorClosed
        assert pickle.loads(pickle.dumps(job)) == job  # as on its way into another process
        with self._lock:
            self.jobs.append(job)
            self.limits.append(timeout_s)
        if self.workers > 1:
            time.sleep(Random(repr(job)).random() / 200)
        report(Progress("train", 1, 1))
        status = self.fails(job)
        if status is not None:
            return Outcome(status, None, f"{status} on purpose", self.seconds)
        return Outcome(Status.OK, self._result(job), "", self.seconds)

    def of(self, kind: type[J]) -> list[J]:
        """The jobs of a kind."""
        return [job for job in self.jobs if isinstance(job, kind)]

    def _result(self, job: Any) -> Any:
        match job:
            case WriteJob():
                return tuple(Completion(text, len(text), True) for text in self.texts(job))
            case AdaptJob():
                made = result(job.task, self.solves(job), self.seconds)
                return replace(made, known=self._scored(job) if job.decode.score else ())
            case ScoreJob():
                return self._scored(job.adapt)
            case ExamineJob():
                return Examination(self.foresees(job), len(job.left_out), 50, {"train": self.seconds})
            case FinetuneJob():
                return TrainingRecord(len(job.edits), 0, 2, 100, 10, 0.0, (2.0, 1.0))
            case LoadJob():
                return None
            case LookJob():
                return len(job.task.demos)
            case _:
                raise AssertionError(f"an unknown job: {job}")

    def _scored(self, job: AdaptJob) -> tuple[Candidate, ...]:
        known = [(query, grid) for query, grids in enumerate(job.known) for grid in grids]
        symbols = 100
        return tuple(
            Candidate(query, "known", grid, self.grades(job), symbols * self.grades(job)) for query, grid in known
        )


def result(task: Task, right: bool, seconds: float) -> Result:
    """One attempt for each query."""
    answer = RIGHT if right else WRONG
    return Result(
        attempts=((Attempt(answer, 2, -0.5, 2.0),),) * len(task.queries),
        candidates=tuple(Candidate(query, "identity", answer, -0.5) for query in range(len(task.queries))),
        training=TrainingRecord(3, 0, 2, 100, 10, 0.0, (1.0, 0.5)),
        seconds={"train": seconds},
    )


@dataclass
class Notes:
    """A view that writes down what it is told."""

    notes: list[str] = field(default_factory=list)
    stages: list[tuple[str, int, int]] = field(default_factory=list)
    advances: list[tuple[int, int]] = field(default_factory=list)
    steps: list[tuple[int, str]] = field(default_factory=list)
    proposals: list[Rollout] = field(default_factory=list)
    ends: list[Rollout] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, name: str, done: int, total: int, rollouts: Sequence[Rollout] = ()) -> None:
        self.stages.append((name, done, total))

    def advance(self, *, solved: int = 0, failed: int = 0) -> None:
        self.advances.append((solved, failed))

    def progress(self, sample: int, progress: Progress) -> None:
        if (sample, progress.stage) not in self.steps:
            self.steps.append((sample, progress.stage))

    def proposed(self, rollout: Rollout) -> None:
        self.proposals.append(rollout)

    def finished(self, rollout: Rollout) -> None:
        self.ends.append(rollout)


def untimed(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Roll-outs without what differs between two runs."""
    return [
        each.model_copy(
            update={
                "finished_at": "", "writing_s": 0.0,
                "result": each.result and replace(each.result, seconds={}),
                "examination": each.examination and replace(each.examination, seconds={}),
            }
        )
        for each in rollouts
    ]  # fmt: skip
