"""A model's folder may come from anywhere: it is read, or one line says what is wrong with it."""

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from arc_seal.errors import InputError, ModelError, one_line, printable
from arc_seal.files import weights_dir
from arc_seal.models import model as model_module
from arc_seal.models import weights as weights_module
from arc_seal.models.model import load
from arc_seal.models.weights import ChatSource, GridSource, is_intact, write_manifest
from arc_seal.pretraining.run import export, first_weights
from tests.models.builders import byte_tokenizer, grid_network, save_model
from tests.models.test_grid_model import configure

Spoil = Callable[[Path], object]

SOURCES = {"grid": GridSource, "chat": ChatSource}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of each kind."""
    folder = tmp_path_factory.mktemp("models")
    grid_network(revision=2).save_pretrained(folder / "grid")
    save_model(folder / "chat")
    return folder


def replace(name: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def drop(key: str) -> Spoil:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        del config[key]
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def as_folder(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def change(edit: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return spoil


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


class Bomb:
    """Unpickled, it fails the test run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.exit, ("unpickled",))


def other_tokenizer(folder: Path) -> None:
    """Tokens beyond the network's vocabulary."""
    byte_tokenizer(merges=[("a", "b")]).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    save_file({**tensors, name: tensors[name][:20].clone()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 20}))


BOTH: dict[str, Spoil] = {
    "zero heads": configure(num_attention_heads=0),
    "heads below zero": configure(num_attention_heads=-2),
    "a width in quotes": configure(hidden_size="32"),
    "a width of null": configure(hidden_size=None),
    "a width of a part": configure(hidden_size=32.5),
    "a huge width": configure(hidden_size=10**9),
    "a list of layers": configure(num_hidden_layers=[2]),
    "no layers": configure(num_hidden_layers=0),
    "layers below zero": configure(num_hidden_layers=-1),
    "more layers": configure(num_hidden_layers=3),
    "an epsilon in words": configure(rms_norm_eps="small"),
    "an epsilon of NaN": configure(rms_norm_eps=float("nan")),
    "no vocabulary": configure(vocab_size=0),
    "a number for the type": configure(model_type=3),
    "a list for the type": configure(model_type=["llama"]),
    "an unknown type": configure(model_type="\x1b[31mzork"),
    "code of its own": configure(
        model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    ),
    "a number for quantisation": configure(quantization_config=3),
    "an empty object": replace("config.json", "{}"),
    "a list": replace("config.json", "[]"),
    "null": replace("config.json", "null"),
    "no text": replace("config.json", b"\xff\xfe"),
    "deep JSON": replace("config.json", "[" * 200_000),
    "a folder for the configuration": as_folder("config.json"),
    "a list for generation": replace("generation_config.json", "[]"),
    "a folder for the weights": as_folder("model.safetensors"),
    "a pickle": as_pickle,
    "a pickle by the name of the weights": replace("model.safetensors", pickle.dumps(Bomb())),
    "nothing in the weights": replace("model.safetensors", b""),
    "a length beyond the file": replace("model.safetensors", b"\xff" * 64),
    "a weight of NaN": change(lambda tensors: tensors["model.norm.weight"].fill_(float("nan"))),
    "a tensor less": change(lambda tensors: tensors.pop("model.norm.weight")),
    "another shape": change(lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)})),
}

GRID: dict[str, Spoil] = {
    "a base in words": configure(rope_base="hundred"),
    "a revision in words": configure(revision="two"),
    "an unknown revision": configure(revision=3),
    "a missing revision": drop("revision"),
    "fewer layers": configure(num_hidden_layers=1),
    "a tensor more": change(lambda tensors: tensors.update({"more\x1b[31m": torch.zeros(2)})),
}

CHAT: dict[str, Spoil] = {
    "zero heads of keys": configure(num_key_value_heads=0),
    "a head without width": configure(head_dim=0),
    "an unknown activation": configure(hidden_act="zork"),
    "an empty tokenizer": replace("tokenizer.json", "{}"),
    "a folder for the tokenizer": as_folder("tokenizer.json"),
    "a list for its settings": replace("tokenizer_config.json", "[]"),
    "a number for its class": replace("tokenizer_config.json", '{"tokenizer_class": 3}'),
    "a template that divides by zero": replace("chat_template.jinja", "{{ 1 / 0 }}"),
    "a template that calls itself": replace("chat_template.jinja", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"),
    "a template of a wrong form": replace("chat_template.jinja", "{% zork"),
    "a template that steers the terminal": replace("chat_template.jinja", "{{ raise_exception('\x1b[31m\x07') }}"),
    "tokens that the network lacks": other_tokenizer,
}

CASES = [
    (kind, name, spoil) for kind, own in (("grid", GRID), ("chat", CHAT)) for name, spoil in {**BOTH, **own}.items()
]


@pytest.mark.parametrize(
    ("kind", "spoil"), [(kind, spoil) for kind, _, spoil in CASES], ids=[f"{k}: {n}" for k, n, _ in CASES]
)
@pytest.mark.filterwarnings("ignore")
def test_a_broken_folder_is_refused_in_one_line(
    kind: str, spoil: Spoil, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(whole / kind, tmp_path / "bad"))
    spoil(folder)
    with caplog.at_level(logging.INFO), pytest.raises(ModelError) as caught:
        load(SOURCES[kind]("bad", str(folder), device="cpu"))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    assert "expected " in str(caught.value)


def test_no_report_of_transformers_comes_through(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole / "chat", tmp_path / "bad"))
    change(lambda tensors: tensors.update({"more\x1b[31m": torch.zeros(2)}))(folder)
    load(ChatSource("more", str(folder), device="cpu"))
    assert tuple(capfd.readouterr()) == ("", "")


def test_what_transformers_reads_by_name_brings_no_code(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(whole / "chat", tmp_path / "mine"))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    configure(auto_map={"AutoModelForCausalLM": "mine.Mine"})(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    mine = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **mine}))
    seen: list[Any] = []
    for auto in (model_module.AutoTokenizer, model_module.AutoModelForCausalLM):
        own = auto.from_pretrained

        def read(*args: Any, own: Any = own, **settings: Any) -> Any:
            seen.append(settings.get("trust_remote_code"))
            return own(*args, **settings)

        monkeypatch.setattr(auto, "from_pretrained", read)
    try:
        load(ChatSource("mine", str(folder), device="cpu"))
    except ModelError as error:
        assert "it ran" not in str(error)
    assert seen and all(trust is False for trust in seen)


def flip_bits(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for place in range(20):
        content[-1000 * (place + 1)] ^= 1
    file.write_bytes(content)


def fill_with_zeros(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-100_000] + bytes(100_000))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that comes with the package, in the place of it."""
    folder = Path(shutil.copytree(weights_dir() / "grid", tmp_path / "weights" / "grid"))
    monkeypatch.setattr(weights_module, "weights_dir", lambda: folder.parent)
    monkeypatch.setattr(weights_module, "local_path", lambda location: folder)
    return folder


@pytest.mark.parametrize("location", ["package:arc_seal/weights/grid", "somewhere/grid"])
@pytest.mark.parametrize("damage", [flip_bits, fill_with_zeros, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_damaged_weights_of_the_package_are_refused(
    name: str, damage: Callable[[Path], object], location: str, shipped: Path
) -> None:
    file = shipped / name
    file.write_text(" ") if damage is not Path.unlink and name != "model.safetensors" else damage(file)
    with pytest.raises(ModelError) as caught:
        load(GridSource("grid", location, device="cpu"))
    assert str(caught.value) == (
        f"{location}: expected the files with the SHA-256 that manifest.json lists, found others (install anew)"
    )


def test_pretraining_does_not_begin_with_damaged_weights(shipped: Path) -> None:
    network = load(GridSource("grid", "package:arc_seal/weights/grid", device="cpu")).network
    fill_with_zeros(shipped / "model.safetensors")
    with pytest.raises(InputError, match="expected the files with the SHA-256 that manifest"):
        first_weights("shipped", network.config)  # type: ignore[arg-type]


def test_the_package_lists_all_of_its_weights_and_no_text() -> None:
    folder = weights_dir() / "grid"
    listed = json.loads((folder / "manifest.json").read_text())
    assert listed.keys() == {path.name for path in folder.iterdir()} - {"manifest.json", "README.md"}
    assert is_intact(folder)


def test_exported_weights_have_their_manifest(tmp_path: Path) -> None:
    export(grid_network(layers=1), tmp_path / "weights")
    assert is_intact(tmp_path / "weights")
    (tmp_path / "weights" / "README.md").write_text("may change")
    before = (tmp_path / "weights" / "manifest.json").read_text()
    write_manifest(tmp_path / "weights")
    assert (tmp_path / "weights" / "manifest.json").read_text() == before


def test_words_from_elsewhere_are_one_line() -> None:
    assert one_line(ValueError("\n a \x1b[31mb\x9b\nc")) == "a \ufffd[31mb\ufffd"
    assert one_line(KeyError()) == "KeyError"
    assert printable("a\tb\u202ec\nd") == "a b\ufffdc d"
    assert str(InputError("a\x07", "b\n", "c", "\x1b")) == "a\ufffd: b : expected c, found \ufffd"
