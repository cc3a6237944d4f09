"""The command from end to end: real processes, real training of a tiny network."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arc_seal.errors import Status
from arc_seal.solve import main
from arc_seal.ui.run_folder import load_result
from tests.models.builders import grid_network
from tests.ui.builders import without_times

ROOT = Path(__file__).parents[1]
TASKS = ROOT / "tasks"
EDIT = (
    '{"tools": [{"tool": "rotate", "quarter_turns": 1}], "training": {"loss_on": "outputs", "learning_rate": 0.001, '
    '"epochs": 1, "batch_size": 2, "lora_rank": 8, "max_examples": 16}}'
)
TINY = ("-cd", str(ROOT / "tests" / "conf"), "model=scripted", "decode.views=2", "executor=inline", "max_tokens=64")


def solve(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "arc_seal.solve", *TINY, *argv],
        capture_output=True, text=True, timeout=120, cwd=folder, env=environment(),
    )  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def test_one_task_leaves_a_result_and_a_submission(tmp_path: Path) -> None:
    argv = (str(TASKS / "5582e5ca.json"), f"self_edit.json={EDIT}", "save_svg=run.svg")
    results = []
    for name in ("one", "two"):
        done = solve(tmp_path, *argv, f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
        assert "Task 5582e5ca, seed 0" in done.stdout and "Reward" in done.stdout
        results.append(load_result(tmp_path / name))
    assert without_times(results[0]) == without_times(results[1])
    assert results[0].task_id == "5582e5ca"
    assert [rollout.status for rollout in results[0].rollouts] == [Status.OK]
    assert list(json.loads((tmp_path / "one" / "submission.json").read_text())) == ["5582e5ca"]
    assert (tmp_path / "run.svg").read_text("utf-8").startswith("<svg")


def test_a_sweep_goes_on_after_bad_input_and_sums_up(tmp_path: Path) -> None:
    (tmp_path / "a b=1.json").write_bytes((TASKS / "5582e5ca.json").read_bytes())
    (tmp_path / "broken.json").write_text("{")
    done = solve(
        tmp_path, "a b=1.json", "missing.json", "broken.json", "arcagi1/00576224",
        f"self_edit.json={EDIT}", "hydra.sweep.dir=sweep", "max_training_tokens=100000",
    )  # fmt: skip
    assert done.returncode == 2
    assert "missing.json: expected" in done.stdout and "broken.json: line 1" in done.stdout
    assert "\n4/4  " in done.stdout and done.stdout.count("Self-edit: ") == 1 and "Traceback" not in done.stderr
    assert f"Kept in {Path('sweep', 'submission.json')}\n" in done.stdout
    lines = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert [line["task"] for line in lines] == ["a b=1", "missing.json", "broken.json", "00576224"]
    assert [line["status"] == "bad_input" for line in lines] == [False, True, True, False]
    assert list(json.loads((tmp_path / "sweep" / "submission.json").read_text())) == ["a b=1", "00576224"]
    for line in lines:
        assert (tmp_path / "sweep" / line["folder"] / "result.json").is_file() == (line["status"] != "bad_input")


def test_a_folder_s_bad_files_do_not_stop_the_others(tmp_path: Path) -> None:
    below = tmp_path / "tasks" / "below"
    below.mkdir(parents=True)
    (below / "good.JSON").write_bytes((TASKS / "5582e5ca.json").read_bytes())
    (tmp_path / "tasks" / "bad.json").write_text(
        '{"train": [{"input": [[1]], "output": [[10]]}], "test": [{"input": [[1]]}]}'
    )
    (tmp_path / "tasks" / "index.json").write_text('["good", "bad"]')
    done = solve(tmp_path, "tasks", f"self_edit.json={EDIT}", "hydra.run.dir=run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "tasks/index.json: expected" in done.stdout and "(left out)" in done.stdout
    lines = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [(line["task"], line["status"]) for line in lines] == [("tasks/bad.json", "bad_input"), ("good", ["ok"])]
    assert [path.name for path in (tmp_path / "run" / "submission").iterdir()] == ["good.json"]


def test_a_failed_job_is_exit_code_1(tmp_path: Path) -> None:
    done = solve(tmp_path, str(TASKS / "5582e5ca.json"), f"self_edit.json={EDIT}", "max_training_tokens=10")
    assert done.returncode == 1, done.stderr
    assert "over_budget" in done.stdout
    (folder,) = (tmp_path / "runs").glob("*/*-5582e5ca-seed0")
    assert [rollout.status for rollout in load_result(folder).rollouts] == [Status.OVER_BUDGET]


def test_several_self_edits_of_the_models_own(tmp_path: Path) -> None:
    done = solve(
        tmp_path, str(TASKS / "5582e5ca.json"), "samples=2", f"model.completions=[{quoted(EDIT)},{quoted('no')}]",
        "max_resamples=0", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    statuses = [rollout.status for rollout in load_result(tmp_path / "run").rollouts]
    assert statuses == [Status.OK, Status.INVALID_SELF_EDIT]
    assert "Roll-out 2 of 2: invalid_self_edit" in done.stdout


def test_a_grid_model_of_ones_own(tmp_path: Path) -> None:
    grid_network().save_pretrained(tmp_path / "mine")
    done = solve(
        tmp_path, str(TASKS / "5582e5ca.json"), "model=grid", "model.location=./mine", f"self_edit.json={EDIT}",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (rollout,) = load_result(tmp_path / "run").rollouts
    assert rollout.status is Status.OK and rollout.result is not None and rollout.result.training is not None
    assert rollout.result.training.updates > 1 and len(rollout.result.candidates) == 2


def quoted(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def test_in_context_only(tmp_path: Path) -> None:
    done = solve(tmp_path, "arcagi1/00576224", "train=false", "executor=process", "hydra.run.dir=run")
    assert (done.returncode, done.stderr) == (0, "")
    (rollout,) = load_result(tmp_path / "run").rollouts
    assert rollout.self_edit is None and rollout.result is not None and rollout.result.training is None


def test_an_interrupt_ends_in_one_line(tmp_path: Path) -> None:
    edit = EDIT.replace('"epochs": 1', '"epochs": 4').replace('"max_examples": 16', '"max_examples": 256')
    tasks = [f"arcagi1/{name}" for name in ("00576224", "0d3d703e", "4be741c5", "5582e5ca")]
    command = [
        sys.executable,
        "-u",
        "-m",
        "arc_seal.solve",
        *TINY,
        *tasks,
        f"self_edit.json={edit}",
        "executor=process",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("Self-edit"):
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == "interrupted\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "error: arguments: expected a task: a file, a folder, arcagi1/ID or arcagi2/ID (or --help), found none"),
        (["seed=1"], "error: arguments: expected a task"),
        (["missing.json"], "error: missing.json: expected a JSON file"),
        (
            ["arcagi1/00576224", "sampels=1"],
            "error: sampels: expected a setting that there is (did you mean 'samples'?)",
        ),
        (
            ["arcagi1/00576224", "samples=0"],
            "error: configuration: samples: expected greater than or equal to 1, found 0",
        ),
        (["arcagi1/00576224", "model._target_=os.system"], "error: model._target_=os.system: expected"),
        (["arcagi1/00576224", "--nonsense"], "error: --nonsense: expected a flag that --help lists"),
        (
            ["arcagi1/00576224", "executor.timeout_s=-1"],
            "error: executor.timeout_s: expected greater than 0, found -1",
        ),
        (["arcagi1/00576224", "toolbox=[nowhere]"], "nowhere"),
        (["arcagi1/00576224", "save_svg=/dev/null/run.svg"], "save_svg: expected a file that can be written"),
        (
            ["arcagi1/00576224", "self_edit=default", "policy=nowhere"],
            "nowhere: expected a folder with an adapter of peft's, found no adapter_config.json in it",
        ),
        (
            ["arcagi1/00576224", "select=held_ot"],
            "configuration: select: expected 'all' or 'held_out' (did you mean 'held_out'?), found \"held_ot\"",
        ),
        (["arcagi1/00576224", "+self_edit.bounds.x=1"], "error: configuration: self_edit.bounds"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, f"hydra.run.dir={tmp_path}"]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_policy_of_other_weights_is_refused_before_a_model_is_loaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"revision": "0123456789abcdef"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    argv = ["arcagi1/00576224", "self_edit=default", f"policy={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(argv) == 2
    error = capfd.readouterr().err
    assert "adapter_config.json: revision: expected " in error and "the weights that grid has now" in error
    assert not (tmp_path / "run").exists()


def test_the_configuration_can_be_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", "arcagi1/00576224", "samples=2"]) == 0
    shown = capfd.readouterr().out
    assert "task: 00576224" in shown or "task: arcagi1/00576224" in shown
    assert "samples: 2" in shown
