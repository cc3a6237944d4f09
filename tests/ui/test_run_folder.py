"""What a run leaves behind."""

import json
from pathlib import Path

import pytest

from arc_seal.arc.task import read_submission
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Attempt
from arc_seal.outer_loop.solve import Solved
from arc_seal.ui.run_folder import Run, best_supported, load_result, without_times, write_run, write_sweep
from tests.ui.builders import OTHER_SIZE, RIGHT, WRONG, later, solved


@pytest.mark.parametrize("one", [solved(RIGHT, WRONG), solved(reward=0, status=Status.DIED), solved(reward=None)])
def test_a_result_is_loaded_as_it_was(one: Solved, tmp_path: Path) -> None:
    write_run(tmp_path / "run", one, {"seed": 0, "model": {"_target_": "x"}})
    assert load_result(tmp_path / "run" / "result.json") == one
    assert load_result(tmp_path / "run") == one
    assert json.loads((tmp_path / "run" / "result.json").read_text())["configuration"]["model"] == {"_target_": "x"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"result.json", "submission.json"}


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
        Run("missing.json", 0, tmp_path / "1", None, "missing.json: expected a file, found none"),
        Run("5582e5ca", 1, tmp_path / "2", solved(RIGHT, seed=1)),
    ]
    write_sweep(tmp_path, runs)
    entry = read_submission(tmp_path / "submission.json")["5582e5ca"][0]
    assert entry["attempt_1"] == [list(row) for row in RIGHT.grid.rows]
    assert entry["attempt_2"] == [list(row) for row in WRONG.grid.rows]
    lines = json.loads((tmp_path / "summary.json").read_text())
    assert [(line["task"], line["seed"], line["status"], line["folder"]) for line in lines] == [
        ("5582e5ca", 0, ["ok"], "0"),
        ("missing.json", 0, "bad_input", "1"),
        ("5582e5ca", 1, ["ok"], "2"),
    ]


def test_equal_attempts_of_several_seeds_add_their_votes() -> None:
    one, two = Attempt(RIGHT.grid, 2, -0.5, 2.0), Attempt(WRONG.grid, 3, -0.25, 3.0)
    pooled = best_supported([[[two, one]], [[one, OTHER_SIZE]]])
    assert pooled == ((Attempt(RIGHT.grid, 4, -0.5, 4.0), two),)


def test_between_as_many_votes_the_likelier_goes_first() -> None:
    one, two = Attempt(RIGHT.grid, 3, -0.5, 3.0), Attempt(WRONG.grid, 3, -0.25, 3.0)
    assert best_supported([[[one]], [[two]]]) == ((two, one),)
    assert best_supported([[[], [one]]]) == ((), (one,))
