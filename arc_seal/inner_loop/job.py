"""What goes into one inner loop, what comes out of it, and how the results of several views or runs are pooled.

Nothing here loads torch: the process that shows and records a job never needs to. A job has no field where a solution
would fit.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import numpy as np
from pydantic import Field

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import MAX_ATTEMPTS, Task
from arc_seal.models.prompt import Completion, Sampling
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.settings import Settings

if TYPE_CHECKING:
    from arc_seal.models.model import Model

R = TypeVar("R")

Precision = Literal["auto", "float32"]
"""What products are made in while training: bfloat16 where a CPU is faster at it, or float32 everywhere."""

Stage = Literal["load", "write", "train", "predict", "examine", "finetune"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is in one of its stages."""

    stage: Stage
    step: int  # updates when training, tokens when writing or predicting, demonstrations when examining
    total: int  # steps there will be at most; 0 where that is not known
    loss: float | None = None  # mean of the last update in nats a target token; None outside training
    tokens_per_s: float | None = None  # read or written so far in this stage


Report = Callable[[Progress], None]
"""Where a job says how far it is."""


class TrainingSettings(Settings):
    """What the self-edit does not decide about training; described in conf/ttt/default.yaml."""

    targets: Literal["all", "last"] = "all"
    method: Literal["lora", "full"] = "lora"
    lora_modules: str = Field(default="all-linear", min_length=1)
    lora_layers: int | None = Field(default=None, ge=1)
    lora_alpha: float | None = Field(default=None, gt=0)
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=4096, ge=1)
    token_budget: int | None = Field(default=None, ge=1)
    precision: Precision = "auto"


class DecodeSettings(Settings):
    """How outputs are predicted; described in conf/decode/default.yaml."""

    views: int = Field(default=8, ge=1)
    score: bool = False


class FinetuneSettings(Settings):
    """How a policy is fine-tuned, by default as in arXiv 2506.10943, few-shot part; see conf/restem/default.yaml."""

    lora_rank: int = Field(default=16, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)
    epochs: int = Field(default=8, ge=1)
    variants: int = Field(default=1, ge=1)
    targets: Literal["text", "choices"] = "text"
    batch_size: int = Field(default=5, ge=1)
    warmup_share: float = Field(default=0.0, ge=0, le=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    timeout_s: float = Field(default=14400.0, gt=0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one view predicted for one query."""

    query: int  # its index
    view: str  # what the view did, for people
    grid: Grid | None  # turned back into the task's own frame; None when it was no grid
    log_probability: float  # mean over its tokens, in nats
    score: float | None = None  # mean over all views of the grid's log-probability, in nats; None: no grid, or unasked


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the (at most two) answers for a query."""

    grid: Grid
    votes: int  # views that agreed on it
    log_probability: float  # mean over those views of their mean log-probability, in nats a token
    log_weight: float  # ranks answers: log of the sum of its votes' weights, each 1 or the exponential of its score
    confidence: float | None = None  # how probable it is to be right, 0 to 1; None where nothing tells (confidence.py)


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What training did."""

    examples: int  # contexts in the training set
    skipped: int  # contexts that a tool could not make, that were too long, or that the budget had no room for
    updates: int  # optimiser steps
    tokens: int  # tokens read, padding left out
    targets: int  # tokens that carried loss
    padding: float  # share of the computed tokens that was padding, 0 to 1
    losses: tuple[float, ...]  # mean of each update, nats a target token, weighted where examples are
    before: int = 0  # tokens that the adapter had read when this began

    @property
    def total(self) -> int:
        """Tokens that the adapter has read in all its trainings."""
        return self.before + self.tokens


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """An adapter as a training left it, for another to go on from; the optimiser's state is not kept."""

    weights: bytes  # as `lora.adapter_bytes` writes them
    tokens: int  # read in training so far


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one inner loop; two runs with one seed differ in `seconds` alone."""

    attempts: tuple[tuple[Attempt, ...], ...]  # for each query, at most two distinct answers, best first
    candidates: tuple[Candidate, ...]  # every view's prediction
    training: TrainingRecord | None  # None when there was none (in-context only)
    seconds: dict[str, float] = field(default_factory=dict)  # wall time by stage
    known: tuple[Candidate, ...] = ()  # the job's known grids with their scores here; they have no vote
    # What it was trained to, where the job was to keep it; never recorded.
    adapter: Annotated[TrainedAdapter | None, Field(exclude=True)] = None


@dataclass(frozen=True, slots=True)
class Examination:
    """What the demonstrations themselves say of a self-edit."""

    log_probability: float  # of a left-out output, in nats a symbol: mean over all views and left-out demonstrations
    folds: int  # demonstrations left out, one at a time
    tokens: int  # tokens read in training
    seconds: dict[str, float] = field(default_factory=dict)  # wall time by stage, all folds together


class Job(Generic[R]):
    """Work for a loaded model; picklable. `sandbox.worker.carry_out` knows who does which job."""

    __slots__ = ()

    def run(self, model: "Model", report: Report) -> R:
        """Do the work, for jobs that `carry_out` does not know."""
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True, slots=True)
class LoadJob(Job[None]):
    """Nothing, once the model is loaded."""

    def run(self, model: "Model", report: Report) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class AdaptJob(Job[Result]):
    """Adapt to one task under one self-edit and predict its queries."""

    task: Task  # without test outputs
    self_edit: SelfEdit | None  # what to train on and how; None predicts in context only
    toolbox: tuple[str, ...]  # folders whose tools the self-edit may call
    seed: int  # fixes training set, adapter, order and views
    training: TrainingSettings = field(default_factory=TrainingSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    max_training_tokens: int = 1_000_000  # more is refused as over budget before training starts
    adapt_from: str | None = None  # folder of an adapter that the model has to begin with; None: as the model is
    # For each query the grids that earlier roll-outs found, to be scored here too where `decode.score` asks for scores.
    known: tuple[tuple[Grid, ...], ...] = ()
    begin: TrainedAdapter | None = None  # an adapter of this self-edit's rank to train on; None: a fresh one
    keep: bool = False  # whether the result has the adapter


@dataclass(frozen=True, slots=True)
class ExamineJob(Job[Examination]):
    """Leave demonstrations out one at a time, adapt to the rest, and see how likely the left-out output is then."""

    adapt: AdaptJob  # the inner loop to be examined, its seed included; its queries are not looked at
    left_out: tuple[int, ...]  # indices of the demonstrations to leave out, each in its turn


@dataclass(frozen=True, slots=True)
class ScoreJob(Job[tuple[Candidate, ...]]):
    """Score grids under the adapter that an inner loop has kept, in the views that it predicted in."""

    adapt: AdaptJob  # the inner loop; `begin` is the adapter that it kept, and `known` are the grids


@dataclass(frozen=True, slots=True)
class LookJob(Job[int]):
    """How hard a task looks to the model before any training, from 0 to 9; see `policy.difficulty`."""

    task: Task  # its demonstrations alone are looked at


@dataclass(frozen=True, slots=True)
class WriteJob(Job[tuple[Completion, ...]]):
    """Write self-edits for one task."""

    task: Task  # the policy is shown its demonstrations alone
    menu: str  # what may be written, for the prompt
    example: str  # a self-edit in its canonical form, which shows the model what one looks like
    schema: dict[str, Any]  # JSON schema that every completion is held to
    sampling: Sampling  # how many to write, and how
    policy: str | None = None  # where the adapter to write with is; None: with the model as it is
    difficulty: bool = False  # whether the prompt says how hard the task looks to the model before training


@dataclass(frozen=True, slots=True)
class RewardedEdit:
    """A self-edit worth imitating on a task."""

    task: Task  # its queries are not shown
    self_edit: str  # its canonical text
    weight: float = 1.0  # what its loss is multiplied by


@dataclass(frozen=True, slots=True)
class FinetuneJob(Job[TrainingRecord]):
    """Fine-tune a policy on rewarded self-edits: self-edit prompt in, self-edit out, loss on the self-edit alone."""

    edits: tuple[RewardedEdit, ...]  # at least one
    menu: str  # this, the example and the schema as the policy was asked
    example: str
    schema: dict[str, Any]
    settings: FinetuneSettings
    seed: int  # fixes the adapter's first weights, the variants and the order
    folder: str  # where the adapter is kept, in peft's format; written whole or not at all
    difficulty: bool = False  # as the policy was asked, too


def vote(candidates: Sequence[Candidate], queries: int) -> tuple[tuple[Attempt, ...], ...]:
    """The best attempts for each of a task's queries, from the candidates of any number of roll-outs.

    Each candidate votes for its grid; one without a grid has no vote. A vote weighs 1, or exp(score) where candidates
    were scored under every view: the geometric mean of the grid's probabilities, a product of experts
    (arXiv 2505.07859). Weights are kept as logarithms, as the probability of a large grid, e**-800 say, would be 0.
    """
    votes: list[list[Attempt]] = [[] for _ in range(queries)]
    for each in candidates:
        if each.grid is not None:
            log_weight = 0.0 if each.score is None else each.score
            votes[each.query].append(Attempt(each.grid, 1, each.log_probability, log_weight))
    return tuple(map(_best, votes))


def pooled(earlier: Sequence[Result], last: Sequence[Result]) -> list[Candidate]:
    """The candidates of a task's roll-outs, with the mean of the scores that their grids have in the `last` of them.

    What was trained last has read most, and scores under different adapters do not compare: an adapter is sure of its
    own mistakes. So a grid that was scored, but not by most of the last ones, has no vote, where two others were.
    """
    scores: dict[tuple[int, Grid | None], list[float]] = {}
    for result in last:
        own = {(each.query, each.grid): each.score for each in (*result.candidates, *result.known)}
        for grid, score in own.items():
            if score is not None:
                scores.setdefault(grid, []).append(score)
    compared = {grid for grid, found in scores.items() if 2 * len(found) > len(last)}
    enough = Counter(query for query, _ in compared)
    means = {grid: fmean(found) for grid, found in scores.items() if grid in compared or enough[grid[0]] < MAX_ATTEMPTS}
    made = [each for result in (*last, *earlier) for each in result.candidates]
    known = (each for each in made if each.score is None or (each.query, each.grid) in means)
    return [replace(each, score=means.get((each.query, each.grid))) for each in known]


def pool_attempts(runs: Sequence[Sequence[Sequence[Attempt]]]) -> tuple[tuple[Attempt, ...], ...]:
    """The best attempts for each query over several runs of one task, each of which has attempts for every query."""
    return tuple(_best(attempt for attempts in made for attempt in attempts) for made in zip(*runs, strict=True))


def _best(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """At most two, whatever the order of what is given; equal grids add votes and weights.

    The greatest weight comes first; among equals (rounding errors aside) the higher mean log-probability of a vote;
    among those the grid's height and cells.
    """
    by_grid: dict[Grid, list[Attempt]] = {}
    for attempt in attempts:
        by_grid.setdefault(attempt.grid, []).append(attempt)
    pooled = []
    for grid, equal in by_grid.items():
        votes = sum(each.votes for each in equal)
        mean = fsum(each.votes * each.log_probability for each in equal) / votes
        pooled.append(Attempt(grid, votes, mean, float(np.logaddexp.reduce(sorted(each.log_weight for each in equal)))))
    pooled.sort(key=lambda each: (-round(each.log_weight, 9), -each.log_probability, each.grid.height, each.grid.cells))
    return tuple(pooled[:MAX_ATTEMPTS])
