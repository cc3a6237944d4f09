"""Kaggle's form of the answers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import submission, write_submission
from tests.arc.strategies import grids

A, B, C = (Grid.from_rows([[colour]]) for colour in (1, 2, 3))


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
    write_submission(path, answers)
    read = json.loads(path.read_text())
    assert read == submission(answers)
    assert list(read) == list(answers)


def test_a_submission_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    for answers in ({"aa": [[A]]}, {"bb": [[B]]}):
        write_submission(tmp_path / "submission.json", answers)
    assert list(json.loads((tmp_path / "submission.json").read_text())) == ["bb"]
    assert len(list(tmp_path.iterdir())) == 1
