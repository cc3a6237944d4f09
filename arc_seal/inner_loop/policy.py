"""The policy: a model reads a task's demonstrations and writes self-edits, and is fine-tuned on those that worked."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from peft import PeftModel

from arc_seal.arc.grid import COLOURS, Grid
from arc_seal.arc.task import Task
from arc_seal.errors import InputError
from arc_seal.inner_loop.job import (
    FinetuneJob,
    FinetuneSettings,
    Lesson,
    Progress,
    Report,
    TrainingRecord,
    TrainingSettings,
    WriteJob,
)
from arc_seal.inner_loop.lora import attached, worn
from arc_seal.inner_loop.train import train
from arc_seal.models.prompt import Completion, Encoded, Prompt, Turn
from arc_seal.self_edit.edit import Training

if TYPE_CHECKING:
    from arc_seal.models.prompt import Model

NO_LIMIT = 2**62
"""Training tokens: fine-tuning is nothing that a self-edit asks for, so it has no budget."""


MAX_PROMPT_TOKENS = 4096
"""Demonstrations are left out of the policy's prompt beyond this; the first always stays."""


def write(job: WriteJob, model: "Model", report: Report) -> tuple[Completion, ...]:
    """Write self-edits for one task on a loaded model.

    Raises:
        InputError: When the policy's folder holds no adapter for this model.
    """
    prompt = _fitting(job.task, job.menu, job.example, model)
    with nullcontext() if job.policy is None else worn(model, Path(job.policy)):
        return model.write(
            prompt,
            job.schema,
            job.sampling,
            lambda tokens: report(Progress("write", tokens, job.sampling.max_tokens)),
        )


def finetune(job: FinetuneJob, model: "Model", report: Report) -> TrainingRecord:
    """Train a fresh adapter on lessons and keep it: the M-step of ReST-EM.

    The softmax runs over the whole vocabulary, or what an example allows of it: what is never said must become unlikely
    too.

    Args:
        job: What to learn, and where the adapter goes; it takes the place of what is there, whole or not at all.
        model: Any model; it is left as it was.
        report: Told after every update.

    Raises:
        Diverged: As soon as a loss is not finite.
        InputError: When the folder cannot be written.
    """
    settings = job.settings
    examples = [_example(job, lesson, model) for lesson in presentations(job.lessons, settings.presentations, job.seed)]
    with attached(model, settings.lora_rank, settings.lora_alpha, job.seed) as adapter:
        record = train(
            model,
            examples,
            _training(settings, len(examples)),
            TrainingSettings(warmup_share=settings.warmup_share, max_gradient_norm=settings.max_gradient_norm),
            skipped=0,
            max_tokens=NO_LIMIT,
            seed=job.seed,
            report=lambda progress: report(replace(progress, stage="finetune")),
            symbols="vocabulary",
        )
        _keep(adapter, Path(job.folder))
    return record


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


def _example(job: FinetuneJob, lesson: Lesson, model: "Model") -> Encoded:
    """A lesson as a context: self-edit prompt in, self-edit out, loss on the self-edit alone."""
    asked = _fitting(lesson.task, job.menu, job.example, model)
    encoded = model.codec.encode(Prompt((*asked.turns, Turn("assistant", (lesson.self_edit,), target=True))))
    return model.bound(encoded, job.schema) if job.settings.targets == "choices" else encoded


def _fitting(task: Task, menu: str, example: str, model: "Model") -> Prompt:
    """The prompt with as many of the first demonstrations as fit."""
    shown = len(task.demos)
    while True:
        prompt = self_edit_prompt(task.with_demos(task.demos[:shown]), menu, example)
        if shown == 1 or len(model.codec.encode(prompt).ids) <= MAX_PROMPT_TOKENS:
            return prompt
        shown -= 1


def _training(settings: FinetuneSettings, examples: int) -> Training:
    return Training(
        loss_on="outputs",
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lora_rank=settings.lora_rank,
        max_examples=examples,
    )


def _keep(adapter: PeftModel, folder: Path) -> None:
    """Write the adapter beside its place, then put it there."""
    draft = folder.with_name(f".{folder.name}.tmp")  # one a place, so that a killed run's is not left behind
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        adapter.save_pretrained(str(draft))
        (draft / "README.md").unlink(missing_ok=True)  # peft's is a form to be filled in
        _sort_modules(draft / "adapter_config.json")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(draft, folder)
    except OSError as error:
        raise InputError(str(folder), "", "a folder that can be written", str(error.strerror or error)) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sort_modules(config: Path) -> None:
    """Put the layers' names in order: peft keeps a set, whose order is another in every process."""
    values = json.loads(config.read_text("utf-8"))
    values["target_modules"] = sorted(values["target_modules"])
    config.write_text(json.dumps(values, indent=2, sort_keys=True), "utf-8")
