"""Intervals and rankings, against published and hand-computed values."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.outer_loop.statistics import (
    Interval,
    auc,
    auc_within_tasks,
    bootstrap_over_tasks,
    paired_difference,
    wilson,
)

DRAWS = 200
"""Enough where no percentile is looked at closely."""

FEW = settings(max_examples=30)

MARKS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=5)
TASKS = st.dictionaries(st.sampled_from("abcdef"), MARKS, min_size=1)
PAIRED = st.dictionaries(st.sampled_from("abcdef"), st.tuples(MARKS, MARKS), min_size=1)
RANKED = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.tuples(st.integers(-3, 3).map(float), st.booleans()), max_size=5)
)


def parts(ranked: dict[str, list[tuple[float, bool]]]) -> tuple[dict[str, list[float]], dict[str, list[bool]]]:
    """Scores and labels of each task."""
    scores = {task: [score for score, _ in each] for task, each in ranked.items()}
    return scores, {task: [label for _, label in each] for task, each in ranked.items()}


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # these four: Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 29 / (29 + 1.96**2), 1.0),  # (2n + z^2 - z^2) / 2(n + z^2)
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_as_published(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("correct", "total"), [(2, 1), (-1, 5), (0, -1)])
def test_wilson_refuses_what_cannot_be(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="correct <= total"):
        wilson(correct, total)


@FEW
@given(st.integers(0, 60), st.integers(0, 60))
def test_wilson_holds_the_share_and_is_symmetric(correct: int, wrong: int) -> None:
    total = correct + wrong
    low, high = wilson(correct, total)
    assert 0 <= low < high <= 1
    assert not total or low - 1e-12 <= correct / total <= high + 1e-12
    assert wilson(wrong, total) == pytest.approx((1 - high, 1 - low))


@FEW
@given(st.integers(0, 20), st.integers(1, 20), st.integers(2, 5))
def test_wilson_narrows_with_the_total_and_rises_with_the_count(correct: int, wrong: int, times: int) -> None:
    total = correct + wrong
    low, high = wilson(correct, total)
    more_low, more_high = wilson(times * correct, times * total)
    assert more_high - more_low < high - low
    assert wilson(correct + 1, total) > (low, high)
    assert wilson(correct, total + 1)[1] < high


def test_bootstrap_has_the_percentiles_of_a_binomial_distribution() -> None:
    """Ten tasks of which five are solved: P(X <= 1) = 0.011 and P(X <= 2) = 0.055, so 0.025 lies at 2 of 10."""
    found = bootstrap_over_tasks({str(task): [task % 2] for task in range(10)})
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.2, 0.8))


def test_bootstrap_keeps_the_roll_outs_of_a_task_together() -> None:
    """Two tasks always and two never solved: drawing four of them, 1 in 16 draws has but one kind."""
    marks = {"a": [1] * 25, "b": [0] * 25, "c": [1] * 25, "d": [0] * 25}
    assert bootstrap_over_tasks(marks) == Interval(0.5, 0.0, 1.0)
    low, high = wilson(50, 100)
    assert 0.4 < low and high < 0.6


def test_bootstrap_weighs_tasks_the_same() -> None:
    assert bootstrap_over_tasks({"a": [1], "b": [0, 0, 0]}).mean == 0.5


@FEW
@given(TASKS, st.integers(0, 3))
def test_bootstrap_bounds(marks: dict[str, list[float]], seed: int) -> None:
    found = bootstrap_over_tasks(marks, seed, DRAWS)
    means = [sum(each) / len(each) for each in marks.values()]
    assert found.mean == pytest.approx(sum(means) / len(means))
    assert min(means) - 1e-9 <= found.low <= found.high <= max(means) + 1e-9
    backwards = dict(reversed(marks.items()))
    assert bootstrap_over_tasks(backwards, seed, DRAWS) == found
    turned = bootstrap_over_tasks({task: [1 - mark for mark in each] for task, each in marks.items()}, seed, DRAWS)
    assert (turned.mean, turned.low, turned.high) == pytest.approx((1 - found.mean, 1 - found.high, 1 - found.low))


@pytest.mark.parametrize("marks", [{}, {"a": [1.0], "b": []}])
def test_bootstrap_needs_marks(marks: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="marks of every task"):
        bootstrap_over_tasks(marks)


def test_difference_has_the_percentiles_of_a_binomial_distribution() -> None:
    """One task of four is won: P(X >= 3) = 0.051 and P(X = 4) = 0.004, so 0.975 lies at 3 of 4."""
    first, second = {"a": [1, 1], "b": [1], "c": [0], "d": [0, 1]}, {"a": [0], "b": [1, 1], "c": [0], "d": [1, 0]}
    assert paired_difference(first, second) == Interval(0.25, 0.0, 0.75)


def test_difference_is_not_widened_by_how_hard_tasks_are() -> None:
    first = {str(task): [task / 10 + 0.1] for task in range(8)}
    found = paired_difference(first, {str(task): [task / 10] for task in range(8)})
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


@FEW
@given(PAIRED)
def test_difference_is_antisymmetric(paired: dict[str, tuple[list[float], list[float]]]) -> None:
    first, second = ({task: pair[side] for task, pair in paired.items()} for side in (0, 1))
    found, other = paired_difference(first, second, 1, DRAWS), paired_difference(second, first, 1, DRAWS)
    assert (other.mean, other.low, other.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert -1 <= found.low <= found.high <= 1
    zeros = {task: [0.0] for task in first}
    assert paired_difference(first, zeros, 1, DRAWS) == bootstrap_over_tasks(first, 1, DRAWS)


def test_difference_needs_the_same_tasks() -> None:
    with pytest.raises(ValueError, match=r"one side only: \['b', 'c'\]"):
        paired_difference({"a": [1], "b": [1]}, {"a": [1], "c": [1]})


HAND = {"a": [(3.0, True), (2.0, False)], "b": [(1.0, True), (1.0, False)]}
"""Pairs: 3 > 2, 3 > 1, 1 < 2 and 1 = 1, so 2.5 of 4; within a 1 of 1, within b 0.5 of 1."""


def test_auc_by_hand() -> None:
    assert auc(*parts(HAND)) == Interval(0.625, 0.5, 1.0)  # a quarter of the draws is a twice, one b twice


def test_auc_within_tasks_by_hand() -> None:
    assert auc_within_tasks(*parts(HAND)) == Interval(0.75, 0.5, 1.0)


def test_auc_within_tasks_does_not_reward_telling_easy_tasks_from_hard_ones() -> None:
    scores = {"easy": [9.0, 9.0, 9.0], "hard": [1.0, 1.0, 1.0]}
    labels = {"easy": [True, True, False], "hard": [True, False, False]}
    within, across = auc_within_tasks(scores, labels), auc(scores, labels)
    assert within is not None and across is not None
    assert within == Interval(0.5, 0.5, 0.5)
    assert across.mean == pytest.approx(6 / 9)  # 4 pairs of an easy and a hard one won, 4 ties, 1 lost


def test_infinite_scores_are_ranked() -> None:
    found = auc({"a": [-math.inf, 0.0, math.inf]}, {"a": [False, True, True]})
    assert found == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("across", "ranked"),
    [
        (None, {}),
        (None, {"a": [(1.0, True)], "b": [(2.0, True)]}),
        (None, {"a": [(1.0, False)], "b": []}),
        (0.0, {"a": [(1.0, True)], "b": [(2.0, False)]}),  # a pair, but of different tasks
    ],
)
def test_auc_without_a_pair_is_none(across: float | None, ranked: dict[str, list[tuple[float, bool]]]) -> None:
    found = auc(*parts(ranked))
    assert (found and found.mean) == across
    assert auc_within_tasks(*parts(ranked)) is None


@FEW
@given(RANKED)
def test_auc_is_the_share_of_pairs_won(ranked: dict[str, list[tuple[float, bool]]]) -> None:
    scores, labels = parts(ranked)
    everything = [[pair for each in ranked.values() for pair in each]]
    for function, groups in ((auc, everything), (auc_within_tasks, list(ranked.values()))):
        duels = [
            (good > bad) + (good == bad) / 2
            for group in groups
            for good, is_good in group
            for bad, is_bad in group
            if is_good and not is_bad
        ]
        found = function(scores, labels, 0, DRAWS)
        assert (found is None) == (not duels)
        assert found is None or found.mean == pytest.approx(sum(duels) / len(duels))
        assert found is None or 0 <= found.low <= found.high <= 1


@FEW
@given(RANKED, st.sampled_from([math.exp, lambda score: 2 * score + 1, lambda score: score**3]))
def test_auc_knows_only_the_order(ranked: dict[str, list[tuple[float, bool]]], grow: object) -> None:
    scores, labels = parts(ranked)
    grown = {task: [grow(score) for score in each] for task, each in scores.items()}  # type: ignore[operator]
    for function in (auc, auc_within_tasks):
        assert function(grown, labels, 0, DRAWS) == function(scores, labels, 0, DRAWS)


@FEW
@given(RANKED)
def test_auc_of_the_opposite(ranked: dict[str, list[tuple[float, bool]]]) -> None:
    scores, labels = parts(ranked)
    opposite = {task: [not label for label in each] for task, each in labels.items()}
    for function in (auc, auc_within_tasks):
        found, other = function(scores, labels, 0, DRAWS), function(scores, opposite, 0, DRAWS)
        assert (found is None) == (other is None)
        if found and other:
            turned = (1 - found.mean, 1 - found.high, 1 - found.low)
            assert (other.mean, other.low, other.high) == pytest.approx(turned)


@pytest.mark.parametrize(
    ("scores", "labels", "fault"),
    [
        ({"a": [1.0]}, {"b": [True]}, "a label for every score"),
        ({"a": [1.0, 2.0]}, {"a": [True]}, "a label for every score"),
        ({"a": [1.0, math.nan]}, {"a": [True, False]}, "not a number"),
    ],
)
def test_auc_refuses(scores: dict[str, list[float]], labels: dict[str, list[bool]], fault: str) -> None:
    for function in (auc, auc_within_tasks):
        with pytest.raises(ValueError, match=fault):
            function(scores, labels)
