"""LoRA layers that do less work than peft's for the same sums: fewer products where that is less, else fewer passes."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import linear

from arc_seal.errors import InputError

if TYPE_CHECKING:
    from arc_seal.models.prompt import Model


class FoldingLinear(Linear):
    """peft's LoRA on a linear layer, W x + s B (A x), computed as (W + s B A) x where gradients of that are cheaper.

    A rank is low beside the widths of a large model. In one of width 256 it is not: there rank 128 costs more than the
    layer itself, and the folded form needs a third less for contexts of 600 tokens.

    Elsewhere the product with B adds its scaled result to W x itself; peft multiplies by s and adds in passes of their
    own over what is as wide as the layer's output.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        if args or kwargs or self.disable_adapters or self.merged or not self._plain(x):
            return super().forward(x, *args, **kwargs)
        return self._folded(x) if self._folds(x) else self._apart(x)

    def _plain(self, x: Tensor) -> bool:
        """Whether A and B are all there is to what is worn, and all is of one precision; peft does the rest."""
        weights = [base_of(self).weight, *(weight for down, up, _ in self._worn() for weight in (down, up))]
        return all(weight.dtype == x.dtype for weight in weights) and not any(
            name in self.lora_variant or self.lora_B[name].bias is not None or self._drops(name)
            for name in self._names()
        )

    def _drops(self, name: str) -> bool:
        dropout: nn.Module = self.lora_dropout[name]
        return dropout.training and not isinstance(dropout, nn.Identity)

    def _folded(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], as (W + s B A) x."""
        base = base_of(self)
        weight: Tensor = base.weight
        for down, up, scale in self._worn():
            weight = torch.addmm(weight, up, down, alpha=scale)
        return linear(x, weight, base.bias)

    def _apart(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], as W x + s B (A x)."""
        base, rows = base_of(self), x.reshape(-1, x.shape[-1])  # [tokens, inputs]
        output = linear(rows, base.weight, base.bias)  # [tokens, outputs]
        for down, up, scale in self._worn():
            output = output.addmm_(linear(rows, down), up.t(), alpha=scale)
        return output.view(*x.shape[:-1], -1)

    def _folds(self, x: Tensor) -> bool:
        """Whether folding takes fewer multiplications, forward and backward, and loses no precision.

        Of `tokens` through a layer of `inputs` x `outputs`, beside what both forms do: A and B take three products each
        (forward, backward to the input, to themselves); folded, three of the size of B A, whatever the tokens, and one
        product of gradients as large as the layer.
        """
        weight = base_of(self).weight
        outputs, inputs = weight.shape
        ranks = sum(down.shape[0] for down, _, _ in self._worn())
        tokens = x.numel() // inputs
        apart = 3 * ranks * (inputs + outputs) * tokens
        folded = inputs * outputs * (tokens + 3 * ranks)
        return torch.is_grad_enabled() and folded < apart and weight.dtype == torch.float32

    def _worn(self) -> list[tuple[Tensor, Tensor, float]]:
        """A, B and s of every adapter that is worn: [rank, inputs], [outputs, rank], a number."""
        return [
            (cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight), self.scaling[name])
            for name in self._names()
        ]

    def _names(self) -> list[str]:
        """The adapters that are worn and that are on this layer."""
        return [name for name in self.active_adapters if name in self.lora_A]


def base_of(layer: FoldingLinear) -> nn.Linear:
    """The layer beneath the adapters."""
    return cast(nn.Linear, layer.get_base_layer())


@contextmanager
def folded(network: nn.Module) -> Iterator[None]:
    """Every adapter that is worn is added to the weights beneath it for as long as the context lasts, to predict with.

    A decoded token then costs what it costs without an adapter. Afterwards all weights are bit for bit what they were.
    Weights of less than 32 bits would lose what the adapter adds, and stay as they are; so do those that an outer
    context has folded.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, FoldingLinear) and not layer.merged]
    layers = [layer for layer in layers if base_of(layer).weight.dtype == torch.float32]
    kept = [base_of(layer).weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            base_of(layer).weight.data.copy_(weight)
            layer.merged_adapters.clear()


# What a job trains: LoRA by peft, attached for the job and removed after it, or all weights, put back after it.

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
