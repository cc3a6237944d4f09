"""One pretraining run, from its configuration to its weights."""

import copy
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from pydantic import Field

from arc_seal.arc.datasets import load_tasks
from arc_seal.errors import InputError
from arc_seal.files import tools_dir, weights_dir
from arc_seal.models.grid_network import GridConfig, GridForCausalLM
from arc_seal.models.model import pick_device, read_network, reading
from arc_seal.models.weights import resolve, write_manifest
from arc_seal.pretraining.loop import (
    Clock,
    PretrainingProgress,
    RunSettings,
    claimed,
    pool_contexts,
    pretrain,
    task_contexts,
)
from arc_seal.pretraining.optim import OptimizerSettings
from arc_seal.pretraining.pool import Made, Pool, digest, gate_version, source_pool
from arc_seal.pretraining.provenance import FILE, Provenance, made_of, provenance, report
from arc_seal.pretraining.sources import find_source, training_pools
from arc_seal.pretraining.stream import Chunks, DataSettings, is_drawable
from arc_seal.self_edit.edit import SelfEdit, Training, canonical
from arc_seal.self_edit.random_edit import draw_edit
from arc_seal.self_edit.schema import Bounds, SelfEditSchema
from arc_seal.self_edit.toolbox import Toolbox
from arc_seal.settings import Settings

CENTRE = SelfEdit(
    tools=(),
    training=Training(loss_on="outputs", learning_rate=0.002, epochs=1, batch_size=4, lora_rank=64, max_examples=256),
)
"""Half of the random hyperparameters are drawn near these, which a trial found good; the other half anywhere."""


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
        """What a run keeps from beginning to end: settings by their paths, and what else its stream depends on."""
        kept: dict[str, Any] = {"run.batch_tokens": self.run.batch_tokens}
        settings = {"seed", "weights", "network", "data", "optimizer"}
        elsewhere = {"data": {"arc_gen"}}  # the clone may have moved; the version below says what is in it
        for name, value in self.model_dump(include=settings, exclude=elsewhere).items():
            kept |= {f"{name}.{key}": value[key] for key in value} if isinstance(value, dict) else {name: value}
        kept["content of tools/"] = digest({file.name: file.read_text() for file in sorted(tools_dir().glob("*.py"))})
        kept["data.shares"] = self.data.with_share
        kept["version of what is never trained on"] = gate_version()
        for name in self.data.with_share:
            if name != "tasks":
                kept[f"version of {name}"] = find_source(name, self.data).version
        return kept


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run came to: its folder of weights, tokens read and seconds of training in all, number of weights."""

    weights: Path
    tokens: int
    seconds: float
    parameters: int


def run(
    config: PretrainConfig,
    network: GridConfig,
    folder: Path,
    watch: Callable[[PretrainingProgress], None],
    on_made: Callable[[Made], None],
) -> Finished:
    """Carry a run out, or go on with it; an InputError when settings do not fit the folder, the machine or the data."""
    torch.manual_seed(config.seed)
    model = torch.nn.Module.to(first_weights(config.weights, network), pick_device(config.device)).train()
    data, before = config.data, made_of(first_folder(config.weights))
    pools = drawn_pools(data, on_made)
    chunks = Chunks([*pools.values()], data, config.run.batch_tokens, config.seed, write_self_edit)
    total = sum(data.with_share.values())
    sources = tuple(
        report(None if name == "tasks" else find_source(name, data), pool, share / total)
        for name, (pool, share) in pools.items()
    )
    dev = load_tasks("arcagi1/dev")
    made = dev_generators([task.id for task, _ in dev], data, on_made)
    unseen = {
        "dev": task_contexts(dev, config.measure_max_tokens),
        "dev generators": pool_contexts(made, pairs=4, each=3, max_tokens=data.max_tokens, seed=config.seed),
    }
    unseen = {name: contexts for name, contexts in unseen.items() if contexts}
    origin = provenance(sources, config.model_dump(), 0, before)
    weights, replaced = folder / "weights", folder / "weights.old"

    def put(clock: Clock) -> None:
        export(model, weights, origin.model_copy(update={"tokens": clock.tokens}))

    def keep(progress: PretrainingProgress) -> None:
        if progress.scores:
            put(progress.clock)
        watch(progress)

    with claimed(folder):
        if not weights.exists() and replaced.exists():  # an export was killed between its two renames
            replaced.rename(weights)
        clock = pretrain(model, chunks, config.run, config.optimizer, unseen, folder, config.identity, keep)
        put(clock)
    return Finished(weights, clock.tokens, clock.seconds, model.num_parameters())


def first_folder(weights: str | None) -> Path | None:
    """The folder of the weights to begin with; None for random ones."""
    if weights is None:
        return None
    return weights_dir() / "grid" if weights == "shipped" else Path(weights).expanduser()


def first_weights(weights: str | None, network: GridConfig) -> GridForCausalLM:
    """The network to begin with, in float32: random weights, or a folder's; an InputError when they do not fit it."""
    folder = first_folder(weights)
    if folder is None:
        return GridForCausalLM(network)
    if not folder.is_dir():
        raise InputError("configuration", "weights", "shipped, or a folder with weights of a grid model", repr(weights))
    model = read_network(str(weights), resolve(str(folder)), torch.float32)
    if not isinstance(model, GridForCausalLM):
        raise InputError("configuration", "weights", "weights of a grid model", f"of {model.config.model_type}")
    for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rope_base",
    ):  # fmt: skip
        found, expected = getattr(network, name), getattr(model.config, name)
        if found != expected:
            raise InputError("configuration", f"network.{name}", f"{expected}, as {folder} has it", str(found))
    if network.revision < model.config.revision:
        expected = f"{model.config.revision} or later, as {folder} has it"
        raise InputError("configuration", "network.revision", expected, str(network.revision))
    if network.revision == model.config.revision:
        return model
    # Weights of an earlier revision make the same function: what this one has more of begins where it changes nothing.
    later = GridForCausalLM(network)
    for name in later.load_state_dict(model.state_dict(), strict=False).missing_keys:
        if name != "model.mixing":  # it begins with what comes in alone, as an earlier revision has it
            torch.nn.init.zeros_(later.get_parameter(name))
    return later


def drawn_pools(data: DataSettings, on_made: Callable[[Made], None]) -> dict[str, tuple[Pool, float]]:
    """What is trained on, by name, with its share of the stream; an InputError when some of it gives no context."""
    pools = training_pools(data, on_made)
    for name, pool in pools.items():
        if not is_drawable(pool, data):
            expected = "settings that let a context be drawn, such as data.max_tokens=900"
            found = f"no task of {name} with enough pairs that are short enough"
            raise InputError("configuration", "data", expected, found)
    return {name: (pool, data.with_share[name]) for name, pool in pools.items()}


def dev_generators(dev_ids: Iterable[str], data: DataSettings, on_made: Callable[[Made], None]) -> Pool:
    """New pairs of what RE-ARC has of the tasks of dev, to measure on; none where RE-ARC is not trained on either."""
    if not data.shares.re_arc:
        return Pool.from_pairs({})
    source = replace(find_source("re_arc", data), groups=tuple(dev_ids))
    return source_pool(source, 0, data.pairs_per_generator, on_made, gated=False)


def write_self_edit(rng: np.random.Generator) -> str:
    """The canonical text of a random valid self-edit."""
    return canonical(draw_edit(_schema(), Random(int(rng.integers(2**63))), CENTRE))


@cache
def _schema() -> SelfEditSchema:
    return SelfEditSchema(Toolbox.load([tools_dir()]), Bounds())


def export(network: GridForCausalLM, folder: Path, made: Provenance | None = None) -> None:
    """Put the weights in bfloat16, and what they were made of, in the place of `folder`.

    It never holds half, and a complete copy is always kept.
    """
    half = torch.nn.Module.to(copy.deepcopy(network), torch.bfloat16)
    fresh, old = (folder.with_name(f"{folder.name}.{name}") for name in (f"{secrets.token_hex(4)}.new", "old"))
    with reading(str(folder)):
        half.save_pretrained(fresh, max_shard_size="15MB")  # files of more than 16 MB burden git and its hosts
    if made is not None:
        (fresh / FILE).write_text(made.model_dump_json(indent=2) + "\n")
    write_manifest(fresh)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    for left in (old, *folder.parent.glob(f"{folder.name}.*new")):
        shutil.rmtree(left, ignore_errors=True)
