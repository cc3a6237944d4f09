"""What ReST-EM rewards and imitates, and how it counts."""

import random
from collections import Counter
from math import e, inf, log
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.errors import Status
from arc_seal.inner_loop.job import FinetuneSettings
from arc_seal.outer_loop.lessons import (
    Lesson,
    RestemSettings,
    advantages,
    better_half,
    lessons,
    over_tasks_alike,
    rewarded,
    to_imitate,
    value,
)
from arc_seal.outer_loop.restem import round_text, with_policy
from arc_seal.outer_loop.rollout import Rollout
from tests.outer_loop.fakes import POLICY, SCHEMA, TEXTS
from tests.outer_loop.ledger_builders import rollout

PAPER = RestemSettings(
    rounds=1,
    first="policy",
    samples=4,
    reward="solution",
    examine=False,
    margin=0.02,
    price=0.0,
    temperature=0.1,
    alike="none",
    halvings=0,
    per_task=None,
    contrast=False,
    adapt_from="base",
    reuse=(),
    finetune=FinetuneSettings(),
)


def changed(settings: RestemSettings, **changes: Any) -> RestemSettings:
    return RestemSettings.model_validate({**settings.model_dump(), **changes})


LABEL_FREE = changed(PAPER, reward="held_out_demo")

GRADED = changed(PAPER, reward="graded")

EDITS = dict(zip("ABCDX012345", map(SCHEMA.parse, TEXTS), strict=False))
"""Self-edits by a letter."""

LETTERS = {edit: letter for letter, edit in EDITS.items()}


def of(task: str, *self_edits: str, **changes: Any) -> list[Rollout]:
    """Rewarded roll-outs of a task, their self-edits by letter or text."""
    edits = [EDITS[each] if each in EDITS else SCHEMA.parse(each) for each in self_edits]
    return [
        rollout(sample, **{"task": task, "self_edit": edit, "reward": 1, **changes})
        for sample, edit in enumerate(edits)
    ]


def examined(*held_out: float | None, **changes: Any) -> list[Rollout]:
    """Roll-outs of one task by what their examinations said."""
    return [rollout(sample, **{"held_out": each, "reward": 0, **changes}) for sample, each in enumerate(held_out)]


def test_by_the_solution_those_that_solved_it() -> None:
    rows = [
        *of("a", "A"),
        rollout(1, reward=0),
        rollout(2, reward=None),
        rollout(3, reward=1, self_edit=None),
        rollout(4, reward=0, status=Status.TIMEOUT),
    ]
    assert rewarded(rows, PAPER) == rows[:1]


@pytest.mark.parametrize(
    ("held_out", "best"),
    [
        ((-3.0, -1.0, -2.0), [1]),
        ((-1.0, -2.0, -1.0), []),  # it is the median itself
        ((-1.0, -2.0, -3.0, -1.0), [0]),  # among equals the first
        ((-1.0, -1.01, -1.02), []),  # not clearly
        ((-1.0, -1.021, -1.03), [0]),
        ((None, -2.0, -1.0), [2]),
        ((None, None), []),
        ((-1.0,), []),
        ((-inf, -inf, -5.0), [2]),
        ((-inf, -inf), []),
        ((), []),
    ],
)
def test_by_the_demonstrations_the_best_where_it_beats_the_median(
    held_out: tuple[float | None, ...], best: list[int]
) -> None:
    assert [row.sample for row in rewarded(examined(*held_out), LABEL_FREE)] == best


def test_by_the_demonstrations_each_round_is_judged_by_itself() -> None:
    rows = [*examined(-9.0, -9.0, -8.0), *examined(-3.0, -1.0, -3.0, round=1), *examined(-5.0, -5.0, round=2)]
    assert [(row.round, row.sample) for row in rewarded(rows, LABEL_FREE)] == [(0, 2), (1, 1)]
    other_run = [*examined(-9.0, -9.0, -8.0), *examined(-3.0, -1.0, -3.0, run="another")]
    assert [(row.run, row.sample) for row in rewarded(other_run, LABEL_FREE)] == [("seal", 2), ("another", 1)]


def test_what_failed_is_not_rewarded_by_the_demonstrations() -> None:
    rows = examined(-1.0, -2.0, -3.0)
    rows[0] = rows[0].model_copy(update={"status": Status.DIVERGED})
    rows[1] = rows[1].model_copy(update={"self_edit": None})
    assert rewarded(rows, LABEL_FREE) == []


@given(st.lists(st.floats(-5, 0), max_size=9), st.floats(0, 1))
def test_at_most_one_of_a_round_and_none_better(held_out: list[float], margin: float) -> None:
    rows = examined(*held_out)
    found = rewarded(rows, changed(LABEL_FREE, margin=margin))
    assert len(found) <= 1
    if found:
        assert found[0].held_out == max(held_out) > median(held_out) + margin
    elif held_out:
        assert max(held_out) <= median(held_out) + margin


def test_equal_self_edits_of_a_task_are_imitated_once() -> None:
    rows = [*of("b", "A", "B", "A"), *of("a", "A")]
    assert [(row.task, row.round, row.sample) for row in to_imitate(rows, PAPER, 0)] == [
        ("a", 0, 0),
        ("b", 0, 0),
        ("b", 0, 1),
    ]


def test_rounds_and_earlier_runs_count_together_the_first_standing_for_its_like() -> None:
    later = of("a", "B", "C", round=1)
    rows = [*later, *of("a", "A", "B"), *of("a", "C", "D", run="0")]
    assert [(row.run, row.round, LETTERS[row.self_edit]) for row in to_imitate(rows, PAPER, 0)] == [
        ("0", 0, "C"), ("0", 0, "D"), ("seal", 0, "A"), ("seal", 0, "B"),
    ]  # fmt: skip


def test_where_every_self_edit_was_rewarded_nothing_is_learnt_if_contrast_is_asked_for() -> None:
    failed = rollout(7, task="a", self_edit=EDITS["X"], status=Status.TIMEOUT, reward=0, held_out=None)
    rows = [*of("a", "A", "B"), failed, *of("b", "A", "B"), rollout(7, task="b", self_edit=EDITS["C"], reward=0)]
    assert [row.task for row in to_imitate(rows, PAPER, 0)] == ["a", "a", "b", "b"]
    assert [row.task for row in to_imitate(rows, changed(PAPER, contrast=True), 0)] == ["b", "b"]


def test_chance_decides_where_there_are_too_many() -> None:
    rows, capped = of("a", *map(str, range(6))), changed(PAPER, per_task=2)
    draws = [tuple(row.sample for row in to_imitate(rows, capped, seed)) for seed in range(60)]
    assert all(len(draw) == 2 and draw[0] < draw[1] for draw in draws)
    assert set(Counter(sample for draw in draws for sample in draw)) == set(range(6))
    assert to_imitate(rows, capped, 3) == to_imitate(rows[::-1], capped, 3)


ROWS = st.lists(
    st.builds(
        rollout,
        sample=st.integers(0, 4),
        run=st.sampled_from(["seal", "earlier"]),
        round=st.integers(0, 1),
        task=st.sampled_from("ab"),
        self_edit=st.sampled_from([EDITS["A"], EDITS["B"], EDITS["C"], None]),
        reward=st.sampled_from([0, 1]),
        held_out=st.sampled_from([-1.0, -2.0, -inf, None]),
        status=st.sampled_from([Status.OK, Status.OK, Status.TIMEOUT]),
    ),
    unique_by=lambda row: (row.run, row.round, row.task, row.sample),
    max_size=20,
)


@settings(max_examples=40)
@given(ROWS, st.sampled_from(["solution", "gain", "held_out_demo"]), st.sampled_from([None, 1, 2]), st.randoms())
def test_what_is_imitated_holds_its_rules(
    rows: list[Rollout], reward: Any, per_task: int | None, rng: random.Random
) -> None:
    wanted = changed(PAPER, reward=reward, per_task=per_task)
    kept = to_imitate(rows, wanted, seed=0)
    earned = [row for task in "ab" for row in rewarded([row for row in rows if row.task == task], wanted)]
    assert all(row in earned for row in kept)
    pairs = [(row.task, row.self_edit) for row in kept]
    assert len(set(pairs)) == len(pairs)
    for task in "ab":
        distinct = {row.self_edit for row in earned if row.task == task}
        assert sum(row.task == task for row in kept) == min(len(distinct), per_task or len(distinct))
    rng.shuffle(rows)
    assert to_imitate(rows, wanted, seed=0) == kept


@pytest.mark.parametrize(
    ("log_probability", "price", "changes", "worth"),
    [
        (-4.5, 0.0, {}, 0.5),
        (-4.5, 0.0, {"reward": 0}, 0.25),
        (-4.5, 0.0, {"reward": 1}, 0.75),
        (-4.5, 0.1, {}, 0.325),  # 1.5 seconds of training and 0.25 of predicting; writing and examining are not paid
        (-0.5, 0.0, {}, 1 / (1 + e**-4)),
        (-inf, 0.0, {}, 0.0),
        (None, 0.1, {"status": Status.TIMEOUT, "result": None}, -1.0),
        (None, 0.1, {"status": Status.INVALID_SELF_EDIT, "self_edit": None, "result": None}, -1.0),
        (None, 0.0, {}, None),
    ],
)
def test_graded_a_roll_out_is_worth_what_the_solution_is_probable_less_its_seconds(
    log_probability: float | None, price: float, changes: dict[str, Any], worth: float | None
) -> None:
    made = rollout(0, **{"reward": None, **changes}, solution_log_probability=log_probability)
    found = value(made, changed(GRADED, price=price))
    assert found == (worth if worth is None else pytest.approx(worth, abs=1e-9))


def graded(task: str, values: dict[str, float | None], **changes: Any) -> list[Rollout]:
    """Roll-outs of a task, self-edits by letter and a digit more, and their chances to solve it; None for a failure."""
    failed = {"status": Status.TIMEOUT, "result": None}
    return [
        rollout(
            sample,
            **{"task": task, "self_edit": EDITS[name[0]], "reward": None, **changes},
            solution_log_probability=None if found is None else log(found / (1 - found)) - 4.5,
            **(failed if found is None else {}),
        )
        for sample, (name, found) in enumerate(values.items())
    ]


def weights(found: list[Lesson]) -> dict[tuple[str, str], float]:
    return {(row.task, LETTERS[row.self_edit]): weight for row, weight in found if row.self_edit}


def test_graded_lessons_weigh_by_their_advantage_and_tasks_alike() -> None:
    rows = [*graded("b", {"A": 0.5, "B": 0.4, "C": 0.6}), *graded("a", {"A": 0.9, "B": 0.9})]
    found = lessons(rows, GRADED, 0)
    assert [(row.task, LETTERS[row.self_edit]) for row, _ in found if row.self_edit] == [
        ("a", "A"), ("a", "B"), ("b", "C"), ("b", "A"), ("b", "B"),
    ]  # fmt: skip
    made = weights(found)
    assert made["b", "C"] / made["b", "A"] == pytest.approx(e) == made["b", "A"] / made["b", "B"]
    assert made["a", "A"] == made["a", "B"] == 1.25
    assert sum(weight for (task, _), weight in made.items() if task == "b") == pytest.approx(2.5)
    assert [row.task for row, _ in lessons(rows, changed(GRADED, contrast=True), 0)] == ["b"] * 3
    assert set(weights(lessons(rows, changed(GRADED, per_task=1), 0))) == {("a", "A"), ("b", "C")}
    hot, cold = (weights(lessons(rows, changed(GRADED, temperature=each), 0))["b", "C"] for each in (100.0, 0.001))
    assert (hot, cold) == (pytest.approx(2.5 / 3, rel=0.01), pytest.approx(2.5))


def test_graded_the_advantage_is_over_what_ran_in_its_round_and_equal_self_edits_are_one() -> None:
    rows = graded("a", {"A": 0.4, "A2": 0.2, "B": 0.6, "X": None, "B2": None})
    found = {LETTERS[row.self_edit]: (row.sample, each) for row, each in advantages(rows, GRADED) if row.self_edit}
    assert found == {"A": (0, pytest.approx(-0.1)), "B": (2, pytest.approx((0.2 + (-1.0 - 0.4)) / 2))}
    later = graded("a", {"A": 0.3, "C": 0.1}, round=1)
    found = {LETTERS[row.self_edit]: each for row, each in advantages([*rows, *later], GRADED) if row.self_edit}
    assert found["A"] == pytest.approx((0.0 - 0.2 + 0.1) / 3) and found["C"] == pytest.approx(-0.1)
    assert (advantages([], GRADED), lessons([], GRADED, 0)) == ([], [])
    assert advantages(graded("a", {"A": None}), GRADED) == []
    assert advantages([rollout(0)], GRADED) == []  # of a run that did not measure it
    slow = changed(GRADED, price=0.1)
    assert [each for _, each in advantages(graded("a", {"A": 0.4, "B": 0.4}), slow)] == [0.0, 0.0]


def test_graded_tasks_that_look_alike_share_what_their_self_edits_are_worth() -> None:
    rows = [
        *graded("a", {"A": 0.9, "B": 0.5}), *graded("b", {"A": 0.2, "B": 0.6}),
        *graded("c", {"A": 0.1, "B": 0.7}), *graded("d", {"A": 0.5, "B": 0.5}),
    ]  # fmt: skip
    by_task = {task: advantages([row for row in rows if row.task == task], GRADED) for task in "abcd"}
    found = over_tasks_alike(by_task, {"a": 3, "b": 3, "c": 4})
    of_a = {task: rated[0][1] for task, rated in found.items()}  # the advantage of A, minus that of B
    assert of_a == {
        "a": pytest.approx((0.2 - 0.2 - 0.5 * 0.3) / 2.5), "b": pytest.approx((0.2 - 0.2 - 0.5 * 0.3) / 2.5),
        "c": pytest.approx((-0.3 + 0.5 * 0.2 - 0.5 * 0.2) / 2.0), "d": pytest.approx(0.0),
    }  # fmt: skip
    assert over_tasks_alike(by_task, {}) == by_task
    weighed = weights(lessons(rows, GRADED, 0, {"a": 3, "b": 3, "c": 4}))
    assert weighed["a", "B"] > weighed["a", "A"] == pytest.approx(weighed["b", "A"])
    assert weighed["d", "A"] == weighed["d", "B"]


def test_graded_the_better_half_of_what_ran_is_the_same_for_tasks_alike() -> None:
    rows = [
        *graded("a", {"A": 0.9, "B": 0.2, "C": 0.5, "X": None}), *graded("b", {"A": 0.3, "B": 0.4, "C": 0.5}),
        *graded("c", {"C": 0.1, "D": 0.2}), *graded("d", {"A": None}),
    ]  # fmt: skip
    found = better_half(rows, GRADED, {"a": 0, "b": 0})
    half = {task: "".join(LETTERS[edit] for edit in edits) for task, edits in found.items()}
    assert half == {"a": "AC", "b": "AC", "c": "D", "d": ""}
    assert better_half(rows, GRADED, {})["b"] == (EDITS["C"], EDITS["B"])


@pytest.mark.parametrize("reward", ["solution", "gain", "held_out_demo"])
def test_other_lessons_have_one_weight(reward: str) -> None:
    rows, wanted = [*of("a", "A", "B"), *examined(-3.0, -1.0, task="b")], changed(PAPER, reward=reward)
    assert lessons(rows, wanted, 3) == [(row, 1.0) for row in to_imitate(rows, wanted, 3)] != []


@settings(max_examples=40)
@given(ROWS, st.sampled_from([None, 1, 2]), st.booleans(), st.randoms())
def test_graded_lessons_hold_their_rules(
    rows: list[Rollout], per_task: int | None, contrast: bool, rng: random.Random
) -> None:
    rows = [row.model_copy(update={"solution_log_probability": row.held_out}) for row in rows]
    wanted = changed(GRADED, per_task=per_task, contrast=contrast)
    found = lessons(rows, wanted, 0)
    assert all(row.ran and row in rows for row, _ in found)
    made = weights(found)
    assert len(made) == len(found)
    if found:
        assert sum(made.values()) == pytest.approx(len(found))
    tasks = {row.task for row, _ in found}
    for task in tasks:
        own = [weight for row, weight in found if row.task == task]
        assert sum(own) == pytest.approx(len(found) / len(tasks)) and own == sorted(own, reverse=True)
        assert per_task is None or len(own) <= per_task
    rng.shuffle(rows)
    assert lessons(rows, wanted, 0) == found


def test_a_round_is_counted() -> None:
    rows = [
        *of("a", "A"),
        rollout(1, task="a", self_edit=EDITS["A"], reward=1),
        rollout(2, task="a", self_edit=None, status=Status.INVALID_SELF_EDIT, reward=0, held_out=None),
        rollout(3, task="a", self_edit=None, status=Status.TIMEOUT, reward=0, held_out=None),
        *of("b", "A", reward=0, status=Status.DIVERGED, held_out=-3.25),
    ]
    counted = "2/5 solved, 1/2 tasks by any, 3/5 valid, 2/5 ran, 2 distinct, held-out log-probability -2.250"
    assert round_text(4, rows) == f"Round 5: {counted}"


def test_where_nothing_was_to_be_solved_nothing_is_said_of_it() -> None:
    said = round_text(0, examined(-1.0, -3.0, reward=None))
    assert said == "Round 1: 2 self-edits, 2/2 valid, 2/2 ran, 2 distinct, held-out log-probability -2.000"
    assert "held-out" not in round_text(0, [rollout(held_out=None)])


def test_the_solution_s_log_probability_is_said_beside_the_reward() -> None:
    rows = [rollout(sample, reward=0, held_out=None, solution_log_probability=-0.5 * sample) for sample in range(3)]
    assert round_text(0, rows) == (
        "Round 1: 0/3 solved, 0/1 tasks by any, 3/3 valid, 3/3 ran, 3 distinct, log-probability of the solution -0.500"
    )


def test_a_policy_writes_and_is_adapted_from_where_that_is_wanted(tmp_path: Path) -> None:
    assert with_policy(POLICY, None, "policy") == POLICY
    first = with_policy(POLICY, tmp_path, "base")
    assert (first.policy, first.adapt_from) == (str(tmp_path), None)
    second = with_policy(with_policy(POLICY, tmp_path / "1", "policy"), tmp_path / "2", "policy")
    assert (second.policy, second.adapt_from) == (str(tmp_path / "2"),) * 2
    third = with_policy(second, tmp_path / "3", "base")
    assert (third.policy, third.adapt_from) == (str(tmp_path / "3"), None)
