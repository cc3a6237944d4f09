"""What a run leaves behind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from arc_seal.arc.task import parse_task
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Examination
from arc_seal.outer_loop.ledger import TABLES, Policy
from arc_seal.outer_loop.solve import Solved
from arc_seal.outer_loop.table import to_json
from arc_seal.ui.run_folder import Run, load_result, read_result, write_run, write_sweep
from tests.outer_loop.table_builders import evaluation
from tests.ui.builders import COMPLETION, OTHER_SIZE, RIGHT, SOLUTION, TASK, WRONG, later, solved, without_times

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.mark.parametrize("one", [solved(RIGHT, WRONG), solved(reward=0, status=Status.DIED), solved(reward=None)])
def test_a_result_is_loaded_as_it_was(one: Solved, tmp_path: Path) -> None:
    write_run(tmp_path / "run", one, (TASK, SOLUTION), {"seed": 0, "model": {"_target_": "x"}})
    assert load_result(tmp_path / "run" / "result.json") == one
    assert load_result(tmp_path / "run") == one
    assert json.loads((tmp_path / "run" / "result.json").read_text())["configuration"]["model"] == {"_target_": "x"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"result.json", "submission.json", "submission"}


def test_a_result_has_its_task_and_no_json_within_texts(tmp_path: Path) -> None:
    configuration = {"self_edit": {"json": COMPLETION, "candidates": [COMPLETION], "example": "no JSON"}}
    write_run(tmp_path, solved(RIGHT), (TASK, SOLUTION), configuration)
    written = json.loads((tmp_path / "result.json").read_text())
    assert parse_task(written["task"], TASK.id, "") == (TASK, SOLUTION)
    edit = json.loads(COMPLETION)
    assert written["rollouts"][0]["completion"] == edit
    assert written["configuration"]["self_edit"] == {"json": edit, "candidates": [edit], "example": "no JSON"}
    assert read_result(tmp_path).entry == (TASK, SOLUTION)
    assert load_result(tmp_path, configuration) == solved(RIGHT)
    with pytest.raises(InputError, match=r"self_edit.json.training.epochs: 2 recorded, 3 now"):
        changed = COMPLETION.replace('"epochs":2', '"epochs":3')
        load_result(tmp_path, {"self_edit": {**configuration["self_edit"], "json": changed}})


def test_without_a_solution_none_is_kept(tmp_path: Path) -> None:
    write_run(tmp_path, solved(RIGHT, reward=None), (TASK, None), {})
    assert "output" not in json.loads((tmp_path / "result.json").read_text())["task"]["test"][0]
    assert read_result(tmp_path).entry == (TASK, None)


def test_what_the_model_wrote_amiss_is_kept_as_text(tmp_path: Path) -> None:
    one = solved(reward=0, status=Status.INVALID_SELF_EDIT)
    write_run(tmp_path, one, (TASK, SOLUTION), {})
    assert json.loads((tmp_path / "result.json").read_text())["rollouts"][0]["completion"] == COMPLETION
    assert load_result(tmp_path) == one


def test_a_result_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It had no task, and self-edits as texts."""
    configuration = {"seed": 0, "self_edit": {"json": COMPLETION}}
    old = {**solved(RIGHT).model_dump(mode="json"), "configuration": configuration}
    (tmp_path / "result.json").write_text(json.dumps(old))
    assert load_result(tmp_path, configuration) == solved(RIGHT)
    assert read_result(tmp_path).entry is None
    with pytest.raises(InputError, match="seed: 0 recorded, 1 now"):
        load_result(tmp_path, {**configuration, "seed": 1})


def test_a_task_that_is_another_s_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, solved(RIGHT), (TASK, SOLUTION), {})
    written = json.loads((tmp_path / "result.json").read_text())
    written["task"]["test"] *= 2
    (tmp_path / "result.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=r"task.test: expected 1 tests, found 2"):
        load_result(tmp_path)
    written["task"]["train"][0]["input"][0][0] = 11
    (tmp_path / "result.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=r"task.train\[0\].input\[0\]\[0\]: expected an integer 0 to 9, found 11"):
        load_result(tmp_path)


def test_the_documentation_names_every_field(tmp_path: Path) -> None:
    made = solved(RIGHT)
    asked = made.rollouts[0].model_copy(update={"examination": Examination(-1.0, 2, 900, {})})
    write_run(tmp_path / "0", made.model_copy(update={"rollouts": (asked,)}), (TASK, SOLUTION), {})
    write_sweep(tmp_path, [Run(TASK.id, 0, tmp_path / "0", made)], {TASK.id})
    (tmp_path / "table.json").write_text(to_json(evaluation()))
    named = set(re.findall(r"`(\w+)`", DOCUMENTATION.read_text()))
    for path in ("0/result.json", "summary.json", "table.json"):
        assert keys(json.loads((tmp_path / path).read_text())) <= named
    (tests,) = json.loads((tmp_path / "submission.json").read_text()).values()
    assert keys(tests) <= named
    official = json.loads((tmp_path / "submission" / f"{TASK.id}.json").read_text())
    assert official[0].keys() | official[0]["attempt_1"].keys() <= named
    columns = re.findall(r"(\w+) (?:TEXT|INTEGER)|CREATE TABLE (\w+)", TABLES)
    assert {name for both in columns for name in both if name} | set(Policy.model_fields) <= named


def keys(value: Any) -> set[str]:
    """The names of all members of a JSON value, but of those that are by stage, library, status, task or tool."""
    if isinstance(value, list):
        return {name for each in value for name in keys(each)}
    if not isinstance(value, dict):
        return set()
    free = {"seconds", "versions", "failures", "tasks", "tools", "run"}
    return set(value) | {inner for name, each in value.items() if name not in free for inner in keys(each)}


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
