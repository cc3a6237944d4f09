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
    Examination,
    ExamineJob,
    FinetuneJob,
    Progress,
    Report,
    Result,
    TrainingRecord,
    WriteJob,
)
from arc_seal.models.prompt import Completion
from arc_seal.outer_loop.ledger import PolicyRow, ProposalRow, RolloutRow
from arc_seal.sandbox.worker import Outcome
from tests.outer_loop.test_solver import SCHEMA, SETTINGS
from tests.self_edit.builders import edit, random_task

J = TypeVar("J")

RIGHT, WRONG = Grid.from_rows([[1, 2]]), Grid.from_rows([[0]])
"""What solves every task of this module, and what solves none."""

ROLLOUTS = replace(SETTINGS, max_resamples=0)

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
        fails: How a job fails; None where it does not.
        seconds: What a job claims to have taken.
        workers: Jobs that run at the same time.
        jobs: What was asked, in the order of asking.
        starts: How often a model was to be loaded.
        closed: Whether it was closed.
    """

    texts: Callable[[WriteJob], Sequence[str]] = drawn
    solves: Callable[[AdaptJob], bool] = lambda job: job.seed % 2 == 0
    foresees: Callable[[ExamineJob], float] = lambda job: -rate(job)
    fails: Callable[[Any], Status | None] = lambda job: None
    seconds: float = 1.0
    workers: int = 1
    jobs: list[Any] = field(default_factory=list)
    starts: int = 0
    closed: bool = False
    _lock: Lock = field(default_factory=Lock)

    def start(self) -> None:
        """Load no model."""
        self.starts += 1

    def close(self) -> None:
        """Take no more."""
        self.closed = True

    def run(self, job: Any, report: Report) -> Outcome[Any]:
        """Answer, after a moment that depends on the job, so that workers overtake one another."""
        if self.closed:
            raise ExecutorClosed
        assert pickle.loads(pickle.dumps(job)) == job  # as on its way into another process
        with self._lock:
            self.jobs.append(job)
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
                return result(job.task, self.solves(job), self.seconds)
            case ExamineJob():
                return Examination(self.foresees(job), 1, len(job.left_out), 50, {"train": self.seconds})
            case FinetuneJob():
                return TrainingRecord(len(job.lessons), 0, 2, 100, 10, 0.0, (2.0, 1.0))
            case _:
                raise AssertionError(f"an unknown job: {job}")


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
    """A watch of collecting and training that writes down what it is told."""

    titles: list[str] = field(default_factory=list)
    stages: list[tuple[str, int, int]] = field(default_factory=list)
    proposals: list[ProposalRow] = field(default_factory=list)
    rows: list[RolloutRow] = field(default_factory=list)
    rounds: list[tuple[int, int, int]] = field(default_factory=list)
    policies: list[PolicyRow | None] = field(default_factory=list)

    def title(self, text: str) -> None:
        self.titles.append(text)

    def begin(self, stage: str, done: int, total: int) -> None:
        self.stages.append((stage, done, total))

    def proposed(self, rows: Sequence[ProposalRow]) -> None:
        self.proposals += rows

    def kept(self, row: RolloutRow) -> None:
        self.rows.append(row)

    def collected(self, round: int, rows: Sequence[RolloutRow], lessons: int) -> None:
        self.rounds.append((round, len(rows), lessons))

    def finetuning(self, progress: Progress) -> None:
        pass

    def policy(self, row: PolicyRow | None) -> None:
        self.policies.append(row)


def untimed(rows: Sequence[RolloutRow]) -> list[RolloutRow]:
    """Rows without what differs between two runs."""
    return [replace(row, seconds={}, finished_at="") for row in rows]
