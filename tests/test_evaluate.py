"""The evaluation command from end to end, on what a training run has kept."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from arc_seal.arc.datasets import load_tasks
from arc_seal.errors import Status
from arc_seal.evaluate import answers, main
from arc_seal.inner_loop.job import Attempt
from arc_seal.outer_loop.evaluate import TITLES
from arc_seal.outer_loop.ledger import Ledger
from arc_seal.outer_loop.rollout import Rollout
from tests.outer_loop.fakes import RIGHT, WRONG, entries
from tests.outer_loop.ledger_builders import policy, rollout
from tests.smoke import SMOKE, Finished

ALL = f"rows=[{','.join(TITLES)}]"
TASK = "6150a2bd"


@pytest.fixture(scope="module")
def evaluated(smoke_run: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with its evaluation, to be looked at or copied."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(smoke_run.place, folder / "smoke-seed0")
    assert measure(folder, ALL) == 0
    return folder


@pytest.fixture
def copied(evaluated: Path, tmp_path: Path) -> Path:
    shutil.copytree(evaluated, tmp_path / "runs")
    return tmp_path / "runs"


def measure(folder: Path, *argv: str) -> int:
    return main([*SMOKE, "samples=2", f"hydra.run.dir={folder / 'smoke-evaluation'}", *argv])


def recorded(folder: Path) -> list[Rollout]:
    with Ledger.read_only(folder / "smoke-seed0" / "ledger.sqlite") as ledger:
        return ledger.rollouts()


def table(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "smoke-evaluation" / "table.json").read_text("utf-8"))
    return read


def test_the_table_as_json(evaluated: Path) -> None:
    written = table(evaluated)
    totals = {row["name"]: row["total"] for row in written["rows"]}
    assert list(totals) == list(TITLES.values())
    assert list(totals.values()) == [1, 2, 2, 1, 2, 2, 1, 1, 1]
    for row in written["rows"]:
        assert row.keys() >= {"name", "correct", "total", "wilson_low", "wilson_high", "seconds_mean", "tasks"}
        assert 0 <= row["correct"] <= row["total"]
        assert 0 <= row["wilson_low"] <= row["correct"] / row["total"] <= row["wilson_high"] <= 1
        assert row["tasks"] == {TASK: {"correct": row["correct"], "total": row["total"]}}
        assert row["seconds_mean"] > 0
    difference = written["difference"]
    assert (difference["first"], difference["second"], difference["tasks"]) == ("SEAL", "untrained policy", 1)
    assert -1 <= difference["low"] <= difference["mean"] <= difference["high"] <= 1
    assert written["run"].keys() >= {"model", "data", "seeds", "samples", "versions", "git_commit"}
    assert (written["run"]["data"], written["run"]["seeds"]) == ([f"arcagi1/{TASK}"], [0])
    assert written["run"]["model"]


def test_the_table_for_people_and_the_submission(evaluated: Path) -> None:
    text = (evaluated / "smoke-evaluation" / "table.md").read_text("utf-8")
    assert all(re.search(rf"^\| {name} +\| +\d/\d \|", text, re.MULTILINE) for name in TITLES.values()), text
    submission = json.loads((evaluated / "smoke-evaluation" / "submission.json").read_text())
    assert {task: [set(entry) for entry in entries] for task, entries in submission.items()} == {
        TASK: [{"attempt_1", "attempt_2"}]
    }


def test_the_answers_are_those_of_the_trained_policy_s_roll_outs_together() -> None:
    (task, solution), (other, _) = entries(2, queries=2)
    one, two = (Attempt(grid, 5, -0.5, 0.0) for grid in (WRONG, RIGHT))
    seal = [rollout(sample, task=task.id, attempts=((each,), (two,))) for sample, each in enumerate((one, two, two))]
    failed = rollout(3, task=task.id, status=Status.TIMEOUT, result=None)
    untrained = [rollout(task=task.id, attempts=((one,), (one,)))]
    both, before = (
        {0: {"seal": [*seal, failed], "untrained": untrained}},
        {0: {"in_context": [], "untrained": untrained}},
    )
    tasks = [(task, solution), (other, None)]
    assert answers(both, tasks) == {task.id: [[RIGHT, WRONG], [RIGHT]], other.id: [[], []]}
    assert answers(before, tasks) == {task.id: [[WRONG], [WRONG]], other.id: [[], []]}


def test_every_row_s_roll_outs_are_in_the_run_s_ledger(evaluated: Path, smoke_run: Finished) -> None:
    runs = [row.run for row in recorded(evaluated)]
    assert {run: runs.count(run) for run in runs} == {
        "train": 12, "evaluate candidates": 4, "evaluate chosen": 2, "evaluate fixed": 1, "evaluate in_context": 1,
        "evaluate random": 2, "evaluate seal round-2": 2, "evaluate untrained": 2, "evaluate seal_policy round-2": 2,
        "evaluate in_context_policy round-2": 1,
    }  # fmt: skip
    by_run = {run: [row for row in recorded(evaluated) if row.run == run] for run in runs}
    assert all(
        row.self_edit is None and not (row.result and row.result.training) for row in by_run["evaluate in_context"]
    )
    assert all(row.completion is None and row.self_edit for row in by_run["evaluate random"])
    written = {run: [row.completion for row in by_run[f"evaluate {run}"]] for run in ("untrained", "seal round-2")}
    assert [row.completion for row in by_run["evaluate seal_policy round-2"]] == written["seal round-2"]
    assert written["untrained"] != written["seal round-2"]  # the policy's adapter writes
    assert [row.completion for row in by_run["evaluate chosen"]] == written["untrained"]
    assert all(row.held_out is not None for row in by_run["evaluate chosen"] if row.status == "ok")


def test_the_same_command_measures_nothing_again(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, written = recorded(copied), table(copied)
    shutil.rmtree(copied / "smoke-evaluation")
    assert measure(copied, ALL, "executor.timeout_s=99") == 0
    assert (recorded(copied), table(copied)) == (before, written)
    shown = capfd.readouterr()
    assert shown.err == "" and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown.out)
    assert "roll-outs" not in shown.out.partition("Solved: ")[0].replace("roll-outs with", "")
    for name in ("Evaluation", "SEAL minus untrained policy", "Solved by task", TASK):
        assert name in shown.out


def test_another_configuration_is_refused(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, written = recorded(copied), table(copied)
    assert measure(copied, ALL, "temperature=0.5") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "found temperature: 1.0 recorded, 0.5 now" in error
    assert (recorded(copied), table(copied)) == (before, written)


def test_an_earlier_round_s_policy_is_measured_beside_the_last(copied: Path) -> None:
    before = recorded(copied)
    assert measure(copied, "rows=[untrained,seal]", "round=1") == 0
    more = [row for row in recorded(copied) if row not in before]
    assert [row.run for row in more] == ["evaluate seal round-1"] * 2
    assert [row["name"] for row in table(copied)["rows"]] == ["untrained policy", "SEAL"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rows=[luck]"], "error: configuration: rows[0]: expected 'in_context', 'random', 'untrained', 'fixed', "),
        (["rows=[ceiling]"], "error: rows: expected a row beside ceiling"),
        (["rows=[seal]"], "error: rows: seal: expected a run that python -m arc_seal.train has trained a policy in"),
        (["seeds=[]"], "error: configuration: seeds: expected"),
        (["round=0"], "error: configuration: round: expected greater than or equal to 1, found 0"),
        (["data.held_out=[nowhere]"], "error: nowhere: expected"),
        (["self_edit.json={}"], "error: self_edit.json: expected null, for the policy writes its own, found"),
        (["arcagi1/25ff71a9"], "error: arcagi1/25ff71a9: expected settings as NAME=VALUE (or --help), found"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert measure(tmp_path, *argv) == 2
    error = capfd.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_a_run_was_trained_on_is_not_measured_whatever_data_train_says_now(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run's own record is asked: the command does not mention 25ff71a9 any more."""
    with Ledger.open(tmp_path / "smoke-seed0" / "ledger.sqlite") as ledger:
        ledger.begin("train", {"restem": {"reward": "solution"}}, load_tasks("arcagi1/25ff71a9", "arcagi1/5582e5ca"))
        ledger.record_policy(policy(run="train"))
    tasks = ["rows=[seal]", f"data.train=[arcagi1/{TASK}]", "data.held_out=[arcagi1/25ff71a9]"]
    assert measure(tmp_path, *tasks) == 2
    expected = "a task that what smoke-seed0 was trained on knows nothing of"
    error = capfd.readouterr().err
    assert error.startswith(f"error: data.held_out: 25ff71a9: expected {expected}, found it is ")
    assert error.count("\n") == 1
