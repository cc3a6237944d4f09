"""Causal attention, on a CPU in blocks; the precision that it and the layers around it multiply in; its cache.

Shapes: batch B, heads H, tokens T, keys K, head width W.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicLayer

BLOCK = 128
"""Queries of one block; 64 and 256 were as fast within a fifth at contexts of 150 to 2,500 tokens."""

MOST_WEIGHTS = 2**24
"""Most attention weights that one layer keeps from its forward to its backward pass: 64 MB of them in float32."""


ROOM = 64
"""Least tokens that a cache makes room for at once."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention, [B, H, T, W] and keys and values [B, H, K, W] -> [B, H, T, W].

    Without a mask it is causal, and K = T; or there is one query, the last, which may look at every key.

    On a CPU it goes in blocks in training and in bfloat16: torch's kernel takes twice as long in that, and up to seven
    times for one query, as it multiplies at a tenth of the processor's rate. It keeps no weights for the backward pass,
    so where there are too many of them it is taken.
    """
    weights = query.shape[:2].numel() * query.shape[2] ** 2 / 2
    is_causal = mask is None and query.shape[2] == key.shape[2]
    if query.device.type == "cpu" and not torch.is_grad_enabled() and query.dtype == key.dtype == torch.bfloat16:
        return attend_in_blocks(query, key, value, mask)
    # Below the first layer that is trained nothing requires a gradient.
    if is_causal and torch.is_grad_enabled() and query.device.type == "cpu" and weights <= MOST_WEIGHTS:
        flat = [lowered(each, each).flatten(0, 1) for each in (query, key, value)]
        with torch.autocast("cpu", enabled=False):
            mixed: Tensor = CausalAttention.apply(*flat)  # type: ignore[no-untyped-call]
        return mixed.unflatten(0, query.shape[:2])  # type: ignore[no-any-return]
    whole: Tensor = scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal)
    return whole


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """As `attend`, without a gradient."""
    flat_query, flat_key, flat_value = (each.flatten(0, 1) for each in (query * query.shape[-1] ** -0.5, key, value))
    mixed = torch.empty_like(flat_query)
    for first, end, weight in weights_in_blocks(flat_query, flat_key, mask):
        mixed[:, first:end] = weight @ flat_value[:, : weight.shape[-1]]
    by_heads: Tensor = mixed.unflatten(0, query.shape[:2])
    return by_heads


def weights_in_blocks(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Iterator[tuple[int, int, Tensor]]:
    """First query and end of each block, and its weights over the keys up to its end: nearly half of all are saved.

    Scaled queries [B * H, T, W] and keys [B * H, K, W], of which the last T are the queries' own; weights
    [B * H, block, keys]. A mask, [B or 1, 1, T, K], is causal itself.
    """
    before = key.shape[1] - query.shape[1]
    for first, end in blocks(query.shape[1]):
        scores = query[:, first:end] @ key[:, : before + end].mT
        if mask is not None:
            hidden = ~mask[:, :, first:end, : before + end]
            scores.unflatten(0, (len(mask), -1)).masked_fill_(hidden, float("-inf"))
        elif end > first + 1:
            later = torch.ones(end - first, end - first, dtype=torch.bool).triu_(1)
            scores[:, :, before + first :].masked_fill_(later, float("-inf"))
        yield first, end, scores.softmax(-1)


class GrowingLayer(DynamicLayer):
    """The cached keys and values of one layer, [B, H, K, W], with room behind them for those of tokens to come.

    transformers' own are copied whole for every token that is read, which takes as long as attention itself.
    """

    _rooms: tuple[Tensor, Tensor] | None = None  # what `keys` and `values` are the beginning of

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of T tokens, [B, H, T, W]; returns all, [B, H, K, W]."""
        if key_states.requires_grad:  # a backward pass would find its keys written over
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            super().update(key_states[:, :, :0], value_states[:, :, :0], *args, **kwargs)
        before = self.get_seq_length()
        length = before + key_states.shape[-2]
        if self._rooms is None or not self._fits(self._rooms[0], length):
            new, kept = (key_states, value_states), (self.keys, self.values)
            sizes = [(*each.shape[:2], length + max(ROOM, length // 8), each.shape[-1]) for each in new]
            keys, values = (each.new_empty(size) for each, size in zip(new, sizes, strict=True))
            for room, each in zip((keys, values), kept, strict=True):
                if each is not None and before:
                    room[:, :, :before] = each
            self._rooms = keys, values
        for room, each in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, before:length] = each
        self.keys, self.values = (room[:, :, :length] for room in self._rooms)
        return self.keys, self.values

    def _fits(self, room: Tensor, length: int) -> bool:
        """Whether there is room; none where other rows were chosen since, or in tensors that may not be written to."""
        is_own = self.keys is not None and self.keys.data_ptr() == room.data_ptr()
        may_write = torch.is_inference_mode_enabled() or not room.is_inference()
        return is_own and may_write and length <= room.shape[2]


def lowered(hidden: Tensor, weight: Tensor) -> Tensor:
    """In the precision that it is multiplied by a weight in, once for all products that it goes into."""
    kind = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype)


class CausalAttention(torch.autograd.Function):
    """Causal attention by blocks of queries, with a gradient.

    The backward pass is that of softmax(Q K^T / sqrt(W)) V, with the weights that the forward pass has kept.
    """

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B * H, T, W] each -> [B * H, T, W]."""
        query = query * query.shape[-1] ** -0.5
        mixed, weights = torch.empty_like(value), []
        for first, end, weight in weights_in_blocks(query, key):
            weights.append(weight)
            mixed[:, first:end] = weight @ value[:, :end]
        context.save_for_backward(query, key, value, *weights)
        return mixed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B * H, T, W] -> gradients of queries, keys and values, each [B * H, T, W]."""
        query, key, value, *weights = context.saved_tensors
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for (first, end), weight in zip(blocks(query.shape[1]), weights, strict=True):
            given = gradient[:, first:end]
            to_value[:, :end] += weight.mT @ given
            to_weight = given @ value[:, :end].mT
            to_score = torch._softmax_backward_data(to_weight, weight, -1, weight.dtype)  # [B * H, block, keys]
            to_query[:, first:end] = to_score @ key[:, :end]
            to_key[:, :end] += to_score.mT @ query[:, first:end]
        return to_query * query.shape[-1] ** -0.5, to_key, to_value


def blocks(tokens: int) -> list[tuple[int, int]]:
    """First token and end of each block of at most `BLOCK` queries."""
    return [(first, min(first + BLOCK, tokens)) for first in range(0, tokens, BLOCK)]
