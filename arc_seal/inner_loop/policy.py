"""The policy: a model reads a task's demonstrations and writes self-edits, and is fine-tuned on those that worked."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean

import numpy as np
import torch
from peft import PeftModel
from safetensors import SafetensorError

from arc_seal.arc.grid import COLOURS, SYMMETRIES, Grid, apply
from arc_seal.arc.task import Task
from arc_seal.errors import InputError, one_line
from arc_seal.inner_loop.adapt import fitting_query_prompt
from arc_seal.inner_loop.job import FinetuneJob, Progress, Report, RewardedEdit, TrainingRecord, WriteJob
from arc_seal.inner_loop.lora import with_adapter, with_fresh_adapter
from arc_seal.inner_loop.predict import score
from arc_seal.inner_loop.train import train
from arc_seal.models.generate import CachedContext
from arc_seal.models.model import Model
from arc_seal.models.prompt import Completion, Encoded, Prompt, Turn
from arc_seal.models.weights import local_path

MAX_PROMPT_TOKENS = 4096
"""Demonstrations are left out of the policy's prompt beyond this; the first always stays."""

HARDEST, GREY = 9, 5
"""How hard a task can look, and the colour of so many cells."""

LOOKS, MOST_LEFT_OUT = 2, 6
"""In how many symmetries a demonstration's output is looked at, and how many demonstrations are, the first ones."""


def write(job: WriteJob, model: Model, report: Report) -> tuple[Completion, ...]:
    """Write self-edits for one task; InputError where the policy's folder holds no adapter for this model."""
    level = difficulty(job.task, model) if job.difficulty else None
    prompt = _fitting_prompt(job, job.task, level, model)
    with nullcontext() if job.policy is None else with_adapter(model, local_path(job.policy)):
        total = job.sampling.max_tokens
        written = model.write(prompt, job.schema, job.sampling, lambda done: report(Progress("write", done, total)))
    return tuple(replace(each, difficulty=level) for each in written)


def finetune(job: FinetuneJob, model: Model, report: Report) -> TrainingRecord:
    """Train a fresh adapter on rewarded self-edits and keep it: the M-step of ReST-EM. The model is left as it was.

    The softmax runs over the whole vocabulary, or what the schema allows of it; each self-edit's loss is multiplied by
    its weight. Diverged as soon as a loss is not finite; InputError where the folder cannot be written.
    """

    def report_finetuning(progress: Progress) -> None:
        report(replace(progress, stage="finetune"))

    settings, examples = job.settings, list[Encoded]()
    tasks = {edit.task.id: edit.task for edit in job.edits}
    levels = {name: difficulty(task, model) if job.difficulty else None for name, task in tasks.items()}
    for edit in task_variants(job.edits, settings.variants, job.seed):
        answer = Turn("assistant", (edit.self_edit,), target=True)
        prompt = _fitting_prompt(job, edit.task, levels[edit.task.id], model)
        encoded = model.codec.encode(Prompt((*prompt.turns, answer)))
        encoded = replace(encoded, weight=edit.weight)
        examples.append(model.bound(encoded, job.schema) if settings.targets == "choices" else encoded)
    with with_fresh_adapter(model, settings.lora_rank, settings.lora_alpha, job.seed) as adapter:
        record = train(
            model, examples, settings, settings, job.seed, report_finetuning, symbols="vocabulary", precision="auto"
        )
        _keep(adapter, Path(job.folder))
    return record


def task_variants(edits: Sequence[RewardedEdit], count: int, seed: int) -> Iterator[RewardedEdit]:
    """Each self-edit with its task as it is, then `count` - 1 times with a variant of the task; `seed` draws them."""
    rng = Random(f"{seed} presentations")  # another word would be another seed
    for edit in edits:
        yield edit
        for _ in range(count - 1):
            yield replace(edit, task=task_variant(edit.task, rng))


def task_variant(task: Task, rng: Random) -> Task:
    """The task in other colours, with its demonstrations in another order.

    Colour 0 stays what it is, as tools may keep it, and nothing is turned, as tools may have a direction: what a
    self-edit does for one picture it does for the other, so the policy learns from the rule and not from the picture.
    """
    colours = np.array([0, *rng.sample(range(1, COLOURS), COLOURS - 1)], dtype=np.uint8)
    recoloured = task.map_grids(lambda grid: grid.mapped(lambda cells: colours[cells]))
    return recoloured.with_demos(tuple(rng.sample(recoloured.demos, len(recoloured.demos))))


@torch.inference_mode()
def difficulty(task: Task, model: Model) -> int:
    """How hard a task looks to the model before any training, from 0 to 9; its queries are not looked at.

    How improbable a demonstration's output is behind the others: twice the square root of the mean of its negative
    log-probability in nats, so 5 is 6 nats. Each is looked at in `LOOKS` of the eight symmetries. On arcagi1/dev it
    tells the tasks that 120,000 tokens of training solve from the others with an AUC of 0.91.
    """
    rng, found = Random("difficulty"), list[float | None]()
    for index, left_out in enumerate(task.demos[:MOST_LEFT_OUT]):
        rest = task.with_demos(task.demos[:index] + task.demos[index + 1 :] or task.demos)
        prompts, outputs = [], []
        for symmetry in rng.sample(SYMMETRIES, LOOKS):
            turned = rest.map_grids(partial(_turned, symmetry=symmetry))
            prompts.append(fitting_query_prompt(turned, _turned(left_out.input, symmetry), model, MAX_PROMPT_TOKENS))
            outputs.append(_turned(left_out.output, symmetry))
        context = CachedContext(model, prompts)
        context.read_prompts()
        found += score(context, outputs)
    nats = -fmean(each for each in found if each is not None)
    return min(HARDEST, int(2 * max(0.0, nats) ** 0.5))


def _turned(grid: Grid, symmetry: int) -> Grid:
    return Grid.from_array(apply(grid.array, symmetry))


def self_edit_prompt(task: Task, menu: str, example: str, difficulty: int | None = None) -> Prompt:
    """What the policy is asked: the demonstrations, which a self-edit is to learn from (no queries), menu and form."""
    content: list[str | Grid] = ["Solved examples of a grid puzzle:\n"]
    for number, demo in enumerate(task.demos, start=1):
        content += [f"input {number}\n", demo.input, f"\noutput {number}\n", demo.output, "\n"]
    content.append(
        "\nYou will be trained on copies of these examples that tools have changed, then solve a new input. "
        "Choose the tools that keep the puzzle's rule intact, and how to train.\n"
        f"{menu}\nAnswer with one JSON object, such as\n{example}"
    )
    if difficulty is not None:
        # As a grid, for the grid model reads no text of a user's.
        bar = Grid.from_rows([[GREY] * difficulty + [0] * (HARDEST - difficulty)])
        content += [f"\nHow hard it looks before training, {difficulty} of {HARDEST}:\n", bar]
    return Prompt((Turn("user", tuple(content)),))


def _fitting_prompt(job: WriteJob | FinetuneJob, task: Task, difficulty: int | None, model: Model) -> Prompt:
    """The prompt with as many of the first demonstrations as fit."""
    *longer, shortest = (
        self_edit_prompt(task.with_demos(task.demos[:shown]), job.menu, job.example, difficulty)
        for shown in range(len(task.demos), 0, -1)
    )
    return next((each for each in longer if len(model.codec.encode(each).ids) <= MAX_PROMPT_TOKENS), shortest)


def _keep(adapter: PeftModel, folder: Path) -> None:
    """Write the adapter beside its folder, then put it there."""
    unfinished = folder.with_name(f".{folder.name}.tmp")  # one a folder, so that a killed run's is not left behind
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        adapter.save_pretrained(str(unfinished))
        (unfinished / "README.md").unlink(missing_ok=True)  # peft's is a form to be filled in
        config = unfinished / "adapter_config.json"
        values = json.loads(config.read_text("utf-8"))
        values["target_modules"].sort()  # peft keeps a set, whose order is another in every process
        config.write_text(json.dumps(values, indent=2, sort_keys=True), "utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    except (OSError, SafetensorError) as error:
        found = getattr(error, "strerror", None) or one_line(error)
        raise InputError(str(folder), "", "a folder that can be written", found) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
