"""Chat models: loaded or refused in one line, and self-edits written under the schema's grammar."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from arc_seal.errors import InputError, ModelError
from arc_seal.models.base import Completion, Sampling
from arc_seal.models.chat import ChatModel, pick_device, pick_dtype
from arc_seal.models.grammar import TokenGrammar
from arc_seal.models.prompt import Prompt, Turn
from arc_seal.models.scripted import ScriptedModel, tiny_tokenizer
from arc_seal.models.source import ChatSource
from arc_seal.self_edit.schema import Bounds, SelfEditSchema
from tests.models.builders import SMALL, byte_tokenizer, save_model
from tests.self_edit.builders import TOOLBOX

SCHEMA = SelfEditSchema(TOOLBOX, Bounds())
PROMPT = Prompt((Turn("user", ("An example: ", SMALL.queries[0], "\nGo on.")),))
LONG = 3000
"""More tokens than any self-edit below has."""


@pytest.fixture(scope="module")
def model() -> ScriptedModel:
    return ScriptedModel()


def write(model: ChatModel, **settings: Any) -> tuple[Completion, ...]:
    on_token = settings.pop("on_token", lambda tokens: None)
    sampling = Sampling(**{"count": 1, "temperature": 1.0, "seed": 0, "max_tokens": LONG, **settings})
    return model.write(PROMPT, SCHEMA.json_schema(), sampling, on_token)


def parse_but_for_repeats(text: str) -> None:
    """Read a completion as a self-edit, without the repeated calls and small sets that no grammar can rule out."""
    data = json.loads(text)
    data["tools"] = [call for index, call in enumerate(data["tools"]) if call not in data["tools"][:index]]
    SCHEMA.parse(data)


def test_every_completion_is_a_self_edit(model: ScriptedModel) -> None:
    completions = write(model, count=4, temperature=1.5)
    assert all(completion.finished for completion in completions)
    assert len({completion.text for completion in completions}) == 4
    for completion in completions:
        parse_but_for_repeats(completion.text)


def test_seed_fixes_each_completion_alone_or_beside_others(model: ScriptedModel) -> None:
    together = write(model, count=3, seed=5, max_tokens=200)
    assert together == write(model, count=3, seed=5, max_tokens=200)
    assert together == tuple(write(model, seed=seed, max_tokens=200)[0] for seed in (5, 6, 7))
    assert len({completion.text for completion in together}) == 3


@torch.no_grad()
def test_temperature_0_takes_the_likeliest_allowed_token(model: ScriptedModel) -> None:
    first, second = write(model, count=2, temperature=0, max_tokens=60)
    assert first == second == write(model, temperature=0, seed=9, max_tokens=60)[0]
    tokenizer, ids = tiny_tokenizer(), model.codec.encode(PROMPT).ids.tolist()
    matcher = TokenGrammar(tokenizer, len(tokenizer), model.codec.symbols.end).matcher(SCHEMA.json_schema())
    written: list[int] = []
    for _ in range(60):
        logits = model.network(input_ids=torch.tensor([ids + written])).logits[0, -1]
        token = int(logits.masked_fill(~torch.from_numpy(matcher.allowed()), float("-inf")).argmax())
        matcher.take(token)
        written.append(token)
    assert first.text == tokenizer.decode(written)


def test_lower_temperature_is_likelier(model: ScriptedModel) -> None:
    cold = write(model, count=2, seed=1, temperature=1e-4, max_tokens=30)
    assert {completion.text for completion in cold} == {write(model, temperature=0, max_tokens=30)[0].text}


def test_completion_that_is_cut_is_not_finished(model: ScriptedModel) -> None:
    steps: list[int] = []
    (cut,) = write(model, max_tokens=10, on_token=steps.append)
    assert (cut.finished, cut.tokens, len(cut.text)) == (False, 10, 10)
    assert steps == sorted(set(steps)) and steps[-1] == 10


def test_completions_of_different_length_end_on_their_own(model: ScriptedModel) -> None:
    steps: list[int] = []
    completions = write(model, count=4, temperature=1.5, on_token=steps.append)
    lengths = [completion.tokens for completion in completions]
    assert len(set(lengths)) > 1
    assert steps[-1] == max(lengths)
    assert all(completion.text.endswith("}}") for completion in completions)
    assert [len(completion.text) for completion in completions] == lengths  # a byte a token


def test_scripted_model_says_what_it_is_told() -> None:
    model = ScriptedModel(["one", "two"])
    texts = [completion.text for _ in range(2) for completion in write(model, count=2)]
    assert texts == ["one", "two", "two", "two"]
    assert model.prompts == [PROMPT, PROMPT]


def test_unusable_schema_is_refused(model: ScriptedModel) -> None:
    with pytest.raises(ModelError, match="expected a schema that compiles"):
        model.write(PROMPT, {"type": "zork"}, Sampling(1, temperature=0, seed=0, max_tokens=1), lambda tokens: None)


def test_weights_are_frozen(model: ScriptedModel) -> None:
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert not model.network.training


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
    loaded = ChatSource("tiny", str(folder), device="cpu").load()
    assert loaded.name == "tiny"
    assert write(loaded, max_tokens=40) == write(model, max_tokens=40)
    half = ChatSource("tiny", str(folder), device="cpu", dtype="bfloat16").load()
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
        ChatSource("bad", str(tmp_path / "bad"), device="cpu").load()
    assert str(tmp_path / "bad") in str(caught.value)
    assert f"expected {expected}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_missing_folder_is_refused(location: str) -> None:
    with pytest.raises(ModelError) as caught:
        ChatSource("missing", location, device="cpu").load()
    assert str(caught.value) == f"{location}: expected a folder, a .gguf file or a hub id, found nothing there"


def test_hub_id_without_a_network_is_refused(tmp_path: Path) -> None:
    code = "from arc_seal.models.source import ChatSource; ChatSource('x', 'nobody/nothing', device='cpu').load()"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"{ModelError.__module__}.ModelError: nobody/nothing: expected a causal language model")
    assert issubclass(ModelError, InputError)  # which commands show as one line
