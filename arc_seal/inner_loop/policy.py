"""Supervised fine-tuning of an adapter that is kept: the M-step of ReST-EM."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel

from arc_seal.errors import InputError
from arc_seal.inner_loop.job import FinetuneSettings, Progress, Report, TrainingRecord, TrainingSettings
from arc_seal.inner_loop.lora import attached
from arc_seal.inner_loop.train import train
from arc_seal.models.prompt import Encoded
from arc_seal.self_edit.edit import Training

if TYPE_CHECKING:
    from arc_seal.models.prompt import Model

NO_LIMIT = 2**62
"""Training tokens: fine-tuning is nothing that a self-edit asks for, so it has no budget."""


def finetune(
    examples: Sequence[Encoded], settings: FinetuneSettings, seed: int, folder: Path, model: "Model", report: Report
) -> TrainingRecord:
    """Train a fresh adapter on what examples mark as target, and keep it.

    The softmax runs over the whole vocabulary, or what an example allows of it: what is never said must become unlikely
    too.

    Args:
        examples: At least one.
        settings: How.
        seed: Fixes the adapter's first weights and the order.
        folder: Where the adapter goes, in peft's format; it takes the place of what is there, whole or not at all.
        model: Any model; it is left as it was.
        report: Told after every update.

    Raises:
        Diverged: As soon as a loss is not finite.
        InputError: When the folder cannot be written.
    """
    with attached(model, settings.lora_rank, settings.lora_alpha, seed) as adapter:
        record = train(
            model,
            examples,
            _training(settings, len(examples)),
            _around(settings),
            skipped=0,
            max_tokens=NO_LIMIT,
            seed=seed,
            report=lambda progress: report(_renamed(progress)),
            symbols="vocabulary",
        )
        _keep(adapter, folder)
    return record


def _training(settings: FinetuneSettings, examples: int) -> Training:
    return Training(
        loss_on="outputs",
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lora_rank=settings.lora_rank,
        max_examples=examples,
    )


def _around(settings: FinetuneSettings) -> TrainingSettings:
    return TrainingSettings(
        warmup_share=settings.warmup_share,
        weight_decay=settings.weight_decay,
        max_gradient_norm=settings.max_gradient_norm,
    )


def _renamed(progress: Progress) -> Progress:
    return replace(progress, stage="finetune")


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
