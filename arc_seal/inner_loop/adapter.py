"""What a job trains: LoRA by peft, attached for the job and removed after it, or all weights, put back after it."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError

from arc_seal.errors import InputError
from arc_seal.inner_loop.lora_layer import FoldingLinear, folded

if TYPE_CHECKING:
    from arc_seal.models.base import Model

FRESH, KEPT = "default", "kept"
"""What peft calls the adapter that is trained, and the one that is worn besides. It keeps one of the name `default`
right in the folder that it is told, any other in a folder of its name therein."""


@contextmanager
def attached(
    model: "Model", rank: int, alpha: float, seed: int, modules: str = "all-linear", *, beneath: Path | None = None
) -> Iterator[PeftModel]:
    """A fresh adapter on linear layers, never the output head, for as long as the context lasts.

    Inside, `model.network` computes with the adapter; afterwards it is bit for bit what it was.

    Args:
        model: A model with frozen weights.
        rank: LoRA rank (arXiv 2106.09685).
        alpha: LoRA alpha: the update is scaled by alpha / rank.
        seed: Fixes the adapter's first weights.
        modules: Which layers, as peft's `target_modules` takes it: `all-linear`, or a pattern of their full names.
        beneath: Folder of an adapter that the model wears besides, frozen; None for none.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes parts of one, too
        lora_dropout=0.0,
        target_modules=modules,
        task_type="CAUSAL_LM",
        revision=model.weights,  # peft's word for which base weights these go with
    )
    with _injected(model, config, FRESH, seed) as adapted:
        if beneath is not None:
            _put_on(adapted, beneath, model)
            adapted.base_model.set_adapter([FRESH, KEPT])  # type: ignore[operator]
            for name, weight in adapted.named_parameters():
                weight.requires_grad_(f".{FRESH}." in name)
        yield adapted


@contextmanager
def worn(model: "Model", folder: Path) -> Iterator[None]:
    """Have the model wear a kept adapter, frozen, for as long as the context lasts.

    Args:
        model: A model with frozen weights; afterwards it is bit for bit what it was.
        folder: As `PeftModel.save_pretrained` has written it for this model.

    Raises:
        InputError: When the folder holds no adapter for this model.
    """
    with ExitStack() as stack:
        with _readable(folder):
            config = PeftConfig.from_pretrained(str(folder))
            config.base_model_name_or_path = None  # where the model lay then; peft warns when it lies elsewhere now
            adapted = stack.enter_context(_injected(model, config, KEPT, seed=0))
        _put_on(adapted, folder, model)
        stack.enter_context(folded(model.network))
        yield


@contextmanager
def unfrozen(model: "Model") -> Iterator[None]:
    """Every weight can be trained for as long as the context lasts; afterwards all are bit for bit what they were.

    Args:
        model: A model with frozen weights.
    """
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
def _injected(model: "Model", config: PeftConfig, name: str, seed: int) -> Iterator[PeftModel]:
    """The network with an adapter of fresh weights; taken off again whatever happens."""
    devices = [model.network.device] if model.network.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers things by their old names
        torch.manual_seed(seed)
        if isinstance(config, LoraConfig):  # peft documents this way for layers of one's own, for all its underscore
            config._register_custom_module({torch.nn.Linear: FoldingLinear})
        adapted = get_peft_model(model.network, config, name)  # where nothing fits it raises and changes nothing
    try:
        yield adapted
    finally:
        adapted.unload()
        # peft leaves its settings on the network and would warn of a second adapter next time.
        if hasattr(model.network, "peft_config"):
            del model.network.peft_config


def _put_on(adapted: PeftModel, folder: Path, model: "Model") -> None:
    """Load a kept adapter's weights, frozen.

    Raises:
        InputError: When they are no adapter's for this model. One of the same model with other weights would load all
            the same and say nothing sensible.
    """
    with _readable(folder):
        base = PeftConfig.from_pretrained(str(folder)).revision
        if base and model.weights and base != model.weights:
            where = str(folder / "adapter_config.json")
            raise InputError(where, "revision", f"{model.weights}, the weights that {model.name} has now", base)
        adapted.load_adapter(folder, KEPT)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Tell what is wrong with an adapter's folder in one line."""
    if not (folder / "adapter_config.json").is_file():
        raise InputError(str(folder), "", "a folder with an adapter of peft's", "no adapter_config.json in it")
    try:
        yield
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        found = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(str(folder), "", "an adapter for this model", found[0]) from error
