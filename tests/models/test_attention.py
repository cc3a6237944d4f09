"""Attention in blocks is attention: the same numbers, forward and backward, as torch's own kernel."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from arc_seal.models import attention
from arc_seal.models.attention import BLOCK, CausalAttention, attend


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
