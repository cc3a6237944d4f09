"""Several worker processes at once: what one suffers is nothing to the others, and all end together."""

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from arc_seal.errors import ExecutorClosed, Status
from arc_seal.inner_loop.job import Progress
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.worker import Executor, ProcessSettings
from tests.sandbox import jobs
from tests.sandbox.processes import ROOT, begun, command, ends_within, is_running, session_members, workers_told


def ignore(progress: Progress) -> None:
    pass


def make(source: Any, workers: int = 2, timeout_s: float = 60.0) -> Executor:
    return ProcessExecutor(source, ProcessSettings(workers=workers, timeout_s=timeout_s, load_timeout_s=60.0))


def test_a_job_that_breaks_its_worker_leaves_the_others_alone(tmp_path: Path) -> None:
    executor, gate = make(jobs.FakeSource(tmp_path / "log")), tmp_path / "gate"
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(executor.run, jobs.Waits(tmp_path / "begun", "a", gate, jobs.nothing), ignore)
        assert jobs.wait_for((tmp_path / "begun").exists, 60)
        for function in (jobs.kill_self, jobs.exit_with_3):
            assert executor.run(jobs.Call(function), ignore).status is Status.DIED
        gate.touch()
        assert waiting.result(timeout=10).status is Status.OK
    executor.close()


@pytest.mark.slow
def test_four_workers_of_which_one_is_killed_do_all_other_jobs(tmp_path: Path) -> None:
    executor = make(jobs.FakeSource(tmp_path / "log"), workers=4)
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(executor.run, jobs.Steps(0.3), ignore) for _ in range(7)]
        killed = threads.submit(executor.run, jobs.Call(jobs.kill_self), ignore)
        running += [threads.submit(executor.run, jobs.Steps(0.3), ignore) for _ in range(8)]
        assert [each.result(timeout=60).status for each in running] == [Status.OK] * 15
        assert killed.result().status is Status.DIED
    assert len((tmp_path / "log").read_text().split()) <= 5
    executor.close()


def test_starting_has_every_worker_load_its_model(tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = make(jobs.FakeSource(log), workers=3)
    executor.start()
    assert jobs.wait_for(lambda: log.exists() and len(log.read_text().split()) == 3, 60)
    executor.close()
    assert not any(is_running(int(pid)) for pid in log.read_text().split())


@pytest.mark.parametrize("function", [jobs.hang_in_c, jobs.hang_with_the_lock])
def test_closing_is_prompt_and_leaves_nothing_running(tmp_path: Path, function: Any) -> None:
    executor, pids = make(jobs.FakeSource(tmp_path / "log")), []

    def run() -> None:
        with pytest.raises(ExecutorClosed):
            executor.run(jobs.Call(function), lambda progress: pids.append(progress.step))

    threads = [threading.Thread(target=run) for _ in range(3)]  # one of them waits for a worker
    for thread in threads:
        thread.start()
    assert jobs.wait_for(lambda: len([pid for pid in pids if pid > 1]) == 2, 60)
    begun_at = time.monotonic()
    executor.close()
    for thread in threads:
        thread.join(timeout=10)
    assert time.monotonic() - begun_at < 5
    assert not any(thread.is_alive() for thread in threads)
    assert not any(is_running(pid) for pid in pids if pid > 1)


def test_closing_while_the_model_loads_is_prompt() -> None:
    executor = make(jobs.BadSource(jobs.hang_in_c))
    with ThreadPoolExecutor(2) as threads:
        loading, seen = [], []
        for _ in range(2):
            loading.append(threads.submit(executor.run, jobs.Echo("never"), seen.append))
        assert jobs.wait_for(lambda: len(seen) == 2, 60)
        begun_at = time.monotonic()
        executor.close()
        for each in loading:
            with pytest.raises(ExecutorClosed):
                each.result(timeout=10)
    assert time.monotonic() - begun_at < 5


def test_closing_at_any_moment_of_a_job_never_hangs(tmp_path: Path) -> None:
    for moment in range(10):
        executor = make(jobs.FakeSource(tmp_path / "log"), workers=1)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(executor.run, jobs.Echo("short", steps=50), ignore)
            time.sleep(moment * 0.1)
            executor.close()
            with suppress(ExecutorClosed):
                assert running.result(timeout=10).status is Status.OK


@pytest.mark.parametrize("function", ["hang_in_c", "hang_with_the_lock"])
def test_an_interrupt_ends_all_workers_promptly(tmp_path: Path, function: str) -> None:
    parent = begun(f"""
        source = jobs.FakeSource(Path({str(tmp_path / "log")!r}))
        executor = ProcessExecutor(source, ProcessSettings(workers=2, timeout_s=60.0, load_timeout_s=60.0))
        executor.start()
        def work(number):
            return executor.run(jobs.Call(jobs.{function}), tell)
        with ThreadPoolExecutor(3) as threads:
            try:
                list(threads.map(work, range(6)))
            except KeyboardInterrupt:
                threads.shutdown(wait=False, cancel_futures=True)
                executor.close()
                raise
    """)
    workers = workers_told(parent, 2)
    os.killpg(parent.pid, signal.SIGINT)  # as the terminal does: parent and workers get it alike
    assert all(ends_within(worker, 2.5) for worker in workers)
    _, errors = parent.communicate(timeout=10)
    assert errors.count("Traceback") == 1, "the parent's alone"
    assert errors.strip().endswith("KeyboardInterrupt")
    # A killed process takes some milliseconds to leave.
    assert jobs.wait_for(lambda: session_members(parent.pid) == [], 2.5)


def test_the_threads_of_torch_are_divided_between_the_workers(tmp_path: Path) -> None:
    body = f"""
        def make(workers):
            source = jobs.FakeSource(Path({str(tmp_path / "log")!r}), imports="torch")
            return ProcessExecutor(source, ProcessSettings(workers=workers, timeout_s=60.0, load_timeout_s=60.0))
        executors = [make(1), make(2)]
        for executor in executors:
            executor.start()
        for executor in executors:
            print(executor.run(jobs.Call(jobs.torch_threads), lambda progress: None).result)
            executor.close()
        print("torch" in sys.modules)
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    ran = subprocess.run(
        command(body), cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    alone, shared, torch_is_here = ran.stdout.split()
    assert int(shared) == max(1, int(alone) // 2)
    assert torch_is_here == "False"
