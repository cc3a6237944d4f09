"""What a job trains: LoRA by peft, there for the job and removed after it, or all weights, put back after it.

peft's layer is made to do less work for the same sums, in training and in prediction.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from arc_seal.errors import InputError, one_line
from arc_seal.inner_loop.job import TrainingSettings
from arc_seal.models.model import Model
from arc_seal.settings import LONGEST_FOUND, Settings, first_fault, shortened

FRESH, KEPT = "default", "kept"
"""What peft calls the adapter that is trained, and one read from a folder. It keeps `default` without a subfolder."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""An adapter's files, as peft names them; others, such as pickles, are never read."""


class KeptConfig(Settings, extra="allow", strict=True):
    """What is read of a kept adapter's configuration. All else is to have the value that arc-seal has peft write."""

    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    target_modules: tuple[str, ...] = Field(min_length=1, strict=False)
    revision: str | None = None  # the base's weights
    base_model_name_or_path: Any = None  # where they lay then
    peft_version: Any = None


@contextmanager
def with_fresh_adapter(
    model: Model,
    rank: int,
    alpha: float,
    seed: int,
    modules: str | Sequence[str] = "all-linear",
    frozen: Path | None = None,
    begin: bytes | None = None,
) -> Iterator[PeftModel]:
    """A fresh adapter on linear layers, never the output layer, for as long as the context lasts.

    Inside, `model.network` computes with the adapter, the only weights that train; afterwards it is bit for bit what it
    was. LoRA (arXiv 2106.09685) scales the update by alpha / rank. `modules`: `all-linear`, a pattern of full names, or
    the names (`adapted_modules`).
    The adapter in the folder `frozen` is active besides and not trained; InputError where there is none for this model.
    `begin` are the weights to begin with, of an adapter like this one (`adapter_bytes`), in the place of random ones.
    """
    with _injected(model, _config(rank, alpha, modules, revision=model.weights), seed, frozen) as adapted:
        if begin is not None:
            kept, own = load(begin), fresh_weights(model.network)
            with torch.no_grad():
                for name, parts in own.items():
                    for part, weight in zip("AB", parts, strict=True):
                        weight.copy_(kept[f"{name}.{part}"])
        yield adapted


def adapted_modules(network: PreTrainedModel, training: TrainingSettings) -> str | list[str]:
    """Which layers `training` has the adapter on, for `with_fresh_adapter`; InputError where there are none.

    Nothing below the first of them needs a gradient.
    """
    pattern, last = training.lora_modules, training.lora_layers
    if last is None and pattern == "all-linear":
        return pattern
    blocks = [network] if last is None else cast(nn.ModuleList, network.get_decoder().layers)[-last:]
    inside = {id(layer) for block in blocks for layer in block.modules()}
    named = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear) and id(layer) in inside]
    names = named if pattern == "all-linear" else [name for name in named if re.fullmatch(pattern, name)]
    if not names:
        expected = f"a pattern of full names, such as {named[0]}" if named else "a network with linear layers"
        raise InputError("ttt.lora_modules", "", expected, pattern)
    return names


def fresh_weights(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of the fresh adapter on each layer by its name, [rank, inputs] and [outputs, rank]; not copied."""
    layers = ((name, each) for name, each in network.named_modules() if isinstance(each, MergingLinear))
    return {
        name: (cast(Tensor, each.lora_A[FRESH].weight), cast(Tensor, each.lora_B[FRESH].weight))
        for name, each in layers
        if FRESH in each.lora_A
    }


def adapter_bytes(weights: Mapping[str, tuple[Tensor, Tensor]]) -> bytes:
    """A and B of each layer, as `fresh_weights` has them, as safetensors."""
    flat = {f"{name}.{part}": each for name, both in weights.items() for part, each in zip("AB", both, strict=True)}
    return save({name: each.detach().cpu().contiguous() for name, each in flat.items()})


@contextmanager
def with_adapter(model: Model, folder: Path) -> Iterator[None]:
    """The adapter kept in a folder, frozen and merged into the weights, for as long as the context lasts.

    Afterwards the model is bit for bit what it was. InputError where the folder holds no adapter for this model.
    """
    with _injected(model, None, 0, folder), merged(model.network):
        yield


@contextmanager
def unfrozen(model: Model) -> Iterator[None]:
    """Every weight can be trained for as long as the context lasts; afterwards all are bit for bit what they were."""
    weights = list(model.network.parameters())
    before = [weight.detach().clone() for weight in weights]
    model.network.requires_grad_(True)
    try:
        yield
    finally:
        model.network.requires_grad_(False)
        with torch.no_grad():
            for weight, kept in zip(weights, before, strict=True):
                weight.copy_(kept)
                weight.grad = None


@contextmanager
def merged(network: nn.Module) -> Iterator[None]:
    """Every active adapter is merged into the weights for as long as the context lasts, to predict with.

    A decoded token then costs what it costs without an adapter. Afterwards all weights are bit for bit what they were.
    Weights of less than 32 bits would lose what the adapter adds, and stay as they are; so do those that an outer
    context has merged.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, MergingLinear) and not layer.merged]
    layers = [layer for layer in layers if layer.weight.dtype == torch.float32]
    before = [layer.weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data.copy_(weight)
            layer.merged_adapters.clear()


class MergingLinear(Linear):
    """peft's LoRA on a linear layer, W x + s B (A x), computed as (W + s B A) x where gradients of that are cheaper.

    A rank is low beside the widths of a large model. In one of width 256 it is not: there rank 128 costs more than the
    layer itself, and the merged form needs a third less for contexts of 600 tokens.

    Elsewhere the product with B adds its scaled result to W x itself; peft takes two passes more over the outputs.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        if args or kwargs or self.disable_adapters or self.merged or not self._is_plain(x):
            return super().forward(x, *args, **kwargs)
        if self.is_cheaper_merged(x):
            weight = self.weight
            for down, up, scale in self._active():
                weight = torch.addmm(weight, up, down, alpha=scale)
            return linear(x, weight, self.bias)
        rows = x.reshape(-1, x.shape[-1])  # [tokens, inputs]
        output = linear(rows, self.weight, self.bias)  # [tokens, outputs]
        for down, up, scale in self._active():
            output = output.addmm_(linear(rows, down), up.t().to(output.dtype), alpha=scale)  # autocast's, if it is on
        return output.view(*x.shape[:-1], -1)

    def is_cheaper_merged(self, x: Tensor) -> bool:
        """Whether (W + s B A) x is to be computed."""
        ranks = sum(down.shape[0] for down, _, _ in self._active())
        tokens = x.numel() // x.shape[-1]
        return torch.is_grad_enabled() and is_cheaper_merged(self.weight, ranks, tokens)

    def _is_plain(self, x: Tensor) -> bool:
        """Whether A and B are all there is to the active adapters, and all is of one precision; peft does the rest."""
        for name in (name for name in self.active_adapters if name in self.lora_A):
            dropout = self.lora_dropout[name]
            drops = dropout.training and not isinstance(dropout, nn.Identity)
            if drops or name in self.lora_variant or self.lora_B[name].bias is not None:
                return False
        weights = [self.weight, *(weight for down, up, _ in self._active() for weight in (down, up))]
        dtype = self.weight.dtype if torch.is_autocast_enabled(x.device.type) else x.dtype  # autocast makes them agree
        return all(weight.dtype == dtype for weight in weights)

    def _active(self) -> list[tuple[Tensor, Tensor, float]]:
        """A, B and s of every active adapter: [rank, inputs], [outputs, rank], a number."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        weights = ([cast(Tensor, part[name].weight) for name in names] for part in (self.lora_A, self.lora_B))
        return list(zip(*weights, (self.scaling[name] for name in names), strict=True))


def is_cheaper_merged(weight: Tensor, rank: int, tokens: int) -> bool:
    """Whether (W + s B A) x takes fewer multiplications, forward and backward, and loses no precision.

    Of `tokens` through a layer of `inputs` x `outputs`, beside what both forms do: A and B take three products each
    (forward, backward to the input, to themselves); merged, three of the size of B A, whatever the tokens, and one
    product of gradients as large as the layer.
    """
    outputs, inputs = weight.shape
    apart = 3 * rank * (inputs + outputs) * tokens
    merged = inputs * outputs * (tokens + 3 * rank)
    return merged < apart and weight.dtype == torch.float32


def _config(rank: int, alpha: float, modules: str | Sequence[str] = "all-linear", **others: Any) -> LoraConfig:
    """The one kind of adapter that there is here; `revision` is peft's word for which base weights it goes with."""
    others |= {"lora_alpha": alpha}  # not always a whole number, whatever peft's types say
    target = modules if isinstance(modules, str) else [*modules]
    config = LoraConfig(r=rank, lora_dropout=0.0, target_modules=target, task_type="CAUSAL_LM", **others)
    config._register_custom_module({nn.Linear: MergingLinear})  # documented for layers of one's own
    return config


@contextmanager
def _injected(model: Model, fresh: LoraConfig | None, seed: int, folder: Path | None) -> Iterator[PeftModel]:
    """The network with a fresh adapter, the one kept in `folder`, or both; taken off again whatever happens.

    RuntimeError, which ends a worker, where a kept one has changed the network for good: nothing computes with it then.
    """
    network, before, configs = model.network, None, {} if fresh is None else {FRESH: fresh}
    if folder is not None:
        kept, tensors = _read(folder, model)
        configs[KEPT], before = _config(kept.r, kept.lora_alpha, inference_mode=True), _checksums(network)
    adapted: Any = None
    try:
        with (
            torch.random.fork_rng([network.device] if network.device.type == "cuda" else []),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers things by their old names
            torch.manual_seed(seed)
            (first, config), *others = configs.items()
            adapted = get_peft_model(network, config, first)  # where nothing fits it raises and changes nothing
            for name, config in others:
                adapted.add_adapter(name, config)
        if folder is not None:
            adapted.base_model.set_adapter([*configs])
            for name, weight in adapted.named_parameters():
                weight.requires_grad_(f".{FRESH}." in name)
            _fill(adapted, kept, tensors, model, folder)
        yield adapted
    finally:
        if adapted is not None:
            adapted.unload()
        network.__dict__.pop("peft_config", None)  # for which peft would warn of a second adapter next time
        if before is not None and _checksums(network) != before:
            nn.Module.to(network, "meta")
            raise RuntimeError(f"{folder}: this adapter has changed the model's own weights for good")


def _checksums(network: nn.Module) -> dict[str, int]:
    """Sum of the 64-bit words of every weight and buffer: 0.3 ms for the grid model, 40 ms for SmolLM2 in float32."""
    sums = {}
    for name, each in chain(network.named_parameters(), network.named_buffers()):
        flat = each.detach().reshape(-1)
        is_aligned = (flat.numel() | int(flat.storage_offset())) * flat.itemsize % 8 == 0
        sums[name] = int(flat.view(torch.int64 if is_aligned else torch.uint8).sum())
    return sums


def _read(folder: Path, model: Model) -> tuple[KeptConfig, dict[str, Tensor]]:
    """A kept adapter's configuration and weights; InputError for what `policy.finetune` cannot have written."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(str(folder), "", "a folder with an adapter of peft's", f"no {name} in it")
    try:
        config = KeptConfig.model_validate(json.loads((folder / CONFIG).read_text("utf-8")))
        tensors = load_file(folder / WEIGHTS)
    except ValidationError as error:
        raise InputError(str(folder / CONFIG), *first_fault(error)) from error
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(str(folder), "", "an adapter for this model", one_line(error)) from error
    usual = vars(_config(config.r, config.lora_alpha, inference_mode=True))
    others = (config.model_extra or {}).items()
    faults = [(key, shortened(usual.get(key)), shortened(value)) for key, value in others if value != usual.get(key)]
    if config.revision and model.weights and config.revision != model.weights:  # it would load, and say nonsense
        faults.append(("revision", f"{model.weights}, the weights that {model.name} has now", config.revision))
    if {each.shape[:1] for name, each in tensors.items() if ".lora_A." in name} != {(config.r,)}:
        faults.append(("r", f"the rank of the weights in {WEIGHTS}", shortened(config.r)))
    for key, expected, found in faults:
        raise InputError(str(folder / CONFIG), key[:LONGEST_FOUND], expected, found[:LONGEST_FOUND])
    return config, tensors


@torch.no_grad()
def _fill(adapted: PeftModel, kept: KeptConfig, tensors: dict[str, Tensor], model: Model, folder: Path) -> None:
    """Put its weights into the kept adapter; InputError where they are not its, or give logits that are not finite."""
    own = get_peft_model_state_dict(adapted, adapter_name=KEPT, save_embedding_layers=False)
    found, expected = ({name: [*each.shape] for name, each in weights.items()} for weights in (tensors, own))
    wrong = [name for name in sorted(found | expected) if found.get(name) != expected.get(name)]
    faults = [f"{shortened(name)}: {found.get(name)} instead of {expected.get(name)}" for name in wrong]
    for target in kept.target_modules:
        if not any(name.endswith(f".{target}.lora_A.weight") for name in expected):
            faults.append(f"target_modules: {shortened(target)}, no linear layer of it")
    if not faults:
        set_peft_model_state_dict(adapted, tensors, KEPT)
        logits = model.network(torch.tensor([model.codec.symbols], device=model.network.device), use_cache=False).logits
        if not all(each.isfinite().all() for each in (*tensors.values(), logits)):
            faults.append("weights or logits that are not finite")
    for fault in faults:
        raise InputError(str(folder), "", "an adapter for this model", fault)
