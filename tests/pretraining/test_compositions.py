"""Compositions: each does what its name says, shows something new, and none is a rule that is never trained on."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from arc_seal.arc.grid import Grid
from arc_seal.arc.splits import never_trained
from arc_seal.arc.task import Demonstration
from arc_seal.errors import GridError
from arc_seal.pretraining import compositions, re_arc
from arc_seal.pretraining.compositions import CHANGES, INPUT_CHANGES, groups, make
from tests.pretraining.builders import needs_re_arc

Rows = tuple[tuple[int, ...], ...]
CELLS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 3))


@needs_re_arc
def test_a_rule_is_what_its_name_says_and_shows_something_new() -> None:
    made = make("a5f85a15-6", 3, 6)
    given_ = {pair.input: pair.output for pair in re_arc.make("a5f85a15", 3, 6)["a5f85a15"]}
    assert len(made) == 6
    for name, pairs in made.items():
        first, second = name.split("+")
        for pair in pairs:
            if first in INPUT_CHANGES:
                expected = {shown.mapped(INPUT_CHANGES[first]): output for shown, output in given_.items()}[pair.input]
            elif second in CHANGES:
                expected = given_[pair.input].mapped(CHANGES[second])
            else:
                expected = Grid.from_rows(re_arc.rule_of(second)[1](given_[pair.input].rows))
                assert second not in never_trained()
            assert pair.output == expected != pair.input
            assert len(pair.input.cells) + len(pair.output.cells) <= 450
        assert 4 <= len(pairs) == len(set(pairs)) <= 6
        assert len({pair.output for pair in pairs}) > len(pairs) / 2


@needs_re_arc
def test_a_group_depends_on_its_arguments_and_a_larger_share_goes_on_from_a_smaller_one() -> None:
    one, two = make("a5f85a15-1", 0, 4), make("a5f85a15-2", 0, 4)
    assert len(two) == 2 and list(one.items()) == list(two.items())[:1]
    assert make("a5f85a15-1", 1, 4) != one


@needs_re_arc
@pytest.mark.parametrize("count", [1, 10_000, 10**9])
def test_groups_share_the_count_evenly_over_what_may_be_trained_on(count: int) -> None:
    ids, shares = zip(*(group.split("-") for group in groups(count)), strict=True)
    assert set(ids) == re_arc.rules().keys() - never_trained()
    assert len(set(shares)) == 1 and sum(map(int, shares)) >= min(count, 300 * len(ids))


def test_no_rules_need_no_groups(tasks: dict[str, Callable[[Rows], Any]]) -> None:
    assert groups(0) == []


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Rows], Any]]:
    """The verifiers of all tasks, to be added to: `a`, whose generator turns grids upside down, and `excluded`."""
    verifiers: dict[str, Callable[[Rows], Any]] = {"a": lambda rows: rows[::-1], "excluded": lambda rows: rows}

    def generator(rng: random.Random, least: float, greatest: float) -> dict[str, Rows]:
        rows = tuple(tuple(rng.choices(range(5), k=3)) for _ in range(3))
        return {"input": rows, "output": rows[::-1]}

    monkeypatch.setattr(re_arc, "rules", lambda: {name: (generator, solve) for name, solve in verifiers.items()})
    monkeypatch.setattr(re_arc, "never_trained", lambda: frozenset({"excluded"}))
    monkeypatch.setattr(compositions, "CHANGES", {})
    monkeypatch.setattr(compositions, "INPUT_CHANGES", {})
    monkeypatch.setattr(compositions, "FOREIGN_CPU_S", 0.02)
    monkeypatch.setattr(re_arc, "FOREIGN_CPU_S", 0.02)
    re_arc._solved.cache_clear()
    return verifiers


def across(rows: Rows) -> Rows:
    return tuple(row[::-1] for row in rows)


def test_a_composition_of_two_rules_is_made(tasks: dict[str, Callable[[Rows], Any]]) -> None:
    tasks["b"] = across
    made = make("a-9", 0, 6)
    assert list(made) == ["a+b"] and len(made["a+b"]) == 6
    assert all(pair.output.rows == across(pair.input.rows[::-1]) for pair in made["a+b"])


def fail(rows: Rows) -> Any:
    raise KeyError(rows)


def hang(rows: Rows) -> Any:
    while True:
        pass


@pytest.mark.parametrize(
    "verifier",
    [
        fail,
        hang,
        lambda rows: 3,
        lambda rows: rows * 40,  # too high for a grid
        lambda rows: tuple(row * 8 for row in rows * 8),  # a grid, too large for a pair
        lambda rows: rows,  # it changes nothing
        lambda rows: rows[::-1],  # back to the input
        lambda rows: ((1, 2),),  # always the same
        lambda rows: (rows[0][:1] * 2,),  # of one colour
        lambda rows: across(rows) if sum(rows[0]) % 2 else rows,  # nothing half of the time
    ],
)
def test_what_shows_nothing_new_is_no_rule(
    tasks: dict[str, Callable[[Rows], Any]], verifier: Callable[[Rows], Any]
) -> None:
    tasks["b"] = verifier
    assert make("a-9", 0, 6) == {}


def test_two_that_give_the_same_count_once(tasks: dict[str, Callable[[Rows], Any]]) -> None:
    tasks |= {"b": across, "c": lambda rows: tuple(tuple(reversed(row)) for row in rows)}
    assert len(make("a-9", 0, 6)) == 1


def test_a_rule_that_is_never_trained_on_does_not_come_back_as_a_composition(
    tasks: dict[str, Callable[[Rows], Any]],
) -> None:
    tasks |= {"b": across, "excluded": lambda rows: across(rows[::-1])}
    assert make("a-9", 0, 6) == {}


@pytest.mark.parametrize("name", INPUT_CHANGES)
@given(cells=CELLS, place=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_a_change_of_an_input_loses_nothing(name: str, cells: Any, place: tuple[int, int]) -> None:
    assume(place[0] < cells.shape[0] and place[1] < cells.shape[1])
    other = cells.copy()
    other[place] = 4
    assert not np.array_equal(INPUT_CHANGES[name](cells), INPUT_CHANGES[name](other))


@pytest.mark.parametrize("name", CHANGES)
@given(cells=CELLS)
def test_a_change_gives_a_grid_or_says_that_there_is_none(name: str, cells: Any) -> None:
    before = cells.copy()
    try:
        Grid.from_array(cells).mapped(CHANGES[name])
    except GridError:
        assert min(cells.shape) <= 2 and name == "without_rim"
    assert np.array_equal(cells, before)


def test_cropping_keeps_what_is_not_background() -> None:
    shown = Grid.from_rows([[7, 7, 7, 7], [7, 1, 7, 7], [7, 7, 2, 7]])
    assert shown.mapped(CHANGES["cropped"]).rows == ((1, 7), (7, 2))


def test_a_pair_is_compared_by_inputs_that_both_rules_have() -> None:
    one, two = Grid.from_rows([[1, 0]]), Grid.from_rows([[2, 0]])
    assert not compositions._agree([Demonstration(one, two)], [Demonstration(two, one)])
