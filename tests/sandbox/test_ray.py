"""Losses of actors and nodes, provoked for real; and a cluster that comes and goes with the executor."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Progress
from arc_seal.sandbox.ray import RayExecutor
from tests.sandbox import jobs
from tests.sandbox.cluster import NODE_CPUS, needs_ray, on_cluster
from tests.sandbox.processes import ROOT, begun, command, ends_within, is_running, session_members, workers_told


def ignore(progress: Progress) -> None:
    pass


def test_without_ray_one_line_says_how_to_get_it() -> None:
    body = """
        sys.modules["ray"] = None
        from arc_seal.errors import InputError
        from arc_seal.sandbox.ray import RayExecutor
        try:
            RayExecutor.from_settings(jobs.FakeSource(Path("log")))
        except InputError as error:
            print(error)
    """
    ran = subprocess.run(command(body), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "executor: expected Ray (pip install 'arc-seal[ray]'), found no package named ray\n"


@needs_ray
def test_a_cluster_that_is_not_there_is_said_in_one_line() -> None:
    body = """
        from arc_seal.errors import InputError
        from arc_seal.sandbox.ray import RayExecutor
        from arc_seal.sandbox.worker import RaySettings
        executor = RayExecutor(jobs.FakeSource(Path("log")), RaySettings(address="127.0.0.1:1"))
        executor.start()
        try:
            executor.run(jobs.Echo("never"), tell)
        except InputError as error:
            print(error)
        executor.close()
    """
    ran = subprocess.run(command(body), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("executor.address: expected a Ray cluster that answers at 127.0.0.1:1, found ")


@needs_ray
@pytest.mark.slow
def test_a_job_that_takes_its_worker_down_is_given_up_and_the_worker_replaced(cluster: Any, tmp_path: Path) -> None:
    executor = RayExecutor(jobs.FakeSource(tmp_path / "loads"), on_cluster(workers=1, retries=1))
    gate, log = tmp_path / "gate", tmp_path / "log"
    gate.touch()
    outcome = executor.run(jobs.Waits(log, "bad", gate, jobs.kill_parent), ignore)
    assert (outcome.status, outcome.result) == (Status.DIED, None)
    assert outcome.message.startswith("lost with its worker 2 times: ")
    assert len(log.read_text().splitlines()) == 2
    assert executor.run(jobs.Echo("next"), ignore).status is Status.OK
    executor.close()


@needs_ray
@pytest.mark.slow
def test_a_worker_that_was_lost_between_jobs_is_no_fault_of_the_next_job(cluster: Any, tmp_path: Path) -> None:
    executor = RayExecutor(jobs.FakeSource(tmp_path / "loads"), on_cluster(workers=1, retries=0))
    actor = executor.run(jobs.Call(os.getppid), ignore).result
    assert actor is not None
    os.kill(actor, signal.SIGKILL)
    assert ends_within(actor, 5)
    assert executor.run(jobs.Echo("next"), ignore).status is Status.OK
    executor.close()


@needs_ray
@pytest.mark.slow
def test_a_cluster_without_room_is_said_in_one_line(cluster: Any, tmp_path: Path) -> None:
    executor = RayExecutor(jobs.FakeSource(tmp_path / "loads"), on_cluster(num_cpus=100.0, place_timeout_s=1.0))
    with pytest.raises(InputError) as caught:
        executor.run(jobs.Echo("never"), ignore)
    assert str(caught.value) == (
        "executor: expected room for a worker with num_cpus=100 and num_gpus=0, "
        "found none within 1 s on a cluster of 8 CPUs and 0 GPUs"
    )
    executor.close()


@needs_ray
@pytest.mark.slow
def test_a_job_with_another_limit_needs_no_cpu_beside_those_taken(cluster: Any, tmp_path: Path) -> None:
    every_cpu = on_cluster(num_cpus=float(NODE_CPUS), timeout_s=0.5, place_timeout_s=5.0)
    executor = RayExecutor(jobs.FakeSource(tmp_path / "loads"), every_cpu)
    executor.start()
    with ThreadPoolExecutor(2) as threads:
        ordinary = [threads.submit(executor.run, jobs.Echo("roll-out", steps=5), ignore) for _ in range(6)]
        assert [each.result(timeout=60).status for each in ordinary] == [Status.OK] * 6
    assert executor.run(jobs.Steps(1.0), ignore, timeout_s=60.0).status is Status.OK
    assert executor.run(jobs.Steps(1.0), ignore).status is Status.TIMEOUT
    executor.close()


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(("threads", "at_work"), [(0, 1), (3, 2)])
def test_an_interrupt_ends_the_jobs_on_the_cluster(cluster: Any, tmp_path: Path, threads: int, at_work: int) -> None:
    parent = begun(f"""
        from arc_seal.sandbox.ray import RayExecutor
        from arc_seal.sandbox.worker import RaySettings
        source = jobs.FakeSource(Path({str(tmp_path / "log")!r}))
        executor = RayExecutor(source, RaySettings(address={cluster.address!r}, workers=2, num_cpus=0.5))
        def work(number):
            executor.run(jobs.Call(jobs.hang_in_c), tell)
        try:
            for number in range({threads}):
                threading.Thread(target=work, args=(number,)).start()
            work(-1) if {threads} == 0 else time.sleep(600)
        finally:
            executor.close()
    """)
    workers = workers_told(parent, at_work)
    os.killpg(parent.pid, signal.SIGINT)
    assert all(ends_within(worker, 10) for worker in workers)
    _, errors = parent.communicate(timeout=30)
    assert errors.strip().endswith("KeyboardInterrupt")


@needs_ray
@pytest.mark.slow
def test_what_a_lost_node_was_at_is_done_elsewhere_and_no_failure_is_tried_again(cluster: Any, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    functions = {"a": jobs.nothing, "b": jobs.nothing, "c": jobs.diverge, "d": jobs.kill_self, "e": jobs.nothing}
    # Three of a node's four CPUs: one worker on each of the two nodes, and later room for one.
    executor = RayExecutor(jobs.FakeSource(tmp_path / "loads"), on_cluster(num_cpus=3.0))
    with ThreadPoolExecutor(2) as threads:
        running = [
            threads.submit(executor.run, jobs.Waits(log, name, gate, function), ignore)
            for name, function in functions.items()
        ]
        assert jobs.wait_for(lambda: len(begun_jobs(log)) == 2, 120)
        at_work = [pid for _, pid in begun_jobs(log)]
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        assert jobs.wait_for(lambda: [is_running(pid) for pid in at_work].count(False) == 1, 60)
        gate.touch()
        outcomes = [each.result(timeout=120) for each in running]
    executor.close()
    assert [outcome.status for outcome in outcomes] == [Status.OK, Status.OK, Status.DIVERGED, Status.DIED, Status.OK]
    assert outcomes[3].message == "the worker was ended by SIGKILL, as by a system that is out of memory"
    names = [name for name, _ in begun_jobs(log)]
    assert names.count("a") + names.count("b") == 3, "one of the two was on the lost node, and began twice"
    assert [names.count(name) for name in "cde"] == [1, 1, 1]
    assert all(ends_within(pid, 10) for _, pid in begun_jobs(log))


@needs_ray
@pytest.mark.slow
def test_a_cluster_on_this_machine_comes_and_goes_quietly(tmp_path: Path) -> None:
    parent = begun(f"""
        from arc_seal.errors import InputError
        from arc_seal.sandbox.ray import RayExecutor
        source = jobs.FakeSource(Path({str(tmp_path / "log")!r}))
        executor = RayExecutor.from_settings(source)
        def run(value):
            print(executor.run(jobs.Echo(value), lambda progress: None).result[0], flush=True)
        for value in ("first", "second"):  # from threads that end: the cluster must not end with them
            thread = threading.Thread(target=run, args=(value,))
            thread.start()
            thread.join()
            time.sleep(1)
        executor.close()
        greedy = RayExecutor.from_settings(source, workers=2, num_gpus=64)
        try:
            greedy.run(jobs.Echo("never"), tell)
        except InputError as error:
            print(error)
        greedy.close()
    """)
    output, errors = parent.communicate(timeout=300)
    assert (parent.returncode, errors) == (0, "")
    first, second, refused = output.splitlines()
    assert (first, second) == ("first", "second")
    assert refused.startswith(
        "executor: expected room for a worker with num_cpus=1 and num_gpus=64, found a machine with"
    )
    assert jobs.wait_for(lambda: session_members(parent.pid) == [], 10)


def begun_jobs(log: Path) -> list[tuple[str, int]]:
    """Name and process of each job that has begun, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]
