"""The synthetic pool: the same on every run, kept, and gone on with where a run was stopped."""

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration
from arc_seal.errors import InputError
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.pool import Made, Pool, Recipe, make_pairs, synthetic_pool
from arc_seal.pretraining.re_arc import PairLimits
from tests.pretraining.builders import TASK_IDS, needs_re_arc

pytestmark = needs_re_arc

RECIPE = Recipe(seed=3, pairs=5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARC_SEAL_CACHE", str(tmp_path))
    return tmp_path


def held(pool: Pool) -> dict[str, list[object]]:
    return {task_id: [*pool.pairs(task_id)] for task_id in pool.task_ids}


def ignore(made: Made) -> None:
    pass


def test_pairs_depend_on_seed_generator_and_number_alone() -> None:
    five = make_pairs("44f52bb0", RECIPE)
    three = make_pairs("44f52bb0", replace(RECIPE, pairs=3))
    others = make_pairs("44f52bb0", replace(RECIPE, seed=4))
    assert len(five) == len(set(five)) == 5
    assert three == five[:3]
    assert others != five


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks of which a pair was tried to make, in order."""
    tasks, generate = list[str](), re_arc.generate

    def noted(task_id: str, rng: Random, limits: PairLimits) -> Demonstration | None:
        tasks.append(task_id)
        return generate(task_id, rng, limits)

    monkeypatch.setattr(re_arc, "generate", noted)
    return tasks


def test_repeats_are_left_out_and_others_tried_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Demonstration] = []

    def generate(task_id: str, rng: Random, limits: PairLimits) -> Demonstration:
        made.append(Demonstration(Grid.from_rows([[0]]), Grid.from_rows([[rng.randrange(7)]])))
        return made[-1]

    monkeypatch.setattr(re_arc, "generate", generate)
    assert make_pairs("d0f5fe59", Recipe(pairs=5)) == list(dict.fromkeys(made)) and len(set(made)) == 5
    made.clear()
    assert make_pairs("d0f5fe59", Recipe(pairs=40)) == list(dict.fromkeys(made)) and len(set(made)) == 7
    assert len(made) == 80


def test_a_generator_without_a_fitting_pair_is_given_up_early(tried: list[str]) -> None:
    assert make_pairs("a5f85a15", Recipe(pairs=200, limits=PairLimits(max_cells=1, tries=2))) == []
    assert len(tried) == 25


def test_a_pool_is_made_kept_and_gone_on_with(cache: Path) -> None:
    told: list[Made] = []
    made = synthetic_pool(reversed_ids := TASK_IDS[::-1], RECIPE, told.append, workers=2)
    assert made.task_ids == tuple(sorted(reversed_ids))
    assert held(made) == {task_id: make_pairs(task_id, RECIPE) for task_id in made.task_ids}
    assert sorted(batch.task_id for batch in told) == sorted(TASK_IDS)
    assert [(batch.done, batch.total, batch.pairs) for batch in told] == [(1, 3, 5), (2, 3, 5), (3, 3, 5)]

    told.clear()
    assert held(synthetic_pool(TASK_IDS, RECIPE, told.append)) == held(made)
    assert told == []  # the cache had it whole

    (whole,) = cache.glob("*/pool-*.npz")
    parts = sorted(whole.parent.glob("????????.npz"))
    whole.unlink()
    parts[0].unlink()
    ages = [part.stat().st_mtime_ns for part in parts[1:]]
    stale, fresh = (whole.with_name(f"{whole.name}.{name}") for name in ("stale", "fresh"))
    for left in (stale, fresh):
        left.write_bytes(b"half")
    os.utime(stale, (time.time() - 86400,) * 2)
    again = synthetic_pool(TASK_IDS, RECIPE, told.append, workers=1)
    assert held(again) == held(made)
    assert [part.stat().st_mtime_ns for part in parts[1:]] == ages  # only what was missing is made
    assert [(batch.done, batch.total, batch.pairs) for batch in told] == [(1, 3, 5), (2, 3, 5), (3, 3, 5)]
    assert told[-1].task_id == parts[0].stem
    assert not stale.exists() and fresh.exists()

    fewer = synthetic_pool(TASK_IDS[:2], RECIPE, ignore, workers=1)
    assert held(fewer) == {task_id: made.pairs(task_id) for task_id in sorted(TASK_IDS[:2])}


def test_an_unknown_task_is_refused_before_anything_is_made(cache: Path) -> None:
    with pytest.raises(InputError, match="expected a task of arcagi1/training, found 00000000"):
        synthetic_pool([*TASK_IDS, "00000000"], RECIPE, ignore)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_clear_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("ARC_SEAL_CACHE", str(cache / "file"))
    with pytest.raises(InputError, match=r"expected a cache folder that can be written \(\$ARC_SEAL_CACHE\)"):
        synthetic_pool(TASK_IDS, RECIPE, ignore)


def test_a_process_that_dies_is_said_to_and_what_what_is_made_is_kept(cache: Path) -> None:
    before = multiprocessing.active_children()

    def kill(made: Made) -> None:
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()

    expected = (
        r"^RE-ARC \w{8}: expected a process that makes its pairs to the end, found one that died( with exit code -9)?; "
    )
    with pytest.raises(InputError, match=expected):
        synthetic_pool(TASK_IDS, Recipe(seed=3, pairs=60), kill, workers=1)
    assert list(cache.glob("*/????????.npz")) and not list(cache.glob("*/pool-*.npz"))
