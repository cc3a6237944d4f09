"""A policy's folder may come from anywhere: it is an adapter as arc-seal writes it, or one line says what is wrong."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from arc_seal.errors import InputError
from arc_seal.inner_loop import lora as lora_module
from arc_seal.inner_loop.lora import with_adapter, with_fresh_adapter
from arc_seal.inner_loop.policy import _keep
from arc_seal.models.model import Model
from tests.inner_loop.test_adapter import hidden, snapshot
from tests.models.builders import grid_model, scripted_model

Spoil = Callable[[Path], object]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def model() -> Model:
    return grid_model(0)


@pytest.fixture(scope="module")
def whole(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy's folder, its weights random and not zero."""
    folder = tmp_path_factory.mktemp("policies") / "whole"
    with with_fresh_adapter(model, 8, 16.0, seed=0) as adapter:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for name, weight in adapter.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
        _keep(adapter, folder)
    return folder


def configure(**changes: object) -> Spoil:
    """Other values, `...` for none."""

    def spoil(folder: Path) -> None:
        values = {**json.loads((folder / CONFIG).read_text("utf-8")), **changes}
        (folder / CONFIG).write_text(json.dumps({k: v for k, v in values.items() if v is not ...}), "utf-8")

    return spoil


def replace(name: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def change(edit: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS)

    return spoil


def fill(value: float) -> Spoil:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[min(tensors)][0, 0] = value

    return change(edit)


def unlink(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def as_folder(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def rename_first(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.\x1b[31mred.lora_A.weight"] = tensors.pop(min(tensors))


class Bomb:
    """Unpickled, it fails the test run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.exit, ("unpickled",))


OTHERWISE: dict[str, tuple[Spoil, str]] = {
    "pissa": (configure(init_lora_weights="pissa"), "init_lora_weights: expected true, found \"pissa\""),
    "olora": (configure(init_lora_weights="olora"), "init_lora_weights: expected true, found \"olora\""),
    "loftq": (configure(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}), "expected "),
    "replicated layers": (configure(layer_replication=[[0, 2], [0, 2]]), "layer_replication: expected null, found [["),
    "dora": (configure(use_dora=True), "use_dora: expected false, found true"),
    "rslora": (configure(use_rslora=True), "use_rslora: expected false, found true"),
    "trained biases": (configure(bias="all"), "bias: expected \"none\", found \"all\""),
    "saved modules": (configure(modules_to_save=["lm_head"]), 'modules_to_save: expected null, found ["lm_head"]'),
    "patterns of rank": (configure(rank_pattern={"q_proj": 4}), 'rank_pattern: expected {}, found {"q_proj": 4}'),
    "patterns of alpha": (configure(alpha_pattern={"q_proj": 4}), "alpha_pattern: expected {}, "),
    "trained tokens": (configure(trainable_token_indices=[1]), "trainable_token_indices: expected null, "),
    "parameters": (configure(target_parameters=["lm_head.weight"]), "target_parameters: expected null, "),
    "another method": (configure(peft_type="IA3"), "peft_type: expected \"LORA\", found \"IA3\""),
    "another task": (configure(task_type="SEQ_CLS"), "task_type: expected \"CAUSAL_LM\", found \"SEQ_CLS\""),
    "code of its own": (configure(auto_mapping={"parent_library": "os"}), "auto_mapping: expected null, found {"),
    "an unknown key": (configure(**{"a\x1b[31mb": 1}), "expected null, found 1"),
    "an empty object": (replace(CONFIG, "{}"), "r: expected a value, found nothing"),
    "no object": (replace(CONFIG, "[]"), "expected "),
    "no JSON": (replace(CONFIG, "{"), "expected an adapter for this model, found "),
    "no text": (replace(CONFIG, b"\xff\xfe\x00"), "expected an adapter for this model, found "),
    "deep JSON": (replace(CONFIG, "[" * 200_000), "expected an adapter for this model, found "),
    "control characters": (replace(CONFIG, "\x1b[31m\x07"), "expected an adapter for this model, found "),
    "a rank in words": (configure(r="eight"), "r: expected a valid integer, found "),
    "a rank in quotes": (configure(r="8"), "r: expected a valid integer, found "),
    "a rank of zero": (configure(r=0), "r: expected greater than or equal to 1, found 0"),
    "a huge rank": (configure(r=10**9), "r: expected the rank of the weights in adapter_model.safetensors, found 1000"),
    "another rank": (configure(r=4), "r: expected the rank of the weights in adapter_model.safetensors, found 4"),
    "no alpha": (configure(lora_alpha=...), "lora_alpha: expected a value, found nothing"),
    "an alpha of NaN": (configure(lora_alpha=float("nan")), "lora_alpha: expected a finite number, found NaN"),
    "an infinite alpha": (configure(lora_alpha=float("inf")), "lora_alpha: expected a finite number, found Infinity"),
    "an alpha below zero": (configure(lora_alpha=-1), "lora_alpha: expected greater than 0, found -1"),
    "an alpha of true": (configure(lora_alpha=True), "lora_alpha: expected a valid number, found true"),
    "an alpha that is too large": (configure(lora_alpha=10**400), "expected "),
    "no target modules": (configure(target_modules=...), "target_modules: expected a value, found nothing"),
    "an empty list of them": (configure(target_modules=[]), "target_modules: expected at least 1 items, found 0"),
    "a pattern": (configure(target_modules="(a+)+b"), "target_modules: expected a valid tuple, found "),
    "numbers": (configure(target_modules=[1]), "target_modules[0]: expected a valid string, found 1"),
    "unknown modules": (configure(target_modules=["nope"]), 'found target_modules: "nope", no linear layer of it'),
    "the output layer": (configure(target_modules=["lm_head"]), 'found target_modules: "lm_head", no linear layer'),
    "a revision that is a number": (configure(revision=3), "revision: expected a valid string, found 3"),
    "no configuration": (unlink(CONFIG), "expected a folder with an adapter of peft's, found no adapter_config.json"),
    "a folder for it": (as_folder(CONFIG), "expected a folder with an adapter of peft's, found no adapter_config.json"),
    "no weights": (unlink(WEIGHTS), "expected a folder with an adapter of peft's, found no adapter_model.safetensors"),
    "a folder for them": (as_folder(WEIGHTS), "found no adapter_model.safetensors"),
    "a pickle": (as_pickle, "found no adapter_model.safetensors"),
    "a pickle by their name": (replace(WEIGHTS, pickle.dumps(Bomb())), "expected an adapter for this model, found "),
    "nothing in them": (replace(WEIGHTS, b""), "expected an adapter for this model, found "),
    "weights that are cut": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:3000]),
        "expected an adapter for this model, found ",
    ),
    "a length beyond the file": (replace(WEIGHTS, b"\xff" * 64), "expected an adapter for this model, found "),
    "a tensor less": (change(lambda tensors: tensors.pop(max(tensors))), "found \"base_model.model.model."),
    "no tensor": (change(lambda tensors: tensors.clear()), "r: expected the rank of the weights in "),
    "a tensor more": (
        change(lambda tensors: tensors.update(more=torch.zeros(3))), 'found "more": [3] instead of None'
    ),
    "a tensor by another name": (change(rename_first), "expected an adapter for this model, found "),
    "another shape": (
        change(lambda tensors: tensors.update({max(tensors): torch.zeros(5, 8)})), ": [5, 8] instead of ["
    ),
    "a number for a matrix": (
        change(lambda tensors: tensors.update({min(tensors): torch.tensor(1.0)})), "r: expected the rank"
    ),
    "a weight of NaN": (fill(float("nan")), "found weights or logits that are not finite"),
    "an infinite weight": (fill(float("-inf")), "found weights or logits that are not finite"),
    "weights that overflow": (
        change(lambda tensors: [tensor.fill_(3e38) for tensor in tensors.values()]), "that are not finite"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_arc_seal_does_not_write_is_refused_in_one_line_and_changes_nothing(
    name: str, model: Model, whole: Path, tmp_path: Path
) -> None:
    spoil, expected = OTHERWISE[name]
    folder = Path(shutil.copytree(whole, tmp_path / "policy"))
    spoil(folder)
    before = snapshot(model)
    for active in (with_adapter(model, folder), with_fresh_adapter(model, 4, 4.0, seed=0, frozen=folder)):
        with pytest.raises(InputError) as caught, active:
            pytest.fail("it was read")
        message = str(caught.value)
        assert message.startswith(str(folder)) and expected in message
        assert message.isprintable() and len(message) < 500
        assert snapshot(model) == before


def test_what_is_left_out_of_the_configuration_has_the_usual_value(model: Model, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "policy"))
    with with_adapter(model, whole):
        states = hidden(model)
    values = json.loads((folder / CONFIG).read_text("utf-8"))
    kept = {name: values[name] for name in ("r", "lora_alpha", "target_modules")}
    (folder / CONFIG).write_text(json.dumps(kept), "utf-8")
    for weights in (folder / "adapter_model.bin", folder / "training_args.bin"):
        weights.write_bytes(pickle.dumps(Bomb()))  # beside the weights, and not read
    with with_adapter(model, folder):
        assert torch.equal(hidden(model), states)


def test_weights_without_their_layers_are_another_models(whole: Path) -> None:
    with (
        pytest.raises(InputError, match="expected an adapter for this model, found "),
        with_adapter(scripted_model(0), whole),
    ):
        pytest.fail("it was read")


def test_random_numbers_elsewhere_are_left_alone(model: Model, whole: Path) -> None:
    state = torch.get_rng_state()
    with with_fresh_adapter(model, 4, 4.0, seed=0, frozen=whole):
        pass
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("changed", ["one bit", "a layer"])
def test_an_adapter_that_changes_the_base_ends_the_worker(changed: str, whole: Path) -> None:
    model = grid_model(0)
    with pytest.raises(RuntimeError, match="has changed the model's own weights for good"), with_adapter(model, whole):
        norm = model.network.get_decoder().norm
        if changed == "one bit":
            norm.weight.data.view(torch.int32)[0] ^= 1
        else:
            norm.weight = torch.nn.Parameter(norm.weight.detach()[:16].clone())
    with pytest.raises(RuntimeError):  # nothing comes out of it any more
        hidden(model).cpu()


def test_the_base_is_looked_at_bit_by_bit(model: Model) -> None:
    before = lora_module._checksums(model.network)
    weight = model.network.get_decoder().layers[0].attention.q_proj.weight.data
    weight.view(torch.int32)[3, 5] ^= 1
    assert lora_module._checksums(model.network) != before
    weight.view(torch.int32)[3, 5] ^= 1
    assert lora_module._checksums(model.network) == before
