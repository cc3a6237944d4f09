"""What a policy is taught: the same self-edit for other pictures of its task."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Task
from arc_seal.inner_loop.job import RewardedEdit
from arc_seal.inner_loop.policy import task_variant, task_variants

TEXT = '{"tools":[]}'
TASKS = [task for task, _ in load_tasks("seal/training")]


def as_drawn(task: Task) -> set[tuple[object, ...]]:
    """The demonstrations without order, with colours 1 to 9 named by where they first stand; 0 stays."""
    found = set()
    for demo in task.demos:
        names: dict[int, int] = {0: 0}
        cells = [cell for grid in (demo.input, demo.output) for row in grid.rows for cell in row]
        sides = (demo.input.height, demo.input.width, demo.output.height, demo.output.width)
        found.add((sides, tuple(names.setdefault(cell, len(names)) for cell in cells)))
    return found


@given(task=st.sampled_from(TASKS), seed=st.integers(0, 2**32))
def test_a_variant_is_the_same_puzzle(task: Task, seed: int) -> None:
    shown = task_variant(task, Random(seed))
    assert as_drawn(shown) == as_drawn(task)
    assert (shown.id, len(shown.demos), len(shown.queries)) == (task.id, len(task.demos), len(task.queries))


@given(task=st.sampled_from(TASKS), seed=st.integers(0, 2**32))
def test_colours_change_alike_in_all_grids(task: Task, seed: int) -> None:
    alone = [task.with_demos((demo,)) for demo in task.demos]
    shown = [task_variant(each, Random(seed)) for each in alone]
    swaps: dict[int, int] = {}
    for before, after in zip(alone, shown, strict=True):
        pairs = zip(before.demos[0].input.cells, after.demos[0].input.cells, strict=True)
        assert all(swaps.setdefault(one, other) == other for one, other in pairs)
    assert len(set(swaps.values())) == len(swaps) and swaps.get(0, 0) == 0


def test_every_self_edit_comes_as_it_is_first() -> None:
    edits = [RewardedEdit(task, TEXT) for task in TASKS[:3]]
    shown = list(task_variants(edits, 4, seed=0))
    assert shown[::4] == edits and len(shown) == 12
    assert all(each.self_edit == TEXT for each in shown)
    assert len({each.task for each in shown}) == 12


def test_once_is_as_it_is() -> None:
    edits = [RewardedEdit(task, TEXT) for task in TASKS[:3]]
    assert list(task_variants(edits, 1, seed=0)) == edits


def test_the_seed_alone_fixes_them() -> None:
    edits = [RewardedEdit(task, TEXT) for task in TASKS[:2]]
    assert list(task_variants(edits, 3, seed=1)) == list(task_variants(edits, 3, seed=1))
    assert list(task_variants(edits, 3, seed=1)) != list(task_variants(edits, 3, seed=2))
