"""Pairs made by ARC-GEN's generators (arXiv 2511.00162), of a clone that the user names; its code is not arc-seal's.

ARC-GEN re-makes 900 tasks: all of ARC-AGI-1's training set, but also 328 of its evaluation set, and 172 of ARC-AGI-2's
training set. Only the generators of `pretraining_tasks()` are run.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count as numbers
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from arc_seal.arc.grid import Grid
from arc_seal.arc.splits import pretraining_tasks
from arc_seal.arc.task import Demonstration
from arc_seal.errors import GridError, InputError
from arc_seal.pretraining.re_arc import CountedRandom, Failed, PairLimits, within

COMMIT = "a15cbdb44c776610aeeb9f487a06af875d3d0878"

DIGEST = "b6e10f0c14207888cabbbe011ace5bff8a3021861a2b8f0d55a4f9e7491890e3"
"""`digest` of that commit's files: others may draw other pairs, and code that was not looked at is not run."""

FORMAT = 2
"""Raised when the same seed would make other pairs."""

CPU_S = 5.0
"""Most processor seconds of a call. Most take 3 ms, all but `SLOW` at most 0.2 s; draws are counted too."""

SLOW = frozenset({"1b8318e3"})
"""Generators that take seconds, so that what they make would depend on the machine."""

PATIENCE = 25
"""A generator makes no further pairs when this many more calls came to nothing than to a new pair."""


@dataclass(frozen=True, slots=True)
class ArcGen:
    """The source that a clone is. Each group is one generator, and one rule, called by the task's id."""

    LICENCE = "Apache-2.0"
    WHERE = f"github.com/google/ARC-GEN at {COMMIT}"

    folder: Path

    def version(self) -> str:
        """Commit and form; an InputError when the folder is not a clone at that commit."""
        _sources(self.folder)
        return f"{COMMIT[:7]}, form {FORMAT}"

    def groups(self, count: int = 0) -> list[str]:
        """The tasks whose generators may be trained on, sorted, whatever the count."""
        return sorted((_sources(self.folder).keys() & _allowed()) - SLOW)

    def make(self, group: str, seed: int, pairs: int) -> dict[str, list[Demonstration]]:
        """At most `pairs` distinct pairs of one generator; an InputError for one that must not be trained on.

        Pair k depends on seed, group and k alone. Calls are ended by `CPU_S` in a main thread only.
        """
        if group not in _allowed():
            raise InputError("ARC-GEN", group, "a task that may be pretrained on", "another")
        generate, common = _loaded(self.folder, group)
        made: dict[Demonstration, None] = {}  # a set in order of making
        for number in numbers():
            if len(made) >= pairs or number - 2 * len(made) >= PATIENCE:
                break
            common["random"] = CountedRandom(Random(f"{seed}/{group}/{number}").getrandbits(64), PairLimits().draws)
            if pair := _pair(generate):
                made.setdefault(pair)
        return {group: list(made)}


def digest(sources: Mapping[str, str]) -> str:
    """The SHA-256 of files by their names; line ends, which git may change, do not count."""
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


@cache
def _allowed() -> frozenset[str]:
    return frozenset(task.id for task, _ in pretraining_tasks())


@cache
def _sources(folder: Path) -> Mapping[str, str]:
    """The code of each task's generator by the task's id, and of `common`, which all of them import."""
    files = [folder / "common.py", *sorted((folder / "tasks").glob("task_*.py"))]
    try:
        sources = {path.stem.removeprefix("task_"): path.read_text("utf-8") for path in files}
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "files that are not UTF-8"
        raise InputError(str(folder), "", "a clone of github.com/google/ARC-GEN", found.lower()) from error
    if digest(sources) != DIGEST:
        expected = f"common.py and tasks/ of ARC-GEN as they are at {COMMIT} (git checkout)"
        raise InputError(str(folder), "", expected, "others")
    return sources


def _loaded(folder: Path, task_id: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A task's generator, and the names of the module by which alone it draws; both as new.

    They are run as they were checked, under names of their own; `common` names the module only while one loads.
    """
    sources = _sources(folder)
    common, task = ModuleType("arc_seal_arc_gen.common"), ModuleType(f"arc_seal_arc_gen.task_{task_id}")
    exec(compile(sources["common"], str(folder / "common.py"), "exec"), vars(common))
    before = sys.modules.get("common")
    sys.modules["common"] = common
    try:
        exec(compile(sources[task_id], str(folder / "tasks" / f"task_{task_id}.py"), "exec"), vars(task))
    finally:
        del sys.modules["common"]
        if before is not None:
            sys.modules["common"] = before
    return task.generate, vars(common)


def _pair(generate: Callable[[], Any]) -> Demonstration | None:
    """What a call makes; None where it fails, does not end in time, or makes no pair that `PairLimits` allows."""
    try:
        made = within(CPU_S, generate)
        pair = Demonstration(Grid.from_rows(made["input"]), Grid.from_rows(made["output"]))
    except (Failed, GridError, TypeError, KeyError):
        return None
    fits = len(pair.input.cells) + len(pair.output.cells) <= PairLimits().max_cells
    return pair if fits and pair.input != pair.output else None
