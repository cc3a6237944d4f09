"""An adapter that is kept: trained on text, then active again, alone and beside a fresh one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from arc_seal.errors import InputError
from arc_seal.inner_loop.job import FinetuneJob, FinetuneSettings, Progress, RewardedEdit
from arc_seal.inner_loop.lora import with_adapter, with_fresh_adapter
from arc_seal.inner_loop.policy import finetune, self_edit_prompt
from arc_seal.models.generate import model_positions
from arc_seal.models.model import Model, load
from arc_seal.models.prompt import Encoded, Prompt, Turn
from arc_seal.models.weights import GridSource
from arc_seal.self_edit.bounds import COMPACT
from tests.inner_loop.builders import copying_task, examples_of, ignore, learn
from tests.inner_loop.test_adapter import hidden, lora, snapshot
from tests.models.builders import MODELS, SMALL, grid_network

SETTINGS = FinetuneSettings(lora_rank=8, lora_alpha=8.0, learning_rate=0.02, epochs=12, batch_size=2)
EDITS = tuple(RewardedEdit(SMALL, text) for text in ('{"a":1}', '{"a":2}', '{"b":3}'))


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    model: Model = request.param(0)
    return model


def examples(model: Model) -> list[Encoded]:
    asked = self_edit_prompt(SMALL, "", "").turns
    answers = [Turn("assistant", (edit.self_edit,), target=True) for edit in EDITS]
    return [model.codec.encode(Prompt((*asked, answer))) for answer in answers]


def job(folder: Path, seed: int = 0) -> FinetuneJob:
    return FinetuneJob(EDITS, "", "", {}, SETTINGS, seed, str(folder))


def kept(model: Model, folder: Path, seed: int = 0) -> Path:
    finetune(job(folder, seed), model, ignore)
    return folder


def test_it_learns_and_leaves_the_model_as_it_was(model: Model, tmp_path: Path) -> None:
    before, seen = snapshot(model), list[Progress]()
    record = finetune(job(tmp_path / "policy"), model, seen.append)
    assert snapshot(model) == before
    assert record.losses[-1] < 0.7 * record.losses[0]
    assert record.updates == len(seen) == 12 * 2
    assert {progress.stage for progress in seen} == {"finetune"}
    assert record.targets == 12 * sum(example.target.sum() for example in examples(model))


@pytest.mark.parametrize("targets", ["text", "choices"])
def test_the_loss_of_each_self_edit_is_multiplied_by_its_weight(targets: Any, model: Model, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 23]}}, "required": ["a"], "x-guidance": COMPACT}
    settings = FinetuneSettings(lora_rank=2, epochs=1, batch_size=2, variants=2, targets=targets)
    edits = (RewardedEdit(SMALL, '{"a":1}'), RewardedEdit(SMALL, '{"a":23}'))

    def first_loss(*weights: float) -> float:
        own = tuple(replace(each, weight=weight) for each, weight in zip(edits, weights, strict=True))
        made = FinetuneJob(own, "", "", schema, settings, 0, str(tmp_path / "policy"))
        return finetune(made, model, ignore).losses[0]

    plain = first_loss(1.0, 1.0)
    assert first_loss(3.0, 3.0) == pytest.approx(3 * plain)
    assert first_loss(0.5, 0.0) + first_loss(0.5, 1.0) == pytest.approx(plain) != first_loss(0.5, 0.0)


def test_what_has_no_weight_teaches_nothing(model: Model, tmp_path: Path) -> None:
    both = replace(job(tmp_path / "both"), edits=(EDITS[0], replace(EDITS[1], weight=0.0)))
    finetune(both, model, ignore)
    states = hidden(model)
    with with_adapter(model, tmp_path / "both"):
        assert not torch.allclose(hidden(model), states, atol=1e-4)
    nothing = replace(job(tmp_path / "nothing"), edits=tuple(replace(each, weight=0.0) for each in EDITS))
    assert set(finetune(nothing, model, ignore).losses) == {0.0}
    with with_adapter(model, tmp_path / "nothing"):
        assert torch.equal(hidden(model), states)


def test_files_are_the_same_for_one_seed_and_replaced_whole(model: Model, tmp_path: Path) -> None:
    one, two, other = (kept(model, tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    names = {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in one.iterdir()} == names
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (one, two, other)]
    assert weights[0] == weights[1] != weights[2]
    layers = json.loads((one / "adapter_config.json").read_text("utf-8"))["target_modules"]
    assert layers == sorted(layers)  # and not in the order of a set, which is another in every process
    (other / "stale").write_text("from before")
    kept(model, other)
    assert {path.name for path in other.iterdir()} == names
    assert (other / "adapter_model.safetensors").read_bytes() == weights[0]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_active_it_says_what_it_learnt_and_comes_off_without_a_trace(model: Model, tmp_path: Path) -> None:
    folder, before, states = kept(model, tmp_path / "policy"), snapshot(model), hidden(model)
    fresh = loss(model)
    with with_adapter(model, folder):
        assert loss(model) < 0.7 * fresh
        assert not any(weight.requires_grad for weight in model.network.parameters())
        changed = hidden(model)
    assert not torch.allclose(changed, states, atol=1e-4)
    assert snapshot(model) == before
    with with_adapter(model, folder):
        assert torch.equal(hidden(model), changed)


def test_it_is_read_without_a_word_where_the_model_has_moved(tmp_path: Path) -> None:
    model = MODELS[0](0)
    folder = kept(model, tmp_path / "policy")
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "/elsewhere"}), "utf-8"
    )
    for active in (with_adapter(model, folder), with_fresh_adapter(model, 4, 4.0, seed=0, frozen=folder)):
        with active:
            assert next(lora(model)) is not None


def test_a_fresh_adapter_is_added_to_a_kept_one(model: Model, tmp_path: Path) -> None:
    folder, before = kept(model, tmp_path / "policy"), snapshot(model)
    with with_adapter(model, folder):
        states = hidden(model)
    with with_fresh_adapter(model, 4, 4.0, seed=0, frozen=folder):
        assert torch.allclose(hidden(model), states, atol=1e-5)
        frozen = {name: weight.clone() for name, weight in model.network.named_parameters() if ".kept." in name}
        assert frozen and not any(dict(model.network.named_parameters())[name].requires_grad for name in frozen)
        assert all(weight.requires_grad for weight in lora(model, ".default."))
        learn(model, examples_of(model, [copying_task()]), training={"epochs": 3, "learning_rate": 0.05})
        after = dict(model.network.named_parameters())
        assert all(torch.equal(after[name], weight) for name, weight in frozen.items())
        assert not torch.allclose(hidden(model), states, atol=1e-3)
    assert snapshot(model) == before


@pytest.mark.parametrize("broken", ["missing", "empty", "torn", "of another model"])
def test_a_folder_without_a_fitting_adapter_is_bad_input(broken: str, tmp_path: Path) -> None:
    model, folder = MODELS[0](0), tmp_path / "policy"
    match broken:
        case "empty":
            folder.mkdir()
        case "torn":
            weights = kept(model, folder) / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:100])
        case "of another model":
            kept(MODELS[1](0), folder)
    before = snapshot(model)
    for active in (with_adapter(model, folder), with_fresh_adapter(model, 4, 4.0, seed=0, frozen=folder)):
        with pytest.raises(InputError, match=r"policy: expected a(n| folder with an) adapter"), active:
            pytest.fail("it was read")
        assert snapshot(model) == before


def test_an_adapter_of_other_weights_is_refused(tmp_path: Path) -> None:
    one, other = (saved_model(tmp_path / str(seed), seed) for seed in (0, 1))
    assert one.weights and other.weights and one.weights != other.weights
    folder = kept(one, tmp_path / "policy")
    (tmp_path / "0").rename(tmp_path / "moved")  # where the weights lie does not matter
    with with_adapter(load(GridSource("grid", str(tmp_path / "moved"))), folder):
        pass
    before = snapshot(other)
    expected = f"expected {other.weights}, the weights that grid has now, found {one.weights}"
    for active in (with_adapter(other, folder), with_fresh_adapter(other, 4, 4.0, seed=0, frozen=folder)):
        with pytest.raises(InputError, match=f"adapter_config.json: revision: {expected}"), active:
            pytest.fail("it was read")
        assert snapshot(other) == before


def saved_model(folder: Path, seed: int) -> Model:
    """A grid model read from files."""
    grid_network(seed=seed).save_pretrained(folder)
    return load(GridSource("grid", str(folder)))


def loss(model: Model) -> float:
    """Mean over the examples' targets, nats a token."""
    total = targets = 0.0
    for example in examples(model):
        ids = torch.from_numpy(example.ids)[None]
        positions = torch.from_numpy(example.positions)[:, None]
        with torch.no_grad():
            logits = model.network(input_ids=ids, position_ids=model_positions(positions)).logits[0]
        (where,) = example.target.nonzero()
        each = torch.log_softmax(logits[where - 1], dim=-1)[range(len(where)), ids[0, where]]
        total, targets = total - float(each.sum()), targets + len(where)
    return total / targets
