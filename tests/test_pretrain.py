"""The pretraining command from end to end, on a network that learns nothing much."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arc_seal.models.model import load
from arc_seal.models.weights import GridSource
from arc_seal.pretrain import main
from tests.pretraining.test_run import TINY
from tests.pretraining.tiny import interruptible, read_clock

ROOT = Path(__file__).parents[1]


def command(*argv: str) -> list[str]:
    return [sys.executable, "-u", "-m", "arc_seal.pretrain", *argv]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def test_help_is_quick_and_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from arc_seal.pretrain import main; done = main(['--help']); "
        "print([name for name in ('torch', 'numpy', 'hydra', 'pydantic') if name in sys.modules]); sys.exit(done)"
    )
    before = cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment()
    )
    assert cpu_seconds() - before < 1.5
    assert (done.returncode, done.stderr) == (0, "")
    *text, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert "Usage: python -m arc_seal.pretrain [NAME=VALUE...]" in text
    assert any(re.search(r"network +12m 20m 3m\*", line) for line in text)
    assert {"  name=grid", "  seed=0", "  weights=null"} <= {line[:32].rstrip() for line in text}


def cpu_seconds() -> float:
    """Processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_run_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    argv = [*TINY, f"hydra.run.dir={folder}", "run.workers=1"]
    assert main([*argv, "run.tokens=600"]) == 0
    shown = capfd.readouterr()
    assert shown.err == "" and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown.out)
    lines = shown.out.splitlines()
    assert re.fullmatch(
        r"pretraining: 0\.00M/0\.00M tokens, loss \d\.\d{3}, \d+\.\d % of tokens right, \d+ tokens/s, .* left", lines[0]
    )
    assert re.match(r"  dev: 0 of \d+ outputs exact, \d+\.\d % of tokens right, loss \d\.\d{3}$", lines[-2])
    assert re.match(rf"0\.0M parameters, 0\.0M tokens, .* of training; weights in {folder / 'weights'}$", lines[-1])
    assert load(GridSource("mine", str(folder / "weights"), device="cpu")).network.config.hidden_size == 32
    steps = [json.loads(line)["step"] for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))

    assert main([*argv, "run.tokens=2000"]) == 0  # the same run goes on
    more = [json.loads(line)["step"] for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert more == list(range(1, len(more) + 1)) and len(more) > len(steps)
    assert main([*argv, "seed=1"]) == 2
    error = capfd.readouterr().err
    assert error == (
        "error: configuration: seed: expected 0, as the run has it that goes on here (or another folder), found 1\n"
    )


def test_an_interrupt_saves_the_run_and_ends_in_one_line(tmp_path: Path) -> None:
    argv = command(*TINY, "run.tokens=100000000", "run.workers=1", "run.save_every_s=100000", "name=mine")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with interruptible(), subprocess.Popen(argv, cwd=tmp_path, env=environment(), **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("pretraining: ")
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=120) == 130
        assert process.stderr.read() == "interrupted; the same command goes on from here\n"
    folder = tmp_path / "runs" / "pretraining" / "mine"
    clock = read_clock(folder / "checkpoint.pt")
    losses = (folder / "losses.jsonl").read_text().splitlines()
    assert clock is not None and clock.step == len(losses) >= 1
    assert not list(folder.glob("*.unfinished"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run.token=5"], "error: run.token: expected a setting that there is (did you mean 'run.tokens'?), found"),
        (["run.tokens=many"], "error: configuration: run.tokens: expected a valid integer"),
        (["network=4m"], "error: network: expected one of 12m, 20m, 3m"),
        (["network.hidden_size=30"], "error: configuration: expected settings that arc_seal.models.grid_network."),
        (["network._target_=os.system"], "error: network._target_=os.system: expected"),
        (["tasks"], "error: tasks: expected settings as NAME=VALUE (or --help), found a bare argument"),
        (["arcagi1/25e02866"], "error: arcagi1/25e02866: expected settings as NAME=VALUE"),
        (["--nonsense"], "error: --nonsense: expected a flag that --help lists"),
        (["weights=nowhere"], "error: configuration: weights: expected shipped, or a folder with weights"),
        (["device=tpu"], "expected auto, cpu, or an accelerator of this machine, found 'tpu'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([f"hydra.run.dir={tmp_path}", *argv]) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and message in shown.err
    assert shown.out == ""


def test_a_run_that_diverges_is_exit_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = [*TINY, f"hydra.run.dir={tmp_path}", "optimizer.other_rate=1e38", "optimizer.warmup_tokens=1"]
    assert main(argv) == 1
    assert re.fullmatch(r"error: the (loss|gradient's norm) became (nan|inf)\n", capfd.readouterr().err)


def test_the_configuration_and_the_version_can_be_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", "network=20m", "name=big"]) == 0
    shown = capfd.readouterr().out
    assert "hidden_size: 512" in shown and "name: big" in shown
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("arc-seal ")
