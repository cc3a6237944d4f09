"""What counts as equal, and that whatever is equal to an unseen task is caught."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.datasets import load_task
from arc_seal.arc.grid import SYMMETRIES, Grid, apply
from arc_seal.arc.splits import TELLING_CELLS, Contamination, fingerprint, sketch, solved_pairs
from arc_seal.arc.task import Demonstration, Entry, Solution, Task
from tests.arc.strategies import grids, solved_tasks

Change = Callable[[Grid], Grid]


def change(symmetry: int, colours: list[int]) -> Change:
    """A symmetry, then colour c becomes `colours[c]`."""
    return lambda grid: grid.mapped(lambda cells: np.array(colours)[apply(cells, symmetry)])


changes = st.builds(change, st.sampled_from(SYMMETRIES), st.permutations(range(10)))


def changed(entry: Entry, how: Change, task_id: str = "changed") -> Entry:
    """The task under another name, with `how` done to all its grids and its demonstrations in another order."""
    task, solution = entry
    demos = task.map_grids(how).demos[::-1]
    outputs = solution and Solution(task_id, tuple(map(how, solution.outputs)))
    return Task(task_id, demos, tuple(map(how, task.queries))), outputs


@given(grids(), changes)
def test_a_changed_grid_keeps_its_fingerprint(grid: Grid, how: Change) -> None:
    assert fingerprint(how(grid)) == fingerprint(grid)


@given(grids(), grids(), changes)
def test_a_changed_pair_keeps_its_fingerprint(first: Grid, second: Grid, how: Change) -> None:
    assert fingerprint(how(first), how(second)) == fingerprint(first, second)


@given(grids(), grids(), changes)
def test_a_changed_pair_keeps_its_sketch(first: Grid, second: Grid, how: Change) -> None:
    assert sketch(how(first)) == sketch(first)
    assert sketch(how(first), how(second)) == sketch(first, second)


def test_a_sketch_tells_sizes_and_counts_apart_and_no_more() -> None:
    grid = Grid.from_rows([[1, 1, 2]])
    others = (Grid.from_rows([[1, 1, 1]]), Grid.from_rows([[1, 1], [2, 2]]), Grid.from_rows([[1, 2, 3]]))
    assert sketch(grid) == sketch(Grid.from_rows([[0], [5], [0]])) and sketch(grid) not in map(sketch, others)
    assert len({sketch(grid, grid), sketch(grid, grid.mapped(np.transpose)), sketch(grid, others[0])}) == 3
    assert sketch(grid, grid) != sketch(grid, Grid.from_rows([[2, 2, 1]]))


SMALL = st.builds(
    Grid, st.just(2), st.just(3), st.binary(min_size=6, max_size=6).map(lambda b: bytes(x % 3 for x in b))
)


@given(SMALL, SMALL)
def test_grids_of_one_fingerprint_are_changes_of_one_another(one: Grid, other: Grid) -> None:
    """Against every symmetry and every way to give three colours to three."""
    turned = [apply(one.array, symmetry) for symmetry in SYMMETRIES]
    colourings = [np.array([a, b, 3 - a - b]) for a in range(3) for b in range(3) if a != b]
    images = {Grid.from_array(colours[cells]) for cells in turned for colours in colourings}
    assert (fingerprint(one) == fingerprint(other)) == (other in images)


def test_a_pairs_grids_change_together() -> None:
    grid, turned = Grid.from_rows([[1, 2], [3, 4]]), Grid.from_rows([[3, 1], [4, 2]])
    recoloured = Grid.from_rows([[2, 1], [3, 4]])
    assert fingerprint(grid) == fingerprint(turned) == fingerprint(recoloured)
    assert len({fingerprint(grid, grid), fingerprint(grid, turned), fingerprint(grid, recoloured)}) == 3


def test_shape_counts() -> None:
    flat, square = Grid(1, 4, bytes(4)), Grid(2, 2, bytes(4))
    assert fingerprint(flat) == fingerprint(Grid(4, 1, bytes(4))) != fingerprint(square)


@given(solved_tasks("unseen"), changes)
def test_a_changed_task_shares_a_pair(entry: Entry, how: Change) -> None:
    unseen = Contamination.of({"split": [entry]})
    assert unseen.reason(changed(entry, how)) == "it shares a pair with split/unseen"


@given(solved_tasks("unseen"), changes)
def test_each_pair_is_caught_by_itself(entry: Entry, how: Change) -> None:
    unseen = Contamination.of({"split": [entry]})
    pairs = list(solved_pairs(entry))
    assert len(pairs) == len(entry[0].demos) + len(entry[0].queries)
    for pair in pairs:
        image = Demonstration(how(pair.input), how(pair.output))
        assert unseen.reason_of_pair(image) == "it shares a pair with split/unseen"
        among = Task("other", (PLAIN, image), (PLAIN.input,))
        assert unseen.reason((among, None))


def test_an_id_is_enough() -> None:
    unseen = Contamination.of({"split": [(task_of(PLAIN, "aa"), None)]})
    assert unseen.reason((task_of(OTHER, "aa"), None)) == "it is split/aa"
    assert unseen.reason((task_of(OTHER, "bb"), None)) is None


@pytest.mark.parametrize("where", ["demo input", "demo output", "query", "test output"])
def test_a_single_grid_counts_from_telling_cells_on(where: str) -> None:
    for cells, caught in ((TELLING_CELLS, True), (TELLING_CELLS - 1, False)):
        grid, image = stripe(cells, 1, 2), stripe(cells, 7, 0)
        unseen = Contamination.of({"split": [(Task("aa", (Demonstration(DOT, grid),), (DOT,)), None)]})
        demo = Demonstration(image if where == "demo input" else DOT, image if where == "demo output" else DOT)
        task = Task("bb", (demo,), (image if where == "query" else DOT,))
        solution = Solution("bb", (image if where == "test output" else Grid(1, 3, b"\0\1\2"),))
        reason = unseen.reason((task, solution))
        assert reason == ("it shares a grid with split/aa" if caught else None)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_an_evaluation_task_in_disguise_is_caught_among_training_tasks(symmetry: int) -> None:
    rng = Random(symmetry)
    original = load_task("arcagi1/evaluation/00576224")
    colours = rng.sample(range(10), 10)
    among = [load_task("arcagi1/training/0d3d703e"), changed(original, change(symmetry, colours), "0a0a0a0a")]
    unseen = Contamination.of({"arcagi1/evaluation": [original]})
    assert [unseen.reason(entry) for entry in among] == [None, "it shares a pair with arcagi1/evaluation/00576224"]


def test_of_two_with_one_content_the_first_is_named() -> None:
    unseen = Contamination.of({"first": [(task_of(PLAIN, "aa"), None)], "second": [(task_of(PLAIN, "bb"), None)]})
    assert unseen.reason_of_pair(PLAIN) == "it shares a pair with first/aa"
    assert unseen.reason((task_of(OTHER, "bb"), None)) == "it is second/bb"


DOT = Grid(1, 1, b"\0")
PLAIN = Demonstration(Grid(1, 29, bytes(29)), Grid(1, 28, bytes(28)))
OTHER = Demonstration(Grid(1, 27, bytes(27)), Grid(1, 26, bytes(26)))


def task_of(pair: Demonstration, task_id: str) -> Task:
    return Task(task_id, (pair,), (pair.input,))


def stripe(cells: int, first: int, rest: int) -> Grid:
    return Grid(1, cells, bytes([first] + [rest] * (cells - 1)))
