"""What a run leaves behind."""

import json
from pathlib import Path

import pytest

from arc_seal.errors import InputError, Status
from arc_seal.outer_loop.solve import Solved
from arc_seal.ui.run_folder import Run, load_result, write_run, write_sweep
from tests.ui.builders import OTHER_SIZE, RIGHT, SOLUTION, TASK, WRONG, later, solved, without_times


@pytest.mark.parametrize("one", [solved(RIGHT, WRONG), solved(reward=0, status=Status.DIED), solved(reward=None)])
def test_a_result_is_loaded_as_it_was(one: Solved, tmp_path: Path) -> None:
    write_run(tmp_path / "run", one, (TASK, SOLUTION), {"seed": 0, "model": {"_target_": "x"}})
    assert load_result(tmp_path / "run" / "result.json") == one
    assert load_result(tmp_path / "run") == one
    assert json.loads((tmp_path / "run" / "result.json").read_text())["configuration"]["model"] == {"_target_": "x"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"result.json", "submission.json", "submission"}


def test_two_runs_differ_in_their_times_alone() -> None:
    one = solved(RIGHT, WRONG)
    assert one != later(one)
    assert without_times(one) == without_times(later(one))
    assert without_times(one) != without_times(solved(RIGHT))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected an object"),
        ("{}", "expected a result of arc-seal"),
        ('{"task_id": 3}', "task_id: expected a result of arc-seal"),
    ],
)
def test_refuses_what_is_no_result(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_result(tmp_path)


def test_a_sweep_has_one_submission_of_all_tasks(tmp_path: Path) -> None:
    runs = [
        Run("5582e5ca", 0, tmp_path / "0", solved(WRONG, OTHER_SIZE)),
        Run("missing.json", 0, tmp_path / "1", None, InputError("missing.json", "", "a file", "none")),
        Run("5582e5ca", 1, tmp_path / "2", solved(RIGHT, seed=1)),
    ]
    write_sweep(tmp_path, runs, {"5582e5ca"})
    official = json.loads((tmp_path / "submission" / "5582e5ca.json").read_text())[0]
    assert official["attempt_1"]["answer"] == [list(row) for row in RIGHT.grid.rows]
    entry = json.loads((tmp_path / "submission.json").read_text())["5582e5ca"][0]
    assert entry["attempt_1"] == [list(row) for row in RIGHT.grid.rows]
    assert entry["attempt_2"] == [list(row) for row in WRONG.grid.rows]
    lines = json.loads((tmp_path / "summary.json").read_text())
    assert [(line["task"], line["seed"], line["status"], line["folder"]) for line in lines] == [
        ("5582e5ca", 0, ["ok"], "0"),
        ("missing.json", 0, "bad_input", "1"),
        ("5582e5ca", 1, ["ok"], "2"),
    ]
