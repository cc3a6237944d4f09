"""Adapters of several jobs over one frozen network: a row each of one tensor, and layers that compute with them.

In a forward pass the adapters of a group have equally many tokens, in the group's order, padding included. A layer then
computes the frozen product once for all tokens, and A and B of all adapters as one batch of products. Where fewer
multiplications are needed so, it merges each adapter into weights of its own, as `lora.MergingLinear` does for one.

The tensors are made anew when an adapter joins or leaves: a copy of them takes less time than one update.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from arc_seal.inner_loop.lora import adapter_bytes, fresh_weights, is_cheaper_merged, with_fresh_adapter
from arc_seal.models.model import Model

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""AdamW's, as torch has them by default."""

MERGED_NUMBERS = 1 << 28
"""Merged weights, all adapters together, that predictions may keep: 1 GiB. Where it is more, A and B stay apart."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter's weights, B transposed: of a layer by its name [rank, inputs] and [rank, outputs]."""

    weights: dict[str, tuple[Tensor, Tensor]]
    rank: int
    scale: float  # of what it adds: alpha / rank

    def to_bytes(self) -> bytes:
        """Its weights, for `fresh_adapter` to begin with."""
        return adapter_bytes({name: (down, up.t()) for name, (down, up) in self.weights.items()})


class LayerAdapters(NamedTuple):
    """What a group adds to one layer."""

    down: Tensor  # A, [group, rank, inputs]
    up: Tensor  # B transposed, times the scale, [group, rank, outputs]
    merged: Tensor | None = None  # the layer's weight with both added, [group, outputs, inputs]


def fresh_adapter(
    model: Model, rank: int, alpha: float, seed: int, modules: str | Sequence[str], begin: bytes | None = None
) -> Adapter:
    """The adapter that `lora.with_fresh_adapter` has at first."""
    with with_fresh_adapter(model, rank, alpha, seed, modules, begin=begin):
        own = fresh_weights(model.network)  # which belong to nobody else
    return Adapter({name: (down.detach(), up.detach().t()) for name, (down, up) in own.items()}, rank, alpha / rank)


class AdapterRows:
    """Adapters that are trained side by side, with AdamW's state: row i of each tensor is the i-th adapter's.

    Lower ranks are filled up with zeros, which stay zero: neither A nor B has a gradient where both are zero. So do the
    layers that an adapter is not on.
    """

    def __init__(self, network: nn.Module) -> None:
        self.adapters: list[Adapter] = []  # as they were when they joined
        self._network, self._layout = network, _Layout({}, 0)
        self._steps: list[int] = []
        device = next(network.parameters()).device
        # Weights, gradients, and the means of gradients and of their squares, each [adapters, numbers].
        self._tensors = [torch.empty(0, 0, device=device) for _ in range(4)]

    @property
    def gradients(self) -> Tensor:
        """Of the weights, [adapters, numbers]; each is written before a step."""
        return self._tensors[1]

    def add(self, adapter: Adapter) -> None:
        """Have an adapter behind the others."""
        self._lay_out([*self.adapters, adapter])
        rows = [tensor.new_zeros(1, self._numbers) for tensor in self._tensors]
        self._layout.write(rows[0], adapter)
        self._tensors = [torch.cat(both) for both in zip(self._tensors, rows, strict=True)]
        self.adapters.append(adapter)
        self._steps.append(0)

    def keep(self, rows: Sequence[int]) -> None:
        """Let all other adapters go; those kept are numbered anew, in the order given."""
        index = torch.tensor(rows, dtype=torch.long, device=self._tensors[0].device)
        self._tensors = [tensor.index_select(0, index) for tensor in self._tensors]
        self.adapters, self._steps = [self.adapters[row] for row in rows], [self._steps[row] for row in rows]

    def trained(self, row: int) -> Adapter:
        """A copy of an adapter as it is now, filling left out."""
        adapter, parts = self.adapters[row], self._layout.split(self._tensors[0][row : row + 1])
        cut = {
            name: (parts[name].down[0, : adapter.rank], parts[name].up[0, : adapter.rank]) for name in adapter.weights
        }
        return replace(adapter, weights={name: (down.clone(), up.clone()) for name, (down, up) in cut.items()})

    def group(self, rows: Sequence[int]) -> tuple[Tensor, dict[str, LayerAdapters]]:
        """Weights of some adapters to compute with, [group, numbers], whose gradient is wanted, and their parts."""
        index = torch.tensor(rows, device=self._tensors[0].device)
        weights = self._tensors[0].index_select(0, index).requires_grad_()
        adapters = [self.adapters[row] for row in rows]
        return weights, _scaled(self._layout.split(weights), adapters)

    def step(self, rates: Sequence[float], most: Sequence[float]) -> None:
        """One update of AdamW without weight decay on every adapter, each with its own rate, steps and clipping.

        Gradients are scaled down to the norm `most`. A row that is not finite stays alone with it.
        """
        weights, gradients, mean, square = self._tensors
        self._steps = [steps + 1 for steps in self._steps]
        corrections = [[1 - beta**steps for steps in self._steps] for beta in BETAS]
        given = torch.tensor([rates, most, *corrections], dtype=torch.float64).float().to(weights.device)
        rate, limit, first, second = given[..., None]  # [adapters, 1] each
        gradients.mul_((limit / (gradients.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0))
        mean.lerp_(gradients, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradients, gradients, value=1 - BETAS[1])
        spread = square.sqrt().div_(second.sqrt()).add_(EPSILON)  # [adapters, numbers]
        weights.sub_(torch.div(mean, spread, out=spread).mul_(rate / first))

    @property
    def _numbers(self) -> int:
        return sum(self._layout.sizes)

    def _lay_out(self, adapters: Sequence[Adapter]) -> None:
        """Make room for these adapters' layers and ranks, and no more; what is there keeps its values."""
        names = dict.fromkeys(chain.from_iterable(adapter.weights for adapter in adapters))
        layers = {name: cast(nn.Linear, self._network.get_submodule(name)) for name in names}
        layout = _Layout(layers, max(adapter.rank for adapter in adapters))
        if (layout.rank, layout.layers.keys()) == (self._layout.rank, self._layout.layers.keys()):
            return
        before, self._layout = self._layout, layout
        rank = min(before.rank, layout.rank)
        for place, tensor in enumerate(self._tensors):
            self._tensors[place] = tensor.new_zeros(len(tensor), self._numbers)
            old, new = before.split(tensor), layout.split(self._tensors[place])
            for name in before.layers.keys() & layers.keys():
                for ours, theirs in zip(new[name][:2], old[name][:2], strict=True):
                    ours[:, :rank] = theirs[:, :rank]


@torch.no_grad()
def merge(network: nn.Module, adapters: Sequence[Adapter]) -> dict[str, LayerAdapters]:
    """What adapters add to each layer, to predict with: merged where all is of 32 bits and it does not take too much.

    As `lora.merged` does, so that a decoded token costs few operations.
    """
    rows = AdapterRows(network)
    for adapter in adapters:
        rows.add(adapter)
    _, parts = rows.group(range(len(adapters)))
    layers = {name: cast(nn.Linear, network.get_submodule(name)) for name in parts}
    numbers = len(adapters) * sum(layer.weight.numel() for layer in layers.values())
    if numbers > MERGED_NUMBERS or any(layer.weight.dtype != torch.float32 for layer in layers.values()):
        return {name: LayerAdapters(down.detach(), up.detach()) for name, (down, up, _) in parts.items()}
    return {name: part._replace(merged=_merged(layers[name], part)) for name, part in parts.items()}


@contextmanager
def with_adapters(network: nn.Module, parts: Mapping[str, LayerAdapters]) -> Iterator[None]:
    """The network computes with a group's adapters for as long as the context lasts; no module is replaced.

    What it reads is [group x rows, tokens] or, of some tokens, [group x tokens, width].
    """
    layers = [cast(nn.Linear, network.get_submodule(name)) for name in parts]
    try:
        for layer, part in zip(layers, parts.values(), strict=True):
            layer.__dict__["forward"] = partial(_forward, layer, part)  # what calling the module then calls
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _forward(layer: nn.Linear, adapters: LayerAdapters, hidden: Tensor) -> Tensor:
    """[..., inputs] -> [..., outputs]."""
    down, up, merged = adapters
    rows = hidden.reshape(len(down), -1, hidden.shape[-1])  # [group, tokens, inputs]
    if merged is None and torch.is_grad_enabled() and is_cheaper_merged(layer.weight, down.shape[1], rows.shape[1]):
        merged = _merged(layer, adapters)
    if merged is not None:
        output = torch.bmm(rows, merged.mT)  # [group, tokens, outputs]
        output = output if layer.bias is None else output + layer.bias
    else:
        output = linear(rows, layer.weight, layer.bias)
        low = torch.bmm(rows.to(down.dtype), down.mT)  # [group, tokens, rank]
        if low.dtype == output.dtype:
            output = output.baddbmm_(low, up.to(low.dtype))
        else:  # adapters of 32 bits on weights of 16, as peft has them
            output = output + torch.bmm(low, up).to(output.dtype)
    return output.view(*hidden.shape[:-1], -1)


def _merged(layer: nn.Linear, adapters: LayerAdapters) -> Tensor:
    """W + s B A of each adapter, [group, outputs, inputs]; in 32 bits even where products are made of fewer."""
    with torch.autocast(layer.weight.device.type, enabled=False):
        return torch.baddbmm(layer.weight, adapters.up.mT, adapters.down)


def _scaled(parts: Mapping[str, LayerAdapters], adapters: Sequence[Adapter]) -> dict[str, LayerAdapters]:
    """The parts of a group, cut to its greatest rank, B times each adapter's scale."""
    rank, scales = max(adapter.rank for adapter in adapters), [adapter.scale for adapter in adapters]
    scaled = {}
    for name, (down, up, _) in parts.items():
        if rank < down.shape[1]:
            down, up = down[:, :rank], up[:, :rank]
        if any(scale != 1 for scale in scales):
            up = up * torch.tensor(scales, dtype=up.dtype, device=up.device)[:, None, None]
        scaled[name] = LayerAdapters(down, up)
    return scaled


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where in a row each layer's A and B stand."""

    layers: dict[str, nn.Linear]
    rank: int

    @property
    def sizes(self) -> list[int]:
        """Numbers of A and B of each layer in turn."""
        both = ((layer.in_features, layer.out_features) for layer in self.layers.values())
        return [self.rank * width for width in chain.from_iterable(both)]

    def split(self, rows: Tensor) -> dict[str, LayerAdapters]:
        """[adapters, numbers] -> views of [adapters, rank, inputs] and [adapters, rank, outputs] of each layer."""
        parts = iter(rows.split(self.sizes, dim=1)) if self.layers else iter(())
        return {
            name: LayerAdapters(*(next(parts).unflatten(1, (self.rank, -1)) for _ in range(2))) for name in self.layers
        }

    def write(self, row: Tensor, adapter: Adapter) -> None:
        """Put an adapter into a row of zeros, [1, numbers]."""
        parts = self.split(row)
        for name, weights in adapter.weights.items():
            for part, weight in zip(parts[name][:2], weights, strict=True):
                part[0, : adapter.rank] = weight
