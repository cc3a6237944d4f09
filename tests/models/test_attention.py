"""Attention in blocks is attention: the same numbers, forward and backward, as torch's own kernel."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from arc_seal.models import attention
from arc_seal.models.attention import BLOCK, ROOM, CausalAttention, GrowingLayer, attend
from arc_seal.models.grid_network import causal_mask


def heads(tokens: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values of two contexts with three heads, [2, 3, tokens, 8] each, that want a gradient."""
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(2, 3, tokens, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("tokens", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17])
def test_blocks_give_what_the_whole_gives(tokens: int) -> None:
    ours, own = heads(tokens), heads(tokens)
    mixed, expected = attend(*ours, None), scaled_dot_product_attention(*own, is_causal=True)
    assert "CausalAttention" in type(mixed.grad_fn.next_functions[0][0]).__name__  # type: ignore[union-attr]
    weights = torch.linspace(-1, 1, mixed.numel()).view_as(mixed)
    (mixed * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours, own, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_differences() -> None:
    flat = [each.detach().flatten(0, 1)[:2].double().requires_grad_() for each in heads(6)]
    assert torch.autograd.gradcheck(CausalAttention.apply, flat)


def test_a_token_sees_nothing_of_what_follows() -> None:
    query, key, value = heads(BLOCK + 9)
    before = attend(query, key, value, None)
    with torch.no_grad():
        key[:, :, BLOCK + 3 :] += 5.0
        value[:, :, BLOCK + 3 :] -= 5.0
    after = attend(query, key, value, None)
    assert torch.equal(before[:, :, : BLOCK + 3], after[:, :, : BLOCK + 3])
    assert not torch.equal(before[:, :, BLOCK + 3 :], after[:, :, BLOCK + 3 :])


def test_it_multiplies_in_what_autocast_says() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(*heads(9), None).dtype == torch.bfloat16


def test_where_too_much_would_be_kept_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MOST_WEIGHTS", 100)
    assert "ScaledDotProduct" in type(attend(*heads(9), None).grad_fn).__name__


def test_a_single_query_looks_at_every_key() -> None:
    query, key, value = heads(7)
    whole = scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(attend(query[:, :, -1:], key, value, None), whole[:, :, -1:])


@pytest.mark.parametrize(("tokens", "before"), [(BLOCK + 9, 0), (1, 40), (BLOCK + 1, 3)])
@pytest.mark.parametrize("padding", [0, 5])
def test_reading_in_bfloat16_is_what_torch_does(tokens: int, before: int, padding: int) -> None:
    """Behind tokens that were read before, and with padding on the left of one of the contexts."""
    whole = [each.detach() for each in heads(before + tokens, torch.bfloat16)]
    query, key, value = whole[0][:, :, before:], *whole[1:]
    real = torch.ones(2, before + tokens)
    real[0, :padding] = 0
    mask = causal_mask(tokens, before, real if padding or (before and tokens > 1) else None, query.device)
    with torch.no_grad():
        mixed = attend(query, key, value, mask)
    everything = causal_mask(tokens, before, real, query.device)
    exact = scaled_dot_product_attention(query.float(), key.float(), value.float(), everything)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, rtol=0.02, atol=0.02)


def grown(parts: Sequence[Tensor]) -> GrowingLayer:
    """A cache that was given some parts of keys; values are the keys' negatives."""
    layer = GrowingLayer()
    for part in parts:
        keys, values = layer.update(part, -part)
        assert keys is layer.keys and values is layer.values
    return layer


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_cache_holds_what_it_was_given_whatever_its_room(mode: Callable[[], Any]) -> None:
    given = heads(4 * ROOM)[0].detach()
    with mode():
        layer = grown(given.split([1, ROOM - 1, 1, 1, ROOM, 2 * ROOM - 2], dim=2))
        assert torch.equal(layer.keys, given) and torch.equal(layer.values, -given)
        assert layer.get_seq_length() == 4 * ROOM


def test_a_cache_writes_over_nothing_that_others_hold() -> None:
    given = heads(9)[0].detach()
    layer = grown([given])
    other = copy(layer)
    other.batch_select_indices(torch.tensor([1]))
    other.update(given[1:, :, :1], given[1:, :, :1])
    layer.crop(-3)
    layer.update(given[:, :, :2], given[:, :, :2])
    assert torch.equal(layer.keys, torch.cat([given[:, :, :6], given[:, :, :2]], dim=2))
    assert torch.equal(other.keys, torch.cat([given[1:], given[1:, :, :1]], dim=2))


def test_a_cache_made_in_inference_mode_can_be_used_outside() -> None:
    given = heads(5)[0].detach()
    with torch.inference_mode():
        layer = grown([given])
    keys, _ = layer.update(given, given)
    assert torch.equal(keys, torch.cat([given, given], dim=2))


def test_a_cache_keeps_gradients_right() -> None:
    first, second = heads(3)[0], heads(4)[0]
    layer = grown([first, second])
    (layer.keys**2).sum().backward()
    torch.testing.assert_close(first.grad, 2 * first.detach())
    torch.testing.assert_close(second.grad, 2 * second.detach())
