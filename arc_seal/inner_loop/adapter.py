"""What a job trains: LoRA by peft, attached for the job and removed after it, or all weights, put back after it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, get_peft_model

if TYPE_CHECKING:
    from peft import PeftModel

    from arc_seal.models.base import Model


@contextmanager
def attached(model: "Model", rank: int, alpha: float, seed: int, modules: str = "all-linear") -> Iterator["PeftModel"]:
    """A fresh adapter on linear layers, never the output head, for as long as the context lasts.

    Inside, `model.network` computes with the adapter; afterwards it is bit for bit what it was.

    Args:
        model: A model with frozen weights.
        rank: LoRA rank (arXiv 2106.09685).
        alpha: LoRA alpha: the update is scaled by alpha / rank.
        seed: Fixes the adapter's first weights.
        modules: Which layers, as peft's `target_modules` takes it: `all-linear`, or a pattern of their full names.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=modules, task_type="CAUSAL_LM")  # type: ignore[arg-type]
    devices = [model.network.device] if model.network.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers things by their old names
        torch.manual_seed(seed)
        adapted = get_peft_model(model.network, config)
    try:
        yield adapted
    finally:
        adapted.unload()
        # peft leaves its settings on the network and would warn of a second adapter next time.
        if hasattr(model.network, "peft_config"):
            del model.network.peft_config


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
