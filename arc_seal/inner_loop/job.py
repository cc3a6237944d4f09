"""What goes into one inner loop and what comes out of it.

These types load no torch: the process that shows and records a job never needs to. A job has no field
where a solution would fit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from arc_seal.arc.grid import COLOURS, Grid
from arc_seal.arc.task import Task
from arc_seal.models.prompt import Completion, Prompt, Sampling, Turn
from arc_seal.self_edit.schema import SelfEdit

if TYPE_CHECKING:
    from arc_seal.models.prompt import Encoded, Model

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


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What the self-edit does not decide about training; documented in conf/ttt/."""

    targets: Literal["all", "last"] = "all"
    method: Literal["lora", "full"] = "lora"
    lora_modules: str = "all-linear"
    lora_alpha: float | None = None
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    max_tokens: int = 4096
    token_budget: int | None = None


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How outputs are predicted; documented in conf/decode/."""

    views: int = 8
    batch_views: int = 8
    score: bool = False


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How an adapter is fine-tuned on text; documented in conf/restem/.

    The defaults are those of the paper's policy (arXiv 2506.10943, few-shot part).
    """

    lora_rank: int = 16
    lora_alpha: float = 16.0
    learning_rate: float = 5e-5
    epochs: int = 8
    presentations: int = 1
    targets: Literal["text", "choices"] = "text"
    batch_size: int = 5
    warmup_share: float = 0.0
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0


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
class AdaptJob:
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
    training: TrainingSettings = TrainingSettings()
    decode: DecodeSettings = DecodeSettings()
    max_training_tokens: int = 1_000_000
    adapt_from: str | None = None

    def run(self, model: "Model", report: Report) -> Result:
        """Carry the job out on a loaded model.

        Raises:
            JobFailure: When the job comes to nothing for a reason that is to be recorded.
        """
        from arc_seal.inner_loop.adapt import adapt  # the first use of torch on this path

        return adapt(self, model, report)


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
class ExamineJob:
    """Leave demonstrations out one at a time, adapt to the rest, and see how well the left-out output is foreseen.

    Attributes:
        adapt: What is to be examined; its queries are not looked at.
        left_out: Indices of the demonstrations to leave out, each in its turn.
    """

    adapt: AdaptJob
    left_out: tuple[int, ...]

    def run(self, model: "Model", report: Report) -> Examination:
        """Carry the job out on a loaded model.

        Raises:
            JobFailure: When the job comes to nothing for a reason that is to be recorded.
        """
        from arc_seal.inner_loop.adapt import examine  # the first use of torch on this path

        return examine(self, model, report)


# What a policy is taught: self-edits that worked, each with its task in more than one picture.


@dataclass(frozen=True, slots=True)
class Lesson:
    """A self-edit worth imitating on a task.

    Attributes:
        task: The task; its queries are not shown.
        self_edit: The self-edit's canonical text.
    """

    task: Task
    self_edit: str


def presentations(lessons: Sequence[Lesson], count: int, seed: int) -> Iterator[Lesson]:
    """Each lesson as it is, then `count` - 1 times with its task presented differently.

    Args:
        lessons: What is to be imitated.
        count: How often each comes, at least once.
        seed: Draws the presentations.
    """
    rng = Random(f"{seed} presentations")
    for lesson in lessons:
        yield lesson
        for _ in range(count - 1):
            yield replace(lesson, task=presented(lesson.task, rng))


def presented(task: Task, rng: Random) -> Task:
    """The task in other colours, with its demonstrations in another order.

    Colour 0 stays what it is, as tools may keep it, and nothing is turned, as tools may have a direction: what a
    self-edit does for one picture it does for the other, so the policy learns from the rule and not from the picture.
    """
    drawn = rng.sample(range(1, COLOURS), COLOURS - 1)
    colours = np.array([0, *drawn], dtype=np.uint8)
    shown = task.map_grids(lambda grid: grid.mapped(lambda cells: colours[cells]))
    return shown.with_demos(tuple(rng.sample(shown.demos, len(shown.demos))))


# The policy: a model reads a task's demonstrations and writes self-edits.

MAX_PROMPT_TOKENS = 4096
"""Demonstrations are left out of the policy's prompt beyond this; the first always stays."""


@dataclass(frozen=True)
class WriteJob:
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

    def run(self, model: "Model", report: Report) -> tuple[Completion, ...]:
        """Write on a loaded model.

        Raises:
            InputError: When the policy's folder holds no adapter for this model.
        """
        prompt = _fitting(self.task, self.menu, self.example, model)
        with _wearing(self.policy, model):
            return model.write(
                prompt,
                self.schema,
                self.sampling,
                lambda tokens: report(Progress("write", tokens, self.sampling.max_tokens)),
            )


@dataclass(frozen=True)
class FinetuneJob:
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

    def run(self, model: "Model", report: Report) -> TrainingRecord:
        """Fine-tune on a loaded model, which is left as it was.

        Raises:
            Diverged: As soon as a loss is not finite.
        """
        from arc_seal.inner_loop.policy import finetune  # the first use of torch on this path

        shown = presentations(self.lessons, self.settings.presentations, self.seed)
        examples = [self._example(lesson, model) for lesson in shown]
        return finetune(examples, self.settings, self.seed, Path(self.folder), model, report)

    def _example(self, lesson: Lesson, model: "Model") -> "Encoded":
        asked = _fitting(lesson.task, self.menu, self.example, model)
        encoded = model.codec.encode(Prompt((*asked.turns, Turn("assistant", (lesson.self_edit,), target=True))))
        return model.bound(encoded, self.schema) if self.settings.targets == "choices" else encoded


def self_edit_prompt(task: Task, menu: str, example: str) -> Prompt:
    """What the policy is asked: the demonstrations, the menu, the form.

    Queries are not shown: a self-edit is about how to learn from the demonstrations.
    """
    content: list[str | Grid] = ["Solved examples of a grid puzzle:\n"]
    for number, demo in enumerate(task.demos, start=1):
        content += [f"input {number}\n", demo.input, f"\noutput {number}\n", demo.output, "\n"]
    content.append(
        "\nYou will be trained on copies of these examples that tools have changed, then solve a new input. "
        "Choose the tools that keep the puzzle's rule intact, and how to train.\n"
        f"{menu}\nAnswer with one JSON object, such as\n{example}"
    )
    return Prompt((Turn("user", tuple(content)),))


def _wearing(policy: str | None, model: "Model") -> AbstractContextManager[None]:
    if policy is None:
        return nullcontext()
    from arc_seal.inner_loop.lora import worn  # the first use of torch on this path

    return worn(model, Path(policy))


def _fitting(task: Task, menu: str, example: str, model: "Model") -> Prompt:
    """The prompt with as many of the first demonstrations as fit."""
    shown = len(task.demos)
    while True:
        prompt = self_edit_prompt(task.with_demos(task.demos[:shown]), menu, example)
        if shown == 1 or len(model.codec.encode(prompt).ids) <= MAX_PROMPT_TOKENS:
            return prompt
        shown -= 1
