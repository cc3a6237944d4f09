"""As many jobs at the same time as there are workers, and what comes of a failure or an interrupt."""

import threading
import time
from dataclasses import dataclass, field

import pytest

from arc_seal.errors import ExecutorClosed
from arc_seal.inner_loop.job import Job, Report
from arc_seal.outer_loop.rollout import concurrently
from arc_seal.sandbox.worker import Outcome, R
from tests.inner_loop.builders import ignore, job
from tests.outer_loop.fakes import FakeExecutor
from tests.self_edit.builders import random_task

PATIENCE_S = 120.0


def test_every_item_is_worked_on_once() -> None:
    made = concurrently(FakeExecutor(workers=3), lambda number: number * 2, range(20))
    assert sorted(made) == list(range(0, 40, 2))


def test_nothing_to_do_is_no_fault() -> None:
    assert list(concurrently(FakeExecutor(), lambda item: item, ())) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_at_a_time_as_there_are_workers_and_no_more(workers: int) -> None:
    together, at_work, most, lock = threading.Barrier(workers), [0], [0], threading.Lock()

    def work(item: int) -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        together.wait(PATIENCE_S)  # passes when that many are here
        with lock:
            at_work[0] -= 1
        together.wait(PATIENCE_S)

    assert len(list(concurrently(FakeExecutor(workers=workers), work, range(3 * workers)))) == 3 * workers
    assert most == [workers]


def test_a_fault_is_raised_when_what_is_under_way_has_ended_and_the_rest_is_left() -> None:
    executor, begun, ended = FakeExecutor(workers=2), [], []
    second = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            second.wait(PATIENCE_S)
            raise ZeroDivisionError
        second.set()
        time.sleep(0.001)  # lets the other thread come to its fault
        ended.append(item)

    with pytest.raises(ZeroDivisionError):
        for _ in concurrently(executor, work, range(1000)):
            pass
    assert sorted(begun) == [0, *sorted(ended)]
    assert len(begun) < 1000
    assert not executor.closed


@dataclass
class Endless:
    """An executor whose jobs end only when it is closed."""

    workers: int = 3
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _end: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Nothing to load."""

    def run(self, job: Job[R], report: Report) -> Outcome[R]:
        """Wait for the end."""
        self.begun.release()
        assert self._end.wait(PATIENCE_S), "it was not closed"
        raise ExecutorClosed

    def close(self) -> None:
        """Let the jobs end."""
        self._end.set()


def test_an_interrupt_ends_the_jobs_under_way() -> None:
    executor, ended = Endless(), []

    def work(item: int) -> None:
        if item == 0:
            for _ in range(2):
                assert executor.begun.acquire(timeout=PATIENCE_S)  # the others are at work
            raise KeyboardInterrupt
        try:
            executor.run(job(random_task(item)), ignore)
        except ExecutorClosed:
            ended.append(item)
            raise

    with pytest.raises(KeyboardInterrupt):
        list(concurrently(executor, work, range(10)))
    assert {1, 2} <= set(ended) <= {1, 2, 3}  # a third may have begun where the interrupt came from
