r"""How fast a policy should learn: fine-tune on the rewarded self-edits of some tasks, read those of the others.

    python benchmarks/imitation_rates.py runs/restem/seal_arc-seed0/ledger.sqlite OUT.jsonl experiment=seal_arc \
        --rates 0.001,0.002,0.005

The training tasks of a run are cut into folds. For each setting and fold the M-step is done on the rewarded self-edits
of the other folds; then the fold's own self-edits, rewarded and not, are read under the policy. What counts is the mean
log-probability of rewarded self-edits on tasks that the policy was not trained on, and by how much it exceeds that of
the others: `solved` is the share of the fold's roll-outs that would be rewarded were they drawn from the policy, each
weighed by how much likelier it has become (self-normalised importance sampling within a task, tempered as the drawing
was), `auc` how often a rewarded self-edit has gained more than another one of its task. Nothing that is held out of the
run is looked at. A finished setting is a line of OUT.jsonl, not run again.
"""

import argparse
import itertools
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch.nn.functional import log_softmax, softmax

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Task
from arc_seal.config import Composed, TrainConfig, launch, read_config, restem_settings, rollout_settings
from arc_seal.errors import Status
from arc_seal.inner_loop.job import FinetuneJob, FinetuneSettings, Lesson
from arc_seal.inner_loop.lora import worn
from arc_seal.inner_loop.policy import self_edit_prompt
from arc_seal.models.model import collate, load, logits_of, states_before_targets
from arc_seal.models.prompt import Model, Prompt, Turn
from arc_seal.models.weights import GridSource
from arc_seal.outer_loop.ledger import Ledger, RolloutRow
from arc_seal.outer_loop.restem import chosen
from arc_seal.outer_loop.rollout import RolloutSettings
from arc_seal.outer_loop.statistics import auc_within_tasks


def main() -> None:
    """Fill in the settings that are missing, then print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ledger", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="what the run was given, such as experiment=seal_arc")
    parser.add_argument("--rates", default="0.0005,0.001,0.002,0.005", help="learning rates, commas between")
    parser.add_argument("--epochs", default="8")
    parser.add_argument("--ranks", default="16")
    parser.add_argument("--presentations", default="1", help="how often each comes in an epoch, in other pictures")
    parser.add_argument("--targets", default="text,choices", help="what carries loss")
    parser.add_argument("--per-task", type=int, default=None, help="most rewarded self-edits of a task")
    parser.add_argument("--folds", type=int, default=4)
    arguments = parser.parse_args()
    config = configuration(arguments.settings)
    settings, how = rollout_settings(config, 0, "policy"), restem_settings(config.restem)
    with Ledger.read_only(arguments.ledger) as ledger:
        rows = ledger.rollouts("train", 0)
    tasks = {task.id: task for task, _ in load_tasks(*config.data.train)}
    lessons = chosen(rows, replace(how, per_task=arguments.per_task), 0)
    others = [row for row in rows if row.status is Status.OK and row.self_edit is not None and row.reward == 0]
    folds = cut(sorted({row.task for row in lessons}), arguments.folds)
    model = load(GridSource("grid", "package:arc_seal/weights/grid"))
    done = read(arguments.out)
    grid = itertools.product(*(map(kind, text.split(",")) for kind, text in (
        (str, arguments.targets), (float, arguments.rates), (int, arguments.epochs), (int, arguments.ranks),
        (int, arguments.presentations),
    )))  # fmt: skip
    for targets, rate, epochs, rank, shown in grid:
        wanted = {
            "targets": targets, "rate": rate, "epochs": epochs, "rank": rank, "presentations": shown,
            "per_task": arguments.per_task, "folds": len(folds),
        }  # fmt: skip
        if not any(wanted.items() <= line.items() for line in done):
            finetune = replace(
                how.finetune,
                targets=targets,
                learning_rate=rate,
                epochs=epochs,
                presentations=shown,
                lora_rank=rank,
                lora_alpha=float(rank),
            )
            found = measure(model, folds, lessons, others, tasks, settings, finetune)
            line = {**wanted, **found, "lessons": len(lessons), "tasks": sum(map(len, folds))}
            with arguments.out.open("a", encoding="utf-8") as file:
                print(json.dumps(line), file=file)
            print(json.dumps(line), flush=True)


def configuration(given: Sequence[str]) -> TrainConfig:
    """That of the run."""
    found: list[TrainConfig] = []

    def keep(composed: Composed) -> None:
        found.append(read_config(composed.values, TrainConfig))

    launch("train", [*given, f"hydra.run.dir={tempfile.gettempdir()}/imitation_rates"], keep)
    return found[0]


def cut(names: Sequence[str], folds: int) -> list[list[str]]:
    """Tasks in so many parts, by chance."""
    shuffled = random.Random(0).sample(names, len(names))
    return [shuffled[first::folds] for first in range(folds)]


def measure(
    model: Model,
    folds: Sequence[Sequence[str]],
    lessons: Sequence[RolloutRow],
    others: Sequence[RolloutRow],
    tasks: dict[str, Task],
    settings: RolloutSettings,
    finetune: FinetuneSettings,
) -> dict[str, float]:
    """What fine-tuning on the other folds' rewarded self-edits does to a fold's; log-probabilities in nats."""
    told: list[Reading] = []
    first, last = [], []
    for fold in folds:
        own = [row for row in (*lessons, *others) if row.task in fold]
        before = [reading(model, row, tasks, settings) for row in own]
        with tempfile.TemporaryDirectory() as folder:
            job = FinetuneJob(
                lessons=tuple(Lesson(tasks[row.task], str(row.self_edit)) for row in lessons if row.task not in fold),
                menu=settings.schema.menu(),
                example=settings.example,
                schema=settings.schema.json_schema(),
                settings=finetune,
                seed=0,
                folder=f"{folder}/policy",
            )
            losses = job.run(model, lambda _: None).losses
            first.append(losses[0])
            last.append(losses[-1])
            with worn(model, Path(job.folder)):
                after = [reading(model, row, tasks, settings) for row in own]
        told += [Reading(row.task, row.reward == 1, *each) for row, *each in zip(own, before, after, strict=True)]
    return summary(told, settings.temperature) | {"first_loss": fmean(first), "last_loss": fmean(last)}


class Reading(NamedTuple):
    """A self-edit of a task that the policy was not fine-tuned on: its log-probabilities in nats."""

    task: str
    rewarded: bool
    before: float
    after: float


def summary(told: Sequence[Reading], temperature: float) -> dict[str, float]:
    """Means over self-edits, and what the policy would have solved, as a mean over tasks."""
    rewarded, others = [each for each in told if each.rewarded], [each for each in told if not each.rewarded]
    scores: dict[str, list[float]] = {}
    labels: dict[str, list[bool]] = {}
    for each in told:
        scores.setdefault(each.task, []).append(each.after - each.before)
        labels.setdefault(each.task, []).append(each.rewarded)
    within = auc_within_tasks(scores, labels)
    return {
        "rewarded_before": fmean(each.before for each in rewarded),
        "rewarded": fmean(each.after for each in rewarded),
        "others_before": fmean(each.before for each in others),
        "others": fmean(each.after for each in others),
        "solved_before": fmean(fmean(marks) for marks in labels.values()),
        "solved": fmean(weighed(scores[task], labels[task], temperature) for task in labels),
        "auc": float("nan") if within is None else within.mean,
    }


def weighed(gains: Sequence[float], rewarded: Sequence[bool], temperature: float) -> float:
    """The share that is rewarded, each weighed by how much likelier it has become."""
    weights = softmax(torch.tensor(gains) / temperature, 0)  # [self-edits]
    return float(weights @ torch.tensor(rewarded, dtype=weights.dtype))


@torch.inference_mode()
def reading(model: Model, row: RolloutRow, tasks: dict[str, Task], settings: RolloutSettings) -> float:
    """Log-probability of a whole self-edit in nats, under the grammar that it was written under."""
    asked = self_edit_prompt(tasks[row.task], settings.schema.menu(), settings.example)
    prompt = Prompt((*asked.turns, Turn("assistant", (str(row.self_edit),), target=True)))
    batch = collate([model.bound(model.codec.encode(prompt), settings.schema.json_schema())])
    logits = logits_of(model.network, states_before_targets(model.network, batch), None)  # [targets, vocab]
    return float(log_softmax(batch.limited(logits), -1).gather(1, batch.labels[:, None]).sum())


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a file, none where there is no file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
