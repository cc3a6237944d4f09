"""Files that are there whole or not at all, whoever is killed while writing them, and the package's own folders."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO

UNFINISHED = ".unfinished"
"""How the name of a file ends that is being written, or that a killed process has left half-written."""

STALE_S = 3600.0
"""Seconds after which what nothing was added to counts as left behind by a killed process."""

_PACKAGE = Path(__file__).resolve().parent


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Put a file in its place when all of it is on the disk: a reader sees the old file or the new one.

    Any number of processes may write one file at the same time; the last one's stays.

    Args:
        path: The file, in a folder that is there.
        write: Writes its content into the file that it is given.

    Raises:
        OSError: When the file cannot be written.
    """
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with fresh.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise


def file_name(name: str) -> str:
    """A harmless file name for a name, another for every other.

    A name that is none itself is told apart by a hash behind a tilde, which no harmless name has.
    """
    if re.fullmatch(r"[-0-9A-Z_a-z][-.0-9A-Z_a-z]{0,79}", name):
        return name
    harmless = re.sub(r"[^-.0-9A-Z_a-z]+", "_", name)[:60].lstrip(".") or "task"
    return f"{harmless}~{sha256(name.encode()).hexdigest()[:12]}"


def remove_stale(folder: Path, pattern: str) -> None:
    """Remove the half-made files and folders that killed processes have left in a folder, under matching names."""
    for left in folder.glob(pattern):
        with suppress(FileNotFoundError):  # another process has just moved or removed it
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


def conf_dir(package: Path = _PACKAGE) -> Path:
    """The folder of the Hydra configuration."""
    return _shared("conf", package)


def tools_dir(package: Path = _PACKAGE) -> Path:
    """The folder of the toolbox: one file a tool that a self-edit may call."""
    return _shared("tools", package)


def weights_dir(package: Path = _PACKAGE) -> Path:
    """The folder of the weights that come with arc-seal, one folder a model; inside the package, installed or not."""
    return package / "weights"


def _shared(name: str, package: Path) -> Path:
    """A folder that is in the wheel beside the package's modules, and in a checkout beside its folder."""
    for folder in (package / "_share" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"arc-seal's folder {name}/ is neither in {package / '_share'} nor in {package.parent}")
