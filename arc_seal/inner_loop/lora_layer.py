"""LoRA layers that do less work than peft's for the same sums: fewer products where that is less, else fewer passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear


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
