"""Every way in which a worker can end, provoked for real, and what must be true after it."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arc_seal.errors import Status
from arc_seal.inner_loop.job import Progress
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.worker import ProcessSettings
from tests.sandbox import jobs
from tests.sandbox.processes import ROOT, begun, command, ends_within, is_running, session_members, workers_told

LIMITS = ProcessSettings(timeout_s=1.5, memory_gib=2.0)


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
    time.sleep(0.1)  # its threads end a moment after it
    second = executor.run(jobs.Echo("second"), ignore).result
    assert second is not None
    assert second[2] != first[2]


def test_an_error_that_cannot_travel_is_raised_as_its_text(executor: ProcessExecutor) -> None:
    with pytest.raises(RuntimeError, match="Peculiar: 1 and 2") as caught:
        executor.run(jobs.Call(jobs.peculiar_error), ignore)
    assert "raise Peculiar(1, 2)" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (jobs.leave, "SystemExit 0"),
        (jobs.interrupt, "KeyboardInterrupt"),
        (jobs.prints_and_dies, "the worker ended with exit code 3, after printing: almost / \ufffd[31mred / last"),
        (jobs.leaves_a_child_and_dies, "the worker ended with exit code 3"),
    ],
)
def test_a_job_that_would_end_its_process_has_died(
    executor: ProcessExecutor, function: Callable[[], Any], message: str
) -> None:
    outcome = executor.run(jobs.Call(function), ignore)
    assert (outcome.status, outcome.result, outcome.message) == (Status.DIED, None, message)
    assert executor.run(jobs.Echo("next"), ignore).status is Status.OK


def test_the_answer_of_a_job_that_forks_is_the_workers(executor: ProcessExecutor) -> None:
    for _ in range(3):
        worker, answered = executor.run(jobs.Forks(), ignore).result or (0, 1)
        assert worker == answered
    assert executor.run(jobs.Echo("next"), ignore).result == ("next", "fake model", worker)


@pytest.mark.parametrize("then", [jobs.hang_in_c, jobs.hang_with_the_lock, jobs.kill_self])
def test_what_a_job_has_started_ends_with_its_worker(
    executor: ProcessExecutor, tmp_path: Path, then: Callable[[], Any]
) -> None:
    assert executor.run(jobs.StartsProcesses(tmp_path / "pids", then), ignore).status in (Status.TIMEOUT, Status.DIED)
    assert all(ends_within(int(pid), 2.0) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_said_of_what_a_killed_worker_has_left_to_the_system(tmp_path: Path, number: int) -> None:
    parent = begun(
        f"""
        import signal
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.default_int_handler)
        executor = ProcessExecutor(jobs.FakeSource(Path({str(tmp_path / "log")!r})), ProcessSettings(timeout_s=60.0))
        try:
            executor.run(jobs.HoldsSemaphore(Path({str(tmp_path / "name")!r})), tell)
        except KeyboardInterrupt:
            executor.close()
            print("interrupted", file=sys.stderr)
    """,
        warnings="default",
    )
    workers_told(parent, 1)
    os.killpg(parent.pid, number)
    _, errors = parent.communicate(timeout=10)  # which waits for multiprocessing's resource tracker, too
    assert (parent.returncode, errors) == (0, "interrupted\n")
    semaphore = Path("/dev/shm") / f"sem.{(tmp_path / 'name').read_text().removeprefix('/')}"
    assert jobs.wait_for(lambda: not semaphore.exists(), 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_a_job_has_started_ends_with_the_command(tmp_path: Path, number: int) -> None:
    parent = begun(f"""
        executor = ProcessExecutor(jobs.FakeSource(Path({str(tmp_path / "log")!r})), ProcessSettings(timeout_s=60.0))
        executor.run(jobs.StartsProcesses(Path({str(tmp_path / "pids")!r}), jobs.hang_in_c), tell)
    """)
    workers_told(parent, 1)
    os.kill(parent.pid, number)
    parent.communicate(timeout=10)
    assert all(ends_within(int(pid), 5.0) for pid in (tmp_path / "pids").read_text().split())
    assert jobs.wait_for(lambda: session_members(parent.pid) == [], 2.5)


def test_what_a_job_prints_stays_off_the_terminal(tmp_path: Path) -> None:
    body = f"""
        import resource
        executor = ProcessExecutor(jobs.FakeSource(Path({str(tmp_path / "log")!r})), ProcessSettings(timeout_s=60.0))
        executor.run(jobs.Echo("warm"), lambda progress: None)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(executor.run(jobs.Call(jobs.prints_much), lambda progress: None).result)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096, "KiB"
        executor.close()
    """
    ran = subprocess.run(command(body), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "printed\n", "")


def test_a_stopped_worker_times_out(executor: ProcessExecutor) -> None:
    worker = (executor.run(jobs.Echo("first"), ignore).result or ("", "", 0))[2]

    def stop(progress: Progress) -> None:
        os.kill(worker, signal.SIGSTOP)

    assert executor.run(jobs.Call(jobs.hang_in_c), stop).status is Status.TIMEOUT
    assert not is_running(worker)
    assert executor.run(jobs.Echo("next"), ignore).status is Status.OK


def test_a_worker_that_was_stopped_for_a_while_goes_on(executor: ProcessExecutor) -> None:
    worker = (executor.run(jobs.Echo("first"), ignore).result or ("", "", 0))[2]
    os.kill(worker, signal.SIGSTOP)
    started, timer = time.monotonic(), threading.Timer(0.5, os.kill, (worker, signal.SIGCONT))
    timer.start()
    outcome = executor.run(jobs.Echo("continued"), ignore)
    assert (outcome.status, outcome.result) == (Status.OK, ("continued", "fake model", worker))
    assert time.monotonic() - started > 0.4


@pytest.mark.parametrize(
    ("given", "found"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_soon_sleep_at_a_barrier_unless_the_user_says_otherwise(
    log: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], found: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    executor = ProcessExecutor(jobs.FakeSource(log), LIMITS)
    assert executor.run(jobs.Call(jobs.barrier_spins), ignore).result == found
    executor.close()


@pytest.mark.slow
def test_memory_does_not_grow_over_many_jobs(log: Path) -> None:
    executor = ProcessExecutor(jobs.FakeSource(log), ProcessSettings(timeout_s=60.0))

    def resident(jobs_run: int) -> tuple[int, int]:
        """KiB of this process and the worker after some more jobs."""
        for _ in range(jobs_run):
            worker = (executor.run(jobs.Echo("small", steps=20), ignore).result or ("", "", 0))[2]
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (os.getpid(), worker)]
        return pages[0] * 4, pages[1] * 4

    before, after = resident(50), resident(400)
    executor.close()
    print(before, after)
    assert all(now - then < 1024 for then, now in zip(before, after, strict=True))


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
    ("function", "load_timeout_s", "status", "message"),
    [
        (jobs.exit_with_3, 60.0, Status.DIED, "while loading the model: the worker ended with exit code 3"),
        (jobs.hang_in_c, 0.5, Status.TIMEOUT, "while loading the model: not done within 0.5 s"),
    ],
)
def test_a_worker_that_ends_while_loading_is_an_outcome(
    function: Callable[[], Any], load_timeout_s: float, status: Status, message: str
) -> None:
    executor = ProcessExecutor(jobs.BadSource(function), ProcessSettings(load_timeout_s=load_timeout_s))
    outcome = executor.run(jobs.Echo("never"), ignore)
    assert (outcome.status, outcome.message) == (status, message)


def test_torch_is_loaded_in_the_worker_alone(tmp_path: Path) -> None:
    body = f"""
        import json
        source = jobs.FakeSource(Path({str(tmp_path / "log")!r}), imports="torch")
        executor = ProcessExecutor(source, ProcessSettings(timeout_s=60.0, memory_gib=4.0, threads=1))
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


def test_a_source_of_ones_own_brings_no_torch_along(executor: ProcessExecutor) -> None:
    assert executor.run(jobs.Call(jobs.torch_is_there), ignore).result is False


def test_a_worker_collects_garbage_but_never_looks_through_what_was_loaded(executor: ProcessExecutor) -> None:
    assert executor.run(jobs.Call(jobs.garbage_collection), ignore).result == (True, True)


def running_job(tmp_path: Path, function: str) -> tuple[subprocess.Popen[str], int]:
    """A parent in a process group of its own, with a worker in the middle of a job; the worker's id."""
    parent = begun(f"""
        executor = ProcessExecutor(jobs.FakeSource(Path({str(tmp_path / "log")!r})), ProcessSettings(timeout_s=60.0))
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
        executor = ProcessExecutor(jobs.BadSource(jobs.hang_in_c), ProcessSettings(timeout_s=60.0))
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


def test_an_interrupt_that_comes_while_a_process_is_made_leaves_no_worker() -> None:
    parent = begun("""
        import signal
        from arc_seal.sandbox import process
        make = process.SPAWN.Process.start
        def interrupted(self):
            make(self)
            signal.raise_signal(signal.SIGINT)  # held back until the process is there
            print("made", flush=True)
        process.SPAWN.Process.start = interrupted
        executor = ProcessExecutor(jobs.BadSource(jobs.hang_in_c), ProcessSettings(timeout_s=60.0))
        executor.start()
    """)
    output, errors = parent.communicate(timeout=10)
    assert (output, parent.returncode) == ("made\n", -signal.SIGINT)
    assert errors.count("Traceback") == 1
    assert jobs.wait_for(lambda: session_members(parent.pid) == [], 2.5)


def test_a_parent_that_forgets_to_close_still_ends(tmp_path: Path) -> None:
    body = f"""
        executor = ProcessExecutor(jobs.FakeSource(Path({str(tmp_path / "log")!r})), ProcessSettings(timeout_s=60.0))
        print(executor.run(jobs.Echo("done"), lambda progress: None).result[2])
    """
    ran = subprocess.run(command(body), cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not is_running(int(ran.stdout))
