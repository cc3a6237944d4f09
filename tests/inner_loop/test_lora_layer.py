"""Adapters with less work than peft's: the same sums, and nothing left behind."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor

from arc_seal.inner_loop.lora import MergingLinear, merged, with_fresh_adapter
from arc_seal.models import model as models
from arc_seal.models.grid_network import GridTransformer
from arc_seal.models.model import Model, lowered_weights
from tests.models.builders import MODELS


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    model: Model = request.param(0)
    return model


def layers(model: Model) -> Iterator[MergingLinear]:
    return (module for module in model.network.modules() if isinstance(module, MergingLinear))


def moved(model: Model) -> None:
    """Have the adapter say something: fresh, it adds nothing."""
    generator = torch.Generator().manual_seed(5)
    for layer in layers(model):
        for up in layer.lora_B.values():
            torch.nn.init.normal_(up.weight, std=0.05, generator=generator)


def hidden(model: Model, tokens: int = 40) -> Tensor:
    states: Tensor = model.network.get_decoder()(input_ids=torch.arange(tokens)[None]).last_hidden_state
    return states


@pytest.mark.parametrize(("rank", "tokens", "expected"), [(128, 200, True), (128, 190, False), (16, 10**6, False)])
def test_a_layer_merges_where_that_is_less_work(rank: int, tokens: int, expected: bool) -> None:
    """At width 256 and rank 128 that is where 65,536 (tokens + 384) is less than 196,608 tokens: from 193 on."""
    config = LoraConfig(r=rank, lora_alpha=rank)
    layer = MergingLinear(torch.nn.Linear(256, 256), "default", config, r=rank, lora_alpha=rank)
    inputs = torch.zeros(1, 1, 256).expand(2, tokens // 2, 256)
    assert layer.is_cheaper_merged(inputs) is expected
    with torch.no_grad():
        assert not layer.is_cheaper_merged(inputs)


@pytest.mark.parametrize(("tokens", "cheaper"), [(50, True), (1, False)])
@pytest.mark.parametrize("alpha", [32.0, 8.0])
def test_outputs_and_gradients_are_those_of_peft(model: Model, tokens: int, cheaper: bool, alpha: float) -> None:
    with with_fresh_adapter(model, 32, alpha, seed=1):
        moved(model)
        for layer in layers(model):
            inputs = torch.randn(2, tokens, layer.in_features, generator=torch.Generator().manual_seed(2))
            inputs.requires_grad_()
            adapter = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
            assert layer.is_cheaper_merged(inputs) is cheaper
            ours, theirs = layer(inputs), Linear.forward(layer, inputs)
            assert torch.allclose(ours, theirs, atol=1e-5)
            wanted = [inputs, *adapter]
            for our, their in zip(
                torch.autograd.grad(ours.square().sum(), wanted),
                torch.autograd.grad(theirs.square().sum(), wanted),
                strict=True,
            ):
                assert torch.allclose(our, their, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("unusual", [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.5}])
@pytest.mark.parametrize("rank", [4, 64])
def test_what_is_more_than_a_and_b_is_left_to_peft(rank: int, unusual: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=rank, **unusual)
    layer = MergingLinear(torch.nn.Linear(32, 32), "default", config, r=rank, lora_alpha=rank)
    for weight in layer.lora_B["default"].parameters():
        torch.nn.init.normal_(weight)
    inputs = torch.randn(2, 200, 32)
    outputs = []
    for forward in (layer, partial(Linear.forward, layer)):
        torch.manual_seed(1)
        outputs.append(forward(inputs))
    assert torch.equal(*outputs)


def test_precisions_may_differ(model: Model) -> None:
    """Adapters of 32 bits on weights of 16, which is what peft makes of them."""
    model.network.to(torch.bfloat16)
    with with_fresh_adapter(model, 4, 4.0, seed=0):
        moved(model)
        assert {weight.dtype for weight in model.network.parameters()} == {torch.bfloat16, torch.float32}
        ours = hidden(model)
        for layer in layers(model):
            layer.__class__ = Linear
        assert torch.equal(ours, hidden(model))


@pytest.mark.parametrize("rank", [2, 64])  # apart; merged
def test_under_autocast_it_is_peft_s_sum_too(rank: int) -> None:
    torch.manual_seed(0)
    layer = MergingLinear(torch.nn.Linear(32, 32), "default", LoraConfig(r=rank), r=rank, lora_alpha=rank)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    inputs = torch.randn(2, 200, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.is_cheaper_merged(inputs) is (rank == 64)
        for given in (inputs, inputs.bfloat16()):
            ours = layer(given)
            assert ours.dtype == torch.bfloat16
            torch.testing.assert_close(ours.float(), Linear.forward(layer, inputs).float(), rtol=0.05, atol=0.2)


def test_predictions_are_the_same_merged_and_the_weights_come_back(model: Model) -> None:
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    with with_fresh_adapter(model, 8, 8.0, seed=0), torch.no_grad():
        plain = hidden(model)
        moved(model)
        apart = hidden(model)
        assert not torch.allclose(apart, plain, atol=1e-3)
        with merged(model.network):
            assert torch.allclose(hidden(model), apart, atol=1e-4)
            with merged(model.network):  # within another it changes nothing
                assert torch.allclose(hidden(model), apart, atol=1e-4)
            assert torch.allclose(hidden(model), apart, atol=1e-4)
        assert torch.equal(hidden(model), apart)
    after = model.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("faster", [True, False])
def test_it_predicts_in_bfloat16_where_that_is_faster_and_the_weights_come_back(
    model: Model, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    monkeypatch.setattr(models, "multiplies_bfloat16", lambda device: faster)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    with with_fresh_adapter(model, 8, 8.0, seed=0), torch.no_grad():
        moved(model)
        with merged(model.network):
            exact = hidden(model)
            with pytest.raises(KeyboardInterrupt), lowered_weights(model.network):
                near = hidden(model)
                raise KeyboardInterrupt
            assert torch.equal(hidden(model), exact)
    lowers = faster and isinstance(model.network.get_decoder(), GridTransformer)
    assert near.dtype == torch.float32 and torch.equal(near, exact) is not lowers
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.05)
    after = model.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_weights_come_back_after_an_error(model: Model) -> None:
    with with_fresh_adapter(model, 8, 8.0, seed=0), torch.no_grad():
        moved(model)
        apart = hidden(model)
        with pytest.raises(KeyboardInterrupt), merged(model.network):
            raise KeyboardInterrupt
        assert torch.equal(hidden(model), apart)


def test_low_precision_is_left_as_it_is(model: Model) -> None:
    model.network.to(torch.bfloat16)
    with with_fresh_adapter(model, 8, 8.0, seed=0), merged(model.network):
        assert not any(layer.merged for layer in layers(model))
