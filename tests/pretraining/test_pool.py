"""A pool holds what it was given, as arrays, as grids and on disk."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Solution, Task
from arc_seal.errors import InputError
from arc_seal.pretraining.pool import Pool
from tests.arc.strategies import grids, solved_tasks, tasks
from tests.pretraining.tiny import pool_of

Pairs = dict[str, list[Demonstration]]

pairs_of_tasks = st.dictionaries(
    st.text("0123456789abcdef", min_size=1, max_size=8),
    st.lists(st.builds(Demonstration, grids(), grids()), max_size=4),
    max_size=5,
)

PAIRS: Pairs = {
    "aa": [Demonstration(Grid.from_rows([[1, 2], [3, 4]]), Grid.from_rows([[5]]))],
    "none": [],
    "bb": [Demonstration(Grid.from_rows([[6]]), Grid.from_rows([[7, 8, 9]]))] * 2,
}


def held(pool: Pool) -> Pairs:
    return {task_id: pool.pairs(task_id) for task_id in pool.task_ids}


@settings(max_examples=50)
@given(pairs=pairs_of_tasks)
def test_pairs_come_back(pairs: Pairs) -> None:
    pool = Pool.from_pairs(pairs)
    assert held(pool) == pairs
    assert list(pool.task_ids) == list(pairs)
    assert len(pool) == sum(map(len, pairs.values())) == pool.starts[-1]


@settings(max_examples=50)
@given(pairs=pairs_of_tasks)
def test_arrays_are_the_grids(pairs: Pairs) -> None:
    pool = Pool.from_pairs(pairs)
    flat = [pair for each in pairs.values() for pair in each]
    for number, pair in enumerate(flat):
        shown, made = pool.pair(number)
        np.testing.assert_array_equal(shown, pair.input.array)
        np.testing.assert_array_equal(made, pair.output.array)
        assert np.diff(pool.bounds)[2 * number : 2 * number + 2].tolist() == [shown.size, made.size]
        assert (*pool.shapes[number],) and [tuple(shape) for shape in pool.shapes[number]] == [shown.shape, made.shape]


@settings(max_examples=20)
@given(pairs=pairs_of_tasks)
def test_a_pool_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, pairs: Pairs) -> None:
    path = tmp_path_factory.mktemp("pool") / "folder" / "pool.npz"
    Pool.from_pairs(pairs).save(path)
    assert held(Pool.load(path)) == pairs
    assert [file.name for file in path.parent.iterdir()] == ["pool.npz"]


def test_arrays_cannot_be_written_to(tmp_path: Path) -> None:
    Pool.from_pairs(PAIRS).save(tmp_path / "pool.npz")
    for pool in (Pool.from_pairs(PAIRS), Pool.load(tmp_path / "pool.npz")):
        with pytest.raises(ValueError, match="read-only"):
            pool.pair(0)[0][0, 0] = 1


@given(entry=solved_tasks())
def test_real_tasks_give_their_test_pairs_too(entry: tuple[Task, Solution]) -> None:
    task, solution = entry
    pairs = pool_of([entry]).pairs(task.id)
    assert pairs[: len(task.demos)] == list(task.demos)
    assert [(pair.input, pair.output) for pair in pairs[len(task.demos) :]] == [
        *zip(task.queries, solution.outputs, strict=True)
    ]


@given(task=tasks())
def test_a_task_without_solution_gives_its_demonstrations(task: Task) -> None:
    assert pool_of([(task, None)]).pairs(task.id) == list(task.demos)


def test_a_real_set() -> None:
    entries = load_tasks("arcagi1/training")
    pool = pool_of(entries)
    assert len(pool.task_ids) == 400
    assert len(pool) == sum(len(task.demos) + len(task.queries) for task, _ in entries) == 1718


def test_a_task_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="cc"):
        Pool.from_pairs(PAIRS).pairs("cc")
    assert Pool.from_pairs(PAIRS).pairs("none") == []


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "pool.npz"
    Pool.from_pairs({"aa": PAIRS["aa"] * 50}).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"no pool", whole[: len(whole) // 2], whole.replace(bytes([1, 2, 3, 4, 5]), b"\0" * 5)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"pool.npz: expected a pool of pairs, found \S"):
            Pool.load(path)
    with pytest.raises(InputError, match="No such file"):
        Pool.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("name", "array", "found"),
    [
        ("cells", np.zeros(11, np.float32), "arrays of other kinds"),
        ("cells", np.zeros(12, np.uint8), "cells that are not its grids'"),
        ("cells", np.full(13, 10, np.uint8), "cells that are not its grids'"),
        ("shapes", np.zeros((6, 2), np.uint8), "sides from 0 to 0"),
        ("shapes", np.full((6, 2), 31, np.uint8), "sides from 31 to 31"),
        ("shapes", np.ones((4, 2), np.uint8), "4 grids for 3 pairs"),
        ("counts", np.array([1, -1, 3]), "6 grids for 3 pairs"),
        ("counts", np.array([1, 2]), "a task without pairs, or twice"),
        ("task_ids", np.array(["aa", "aa", "bb"]), "a task without pairs, or twice"),
    ],
)
def test_arrays_that_are_no_pool_are_refused(tmp_path: Path, name: str, array: np.ndarray, found: str) -> None:
    path = tmp_path / "pool.npz"
    Pool.from_pairs(PAIRS).save(path)
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, allow_pickle=False, **{**arrays, name: array})
    with pytest.raises(InputError, match=f"expected a pool of pairs, found {found}"):
        Pool.load(path)
