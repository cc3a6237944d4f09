"""The synthetic pool: the same on every run, kept, and gone on with where a run was stopped."""

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from arc_seal.errors import InputError
from arc_seal.pretraining.pool import Made, Pool, Recipe, make_pairs, synthetic_pool
from arc_seal.pretraining.re_arc import Fault, Limits
from tests.pretraining.builders import TASK_IDS, needs_re_arc

pytestmark = needs_re_arc

RECIPE = Recipe(seed=3, pairs=5)


def held(pool: Pool) -> dict[str, list[object]]:
    return {task_id: [*pool.pairs(task_id)] for task_id in pool.task_ids}


def test_pairs_depend_on_seed_generator_and_number_alone() -> None:
    five, _ = make_pairs("44f52bb0", RECIPE)
    three, _ = make_pairs("44f52bb0", replace(RECIPE, pairs=3))
    others, _ = make_pairs("44f52bb0", replace(RECIPE, seed=4))
    assert len(five) == len(set(five)) == 5
    assert three == five[:3]
    assert others != five


def test_repeats_are_left_out_and_counted() -> None:
    recipe = Recipe(pairs=40, limits=Limits(max_cells=20, hardest=(0.0, 0.0)))
    pairs, faults = make_pairs("d0f5fe59", recipe)
    assert len(set(pairs)) == len(pairs) <= 40
    assert sum(faults.values()) >= 80 - len(pairs) if len(pairs) < 40 else True


def test_a_generator_without_a_fitting_pair_is_given_up_early() -> None:
    pairs, faults = make_pairs("a5f85a15", Recipe(pairs=200, limits=Limits(max_cells=1, tries=2)))
    assert pairs == []
    assert faults == {Fault.LARGE: 50}


def test_a_pool_is_made_kept_and_gone_on_with(tmp_path: Path) -> None:
    told: list[Made] = []
    made = synthetic_pool(reversed_ids := TASK_IDS[::-1], RECIPE, workers=2, report=told.append, cache=tmp_path)
    assert made.task_ids == tuple(sorted(reversed_ids))
    assert held(made) == {task_id: make_pairs(task_id, RECIPE)[0] for task_id in made.task_ids}
    assert sorted(batch.task_id for batch in told) == sorted(TASK_IDS)
    assert [(batch.done, batch.total, batch.pairs) for batch in told] == [(1, 3, 5), (2, 3, 5), (3, 3, 5)]

    told.clear()
    assert held(synthetic_pool(TASK_IDS, RECIPE, report=told.append, cache=tmp_path)) == held(made)
    assert told == []  # the cache had it whole

    (whole,) = tmp_path.glob("*/pool-*.npz")
    parts = sorted(whole.parent.glob("????????.npz"))
    whole.unlink()
    parts[0].unlink()
    ages = [part.stat().st_mtime_ns for part in parts[1:]]
    stale, fresh = (whole.with_name(f"{whole.name}.{name}") for name in ("stale", "fresh"))
    for left in (stale, fresh):
        left.write_bytes(b"half")
    os.utime(stale, (time.time() - 86400,) * 2)
    again = synthetic_pool(TASK_IDS, RECIPE, workers=1, report=told.append, cache=tmp_path)
    assert held(again) == held(made)
    assert [part.stat().st_mtime_ns for part in parts[1:]] == ages  # only what was missing is made
    assert told[-1].task_id == parts[0].stem and told[-1].done == 3
    assert not stale.exists() and fresh.exists()

    fewer = synthetic_pool(TASK_IDS[:2], RECIPE, workers=1, cache=tmp_path)
    assert held(fewer) == held(made.only(TASK_IDS[:2]))


def test_an_unknown_task_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a task of arcagi1/training, found 00000000"):
        synthetic_pool([*TASK_IDS, "00000000"], RECIPE, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"expected a cache folder that can be written \(\$ARC_SEAL_CACHE\)"):
        synthetic_pool(TASK_IDS, RECIPE, cache=tmp_path / "file")


def test_a_process_that_dies_is_said_to_and_what_is_made_is_kept(tmp_path: Path) -> None:
    before = multiprocessing.active_children()

    def kill(made: Made) -> None:
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()

    expected = (
        r"^RE-ARC \w{8}: expected a process that makes its pairs to the end, found one that died( with exit code -9)?; "
    )
    with pytest.raises(InputError, match=expected):
        synthetic_pool(TASK_IDS, Recipe(seed=3, pairs=60), workers=1, report=kill, cache=tmp_path)
    assert list(tmp_path.glob("*/????????.npz")) and not list(tmp_path.glob("*/pool-*.npz"))
