"""The adapter: there while it is needed, gone without a trace after."""

import random
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from arc_seal.errors import InputError
from arc_seal.inner_loop.job import TrainingSettings
from arc_seal.inner_loop.lora import adapted_modules, fresh_weights, with_fresh_adapter
from arc_seal.models.model import Model
from tests.inner_loop.builders import copying_task, examples_of, learn
from tests.models.builders import MODELS, grid_model


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    model: Model = request.param(0)
    return model


def snapshot(model: Model) -> tuple[dict[str, bytes], list[str]]:
    """Every weight bit for bit, and what the network is made of."""
    weights = {name: value.numpy().tobytes() for name, value in model.network.state_dict().items()}
    return weights, [f"{name} {type(module).__name__}" for name, module in model.network.named_modules()]


def lora(model: Model, part: str = "lora_") -> Iterator[torch.Tensor]:
    return (weight for name, weight in model.network.named_parameters() if part in name)


def first_weights(model: Model, seed: int) -> torch.Tensor:
    with with_fresh_adapter(model, 4, 4.0, seed):
        return torch.cat([weight.detach().flatten() for weight in lora(model)])


def hidden(model: Model) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = model.network.get_decoder()(input_ids=torch.arange(40)[None]).last_hidden_state
    return states


def test_base_is_bit_identical_after_training(model: Model) -> None:
    before, attributes, states = snapshot(model), set(vars(model.network)), hidden(model)
    with with_fresh_adapter(model, 8, 8.0, seed=0):
        learn(model, examples_of(model, [copying_task()]), training={"epochs": 5, "learning_rate": 0.05})
        assert not torch.allclose(hidden(model), states, atol=1e-3)
    assert snapshot(model) == before
    assert set(vars(model.network)) == attributes
    assert torch.equal(hidden(model), states)
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert not model.network.training


def test_base_is_bit_identical_after_an_error(model: Model) -> None:
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt), with_fresh_adapter(model, 8, 8.0, seed=0):
        learn(model, examples_of(model, [copying_task()]))
        raise KeyboardInterrupt
    assert snapshot(model) == before
    assert not any(weight.requires_grad for weight in model.network.parameters())


def test_adapters_follow_one_another_without_a_word(model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rank in (4, 8, 4):
            with with_fresh_adapter(model, rank, 4.0, seed=0):
                assert {weight.shape[0] for weight in lora(model, "lora_A")} == {rank}


def test_only_the_adapter_is_trainable_and_on_every_linear_layer_but_the_output_layer(model: Model) -> None:
    layers = {name for name, module in model.network.named_modules() if isinstance(module, torch.nn.Linear)}
    with with_fresh_adapter(model, 8, 8.0, seed=0):
        trainable = {name for name, weight in model.network.named_parameters() if weight.requires_grad}
        assert all("lora_" in name for name in trainable)
        assert {name.partition(".lora_")[0] for name in trainable} == layers - {"lm_head"}


def test_fresh_adapter_changes_nothing_yet(model: Model) -> None:
    before = hidden(model)
    with with_fresh_adapter(model, 8, 8.0, seed=0):
        assert torch.equal(hidden(model), before)


def test_update_is_scaled_by_alpha_over_rank(model: Model) -> None:
    layer = next(name for name, _ in model.network.named_modules() if name.endswith("down_proj"))
    data = torch.ones(1, 64)
    plain = model.network.get_submodule(layer)(data)
    for rank, alpha in ((4, 4.0), (4, 8.0), (8, 4.0)):
        with with_fresh_adapter(model, rank, alpha, seed=0), torch.no_grad():
            adapted = model.network.get_submodule(layer)
            (down,), (up,) = ([*adapted.get_submodule(part).values()] for part in ("lora_A", "lora_B"))
            torch.nn.init.normal_(up.weight)
            update = up.weight @ down.weight @ data[0]
            assert torch.allclose(adapted(data)[0], plain[0] + alpha / rank * update, atol=1e-5)


def test_seed_alone_fixes_the_first_weights(model: Model) -> None:
    torch.manual_seed(1)
    first = first_weights(model, seed=7)
    torch.manual_seed(2)
    assert torch.equal(first_weights(model, seed=7), first)
    assert not torch.equal(first_weights(model, seed=8), first)


def test_other_generators_are_left_alone(model: Model) -> None:
    def states() -> tuple[bytes, object, str]:
        return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())

    before = states()
    with with_fresh_adapter(model, 8, 8.0, seed=0):
        learn(model, examples_of(model, [copying_task()]))
    assert states() == before


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lora_layers": 1}, lambda name: ".layers.1." in name),
        ({"lora_layers": 1, "lora_modules": r".*[qk]_proj"}, lambda name: re.search(r"layers\.1.*[qk]_proj", name)),
        ({"lora_layers": 9}, lambda name: ".layers." in name),
        ({"lora_modules": r".*[qk]_proj"}, lambda name: re.search("[qk]_proj", name)),
    ],
)
def test_an_adapter_is_on_the_last_blocks(settings: dict[str, Any], expected: Callable[[str], Any]) -> None:
    model = grid_model()
    layers = [name for name, layer in model.network.named_modules() if isinstance(layer, torch.nn.Linear)]
    wanted = [name for name in layers if expected(name) and "lm_head" not in name]
    names = adapted_modules(model.network, TrainingSettings(**settings))
    assert names == wanted and wanted
    with with_fresh_adapter(model, 4, 4.0, 0, names):
        assert [*fresh_weights(model.network)] == wanted


def test_a_pattern_that_fits_nothing_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"^ttt.lora_modules: expected a pattern of full names, such as .*, found x$"):
        adapted_modules(grid_model().network, TrainingSettings(lora_modules="x"))
