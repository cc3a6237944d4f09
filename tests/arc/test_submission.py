"""Kaggle's form of the answers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import merge_submissions, read_submission, submission, write_submission
from tests.arc.strategies import grids

A, B, C, NONE = (Grid.from_rows([[colour]]) for colour in (1, 2, 3, 0))


def test_there_is_one_entry_a_test_input_in_order() -> None:
    assert submission({"bb": [[A, B], [C, A]], "aa": [[B, C]]}) == {
        "bb": [{"attempt_1": [[1]], "attempt_2": [[2]]}, {"attempt_1": [[3]], "attempt_2": [[1]]}],
        "aa": [{"attempt_1": [[2]], "attempt_2": [[3]]}],
    }


def test_a_missing_second_attempt_repeats_the_first() -> None:
    assert submission({"aa": [[B]]}) == {"aa": [{"attempt_1": [[2]], "attempt_2": [[2]]}]}


def test_no_attempt_at_all_is_one_black_cell() -> None:
    assert submission({"aa": [[]]}) == {"aa": [{"attempt_1": [[0]], "attempt_2": [[0]]}]}


def test_only_two_attempts_are_written() -> None:
    assert submission({"aa": [[A, B, C]]}) == submission({"aa": [[A, B]]})


@given(st.dictionaries(st.text("0123456789abcdef", min_size=1), st.lists(st.lists(grids(), max_size=2), min_size=1)))
def test_a_submission_written_is_the_one_read(
    tmp_path_factory: pytest.TempPathFactory, answers: dict[str, list[list[Grid]]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "submission.json"
    write_submission(path, submission(answers))
    assert read_submission(path) == submission(answers) == json.loads(path.read_text())
    assert list(read_submission(path)) == list(answers)


def test_a_submission_replaces_the_one_before_and_leaves_no_draft(tmp_path: Path) -> None:
    for answers in ({"aa": [[A]]}, {"bb": [[B]]}):
        write_submission(tmp_path / "submission.json", submission(answers))
    assert list(read_submission(tmp_path / "submission.json")) == ["bb"]
    assert len(list(tmp_path.iterdir())) == 1


def test_merging_keeps_every_task_in_the_order_of_coming() -> None:
    parts = [submission({"bb": [[A, B]]}), submission({"aa": [[C], [A]]})]
    assert merge_submissions(parts) == parts[0] | parts[1]
    assert list(merge_submissions(parts)) == ["bb", "aa"]


@pytest.mark.parametrize(
    ("made", "kept"),
    [
        ([[A, B], [A, C], [C, B]], [A, C]),
        ([[A, B], [B, C]], [B, A]),
        ([[A, B], [C, A]], [A, C]),
        ([[A], [B]], [A, B]),
        ([[A], [A]], [A]),
        ([[], [B]], [B]),
        ([[NONE, A], [NONE, A]], [A]),
        ([[], []], []),
    ],
    ids=["votes", "votes before rank", "equal votes by rank", "one each", "agreed", "one failed", "none last", "none"],
)
def test_merging_a_task_that_was_tried_several_times_pools_the_attempts(
    made: list[list[Grid]], kept: list[Grid]
) -> None:
    assert merge_submissions([submission({"aa": [one]}) for one in made]) == submission({"aa": [kept]})


def test_merging_different_numbers_of_test_inputs_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        merge_submissions([submission({"aa": [[A], [B]]}), submission({"aa": [[A]]})])


@given(st.lists(st.lists(grids(max_side=2), max_size=2), min_size=1, max_size=3))
def test_merging_one_submission_changes_nothing_but_what_stands_for_no_answer(queries: list[list[Grid]]) -> None:
    real = [[grid for grid in attempts if grid != NONE] for attempts in queries]
    assert merge_submissions([submission({"aa": queries})]) == submission({"aa": real})
