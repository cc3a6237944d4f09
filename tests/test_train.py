"""The training command from end to end: a real network, a real adapter, and whatever stops it."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arc_seal.outer_loop.ledger import Ledger
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.train import closing, main, to_evaluate
from tests.outer_loop.ledger_builders import rollout
from tests.pretraining.tiny import interruptible
from tests.self_edit.builders import edit
from tests.smoke import (
    LABEL_FREE,
    PATIENCE_S,
    ROOT,
    SMOKE,
    TASKS,
    Finished,
    command,
    environment,
    events,
    kept,
    rows,
    wait,
)

EDIT = edit(learning_rate=0.005, batch_size=2, lora_rank=8, max_examples=16)

IN_PROCESSES = ("executor=process", "executor.workers=2", "executor.threads=1")


@pytest.fixture
def copied(smoke_run: Finished, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    place = tmp_path / "smoke-seed0"
    shutil.copytree(smoke_run.place, place)
    return place


def test_a_run_from_end_to_end(smoke_run: Finished) -> None:
    done = smoke_run.process
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    lines = done.stdout.splitlines()
    for number in (1, 2):
        counts = r"6 self-edits, \d/6 valid, \d/6 ran, \d distinct, held-out log-probability -\d\.\d{3}"
        assert any(re.fullmatch(f"Round {number}: {counts}", line) for line in lines)
        assert any(re.match(rf"  policy round-{number}: \d self-edits?, loss \d", line) for line in lines)
    assert lines[0] == "Training smoke-seed0" and "tasks   2 of arcagi1/25ff71a9, arcagi1/5582e5ca" in lines
    assert any(re.fullmatch(r"  25ff71a9  [ox]{3}  \S+ s", line) for line in lines)
    tests = ROOT / "tests" / "conf"
    assert lines[-2] == "Kept in runs/restem/smoke-seed0"
    assert lines[-1] == f"Next: python -m arc_seal.evaluate -cd {tests} experiment=smoke"


def test_what_is_kept(smoke_run: Finished) -> None:
    found = kept(smoke_run.place)
    assert [(row.round, row.task, row.sample) for row in found.rollouts] == [
        (number, task, sample) for number in range(2) for task in TASKS for sample in range(3)
    ]
    assert all(row.completion for row in found.rollouts)
    assert {row.reward for row in found.rollouts} == {None}  # the demonstrations reward it
    assert len({row.self_edit for row in found.rollouts[:6]} & {row.self_edit for row in found.rollouts[6:]}) < 3
    first, second = found.policies
    for number, policy in enumerate((first, second)):
        assert 1 <= len(policy.rollouts) <= 2 and {round for _, round, _, _ in policy.rollouts} == {number}
    assert first.losses[-1] < first.losses[0]
    weights = [f"policies/round-{number}/adapter_model.safetensors" for number in (1, 2)]
    configs = [f"policies/round-{number}/adapter_config.json" for number in (1, 2)]
    assert set(found.files) == {"policies/round-1", "policies/round-2", *configs, *weights}
    assert found.files[weights[0]] != found.files[weights[1]]
    exported = (smoke_run.place / "rollouts.jsonl").read_text().splitlines()
    assert [Rollout.model_validate_json(line).self_edit for line in exported] == [
        row.self_edit for row in found.rollouts
    ]


def test_the_same_command_does_nothing_again(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = rows(copied)
    timeouts = ("executor.timeout_s=99", "restem.finetune.timeout_s=99")  # where and how long may change
    started = cpu_seconds()
    assert main([*LABEL_FREE, f"hydra.run.dir={copied}", *IN_PROCESSES, *timeouts]) == 0
    assert cpu_seconds() - started < 1.0  # no worker has loaded anything
    assert rows(copied) == before
    shown = capfd.readouterr()
    assert len(re.findall(r" self-edits? to imitate\n", shown.out)) == 2
    assert "roll-outs" not in shown.out and f"\nKept in {copied}\n" in shown.out


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("temperature=0.5", "found temperature: 1.0 recorded, 0.5 now"),
        ("restem.samples=4", "found restem.samples: 3 recorded, 4 now"),
        ("restem.finetune.lora_rank=8", "found restem.finetune.lora_rank: 16 recorded, 8 now"),
        ("data.train=[arcagi1/25ff71a9]", "found data.train[1]: \"arcagi1/5582e5ca\" recorded, nothing now"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused(
    change: str, difference: str, copied: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = rows(copied)
    assert main([*LABEL_FREE, f"hydra.run.dir={copied}", change]) == 2
    error = capfd.readouterr().err
    expected = "expected the configuration that is recorded of it"
    assert error.startswith(f"error: {copied / 'ledger.sqlite'}: run train: {expected}")
    assert error.count("\n") == 1 and difference in error
    assert rows(copied) == before


@pytest.mark.slow
def test_a_kill_changes_nothing_wherever_it_goes_on(smoke_run: Finished, tmp_path: Path) -> None:
    """Killed at work in one process, gone on with in two, it comes to what an undisturbed run comes to."""
    place = tmp_path / "runs" / "restem" / "smoke-seed0"
    with started(tmp_path, *LABEL_FREE) as process:
        wait(process, lambda: events(place) >= 8)
        kill(process)
    killed = rows(place)
    assert len(killed) < len(rows(smoke_run.place))
    assert main([*LABEL_FREE, *IN_PROCESSES, f"hydra.run.dir={place}"]) == 0
    assert kept(place) == kept(smoke_run.place)
    assert all(row in rows(place) for row in killed)  # times too: nothing was done twice


@pytest.mark.slow
def test_an_interrupt_ends_in_one_line_and_changes_nothing(smoke_run: Finished, tmp_path: Path) -> None:
    argv, place = (*LABEL_FREE, *IN_PROCESSES), tmp_path / "runs" / "restem" / "smoke-seed0"
    for least in (0, 7, 13):
        with interruptible(), started(tmp_path, *argv) as process:
            assert process.stdout is not None
            process.stdout.readline()
            wait(process, lambda least=least: events(place) >= least)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_S)
            assert (process.returncode, said) == (130, "interrupted; the same command goes on from here\n")
    assert not list(place.rglob("*.tmp"))
    assert main([*argv, f"hydra.run.dir={place}"]) == 0
    assert kept(place) == kept(smoke_run.place)


def started(folder: Path, *argv: str) -> subprocess.Popen[str]:
    """The command at work in a folder, in a process group of its own."""
    return subprocess.Popen(
        command("train", *argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=environment(), start_new_session=True,
    )  # fmt: skip


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and its workers in the middle of their work."""
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL


def test_roll_outs_of_an_earlier_run_are_imitated_under_its_name(
    smoke_run: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the solution, which a tiny network never finds: all there is to imitate is the earlier run's."""
    earlier, place = tmp_path / "earlier.sqlite", tmp_path / "run"
    with Ledger.open(earlier) as ledger:
        ledger.begin("train", {})
        for sample in (0, 1):  # the second was rewarded
            ledger.record([rollout(sample, run="train", task=TASKS[0], self_edit=EDIT)])
        ledger.record([rollout(1, run="train", task="6150a2bd", self_edit=EDIT)])
    argv = [*SMOKE, f"hydra.run.dir={place}", "restem.samples=1", f"data.train=[arcagi1/{TASKS[0]}]"]
    assert main([*argv, f"restem.reuse=[{earlier}]"]) == 0
    found, shown = kept(place), capfd.readouterr().out
    assert [row.reward for row in found.rollouts] == [0]
    assert found.policies[0].rollouts == ((str(earlier), 0, TASKS[0], 1),)
    assert "Round 1: 0/1 solved, 0/1 tasks by any" in shown and "1 self-edit to imitate" in shown


def solving(solved: int | None, count: int = 8) -> list[Rollout]:
    rewards = [None] * count if solved is None else [int(number < solved) for number in range(count)]
    return [rollout(number, reward=reward) for number, reward in enumerate(rewards)]


def test_what_no_round_improves_is_said() -> None:
    rose = "The share solved rose: 25.0 % in the first round, 50.0 % in the last."
    assert closing([solving(2), solving(1), solving(4)], 3) == [rose]
    for last, share in ((2, "25.0 %"), (1, "12.5 %")):
        (said,) = closing([solving(2), solving(last)], 2)
        assert said == f"The share solved did not rise: 25.0 % in the first round, {share} in the last."
    assert closing([solving(2)], 1) == []
    assert closing([solving(None), solving(None)], 2) == []
    none = "No self-edit was rewarded, so there is no policy: the model is as it was."
    assert closing([solving(0)], 0) == [none]


@pytest.mark.slow
def test_training_on_ray_from_end_to_end(smoke_run: Finished, tmp_path: Path) -> None:
    """One executor rolls out and fine-tunes: the workers hold every CPU, and a second one would get no place."""
    argv = [*LABEL_FREE, f"hydra.run.dir={tmp_path}", "executor=ray", "executor.workers=2", "executor.threads=1"]
    with started(tmp_path, *argv) as process:
        said, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, ""), said
    assert kept(tmp_path) == kept(smoke_run.place)


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_help_is_quick_and_loads_no_library(name: str, tmp_path: Path) -> None:
    code = (
        f"import sys; from arc_seal.{name} import main; done = main(['--help']); "
        "heavy = 'torch', 'numpy', 'hydra', 'pydantic', 'rich'; "
        "print([name for name in heavy if name in sys.modules]); sys.exit(done)"
    )
    before = cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment()
    )
    assert cpu_seconds() - before < 1.0
    assert (done.returncode, done.stderr) == (0, "")
    *text, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert any(line.startswith(f"Usage: python -m arc_seal.{name} [NAME=VALUE...]") for line in text)
    assert {"  temperature=0.8", "  folds=2", "  name=seal"} <= {line[:32].rstrip() for line in text}


def test_a_graded_run_learns_from_what_solves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = [*SMOKE, f"hydra.run.dir={tmp_path / 'run'}", "restem.reward=graded", "decode.score=true"]
    assert main([*argv, f"data.train=[arcagi1/{TASKS[0]}]"]) == 0
    said = capfd.readouterr().out
    assert "0/3 solved" in said and re.search(r"log-probability of the solution -\d+\.\d{3}", said)
    with Ledger.read_only(tmp_path / "run" / "ledger.sqlite") as ledger:
        made, (policy,) = ledger.rollouts("train"), ledger.policies("train")
    ran = [each for each in made if each.result is not None]
    assert len({each.seed for each in made}) == 1 and {each.key for each in ran} >= set(policy.rollouts)
    assert all(each.result and each.result.known == () and each.solution_log_probability for each in ran)


def cpu_seconds() -> float:
    """Processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["restem.round=5"], "error: restem.round: expected a setting that there is (did you mean 'restem.rounds'?)"),
        (["restem.rounds=0"], "error: configuration: restem.rounds: expected greater than or equal to 1, found 0"),
        (
            ["restem.reward=luck"],
            "error: configuration: restem.reward: expected 'solution', 'gain', 'held_out_demo' or 'graded', found",
        ),
        (
            ["restem.samples=0"],
            "error: restem.samples: expected 1 or more, or roll-outs of an earlier run in restem.reuse, found 0",
        ),
        (
            ["restem.reward=graded", "decode.score=false"],
            "error: decode.score: expected true, for restem.reward=graded scores the true outputs, found false",
        ),
        (["name=a/b"], "error: configuration: name: expected"),
        (["data.train=[nowhere]"], "error: nowhere: expected"),
        (["data.train=[]"], "error: data: expected at least one task, found none"),
        (["restem.reuse=[nowhere.sqlite]"], "error: nowhere.sqlite: expected"),
        (["self_edit.json={}"], "error: self_edit.json: expected null, for the policy writes its own, found"),
        (["arcagi1/25ff71a9"], "error: arcagi1/25ff71a9: expected settings as NAME=VALUE (or --help), found"),
        (["executor.workers=0"], "error: executor.workers: expected"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMOKE, f"hydra.run.dir={tmp_path / 'run'}", *argv]) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith(message) and shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "run").exists()


def test_a_task_without_a_solution_is_refused_before_anything_is_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = json.loads((ROOT / "tasks" / "5582e5ca.json").read_text())
    for pair in task["test"]:
        del pair["output"]
    (tmp_path / "mine.json").write_text(json.dumps(task))
    assert main([*SMOKE, f"hydra.run.dir={tmp_path / 'run'}", f"data.train=[{tmp_path / 'mine.json'}]"]) == 2
    expected = "a task with its solution, or restem.reward=held_out_demo, which needs none"
    assert capfd.readouterr().err == f"error: mine: expected {expected}, found no solution\n"
    assert not (tmp_path / "run").exists()


def test_the_command_that_measures_what_was_trained_keeps_what_they_have_in_common() -> None:
    argv = [
        "-cd",
        "mine",
        "-m",
        "name=a",
        "seed=3",
        "restem.rounds=2",
        "data.train=[x]",
        "model=smollm2",
        "hydra.run.dir=x",
    ]
    assert to_evaluate(argv, 3) == ["-cd", "mine", "name=a", "data.train=[x]", "model=smollm2", "seeds=[3]"]
    assert to_evaluate(["experiment=seal_arc"], 0) == ["experiment=seal_arc"]
