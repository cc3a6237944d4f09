"""What a table counts, and what it says of it in JSON."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.errors import Status
from arc_seal.inner_loop.job import Result
from arc_seal.outer_loop.statistics import Interval, bootstrap_over_tasks, paired_difference, wilson
from arc_seal.outer_loop.table import Mark, TableRow, best_of, make_table, side, to_json
from arc_seal.outer_loop.table import mark as marked
from tests.outer_loop.table_builders import IN_CONTEXT, RUN, SEAL, UNTRAINED, counts, evaluation, mark, row
from tests.ui.builders import RIGHT, SOLUTION, TASK, WRONG, rollout

VALUES = st.one_of(st.integers(0, 2), st.sampled_from([Status.TIMEOUT, Status.DIED]))
ROWS = st.builds(
    lambda values: row("row", 1.0, **{task: tuple(each) for task, each in values.items()}),
    st.dictionaries(st.sampled_from("abcd"), st.lists(VALUES, min_size=1, max_size=4)),
)


def test_what_a_row_counts() -> None:
    (found,) = make_table([UNTRAINED], {})["rows"]
    assert (found["correct"], found["total"], found["percent"]) == (2, 9, 200 / 9)
    assert (found["wilson_low"], found["wilson_high"]) == wilson(2, 9)
    over_tasks = bootstrap_over_tasks({"c": [0, 0, 0], "b": [1, 1, 0], "d": [0, 0, 0]})
    assert Interval(found["task_mean"], found["bootstrap_low"], found["bootstrap_high"]) == over_tasks
    assert found["pass_at_1"] == 1
    assert found["score"] == pytest.approx((2 * 1.0 + 4 * 0.5) / 9)
    assert (found["seconds_mean"], found["seconds_longest"]) == (62.0, 63.0)
    assert found["failures"] == {"timeout": 2, "diverged": 1}
    assert list(found["failures"]) == ["timeout", "diverged"]
    assert counts(found) == {"c7d4e6ad": (0, 3), "b1fc8b8e": (2, 3), "bc4146bd": (0, 3)}


@settings(max_examples=30)
@given(ROWS)
def test_what_failed_stays_in_the_denominator(one: TableRow) -> None:
    (found,) = make_table([one], {}, draws=20)["rows"]
    assert found["total"] == len(one.marks) == sum(total for _, total in counts(found).values())
    assert found["correct"] == sum(correct for correct, _ in counts(found).values())
    assert found["correct"] + sum(found["failures"].values()) <= found["total"]
    assert found["pass_at_1"] <= found["correct"]
    assert found["score"] is None or found["score"] >= found["correct"] / found["total"] - 1e-9


def test_seeds_are_pooled() -> None:
    marks = tuple(mark(task, value, seed=seed) for task, value, seed in [("a", 1, 0), ("a", 0, 1), ("b", 1, 0)])
    (found,) = make_table([TableRow("row", marks)], {})["rows"]
    assert (found["correct"], found["total"], counts(found)) == (2, 3, {"a": (1, 2), "b": (1, 1)})


def test_a_row_without_marks_claims_nothing() -> None:
    (found,) = make_table([TableRow("row", ())], {})["rows"]
    assert (found["correct"], found["total"], found["failures"], found["tasks"]) == (0, 0, {}, {})
    assert (found["wilson_low"], found["wilson_high"]) == (0.0, 1.0)
    absent = ("percent", "task_mean", "bootstrap_low", "bootstrap_high", "score", "seconds_mean", "seconds_longest")
    assert [found[key] for key in absent] == [None] * len(absent)


def test_the_ceiling_counts_a_task_when_anything_solved_it() -> None:
    ceiling = best_of([UNTRAINED, IN_CONTEXT])
    assert ceiling.name == "best of 4"
    assert ceiling.solved() == {"c7d4e6ad": [False], "b1fc8b8e": [True], "bc4146bd": [False]}
    assert [each.seconds for each in ceiling.marks] == [61 + 62 + 63 + 0.5] * 3
    assert [each.status for each in ceiling.marks] == ["ok", "ok", "ok"]


def test_the_ceiling_of_what_only_failed_is_a_failure() -> None:
    (found,) = best_of([row("row", 1.0, a=(Status.DIED, Status.TIMEOUT))]).marks
    assert (found.solved, found.score, found.status) == (False, None, "died")


def test_the_ceiling_takes_the_first_attempt_from_whichever_roll_out_had_it() -> None:
    (found,) = best_of([row("row", 1.0, a=(2, 1, 0))]).marks
    assert (found.solved, found.pass_at_1, found.score) == (True, True, 1.0)


def test_the_ceiling_says_of_how_many() -> None:
    assert best_of([row("row", 1.0, a=(0, 1), b=(0, 0, 0))]).name == "best of 2 to 3"
    assert best_of([], "the ceiling") == TableRow("the ceiling", ())


@settings(max_examples=30)
@given(ROWS, ROWS)
def test_nothing_is_above_the_ceiling(one: TableRow, other: TableRow) -> None:
    ceiling = best_of([one, other]).solved()
    for each in (one, other):
        for task, solved in each.solved().items():
            assert any(solved) <= ceiling[task][0]
    assert ceiling.keys() == one.solved().keys() | other.solved().keys()


def test_the_difference_is_the_first_minus_the_second() -> None:
    found = make_table([UNTRAINED, SEAL], {}, ("SEAL", "TTT, untrained policy"))["difference"]
    interval = paired_difference(SEAL.solved(), UNTRAINED.solved())
    assert found == {
        "first": "SEAL", "second": "TTT, untrained policy", **asdict(interval), "tasks": 3, "left_out": 0,
    }  # fmt: skip
    assert interval.mean == pytest.approx((3 / 3 + 1 / 3 + 1 / 3) / 3)


def test_the_difference_is_of_the_tasks_that_both_have() -> None:
    found = make_table([row("a", 1.0, x=(1,), y=(1,)), row("b", 1.0, x=(0,), z=(1,))], {}, ("a", "b"))["difference"]
    assert found == {"first": "a", "second": "b", "mean": 1.0, "low": 1.0, "high": 1.0, "tasks": 1, "left_out": 2}


@pytest.mark.parametrize("pair", [None, ("in context", "absent"), ("absent", "in context"), ("in context", "other")])
def test_no_difference_where_there_is_nothing_to_compare(pair: tuple[str, str] | None) -> None:
    assert make_table([IN_CONTEXT, row("other", 1.0, z=(1,))], {}, pair)["difference"] is None


def test_further_differences_are_those_that_there_are() -> None:
    pairs = [("SEAL", "in context"), ("SEAL", "absent"), ("in context", "SEAL")]
    table = make_table([IN_CONTEXT, SEAL], {}, ("SEAL", "absent"), pairs)
    assert table["difference"] is None
    assert [(each["first"], each["second"]) for each in table["further_differences"]] == [pairs[0], pairs[2]]
    assert (
        asdict(paired_difference(SEAL.solved(), IN_CONTEXT.solved())).items() <= table["further_differences"][0].items()
    )


@pytest.mark.parametrize(("low", "high", "found"), [(0.1, 0.3, 1), (-0.3, -0.1, -1), (0.0, 0.2, 0), (1e-17, 0.2, 0)])
def test_on_which_side_of_zero_the_interval_is(low: float, high: float, found: int) -> None:
    assert side({"mean": 0.1, "low": low, "high": high}) == found


def test_the_order_of_marks_changes_no_figure() -> None:
    turned = TableRow(UNTRAINED.name, UNTRAINED.marks[::-1])
    assert make_table([turned], {})["rows"] == make_table([UNTRAINED], {})["rows"]


@pytest.mark.parametrize("values", [(True, False, "timeout"), (False, True, "ok")])
def test_a_mark_does_not_contradict_itself(values: tuple[bool, bool, str]) -> None:
    solved, pass_at_1, status = values
    with pytest.raises(ValueError, match="contradicts itself"):
        Mark("a", 0, 0, solved, None, pass_at_1, 1.0, status)


def test_a_roll_out_counts_once() -> None:
    with pytest.raises(ValueError, match=r"row: more than one mark .*\('a', 0, 0\)"):
        TableRow("row", (mark("a", 1), mark("a", 0), mark("a", 0, sample=1)))


def test_a_mark_is_what_a_roll_out_was_worth() -> None:
    result = Result(((RIGHT, WRONG),), (), None, {"train": 2.0, "predict": 1.0})
    found = rollout(3, result=result, reward=1, score=1.0)
    assert marked(found, SOLUTION, 7) == Mark(TASK.id, 3, 7, True, 1.0, True, 11.0, "ok")
    second = found.model_copy(update={"result": replace(result, attempts=((WRONG, RIGHT),))})
    assert not marked(second, SOLUTION, 7).pass_at_1
    failed = rollout(status=Status.DIED, reward=0, score=0.0, writing_s=0.0)
    assert marked(failed, SOLUTION, 0) == Mark(TASK.id, 0, 0, False, 0.0, False, 0.0, "died")


def test_rows_have_different_names() -> None:
    with pytest.raises(ValueError, match="different names"):
        make_table([SEAL, SEAL], {})


def test_json() -> None:
    found = json.loads(to_json(evaluation()))
    assert found["run"] == RUN
    assert found["bootstrap"] == {"seed": 0, "draws": 10_000}
    assert [each["name"] for each in found["rows"]] == [
        "in context", "TTT, untrained policy", "SEAL", "best of 3",
    ]  # fmt: skip
    untrained = found["rows"][1]
    assert (untrained["correct"], untrained["total"], untrained["percent"]) == (2, 9, 22.222222)
    assert (untrained["wilson_low"], untrained["wilson_high"]) == pytest.approx(wilson(2, 9), abs=1e-6)
    assert (untrained["task_mean"], untrained["bootstrap_low"], untrained["bootstrap_high"]) == (0.222222, 0, 0.666667)
    assert (untrained["pass_at_1"], untrained["score"]) == (1, 0.444444)
    assert (untrained["seconds_mean"], untrained["seconds_longest"]) == (62.0, 63.0)
    assert untrained["failures"] == {"timeout": 2, "diverged": 1}
    assert untrained["tasks"]["b1fc8b8e"] == {"correct": 2, "total": 3}
    assert found["difference"] == {
        "first": "SEAL", "second": "TTT, untrained policy", "mean": 0.555556, "low": 0.333333, "high": 1.0,
        "tasks": 3, "left_out": 0,
    }  # fmt: skip


def test_json_of_a_row_without_marks_and_without_a_difference() -> None:
    found = json.loads(to_json(make_table([TableRow("row", ())], {}, ("row", "absent"))))
    assert found["difference"] is None
    assert (found["rows"][0]["correct"], found["rows"][0]["total"], found["rows"][0]["percent"]) == (0, 0, None)
    assert found["rows"][0]["task_mean"] is None and found["rows"][0]["score"] is None


def test_the_json_of_figures_is_rounded_but_not_that_of_what_was_run() -> None:
    text = to_json(make_table([row("row", 1 / 3, a=(1,))], {"rate": 0.12345678}))
    assert '"seconds_mean": 0.333333,' in text and '"rate": 0.12345678' in text
