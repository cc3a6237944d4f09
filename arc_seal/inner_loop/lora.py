"""What a job trains: LoRA by peft, there for the job and removed after it, or all weights, put back after it.

peft's layer is made to do less work for the same sums, in training and in prediction.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import linear

from arc_seal.errors import InputError
from arc_seal.models.model import Model

FRESH, KEPT = "default", "kept"
"""What peft calls the adapter that is trained, and one that is read from a folder. It keeps one of the name `default`
right in the folder that it is told, any other in a folder of its name therein."""


@contextmanager
def with_fresh_adapter(
    model: Model, rank: int, alpha: float, seed: int, modules: str = "all-linear", frozen: Path | None = None
) -> Iterator[PeftModel]:
    """A fresh adapter on linear layers, never the output layer, for as long as the context lasts.

    Inside, `model.network` computes with the adapter, the only weights that train; afterwards it is bit for bit what it
    was. LoRA (arXiv 2106.09685) scales the update by alpha / rank. `modules` is peft's `target_modules`: `all-linear`,
    or a pattern of full names. The adapter in the folder `frozen` is active besides and not trained; InputError where
    there is none for this model.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes parts of one, too
        lora_dropout=0.0,
        target_modules=modules,
        task_type="CAUSAL_LM",
        revision=model.weights,  # peft's word for which base weights these go with
    )
    with _injected(model, config, FRESH, seed, frozen) as adapted:
        if frozen is not None:
            adapted.base_model.set_adapter([FRESH, KEPT])  # type: ignore[operator]
            for name, weight in adapted.named_parameters():
                weight.requires_grad_(f".{FRESH}." in name)
        yield adapted


@contextmanager
def with_adapter(model: Model, folder: Path) -> Iterator[None]:
    """The adapter kept in a folder, frozen and merged into the weights, for as long as the context lasts.

    Afterwards the model is bit for bit what it was. InputError where the folder holds no adapter for this model.
    """
    with ExitStack() as stack:
        with _readable(folder):
            config = PeftConfig.from_pretrained(str(folder))
            config.base_model_name_or_path = None  # where the model lay then; peft warns when it lies elsewhere now
            stack.enter_context(_injected(model, config, KEPT, 0, folder))
        stack.enter_context(merged(model.network))
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

    Elsewhere the product with B adds its scaled result to W x itself; peft multiplies by s and adds in passes of their
    own over what is as wide as the layer's output.
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
            output = output.addmm_(linear(rows, down), up.t(), alpha=scale)
        return output.view(*x.shape[:-1], -1)

    def is_cheaper_merged(self, x: Tensor) -> bool:
        """Whether (W + s B A) x takes fewer multiplications, forward and backward, and loses no precision.

        Of `tokens` through a layer of `inputs` x `outputs`, beside what both forms do: A and B take three products each
        (forward, backward to the input, to themselves); merged, three of the size of B A, whatever the tokens, and one
        product of gradients as large as the layer.
        """
        outputs, inputs = self.weight.shape
        ranks = sum(down.shape[0] for down, _, _ in self._active())
        tokens = x.numel() // inputs
        apart = 3 * ranks * (inputs + outputs) * tokens
        merged = inputs * outputs * (tokens + 3 * ranks)
        return torch.is_grad_enabled() and merged < apart and self.weight.dtype == torch.float32

    def _is_plain(self, x: Tensor) -> bool:
        """Whether A and B are all there is to the active adapters, and all is of one precision; peft does the rest."""
        for name in (name for name in self.active_adapters if name in self.lora_A):
            dropout = self.lora_dropout[name]
            drops = dropout.training and not isinstance(dropout, nn.Identity)
            if drops or name in self.lora_variant or self.lora_B[name].bias is not None:
                return False
        weights = [self.weight, *(weight for down, up, _ in self._active() for weight in (down, up))]
        return all(weight.dtype == x.dtype for weight in weights)

    def _active(self) -> list[tuple[Tensor, Tensor, float]]:
        """A, B and s of every active adapter: [rank, inputs], [outputs, rank], a number."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        weights = ([cast(Tensor, part[name].weight) for name in names] for part in (self.lora_A, self.lora_B))
        return list(zip(*weights, (self.scaling[name] for name in names), strict=True))


@contextmanager
def _injected(model: Model, config: PeftConfig, name: str, seed: int, folder: Path | None) -> Iterator[PeftModel]:
    """The network with an adapter of fresh weights, and the one kept in `folder`; taken off again whatever happens."""
    devices = [model.network.device] if model.network.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers things by their old names
        torch.manual_seed(seed)
        if isinstance(config, LoraConfig):  # peft documents this way for layers of one's own, for all its underscore
            config._register_custom_module({nn.Linear: MergingLinear})
        adapted = get_peft_model(model.network, config, name)  # where nothing fits it raises and changes nothing
    try:
        if folder is not None:
            with _readable(folder):
                base = PeftConfig.from_pretrained(str(folder)).revision
                if base and model.weights and base != model.weights:  # they would load all the same, and say nonsense
                    expected = f"{model.weights}, the weights that {model.name} has now"
                    raise InputError(str(folder / "adapter_config.json"), "revision", expected, base)
                adapted.load_adapter(folder, KEPT)
        yield adapted
    finally:
        adapted.unload()
        model.network.__dict__.pop("peft_config", None)  # for which peft would warn of a second adapter next time


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Say in one line what is wrong with an adapter's folder."""
    if not (folder / "adapter_config.json").is_file():
        raise InputError(str(folder), "", "a folder with an adapter of peft's", "no adapter_config.json in it")
    try:
        yield
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        found = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(str(folder), "", "an adapter for this model", found[0]) from error
