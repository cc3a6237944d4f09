"""Commands at work that are stopped, killed or not alone: signals, folders that go, two at the same place, memory."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from arc_seal.errors import InputError
from arc_seal.outer_loop.ledger import Ledger
from arc_seal.ui.run_folder import load_result
from tests.outer_loop.ledger_builders import hold, running
from tests.pretraining.tiny import interruptible
from tests.smoke import LABEL_FREE, PATIENCE_S, SMOKE, Finished, command, environment, kept, wait
from tests.test_attacks import COMMANDS, IN_CONTEXT, call, kaggle, one_line, result
from tests.test_solve import EDIT, TINY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the commands are started in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


LONG = EDIT.replace('"epochs": 1', '"epochs": 4').replace('"max_examples": 16', '"max_examples": 256')
PROCESSES = ("executor=process", "executor.workers=2", "executor.threads=1")
AT_WORK = {
    "solve": (
        *TINY,
        "x_challenges.json",
        f"self_edit.json={LONG}",
        *PROCESSES,
        "hydra.run.dir=runs/restem/smoke-seed0",
    ),
    "train": (*LABEL_FREE, "restem.samples=60", *PROCESSES),
    "evaluate": (*SMOKE, "rows=[random]", "samples=200", *PROCESSES),
}
"""Commands that take a while."""


@contextmanager
def at_work(name: str, folder: Path, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A command at work in a folder, in a process group of its own, which is killed in the end."""
    with interruptible(), subprocess.Popen(
        command(name, *argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=environment(), start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def begun(name: str, folder: Path) -> bool:
    """Whether something came of the command in this folder."""
    place = folder / "runs" / "restem" / "smoke-seed0"
    if name == "solve":
        return bool(list(place.rglob("result.json")))
    try:
        with Ledger.read_only(place / "ledger.sqlite") as ledger:
            return bool(ledger.rollouts())
    except InputError:  # it is not there yet
        return False


def living(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = subprocess.run(["ps", "-eo", "pgid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in found.splitlines())
    return [int(pid) for owner, pid, state in rows if owner == str(group) and not state.startswith("Z")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "all_of_them"),
    [
        ("solve", signal.SIGINT, True),
        ("solve", signal.SIGTERM, False),
        ("solve", signal.SIGHUP, True),
        ("solve", signal.SIGTERM, True),
        ("train", signal.SIGTERM, True),
        ("train", signal.SIGHUP, False),
        ("evaluate", signal.SIGTERM, True),
        ("evaluate", signal.SIGHUP, False),
    ],
)
def test_a_signal_ends_a_command_as_an_interrupt_does(
    name: str, number: signal.Signals, all_of_them: bool, here: Path
) -> None:
    """A terminal that is closed and a service manager send it to the workers too."""
    kaggle(here / "x_challenges.json", [f"t{number:02}" for number in range(60)])
    with at_work(name, here, *AT_WORK[name]) as process:
        wait(process, lambda: begun(name, here))
        (os.killpg if all_of_them else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=60)
        more = "" if name == "solve" else "; the same command goes on from here"
        assert (process.returncode, said) == (130, f"interrupted{more}\n")
        deadline = time.monotonic() + 10
        while living(process.pid):  # multiprocessing's resource tracker ends a little later
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert begun(name, here)
    assert not list(here.rglob("*.unfinished"))


@pytest.mark.slow
def test_a_command_that_was_stopped_goes_on(smoke_run: Finished, here: Path) -> None:
    """SIGSTOP and SIGCONT, as a batch system or Ctrl-Z sends them, change nothing."""
    with at_work("train", here, *LABEL_FREE, *PROCESSES) as process:
        wait(process, lambda: begun("train", here))
        for _ in range(3):
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGCONT)
            time.sleep(0.1)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, said) == (0, "")
    assert kept(here / "runs" / "restem" / "smoke-seed0") == kept(smoke_run.place)


@pytest.mark.slow
def test_a_stopped_sweep_leaves_files_of_what_is_done_and_goes_on(here: Path) -> None:
    ids = [f"t{number:02}" for number in range(30)]
    kaggle(here / "x_challenges.json", ids)
    argv, place = (*TINY, "x_challenges.json", f"self_edit.json={EDIT}"), here / "run"
    for number, (to, code) in enumerate({"hydra.run.dir=run": 130, "resume=run": -signal.SIGKILL}.items()):
        with at_work("solve", here, *argv, to) as process:
            wait(process, lambda number=number: len(list(place.rglob("result.json"))) >= 5 * (number + 1))
            process.send_signal(signal.SIGTERM if code == 130 else signal.SIGKILL)
            _, said = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, said) == (code, "interrupted\n" if code == 130 else "")
        results = {load_result(path).task_id for path in place.rglob("result.json")}
        lines = [line["task"] for line in json.loads((place / "summary.json").read_text())]
        assert len(results) - len(lines) <= 1 and set(lines) <= results
        assert set(lines) <= json.loads((place / "submission.json").read_text()).keys() <= results
    done = subprocess.run(command("solve", *argv, "resume=run"), cwd=here, env=environment(), capture_output=True)
    assert done.returncode == 0
    assert list(json.loads((place / "submission.json").read_text())) == ids


# Others at the same place


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_run_that_another_command_writes_is_left_alone(
    name: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = here / "runs" / "restem" / "smoke-seed0" / "ledger.sqlite"
    place.parent.mkdir(parents=True)
    with running(hold, place) as (_, ready):
        ready.recv()
        before = sorted(here.rglob("*"))
        assert call(name, *COMMANDS[name]) == 2
        assert "expected a ledger that nobody else writes, found somebody who does" in one_line(capfd)
        assert sorted(here.rglob("*")) == before


@pytest.mark.slow
def test_two_commands_that_go_on_with_one_sweep_come_to_one_end(here: Path) -> None:
    ids = [f"t{number:02}" for number in range(20)]
    kaggle(here / "x_challenges.json", ids)
    argv = (*IN_CONTEXT, "x_challenges.json")
    for place in ("whole", "shared"):  # with as many threads as below
        subprocess.run(command("solve", *argv, f"hydra.run.dir={place}"), cwd=here, env=environment(), check=True)
    for path in (here / "shared").glob("*/*.json"):
        path.unlink()
    started = [
        subprocess.Popen(
            command("solve", *argv, "resume=shared"), cwd=here, env=environment(), stdout=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    assert [each.wait(timeout=PATIENCE_S) for each in started] == [0, 0]
    one, other = here / "whole", here / "shared"
    assert (one / "submission.json").read_bytes() == (other / "submission.json").read_bytes()
    for path in one.glob("*/result.json"):
        assert result(path.parent) == result(other / path.parent.name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["solve", "train"])
def test_a_run_s_folder_that_is_deleted_meanwhile_is_no_traceback(name: str, here: Path) -> None:
    kaggle(here / "x_challenges.json", [f"t{number:02}" for number in range(20)])
    argv = AT_WORK[name] if name == "train" else (*TINY, "x_challenges.json", "train=false", *AT_WORK[name][-1:])
    with at_work(name, here, *argv) as process:
        wait(process, lambda: begun(name, here))
        for _ in range(20):  # a file that is written meanwhile keeps its folder from being removed
            if subprocess.run(["rm", "-rf", here / "runs"], capture_output=True).returncode == 0:
                break
        if name == "train":
            time.sleep(2)
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    # A task that is just being written when its folder goes is recorded as one that cannot be kept.
    assert process.returncode in ((0, 2) if name == "solve" else (2, 130)) and said.count("\n") <= 1, said


@pytest.mark.slow
def test_one_worker_or_two_come_to_the_same(here: Path) -> None:
    ids = [f"t{number:02}" for number in range(6)]
    kaggle(here / "x_challenges.json", ids)
    for workers in (1, 2):
        argv = (*TINY, "x_challenges.json", f"self_edit.json={EDIT}", "executor=process", "executor.threads=1")
        assert call("solve", *argv, f"executor.workers={workers}", f"hydra.run.dir={workers}") == 0
    one, other = here / "1", here / "2"
    assert (one / "submission.json").read_bytes() == (other / "submission.json").read_bytes()
    for name in ids:
        assert result(one / f"{name}-seed0") == result(other / f"{name}-seed0")
    lines = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert [{**each, "seconds": {}} for each in lines[0]] == [{**each, "seconds": {}} for each in lines[1]]


@pytest.mark.slow
def test_four_hundred_tasks_need_no_more_memory_than_forty(here: Path) -> None:
    """Of the command and of its worker, while it works: half-way, and at the end."""
    ids = [f"t{number:03}" for number in range(400)]
    kaggle(here / "x_challenges.json", ids)
    seen: dict[int, int] = {}
    argv = (*IN_CONTEXT, "x_challenges.json", "executor=process", "executor.workers=1", "hydra.run.dir=run")
    with at_work("solve", here, *argv) as process:
        reading = threading.Thread(target=process.communicate, daemon=True)
        reading.start()
        while process.poll() is None:
            done = len(list((here / "run").glob("*/result.json")))
            seen[done] = max(seen.get(done, 0), sum(map(resident, living(process.pid))))
            time.sleep(0.1)
        reading.join(timeout=PATIENCE_S)  # before its pipes are closed
    assert process.returncode == 0
    early = max(each for done, each in seen.items() if 40 <= done <= 120)
    late = max(each for done, each in seen.items() if 320 <= done <= 400)
    assert late < early + 30_000, seen  # KiB of some 1 GiB


def resident(pid: int) -> int:
    """Memory of a process, KiB; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(match[1]) if (match := re.search(r"VmRSS:\s+(\d+) kB", text)) else 0
