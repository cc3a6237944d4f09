"""The weights that a pretraining run begins with: random ones, or those of a folder, also of an earlier revision."""

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from pydantic import Field

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import never_trained, pretraining_tasks, untrained
from arc_seal.errors import InputError
from arc_seal.files import tools_dir, weights_dir
from arc_seal.models.grid_network import GridConfig, GridForCausalLM
from arc_seal.models.model import pick_device, read_network, reading
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.loop import RunSettings, Sign, pool_contexts, pretrain, task_contexts
from arc_seal.pretraining.optim import OptimizerSettings
from arc_seal.pretraining.pool import Made, Pool, Recipe, synthetic_pool
from arc_seal.pretraining.stream import Chunks, ContextSettings, is_drawable
from arc_seal.self_edit.edit import SelfEdit, Training, canonical
from arc_seal.self_edit.random_edit import RandomEdits
from arc_seal.self_edit.schema import Bounds
from arc_seal.self_edit.toolbox import Toolbox
from arc_seal.settings import Settings

SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rope_base",
)  # fmt: skip
"""What weights to begin with must have in common with the network."""


def first_weights(weights: str | None, network: GridConfig) -> GridForCausalLM:
    """The network to begin with, in float32: random weights, or those of a folder.

    Raises:
        InputError: When the folder has no weights of this network.
    """
    if weights is None:
        return GridForCausalLM(network)
    folder = weights_dir() / "grid" if weights == "shipped" else Path(weights).expanduser()
    if not folder.is_dir():
        raise InputError("configuration", "weights", "shipped, or a folder with weights of a grid model", repr(weights))
    model = read_network(weights, str(folder), torch.float32)
    if not isinstance(model, GridForCausalLM):
        raise InputError("configuration", "weights", "weights of a grid model", f"of {model.config.model_type}")
    for name in SIZES:
        found, expected = getattr(network, name), getattr(model.config, name)
        if found != expected:
            raise InputError("configuration", f"network.{name}", f"{expected}, as {folder} has it", str(found))
    if network.revision < model.config.revision:
        expected = f"{model.config.revision} or later, as {folder} has it"
        raise InputError("configuration", "network.revision", expected, str(network.revision))
    return model if network.revision == model.config.revision else brought_up(model, network)


@torch.no_grad()
def brought_up(model: GridForCausalLM, network: GridConfig) -> GridForCausalLM:
    """The same function in a later revision: what that one has more of begins where it changes nothing."""
    later = GridForCausalLM(network)
    more = later.load_state_dict(model.state_dict(), strict=False).missing_keys
    for name in more:
        if name != "model.mixing":  # it begins with what comes in alone, as an earlier revision has it
            later.get_parameter(name).zero_()
    return later


# One pretraining run, from its configuration to its weights.

MAX_SHARD = "15MB"
"""Largest part of the weights: files of more than 16 MB are a burden to git and its hosts."""

HELD_OUT_PAIRS = 4
"""Pairs of a context of a held-out generator."""

HELD_OUT_EACH = 3
"""Contexts of each held-out generator."""

CENTRE = SelfEdit(
    tools=(),
    training=Training(loss_on="outputs", learning_rate=0.002, epochs=1, batch_size=4, lora_rank=64, max_examples=256),
)
"""Half of the random hyperparameters are drawn near these, which a trial found good; the other half anywhere."""


class DataSettings(ContextSettings):
    """What is trained on; each setting is described in conf/pretrain.yaml, data."""

    pairs_per_generator: int = Field(ge=0)
    synthetic_share: float = Field(ge=0, le=1)


class PretrainConfig(Settings):
    """conf/pretrain.yaml; each setting is described there. `network` is checked by what is made of it."""

    name: str = Field(pattern=r"^[\w.-]+$")
    seed: int = Field(ge=0, lt=2**63)
    weights: str | None
    device: str
    measure_max_tokens: int = Field(ge=32)
    network: dict[str, Any]
    run: RunSettings
    data: DataSettings
    optimizer: OptimizerSettings

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a run keeps from beginning to end, by their paths."""
        kept = self.model_dump(exclude={"name", "run", "measure_max_tokens", "device"})
        return {**_paths(kept), "run.batch_tokens": self.run.batch_tokens}


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run came to.

    Attributes:
        weights: The folder of its weights.
        tokens: Tokens read, over all runs of the command.
        seconds: Time spent on training.
        parameters: Number of weights.
    """

    weights: Path
    tokens: int
    seconds: float
    parameters: int


class SelfEditWriter:
    """Writes random valid self-edits for the stream; each worker process builds its own generator of them."""

    def __init__(self) -> None:
        self._edits: RandomEdits | None = None

    def __call__(self, rng: np.random.Generator) -> str:
        """The canonical text of one."""
        if self._edits is None:
            self._edits = RandomEdits(Toolbox.load([tools_dir()]), Bounds(), prior=CENTRE)
        return canonical(self._edits.draw(Random(int(rng.integers(2**63)))))


def run(
    config: PretrainConfig,
    network: GridConfig,
    folder: Path,
    watch: Callable[[Sign], None],
    on_generator: Callable[[Made], None],
) -> Finished:
    """Carry a run out, from the start or from where it was stopped.

    Args:
        config: Its settings.
        network: Sizes of the network.
        folder: Where it is kept.
        watch: Told after every update.
        on_generator: Told of every generator whose pairs are being made, the first time.

    Raises:
        InputError: When the settings do not fit the folder, the machine or the data.
    """
    torch.manual_seed(config.seed)
    model = torch.nn.Module.to(first_weights(config.weights, network), pick_device(config.device))
    pools = training_pools(config, on_generator)
    chunks = Chunks(pools, config.data, config.run.batch_tokens, config.seed, SelfEditWriter())
    dev = load_tasks("arcagi1/dev")
    held_out = {
        "dev": task_contexts(dev, config.measure_max_tokens),
        "dev generators": pool_contexts(
            _synthetic(config, {task.id for task, _ in dev}, on_generator),
            HELD_OUT_PAIRS,
            HELD_OUT_EACH,
            config.data.max_tokens,
            config.seed,
        ),
    }

    def keep(sign: Sign) -> None:
        if sign.scores:
            export(model, folder / "weights")
        watch(sign)

    model.train()
    clock = pretrain(
        model,
        chunks,
        config.run,
        config.optimizer,
        {name: contexts for name, contexts in held_out.items() if contexts},
        folder,
        config.identity,
        keep,
    )
    export(model, folder / "weights")
    return Finished(folder / "weights", clock.tokens, clock.seconds, model.num_parameters())


def training_pools(config: PretrainConfig, on_generator: Callable[[Made], None]) -> list[tuple[Pool, float]]:
    """Everything that is trained on, with its share of the stream; `arc/splits.py` says what that may be.

    Raises:
        InputError: When no context can be drawn from some part of it.
    """
    pools = [(Pool.from_entries(pretraining_tasks()), 1 - config.data.synthetic_share)]
    if config.data.synthetic_share:
        allowed = {task_id for task_id in re_arc.task_ids() if task_id not in never_trained()}
        pools.append((unseen(_synthetic(config, allowed, on_generator)), config.data.synthetic_share))
    pools = [(pool, share) for pool, share in pools if share]
    if not all(is_drawable(pool, config.data) for pool, _ in pools):
        expected = "settings that let a context be drawn, such as data.max_tokens=900"
        raise InputError("configuration", "data", expected, "no task with enough pairs that are short enough")
    return pools


def unseen(pool: Pool) -> Pool:
    """The pool without pairs that share one, or a grid, with what must stay unseen: generators can hit on those too."""
    judge = untrained()
    keep = [judge.reason_of_pair(pair) is None for task_id in pool.task_ids for pair in pool.pairs(task_id)]
    return pool.where(np.array(keep, np.bool_))


def export(network: GridForCausalLM, folder: Path) -> None:
    """Write the weights in bfloat16, in parts, beside `folder`, then put them in its place: it never holds half."""
    half = torch.nn.Module.to(copy.deepcopy(network), torch.bfloat16)
    fresh, old = (folder.with_name(f"{folder.name}.{name}") for name in ("new", "old"))
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    with reading(str(folder)):
        half.save_pretrained(fresh, max_shard_size=MAX_SHARD)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _synthetic(config: PretrainConfig, task_ids: set[str], on_generator: Callable[[Made], None]) -> Pool:
    if not config.data.synthetic_share or not config.data.pairs_per_generator:
        return Pool.from_pairs({})
    return synthetic_pool(task_ids, Recipe(pairs=config.data.pairs_per_generator), report=on_generator)


def _paths(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full paths."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _paths(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
