"""Kaggle's form of the answers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import submission, write_official_submission, write_submission
from arc_seal.errors import InputError
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


def test_the_official_submission_says_the_same_in_the_scorers_form(tmp_path: Path) -> None:
    """The members that arcprize/arc-agi-benchmarking requires, as of August 2026 (its `schemas.py`)."""
    answers = {"bb": [[A, B], [C]], "aa": [[]]}
    write_official_submission(tmp_path, answers)
    read = {path.stem: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    plain = {
        task_id: [{name: attempt["answer"] for name, attempt in test.items()} for test in tests]
        for task_id, tests in read.items()
    }
    assert plain == submission(answers)
    for task_id, tests in read.items():
        for index, test in enumerate(tests):
            for attempt in test.values():
                metadata = attempt["metadata"]
                assert (metadata["task_id"], metadata["pair_index"]) == (task_id, index)
                assert {"model", "provider", "start_timestamp", "end_timestamp", "choices", "kwargs"} < metadata.keys()
                assert set(metadata["cost"].values()) == {0} and metadata["usage"]["total_tokens"] == 0
                assert len(metadata["usage"]["completion_tokens_details"]) == 3


def test_an_official_submission_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "aa.json").mkdir()
    with pytest.raises(InputError, match="expected a file that can be written, found "):
        write_official_submission(tmp_path, {"aa": [[A]]})


def test_a_submission_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    for answers in ({"aa": [[A]]}, {"bb": [[B]]}):
        write_submission(tmp_path / "submission.json", answers)
    assert list(json.loads((tmp_path / "submission.json").read_text())) == ["bb"]
    assert len(list(tmp_path.iterdir())) == 1
