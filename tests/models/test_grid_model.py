"""The grid model: loaded or refused in one line, its tokenizer, what networks are told of positions."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from arc_seal.config import make
from arc_seal.errors import ModelError
from arc_seal.files import conf_dir, weights_dir
from arc_seal.models.grid_codec import ASK, FIRST_BYTE, INPUT, OUTPUT, PAD, VOCABULARY, GridCodec, text_segment
from arc_seal.models.model import ALIGNED, Model, grid_tokenizer, load
from arc_seal.models.prompt import END, ROW_END, query_prompt
from arc_seal.models.weights import GridSource, resolve
from tests.models.builders import SMALL, grid_model, grid_network, save_model
from tests.models.test_loaded import write

TOKENIZER = grid_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    grid_network().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "parts"
    grid_network().save_pretrained(folder, max_shard_size="40KB")
    return folder


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    encoded = model.codec.encode(query_prompt(SMALL, SMALL.queries[0]))
    output = model.network(
        input_ids=torch.from_numpy(encoded.ids)[None], position_ids=torch.from_numpy(encoded.positions)[:, None]
    )
    return torch.as_tensor(output.logits)


def test_folder_is_loaded_whole_or_in_parts(folder: Path, parts: Path) -> None:
    assert len(list(parts.glob("model-*.safetensors"))) > 1 and (parts / "model.safetensors.index.json").is_file()
    own = grid_model()
    for saved in (folder, parts):
        loaded = load(GridSource("tiny", str(saved), device="cpu"))
        assert loaded.name == "tiny"
        assert torch.equal(logits(loaded), logits(own))
        assert write(loaded, max_tokens=40) == write(own, max_tokens=40)


def test_weights_begin_in_memory_where_those_that_torch_makes_do(folder: Path, parts: Path) -> None:
    for each in (folder, parts):  # their headers are of other lengths
        network = load(GridSource("grid", str(each), "cpu", "float32")).network
        assert {weight.data_ptr() % ALIGNED for weight in network.parameters()} == {0}


def test_weights_in_half_precision_are_computed_with_as_asked(tmp_path: Path) -> None:
    grid_network().to(torch.bfloat16).save_pretrained(tmp_path)
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        loaded = load(GridSource("tiny", str(tmp_path), device="cpu", dtype=dtype))
        assert loaded.network.dtype == expected
        assert torch.allclose(logits(loaded).float(), logits(grid_model()), atol=0.2)


def test_source_is_a_value_that_travels() -> None:
    source = GridSource("grid", "somewhere")
    assert pickle.loads(pickle.dumps(source)) == source == GridSource("grid", "somewhere", "auto", "auto")
    assert hash(source) == hash(GridSource("grid", "somewhere"))


def test_configuration_names_the_weights_that_come_with_the_package() -> None:
    settings = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / "grid.yaml"))
    assert isinstance(settings, dict)
    source = make({str(name): value for name, value in settings.items() if name != "defaults"})
    assert source == GridSource("grid", "package:arc_seal/weights/grid")
    assert resolve("package:arc_seal/weights/grid") == str(weights_dir() / "grid")


def test_weights_that_come_with_the_package_can_be_loaded() -> None:
    model = load(GridSource("grid", "package:arc_seal/weights/grid", device="cpu"))
    assert 3_000_000 < model.network.num_parameters() < 4_000_000
    parts = list((weights_dir() / "grid").glob("*.safetensors"))
    assert parts and all(part.stat().st_size < 16_000_000 for part in parts)


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:5000])

    return spoil


def configure(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return spoil


def garble(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def other_model(folder: Path) -> None:
    shutil.rmtree(folder)
    save_model(folder)


def fewer_tokens(folder: Path) -> None:
    configure(vocab_size=100)(folder)
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:100].contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


UNREADABLE = "a causal language model that transformers can read, found "


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (unlink("model.safetensors"), UNREADABLE + "Error no file named"),
        (unlink("config.json"), UNREADABLE + "Unrecognized model"),
        (garble, UNREADABLE),
        (cut("model.safetensors"), UNREADABLE + "Error while deserializing"),
        (configure(hidden_size=64), UNREADABLE),
        (configure(num_hidden_layers=3), "weights for the whole network, found none for 9 tensors, such as "),
        (other_model, "model_type arc_seal_grid, found llama"),
        (fewer_tokens, f"vocab_size {VOCABULARY}, found 100"),
    ],
)  # fmt: skip
def test_folder_that_is_no_grid_model_is_refused(
    spoil: Callable[[Path], None], expected: str, folder: Path, tmp_path: Path
) -> None:
    refused(shutil.copytree(folder, tmp_path / "bad"), spoil, expected)


@pytest.mark.parametrize("spoil", [unlink, cut])
def test_folder_with_a_bad_part_is_refused(
    spoil: Callable[[str], Callable[[Path], None]], parts: Path, tmp_path: Path
) -> None:
    part = sorted(parts.glob("model-*.safetensors"))[1].name
    refused(shutil.copytree(parts, tmp_path / "bad"), spoil(part), UNREADABLE)


def refused(bad: Path, spoil: Callable[[Path], None], expected: str) -> None:
    spoil(bad)
    with pytest.raises(ModelError) as caught:
        load(GridSource("bad", str(bad), device="cpu"))
    assert str(caught.value).startswith(str(bad))
    assert f"expected {expected}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["package:arc_seal/weights/none", "package:arc_seal/models/base.py"])
def test_what_is_not_in_the_package_is_refused(location: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(GridSource("bad", location, device="cpu"))
    assert str(caught.value) == f"{location}: expected a folder or a .gguf file in that package, found nothing there"


def test_weights_that_are_not_numbers_are_refused() -> None:
    network = grid_network()
    torch.nn.init.constant_(network.get_decoder().norm.weight, float("nan"))
    with pytest.raises(ModelError, match=r"^arc_seal_grid: output layer: .*, found a difference of nan$"):
        Model("bad", network, GridCodec(), TOKENIZER)


@given(text=st.text())
def test_tokenizer_is_the_vocabularys(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert ids == text_segment(text).ids[1:-1].tolist()
    assert TOKENIZER.decode(ids) == text


def test_tokenizer_knows_every_token() -> None:
    assert len(TOKENIZER) == VOCABULARY
    marks = {"row end": ROW_END, "end": END, "input": INPUT, "output": OUTPUT, "ask": ASK, "pad": PAD}
    names = {**{str(colour): colour for colour in range(10)}, **marks}
    assert {name: TOKENIZER.convert_tokens_to_ids(f"<|{name}|>") for name in names} == names
    assert sorted(TOKENIZER.all_special_ids) == [END, PAD]
    assert [TOKENIZER.decode([FIRST_BYTE + byte]) for byte in range(128)] == [chr(byte) for byte in range(128)]


def test_completion_cut_within_a_character_is_still_text() -> None:
    model = grid_model()
    schema = {"type": "string", "enum": ["é" * 9]}
    texts = [completion.text for completion in (write(model, max_tokens=count, schema=schema)[0] for count in (4, 5))]
    assert texts == ['"é�', '"éé']
