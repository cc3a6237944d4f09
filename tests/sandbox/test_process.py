"""Every way in which a worker can end, provoked for real, and what must be true after it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arc_seal.errors import Status
from arc_seal.inner_loop.job import Progress
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.worker import Limits
from tests.sandbox import jobs
from tests.sandbox.processes import ROOT, begun, command, ends_within, is_running, workers_told

LIMITS = Limits(timeout_s=1.5, memory_gib=2.0)


def ignore(progress: Progress) -> None:
    pass


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loads") / "log"


@pytest.fixture(scope="module")
def executor(log: Path) -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(jobs.FakeSource(log), LIMITS)
    yield executor
    executor.close()


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        (jobs.hang, Status.TIMEOUT, "not done within 1.5 s"),
        (jobs.hang_in_c, Status.TIMEOUT, "not done within 1.5 s"),
        (jobs.hang_with_the_lock, Status.TIMEOUT, "not done within 1.5 s"),
        (jobs.allocate, Status.OUT_OF_MEMORY, "MemoryError"),
        (jobs.exit_with_3, Status.DIED, "the worker ended with exit code 3"),
        (jobs.exit_with_0, Status.DIED, "the worker ended without an answer"),
        (jobs.kill_self, Status.DIED, "the worker was ended by SIGKILL, as by a system that is out of memory"),
        (jobs.segfault, Status.DIED, "the worker was ended by SIGSEGV"),
    ],
)
def test_a_broken_job_is_an_outcome_and_the_next_meets_a_fresh_worker(
    executor: ProcessExecutor, log: Path, function: Callable[[], Any], status: Status, message: str
) -> None:
    seen: list[Progress] = []
    outcome = executor.run(jobs.Call(function), seen.append)
    assert (outcome.status, outcome.result, outcome.message) == (status, None, message)
    assert outcome.seconds < LIMITS.timeout_s + 2.5
    if status is Status.TIMEOUT:
        assert outcome.seconds >= LIMITS.timeout_s
    broken = seen[-1].step
    assert not is_running(broken)

    after: list[Progress] = []
    following = executor.run(jobs.Echo("next", steps=2), after.append)
    assert following.status is Status.OK
    assert following.result is not None
    assert following.result[2] != broken
    assert [progress.step for progress in after if progress.stage == "train"] == [0, 1]
    assert int(log.read_text().split()[-1]) == following.result[2]


def test_a_job_may_take_what_the_limit_allows_and_no_more(executor: ProcessExecutor) -> None:
    assert executor.run(jobs.Call(jobs.map_just_less_than_two_gib), ignore).status is Status.OK
    assert executor.run(jobs.Call(jobs.map_just_more_than_two_gib), ignore).status is Status.OUT_OF_MEMORY


def test_nothing_of_a_killed_job_is_heard_later(executor: ProcessExecutor) -> None:
    before: list[Progress] = []
    assert executor.run(jobs.StepsThenDies(), before.append).status is Status.DIED
    assert [progress.step for progress in before if progress.stage == "train"] == list(range(1000))
    seen: list[Progress] = []
    executor.run(jobs.Echo("next", steps=2), seen.append)
    assert [(progress.stage, progress.total) for progress in seen] == [
        ("load", 1),
        ("load", 1),
        ("train", 2),
        ("train", 2),
    ]


def test_a_thread_left_behind_is_not_heard_in_the_next_job(executor: ProcessExecutor) -> None:
    assert executor.run(jobs.LeavesThreadBehind(), ignore).result == "left"
    seen: list[Progress] = []
    time.sleep(0.2)
    executor.run(jobs.Echo("next", steps=2), seen.append)
    assert [(progress.stage, progress.total) for progress in seen] == [("train", 2), ("train", 2)]


def test_a_worker_that_died_between_jobs_is_replaced(executor: ProcessExecutor) -> None:
    first = executor.run(jobs.Echo("first"), ignore).result
    assert first is not None
    os.kill(first[2], signal.SIGKILL)
    assert ends_within(first[2], 5)
    time.sleep(0.5)  # pebble looks every 0.1 s
    second = executor.run(jobs.Echo("second"), ignore).result
    assert second is not None
    assert second[2] != first[2]


def test_an_error_that_cannot_travel_is_raised_as_its_text(executor: ProcessExecutor) -> None:
    with pytest.raises(RuntimeError, match="Peculiar: 1 and 2") as caught:
        executor.run(jobs.Call(jobs.peculiar_error), ignore)
    assert "raise Peculiar(1, 2)" in "".join(caught.value.__notes__)


def test_a_job_that_exits_python_does_not_end_the_parent(executor: ProcessExecutor) -> None:
    with pytest.raises(RuntimeError, match="SystemExit: 0"):
        executor.run(jobs.Call(jobs.leave), ignore)


def test_a_result_that_cannot_travel_is_an_error(executor: ProcessExecutor) -> None:
    with pytest.raises(TypeError, match="this cannot travel"):
        executor.run(jobs.Call(jobs.unpicklable), ignore)


def test_a_job_that_cannot_travel_is_an_error_and_starts_nothing(log: Path) -> None:
    executor = ProcessExecutor(jobs.FakeSource(log), LIMITS)
    before = log.read_text()
    with pytest.raises((AttributeError, TypeError)):
        executor.run(jobs.Call(lambda: None), ignore)
    assert log.read_text() == before


def test_the_model_can_be_loaded_ahead(tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = ProcessExecutor(jobs.FakeSource(log), LIMITS)
    executor.start()
    deadline = time.monotonic() + 20
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    seen: list[Progress] = []
    executor.start()
    assert executor.run(jobs.Echo("next"), seen.append).status is Status.OK
    assert seen == [], "nothing was left to wait for"
    assert len(log.read_text().split()) == 1
    executor.close()


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        (jobs.exit_with_3, Status.DIED, "while loading the model: the worker ended with exit code 3"),
        (jobs.hang_in_c, Status.TIMEOUT, "while loading the model: not done within 0.5 s"),
    ],
)
def test_a_worker_that_ends_while_loading_is_an_outcome(
    function: Callable[[], Any], status: Status, message: str
) -> None:
    executor = ProcessExecutor(jobs.BadSource(function), LIMITS, load_timeout_s=0.5)
    outcome = executor.run(jobs.Echo("never"), ignore)
    assert (outcome.status, outcome.message) == (status, message)


def test_torch_is_loaded_in_the_worker_alone(tmp_path: Path) -> None:
    body = f"""
        import json
        source = jobs.FakeSource(Path({str(tmp_path / "log")!r}), imports="torch")
        executor = ProcessExecutor(source, Limits(60.0, memory_gib=4.0), threads=1)
        first = executor.run(jobs.Call(jobs.torch_threads), lambda progress: None)
        second = executor.run(jobs.Call(jobs.allocate_with_torch), lambda progress: None)
        heavy = [name for name in ("torch", "transformers", "peft") if name in sys.modules]
        print(json.dumps([first.status, first.result, second.status, second.message, heavy]))
        executor.close()
    """
    ran = subprocess.run(command(body), cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    first, threads, second, message, heavy = json.loads(ran.stdout)
    assert (first, threads, second, heavy) == ("ok", 1, "out_of_memory", [])
    assert "allocate memory" in message


def running_job(tmp_path: Path, function: str) -> tuple[subprocess.Popen[str], int]:
    """A parent in a process group of its own, with a worker in the middle of a job; the worker's id."""
    parent = begun(f"""
        executor = ProcessExecutor(jobs.FakeSource(Path({str(tmp_path / "log")!r})), Limits(60.0))
        executor.run(jobs.Call(jobs.{function}), tell)
    """)
    (worker,) = workers_told(parent, 1)
    assert is_running(worker)
    return parent, worker


@pytest.mark.parametrize("function", ["hang_in_c", "hang_with_the_lock"])
def test_an_interrupt_ends_the_worker_promptly(tmp_path: Path, function: str) -> None:
    parent, worker = running_job(tmp_path, function)
    os.killpg(parent.pid, signal.SIGINT)  # as the terminal does: parent and worker get it alike
    assert ends_within(worker, 2.5)
    _, errors = parent.communicate(timeout=10)
    assert parent.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1, "the parent's alone"
    assert errors.strip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("function", ["hang_in_c", "hang_with_the_lock"])
def test_a_worker_does_not_outlive_a_killed_parent(tmp_path: Path, function: str) -> None:
    parent, worker = running_job(tmp_path, function)
    os.kill(parent.pid, signal.SIGKILL)
    assert ends_within(worker, 5.0)
    parent.communicate()


@pytest.mark.parametrize("after_s", [0.0, 0.15])
def test_an_interrupt_while_the_worker_starts_is_quiet(after_s: float) -> None:
    parent = begun("""
        executor = ProcessExecutor(jobs.BadSource(jobs.hang_in_c), Limits(60.0))
        executor.start()
        print("started", flush=True)
        executor.run(jobs.Echo("never"), lambda progress: None)
    """)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    time.sleep(after_s)
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=10)
    assert errors.count("Traceback") == 1
    assert errors.strip().endswith("KeyboardInterrupt")


def test_a_parent_that_forgets_to_close_still_ends(tmp_path: Path) -> None:
    body = f"""
        executor = ProcessExecutor(jobs.FakeSource(Path({str(tmp_path / "log")!r})), Limits(60.0))
        print(executor.run(jobs.Echo("done"), lambda progress: None).result[2])
    """
    ran = subprocess.run(command(body), cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not is_running(int(ran.stdout))
