"""What the configuration says to the solver and the outer loop."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from arc_seal.arc.contamination import Contamination
from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task_file import Entry
from arc_seal.config import DataConfig, RestemConfig, RolloutConfig, SolveConfig
from arc_seal.errors import InputError, InvalidSelfEdit
from arc_seal.outer_loop.restem import RestemSettings
from arc_seal.outer_loop.rollout import RolloutSettings
from arc_seal.outer_loop.selection import SelectSettings
from arc_seal.outer_loop.solver import SolveSettings
from arc_seal.self_edit.forms import make_schema
from arc_seal.self_edit.schema import Schema
from arc_seal.self_edit.toolbox import Toolbox


def solve_settings(config: SolveConfig) -> SolveSettings:
    """How to solve.

    Raises:
        InputError: On a tool or a bound of the self-edit that makes no sense, or settings that contradict one another.
    """
    by_hand = config.self_edit.written is not None
    if config.policy is not None and by_hand:
        raise InputError(
            "policy", "", "self_edit=default, for the policy to write its own", "a self-edit given by hand"
        )
    author: Literal["policy", "hand", "none"] = "none" if not config.train else "hand" if by_hand else "policy"
    return SolveSettings(
        rollouts=rollout_settings(config, config.seed, author, policy=config.policy),
        samples=config.samples,
        select=config.select,
        selection=SelectSettings(config.margin, config.deadline_s),
    )


def rollout_settings(
    config: RolloutConfig,
    seed: int,
    author: Literal["policy", "random", "hand", "none"],
    *,
    policy: str | None = None,
) -> RolloutSettings:
    """How self-edits are proposed and tried.

    Raises:
        InputError: On a tool or a bound of the self-edit that makes no sense, or one by hand that nobody would try.
    """
    if author == "policy" and config.self_edit.written is not None:
        raise InputError("self_edit.json", "", "null, for the policy writes its own", "a self-edit given by hand")
    folders = config.toolbox_folders
    schema = make_schema(config.self_edit.bounds, Toolbox.load([Path(folder) for folder in folders]))
    return RolloutSettings(
        model=str(config.model.get("name", config.model["_target_"])),
        seed=seed,
        author=author,
        by_hand=config.self_edit.written,
        schema=schema,
        example=_example(config.self_edit.example, schema),
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        max_resamples=config.max_resamples,
        training=config.ttt.settings,
        decode=config.decode.settings,
        toolbox=folders,
        max_training_tokens=config.max_training_tokens,
        policy=None if policy is None else str(Path(policy).expanduser().absolute()),
        folds=config.folds,
    )


def restem_settings(config: RestemConfig) -> RestemSettings:
    """How to train the policy."""
    return RestemSettings(
        rounds=config.rounds,
        samples=config.samples,
        reward=config.reward,
        examine=config.examine,
        margin=config.margin,
        per_task=config.per_task,
        contrast=config.contrast,
        adapt_from=config.adapt_from,
        finetune=config.finetune.settings,
    )


def entries(specs: Sequence[str], data: DataConfig) -> list[Entry]:
    """The tasks that the specs name, or as many of them as `limit` allows, in their own order.

    Raises:
        InputError: When a spec names no task, or there is none.
    """
    found = load_tasks(*specs)
    if not found:
        raise InputError("data", "", "at least one task", "none")
    if data.limit is None or data.limit >= len(found):
        return found
    chosen = random.Random(f"{data.seed} tasks").sample(range(len(found)), data.limit)
    return [found[index] for index in sorted(chosen)]


def check_apart(training: Sequence[Entry], held_out: Sequence[Entry]) -> None:
    """Check that no task, and no pair of one under any symmetry and relabelling of colours, is in both.

    Raises:
        InputError: When one is: what was rewarded by a solution would be measured on it.
    """
    known = Contamination.of({"data.train": training})
    for entry in held_out:
        task_id = entry[0].id
        shared = f"it is {known.ids[task_id]}" if task_id in known.ids else known.shared_pair(entry)
        if shared:
            raise InputError("data.held_out", task_id, "a task that data.train knows nothing of", shared)


def _example(text: str, schema: Schema) -> str:
    """The example in the form that the model is to write."""
    try:
        return schema.canonical(schema.parse(text))
    except InvalidSelfEdit as error:
        raise InputError("configuration", "self_edit.example", "a valid self-edit", str(error)) from None
