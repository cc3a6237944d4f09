"""Chat models: loaded or refused in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arc_seal.errors import InputError, ModelError
from arc_seal.models.model import load, pick_device, pick_dtype
from arc_seal.models.scripted import ScriptedModel
from arc_seal.models.weights import ChatSource
from tests.models.builders import byte_tokenizer, save_model
from tests.models.test_loaded import PROMPT, write


@pytest.fixture(scope="module")
def model() -> ScriptedModel:
    return ScriptedModel()


def test_scripted_model_says_what_it_is_told() -> None:
    model = ScriptedModel(["one", "two"])
    texts = [completion.text for _ in range(2) for completion in write(model, count=2)]
    assert texts == ["one", "two", "two", "two"]
    assert model.prompts == [PROMPT, PROMPT]


def test_device_and_dtype_are_picked() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    assert pick_dtype("auto", torch.device("mps")) is torch.float32
    assert pick_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) is torch.float16


@pytest.mark.parametrize("name", ["warp", "cuda:99", "", "cpu:x"])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf"^model.device: expected auto, cpu, or .*, found {name!r}$"):
        pick_device(name)


@pytest.mark.parametrize("name", ["int8", "Tensor", "zork", ""])
def test_unknown_dtype_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf"^model.dtype: expected auto, float32, .*, found {name!r}$"):
        pick_dtype(name, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


def test_folder_is_loaded(folder: Path, model: ScriptedModel) -> None:
    loaded = load(ChatSource("tiny", str(folder), device="cpu"))
    assert loaded.name == "tiny"
    assert write(loaded, max_tokens=40) == write(model, max_tokens=40)
    half = load(ChatSource("tiny", str(folder), device="cpu", dtype="bfloat16"))
    assert half.network.dtype == torch.bfloat16


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def more_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


def broken_tokenizer(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**data, "model": {"type": "zork"}}))


def no_template(folder: Path) -> None:
    byte_tokenizer(None).save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()


def unlink(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (unlink("model.safetensors"), "a causal language model that transformers can read, found Error no file named"),
        (unlink("config.json"), "a causal language model that transformers can read, found Unrecognized model"),
        (cut_weights, "a causal language model that transformers can read, found Error while deserializing"),
        (more_layers, "weights for the whole network, found none for 9 tensors, such as model.layers.2.input_layern"),
        (broken_tokenizer, "a causal language model that transformers can read, found "),
        (no_template, "a chat template, found none"),
    ],
)
def test_folder_that_is_no_model_is_refused(
    spoil: Callable[[Path], None], expected: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "bad")
    spoil(tmp_path / "bad")
    with pytest.raises(ModelError) as caught:
        load(ChatSource("bad", str(tmp_path / "bad"), device="cpu"))
    assert str(tmp_path / "bad") in str(caught.value)
    assert f"expected {expected}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_missing_folder_is_refused(location: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(ChatSource("missing", location, device="cpu"))
    assert str(caught.value) == f"{location}: expected a folder, a .gguf file or a hub id, found nothing there"


def test_hub_id_without_a_network_is_refused(tmp_path: Path) -> None:
    code = (
        "from arc_seal.models.model import load; from arc_seal.models.weights import ChatSource; "
        "load(ChatSource('x', 'nobody/nothing', device='cpu'))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"{ModelError.__module__}.ModelError: nobody/nothing: expected a causal language model")
    assert issubclass(ModelError, InputError)  # which commands show as one line
