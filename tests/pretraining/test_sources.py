"""What the sources make: the same on every run, kept, gone on with after a stop, and put through the gate."""

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from arc_seal.arc.datasets import load_task
from arc_seal.arc.splits import solved_pairs
from arc_seal.arc.task import Demonstration
from arc_seal.errors import InputError
from arc_seal.pretraining.pool import FEWEST_PAIRS, Made, Pool, Source, gate, source_pool
from arc_seal.pretraining.sources import SOURCES, Shares, SourceSettings, find_source, training_pools
from tests.pretraining.builders import needs_re_arc
from tests.self_edit.builders import random_grid

GROUPS = ("alpha", "beta", "gamma")


def make(group: str, seed: int, pairs: int) -> dict[str, list[Demonstration]]:
    """Two rules a group: grids mirrored, and grids turned."""
    rng = Random(f"{seed}/{group}")
    grids = [random_grid(rng, 4, 4) for _ in range(pairs)]
    return {
        f"{group}-{change.__name__}": [Demonstration(grid, grid.mapped(change)) for grid in grids]
        for change in (np.flipud, np.rot90)
    }


SOURCE = Source("made_here", "Apache-2.0", "this file", "1", GROUPS, make)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARC_SEAL_CACHE", str(tmp_path))
    return tmp_path


def held(pool: Pool) -> dict[str, list[Demonstration]]:
    return {task_id: pool.pairs(task_id) for task_id in pool.task_ids}


def ignore(made: Made) -> None:
    pass


def refuse(made: Made) -> None:
    raise AssertionError("nothing is to be made")


def test_a_pool_is_made_kept_and_gone_on_with(cache: Path) -> None:
    told: list[Made] = []
    made = source_pool(replace(SOURCE, groups=GROUPS[::-1]), 3, 5, told.append, workers=1)
    assert held(made) == {rule: pairs for group in GROUPS for rule, pairs in make(group, 3, 5).items()}
    assert sorted(each.group for each in told) == sorted(GROUPS)
    assert [(each.source, each.done, each.total, each.pairs) for each in told] == [
        ("made_here", done, 3, 10) for done in (1, 2, 3)
    ]
    assert held(source_pool(SOURCE, 3, 5, refuse)) == held(made)  # the cache had it whole

    (whole,) = cache.glob("*/pool-*.npz")
    parts = sorted(set(whole.parent.glob("*.npz")) - {whole})
    assert [part.stem for part in parts] == list(GROUPS)
    whole.unlink()
    parts[0].unlink()
    ages = [part.stat().st_mtime_ns for part in parts[1:]]
    stale, fresh = (whole.with_name(f"{whole.name}.{name}") for name in ("stale", "fresh"))
    for left in (stale, fresh):
        left.write_bytes(b"half")
    os.utime(stale, (time.time() - 86400,) * 2)
    told.clear()
    again = source_pool(SOURCE, 3, 5, told.append, workers=1)
    assert held(again) == held(made)
    assert [part.stat().st_mtime_ns for part in parts[1:]] == ages  # only what was missing is made
    assert [(each.done, each.total, each.pairs) for each in told] == [(1, 3, 10), (2, 3, 10), (3, 3, 10)]
    assert told[-1].group == parts[0].stem
    assert not stale.exists() and fresh.exists()


@pytest.mark.parametrize(
    ("changed", "seed", "pairs", "gated"),
    [({"version": "2"}, 0, 5, False), ({}, 1, 5, False), ({}, 0, 6, False), ({}, 0, 5, True)],
)
def test_what_is_kept_serves_for_the_same_alone(
    cache: Path, changed: dict[str, str], seed: int, pairs: int, gated: bool
) -> None:
    source_pool(replace(SOURCE, groups=GROUPS[:1]), 0, 5, ignore, gated=False, workers=1)
    told: list[Made] = []
    source_pool(replace(SOURCE, groups=GROUPS[:1], **changed), seed, pairs, told.append, gated=gated, workers=1)
    assert len(told) == 1 and len(list(cache.iterdir())) == 2


def test_pairs_that_must_stay_unseen_are_left_out_and_counted() -> None:
    (planted, *others) = solved_pairs(load_task("arcagi1/evaluation/00576224"))
    fit = make("alpha", 0, 5)["alpha-flipud"]
    turned = Demonstration(*(grid.mapped(np.rot90) for grid in (planted.input, planted.output)))
    pool = gate(
        {"one": [*fit[:2], turned, *fit[2:]], "two": [planted, *others, *fit[: FEWEST_PAIRS - 1]], "three": fit}
    )
    assert held(pool) == {"one": fit, "three": fit}
    assert pool.left_out == {
        "pairs: it shares a pair with arcagi1/evaluation": 2 + len(others),
        "rules: fewer than 4 pairs": 1,
    }


def test_what_was_left_out_is_kept_and_summed(tmp_path: Path) -> None:
    pools = [
        replace(gate(make(group, 0, count)), left_out={"x": count, group: 1}) for group, count in (("a", 4), ("b", 5))
    ]
    joined = Pool.joined(pools)
    assert joined.left_out == {"x": 9, "a": 1, "b": 1}
    assert held(joined) == {**held(pools[0]), **held(pools[1])}
    joined.save(tmp_path / "pool.npz")
    again = Pool.load(tmp_path / "pool.npz")
    assert again.left_out == joined.left_out and held(again) == held(joined)
    assert held(Pool.joined([])) == {} and len(Pool.joined([])) == 0


def test_a_cache_that_cannot_be_written_is_one_clear_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("ARC_SEAL_CACHE", str(cache / "file"))
    with pytest.raises(InputError, match=r"expected a cache folder that can be written \(\$ARC_SEAL_CACHE\)"):
        source_pool(SOURCE, 0, 5, ignore)


def test_a_process_that_dies_is_said_to_and_what_is_made_is_kept(cache: Path) -> None:
    before = multiprocessing.active_children()

    def kill(made: Made) -> None:
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()

    expected = r"^made_here \w+: expected a process that makes its pairs to the end, found one that died.*; those made"
    source = replace(SOURCE, groups=tuple(f"group{number}" for number in range(40)))
    with pytest.raises(InputError, match=expected):
        source_pool(source, 0, 100, kill, workers=1)
    assert list(cache.glob("*/group*.npz")) and not list(cache.glob("*/pool-*.npz"))


def test_every_source_has_a_share_and_a_source_that_is_not_there_is_said() -> None:
    assert {"tasks", *SOURCES} == set(Shares.model_fields)
    with pytest.raises(
        InputError, match=r"^configuration: data.arc_gen: expected a clone of github.com/google/ARC-GEN"
    ):
        find_source("arc_gen", SourceSettings(shares=Shares(arc_gen=1)))


@needs_re_arc
@pytest.mark.parametrize("name", ["re_arc", "arc_1d", "compositions", "rules"])
def test_every_source_says_what_it_is_and_makes_the_same_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arc_seal.pretraining.rules.make.RULES", 20)
    source = find_source(name, SourceSettings(rules=50, shares=Shares(**{name: 1.0})))
    assert source.licence and source.where and source.version and source.groups
    assert len(set(source.groups)) == len(source.groups)
    group = source.groups[0]
    made = source.make(group, 0, 5)
    assert made and made == source.make(group, 0, 5)
    for pairs in made.values():
        assert len(set(pairs)) == len(pairs) <= 5
        assert all(pair.input != pair.output for pair in pairs)
        assert all(len(pair.input.cells) + len(pair.output.cells) <= 450 for pair in pairs)


def test_the_training_sets_alone_need_no_source() -> None:
    pools = training_pools(SourceSettings(shares=Shares(re_arc=0.0, compositions=0.0, rules=0.0)), refuse)
    assert list(pools) == ["tasks"] and len(pools["tasks"].task_ids) == 276 + 195
