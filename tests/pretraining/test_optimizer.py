"""The schedule's three parts, and which optimiser a weight belongs to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import AdamW, Muon

from arc_seal.pretraining.optim import OptimizerSettings, decays, make_optimizers, rate_factor, set_rates
from tests.models.builders import grid_network

SETTINGS = OptimizerSettings(warmup_tokens=1000, decay_share=0.25)
TOTAL = 100_000


@pytest.mark.parametrize(
    ("tokens", "factor"),
    [(0, 0.001), (499, 0.5), (999, 1.0), (40_000, 1.0), (75_000, 1.0), (87_500, 0.5), (99_000, 0.04), (100_000, 0.0),
     (200_000, 0.0)],
)  # fmt: skip
def test_warm_up_plateau_decay(tokens: int, factor: float) -> None:
    assert rate_factor(tokens, TOTAL, SETTINGS) == pytest.approx(factor)
    assert decays(tokens, TOTAL, SETTINGS) == (tokens > 75_000)


@given(
    tokens=st.integers(0, 10**9),
    more=st.integers(0, 10**6),
    total=st.integers(1, 10**9),
    warmup=st.integers(1, 10**7),
    share=st.floats(0, 1),
)
def test_the_factor_is_a_share_that_rises_and_then_falls(
    tokens: int, more: int, total: int, warmup: int, share: float
) -> None:
    settings = OptimizerSettings(warmup_tokens=warmup, decay_share=share)
    now, later = (rate_factor(each, total, settings) for each in (tokens, tokens + more))
    assert 0 <= now <= 1
    if decays(tokens, total, settings):
        assert decays(tokens + more, total, settings)
    else:
        assert now == min(1.0, (tokens + 1) / warmup)
    if tokens >= warmup:
        assert later <= now


def test_a_run_may_stay_at_its_peak() -> None:
    settings = OptimizerSettings(warmup_tokens=1, decay_share=0.0)
    assert [rate_factor(tokens, TOTAL, settings) for tokens in (0, 99_999, 100_000)] == [1.0, 1.0, 1.0]


def test_each_weight_is_in_one_optimiser() -> None:
    network = grid_network()
    muon, adam = make_optimizers(network, SETTINGS)
    assert isinstance(muon, Muon) and isinstance(adam, AdamW)
    names = {id(weight): name for name, weight in network.named_parameters()}
    matrices, others = (
        [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
        for optimizer in (muon, adam)
    )
    assert sorted(matrices + others) == sorted(names.values())
    assert all("_proj." in name for name in matrices) and len(matrices) == 2 * 7
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(others)
    assert all("norm" in name for name in set(others) - {"model.embed_tokens.weight", "lm_head.weight"})


def test_rates_are_shares_of_their_peaks() -> None:
    optimizers = make_optimizers(grid_network(), SETTINGS)
    set_rates(optimizers, SETTINGS, 0.5)
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [0.01, 0.002]


def test_both_move_their_weights() -> None:
    network = grid_network(layers=1)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    optimizers = make_optimizers(network, SETTINGS)
    network(input_ids=torch.arange(16, 272)[None], labels=torch.arange(16, 272)[None]).loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    assert not any(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
