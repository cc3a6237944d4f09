"""What goes into one inner loop and what comes out of it.

These types load no torch: the process that shows and records a job never needs to. A job has no field
where a solution would fit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import Field

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.models.prompt import Completion, Sampling
from arc_seal.self_edit.schema import SelfEdit
from arc_seal.settings import Settings

if TYPE_CHECKING:
    from arc_seal.models.prompt import Model

R = TypeVar("R")

Stage = Literal["load", "write", "train", "predict", "examine", "finetune"]


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life from a running job.

    Attributes:
        stage: What is being done.
        step: Steps done in this stage: updates when training, tokens when writing or predicting.
        total: Steps there will be at most.
        loss: Mean loss of the last update in nats a target token; None outside training.
        tokens_per_s: Tokens read or written a second so far in this stage.
    """

    stage: Stage
    step: int
    total: int
    loss: float | None = None
    tokens_per_s: float | None = None


Report = Callable[[Progress], None]
"""Where a job says how far it is."""


class Job(Generic[R]):
    """Work for a loaded model; picklable. `sandbox.worker.carry_out` knows who does which job."""

    __slots__ = ()

    def run(self, model: "Model", report: Report) -> R:
        """Do the work, for jobs that `carry_out` does not know."""
        raise NotImplementedError(type(self).__name__)


class TrainingSettings(Settings):
    """What the self-edit does not decide about training; described in conf/ttt/default.yaml."""

    targets: Literal["all", "last"] = "all"
    method: Literal["lora", "full"] = "lora"
    lora_modules: str = Field(default="all-linear", min_length=1)
    lora_alpha: float | None = Field(default=None, gt=0)
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=4096, ge=1)
    token_budget: int | None = Field(default=None, ge=1)


class DecodeSettings(Settings):
    """How outputs are predicted; described in conf/decode/default.yaml."""

    views: int = Field(default=8, ge=1)
    score: bool = False


class FinetuneSettings(Settings):
    """How an adapter is fine-tuned on text; described in conf/restem/default.yaml.

    The defaults are those of the paper's policy (arXiv 2506.10943, few-shot part).
    """

    lora_rank: int = Field(default=16, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)
    epochs: int = Field(default=8, ge=1)
    presentations: int = Field(default=1, ge=1)
    targets: Literal["text", "choices"] = "text"
    batch_size: int = Field(default=5, ge=1)
    warmup_share: float = Field(default=0.0, ge=0, le=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    timeout_s: float = Field(default=14400.0, gt=0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one view predicted for one query.

    Attributes:
        query: Index of the query.
        view: What the view did, for people.
        grid: The prediction turned back into the task's own frame; None when it was no grid.
        log_probability: Mean log-probability of its tokens in nats.
        score: Mean over all views of the grid's log-probability in them, its tokens summed, in nats; None where it was
            not asked for or no grid.
    """

    query: int
    view: str
    grid: Grid | None
    log_probability: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the (at most two) answers for a query.

    Attributes:
        grid: The answer.
        votes: How many views agreed on it.
        log_probability: Mean over those views of their mean log-probability, in nats a token.
        weight: What the answers are ranked by: each vote counts 1, or the probability that its score stands for.
    """

    grid: Grid
    votes: int
    log_probability: float
    weight: float


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What training did.

    Attributes:
        examples: Contexts in the augmented data set.
        skipped: Contexts that a tool could not make, that were longer than allowed, or that the budget had no room for.
        updates: Optimiser steps.
        tokens: Tokens read, padding left out.
        targets: Tokens that carried loss.
        padding: Share of the computed tokens that was padding, 0 to 1.
        losses: Mean loss of each update, nats a target token.
    """

    examples: int
    skipped: int
    updates: int
    tokens: int
    targets: int
    padding: float
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one inner loop.

    Attributes:
        attempts: For each query, at most two distinct answers, best first.
        candidates: Every view's prediction.
        training: What training did; None when there was none (in-context only).
        seconds: Wall time by stage; the only part that differs between two runs with one seed.
    """

    attempts: tuple[tuple[Attempt, ...], ...]
    candidates: tuple[Candidate, ...]
    training: TrainingRecord | None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdaptJob(Job[Result]):
    """Adapt to one task under one self-edit and predict its queries.

    Attributes:
        task: The task; it has no test outputs.
        self_edit: What to train on and how; None predicts in context only.
        toolbox: Folders whose tools the self-edit may call.
        seed: Fixes data, adapter and order.
        training: What the self-edit does not decide.
        decode: How to predict.
        max_training_tokens: More than this is refused as over budget before training starts.
        adapt_from: Folder of an adapter that the model wears to begin with; None begins from the model as it is.
    """

    task: Task
    self_edit: SelfEdit | None
    toolbox: tuple[str, ...]
    seed: int
    training: TrainingSettings = field(default_factory=TrainingSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    max_training_tokens: int = 1_000_000
    adapt_from: str | None = None


@dataclass(frozen=True, slots=True)
class Examination:
    """What the demonstrations themselves say of a self-edit.

    Attributes:
        log_probability: Mean over the left-out demonstrations of the mean log-probability of their outputs under all
            views, in nats a symbol.
        hits: Left-out outputs that an attempt reproduced exactly.
        folds: Demonstrations left out, one at a time.
        tokens: Tokens read in training.
        seconds: Wall time by stage, all folds together.
    """

    log_probability: float
    hits: int
    folds: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExamineJob(Job[Examination]):
    """Leave demonstrations out one at a time, adapt to the rest, and see how well the left-out output is foreseen.

    Attributes:
        adapt: What is to be examined; its queries are not looked at.
        left_out: Indices of the demonstrations to leave out, each in its turn.
    """

    adapt: AdaptJob
    left_out: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WriteJob(Job[tuple[Completion, ...]]):
    """Write self-edits for one task.

    Attributes:
        task: The task; the policy is shown its demonstrations alone.
        menu: What may be written, for the prompt.
        example: A self-edit in its canonical form, which shows the model what one looks like.
        schema: JSON schema that every completion is held to.
        sampling: How many to write, and how.
        policy: Folder of the adapter to write with; None writes with the model as it is.
    """

    task: Task
    menu: str
    example: str
    schema: dict[str, Any]
    sampling: Sampling
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """A self-edit worth imitating on a task.

    Attributes:
        task: The task; its queries are not shown.
        self_edit: The self-edit's canonical text.
    """

    task: Task
    self_edit: str


@dataclass(frozen=True, slots=True)
class FinetuneJob(Job[TrainingRecord]):
    """Fine-tune a policy on lessons: self-edit prompt in, self-edit out, loss on the self-edit alone.

    Attributes:
        lessons: At least one.
        menu: What may be written, as the policy was asked.
        example: As the policy was asked.
        schema: JSON schema that the policy writes under.
        settings: How.
        seed: Fixes the adapter's first weights and the order of the lessons.
        folder: Where the adapter is kept, in peft's format; written whole or not at all.
    """

    lessons: tuple[Lesson, ...]
    menu: str
    example: str
    schema: dict[str, Any]
    settings: FinetuneSettings
    seed: int
    folder: str
