"""New rules from RE-ARC's: a generator's outputs changed once more, by another task's verifier or by a plain change.

A generator makes pairs (x, A(x)). For a task B, `A+B` has the pairs (x, B(A(x))); with a change, `A+left_half` has the
left half of A(x) as output, and `enlarged+A` shows x enlarged. Of all that can be made about two in five are kept.
"""

import hashlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.grid import SYMMETRIES, Grid, apply
from arc_seal.arc.task import Demonstration
from arc_seal.errors import GridError
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.re_arc import FOREIGN_CPU_S, SLOW, PairLimits, solved_by

LICENCE = re_arc.LICENCE
WHERE = f"{re_arc.WHERE}; verifiers composed with generators"

FORMAT = 1
"""Raised when the same seed would make other pairs."""

Change: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Of the colours of a grid, [height, width], to another array; one that is no grid counts as a failure."""

Step: TypeAlias = Callable[[Grid], Grid | None]
"""What a grid becomes; None where it becomes none."""


def version() -> str:
    """That of reasoning-gym, and which tasks may take part; an InputError as `re_arc.rules` raises."""
    allowed = hashlib.sha256(" ".join(re_arc.groups()).encode()).hexdigest()[:8]
    return f"{re_arc.version()}, form {FORMAT}, tasks {allowed}"


def groups(count: int) -> list[str]:
    """A generator each and how many rules to make of it, such as `44f52bb0-31`, about `count` in all."""
    allowed = re_arc.groups()
    share = min(-(-count // len(allowed)), len(allowed) + len(CHANGES) + len(INPUT_CHANGES))
    return [f"{task_id}-{share}" for task_id in allowed] if share else []


def make(group: str, seed: int, pairs: int) -> dict[str, list[Demonstration]]:
    """Distinct rules from one generator, others tried in random order until the group has as many as it names.

    One whose outputs some task's verifier gives for the same inputs, as they stand, is left out, so that a task that
    must not be trained on does not come back as a composition. Only slow verifiers of other tasks are not asked.
    """
    task_id, share = group.rsplit("-", 1)
    given = re_arc.make(task_id, seed, pairs)[task_id]
    made: dict[str, list[Demonstration]] = {}
    asked = sorted(re_arc.rules().keys() - (SLOW & set(re_arc.groups())))
    for name, candidate in _candidates(task_id, given, Random(f"{seed}/{task_id}")):
        if len(made) == int(share):
            break
        kept = _kept(given, candidate)
        if kept and not any(_agree(kept, other) for other in made.values()) and not solved_by(asked, kept):
            made[name] = kept
    return made


def _candidates(
    task_id: str, given: list[Demonstration], rng: Random
) -> Iterator[tuple[str, Iterator[Demonstration | None]]]:
    """Every rule that can be made of a generator's pairs, in random order: its name, and its pair for each one given.

    Made as they are asked for, None where there is none.
    """
    after = [(f"{task_id}+{other}", _by_verifier(other)) for other in re_arc.groups() if other not in {task_id} | SLOW]
    after += [(f"{task_id}+{name}", _by_change(change)) for name, change in CHANGES.items()]
    before = [(f"{name}+{task_id}", _by_change(CHANGES[name])) for name in INPUT_CHANGES]
    rules = [(name, step, False) for name, step in after] + [(name, step, True) for name, step in before]
    for name, step, first in rng.sample(rules, len(rules)):
        yield name, (_changed(pair, step, first) for pair in given)


def _changed(pair: Demonstration, step: Step, first: bool) -> Demonstration | None:
    """The pair with its input changed where `first`, else its output; None where that shows nothing new.

    That is: no grid, too large, unchanged, of one colour, or an output equal to the input.
    """
    old = pair.input if first else pair.output
    new = step(old)
    if new is None or new == old:
        return None
    made = Demonstration(new, pair.output) if first else Demonstration(pair.input, new)
    too_large = len(made.input.cells) + len(made.output.cells) > PairLimits().max_cells
    plain = any(len(set(grid.cells)) == 1 for grid in (made.input, made.output))
    return None if too_large or plain or made.input == made.output else made


def _kept(given: list[Demonstration], candidate: Iterator[Demonstration | None]) -> list[Demonstration]:
    """A candidate's distinct pairs; none where over a third of those given came to nothing, or outputs repeat much."""
    made: dict[Demonstration, None] = {}
    failed = 0
    for pair in candidate:
        if pair is None:
            failed += 1
            if 3 * failed > len(given):
                return []
        else:
            made.setdefault(pair)
    outputs = {pair.output for pair in made}
    return list(made) if len(outputs) > max(1, len(made) / 2) else []


def _agree(pairs: list[Demonstration], others: list[Demonstration]) -> bool:
    """Whether two rules give the same output for every input that both have, and have one at least."""
    outputs = {pair.input: pair.output for pair in others}
    common = [pair for pair in pairs if pair.input in outputs]
    return bool(common) and all(outputs[pair.input] == pair.output for pair in common)


def _by_verifier(task_id: str) -> Step:
    return lambda grid: re_arc.solve(task_id, grid, FOREIGN_CPU_S)


def _by_change(change: Change) -> Step:
    def step(grid: Grid) -> Grid | None:
        try:
            return grid.mapped(change)
        except GridError:
            return None

    return step


def _symmetry(number: int) -> Change:
    return lambda cells: apply(cells, number)


def _enlarged(rows: int, columns: int) -> Change:
    return lambda cells: cells.repeat(rows, axis=0).repeat(columns, axis=1)


def _tiled(rows: int, columns: int) -> Change:
    return lambda cells: np.tile(cells, (rows, columns))


def _cropped(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The least rectangle that holds all cells of other colours than the most frequent one, the background."""
    rows, columns = np.nonzero(cells != np.bincount(cells.ravel()).argmax())
    return cells[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] if rows.size else cells


INPUT_CHANGES: dict[str, Change] = {
    "enlarged": _enlarged(2, 2),
    "enlarged_3": _enlarged(3, 3),
    "higher": _enlarged(2, 1),
    "wider": _enlarged(1, 2),
    "tiled": _tiled(2, 2),
    "tiled_down": _tiled(2, 1),
    "tiled_across": _tiled(1, 2),
    "mirror_beside": lambda cells: np.hstack((cells, cells[:, ::-1])),
    "mirror_below": lambda cells: np.vstack((cells, cells[::-1])),
    "shifted_down": lambda cells: np.roll(cells, 1, axis=0),
    "shifted_right": lambda cells: np.roll(cells, 1, axis=1),
    "framed": lambda cells: np.pad(cells, 1),
}
"""Changes of an array [height, width] that lose nothing, so that the output still follows from a changed input."""

CHANGES: dict[str, Change] = (
    INPUT_CHANGES
    | {
        # Of an input these would be the same rules: symmetries and colours are drawn anew for each context.
        **{f"symmetry_{number}": _symmetry(number) for number in SYMMETRIES if number},  # as `grid.apply` numbers them
        "recoloured": lambda cells: np.where(cells, cells % 9 + 1, 0),  # colour 1 becomes 2, ..., 9 becomes 1
        "cropped": _cropped,
        "upper_half": lambda cells: cells[: (len(cells) + 1) // 2],
        "left_half": lambda cells: cells[:, : (len(cells[0]) + 1) // 2],
        "every_other_row": lambda cells: cells[::2],
        "every_other_column": lambda cells: cells[:, ::2],
        "without_rim": lambda cells: cells[1:-1, 1:-1],
    }
)
"""Changes of an output."""
