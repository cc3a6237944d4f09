"""Several executors that act as one."""

import concurrent.futures
import multiprocessing
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from queue import LifoQueue
from typing import Any

from pebble import ProcessExpired, ProcessPool

from arc_seal.errors import ExecutorClosed, Status
from arc_seal.inner_loop.job import Job, Progress, Report
from arc_seal.models.weights import ModelSource
from arc_seal.sandbox import worker
from arc_seal.sandbox.worker import (
    Executor,
    Limits,
    Outcome,
    R,
    failed_loading,
    limits_from_settings,
    positive,
    timeout_message,
    whole,
)


class Workers:
    """Gives each job to an executor that is free: as many jobs at the same time as there are executors.

    Args:
        executors: What runs the jobs, one at a time each.
    """

    def __init__(self, executors: Sequence[Executor]) -> None:
        self._executors = tuple(executors)
        self._free: LifoQueue[Executor] = LifoQueue()  # the last one used has its model loaded
        for executor in reversed(self._executors):
            self._free.put(executor)

    @property
    def workers(self) -> int:
        """How many jobs run at the same time."""
        return len(self._executors)

    def start(self) -> None:
        """Have every executor begin to load its model."""
        for executor in self._executors:
            executor.start()

    def run(self, job: Job[R], report: Report) -> Outcome[R]:
        """Run a job to its outcome on the next executor that is free.

        Raises:
            ExecutorClosed: When the executor was closed before there was an outcome.
            Exception: What the executor raises.
        """
        executor = self._free.get()
        try:
            return executor.run(job, report)
        finally:
            self._free.put(executor)

    def close(self) -> None:
        """Let all executors go, at the same time: each may take a moment to end what it is doing."""
        with ThreadPoolExecutor(len(self._executors), thread_name_prefix="close") as threads:
            for closing in [threads.submit(executor.close) for executor in self._executors]:
                closing.result()


# Jobs in a worker process that is kept warm, and killed when a job breaks a limit.
#
# The worker loads the model once and runs job after job. After a timeout, an out of memory or its death it is
# replaced by a fresh one, so that no job ever meets what a broken one left behind. This process loads no torch.
#
# Any thread may start, use or close an executor: nothing here needs the main thread, and an interrupt, which only the
# main thread sees, reaches the others through `close`.

SPAWN = multiprocessing.get_context("spawn")
"""A fresh interpreter: a fork would copy this process's threads' locks, and CUDA does not survive one."""

BROKEN = frozenset({Status.TIMEOUT, Status.OUT_OF_MEMORY, Status.DIED})
"""After these the worker is not to be trusted, or gone."""

POLL_S = 0.05
"""How late the end of a job may be seen; progress is seen at once."""

NO_ANSWER = "the worker ended without an answer"

LAST_WORD_S = 10.0
"""How long after a worker's pipe has closed pebble may take to say how it ended; it looks every 0.1 s."""


class ProcessExecutor:
    """Runs jobs in one worker process, under limits that are enforced.

    Args:
        source: Where the model comes from; each worker loads it once.
        limits: `timeout_s` counts from when the job is sent to a loaded worker. `memory_gib` is what a job may take
            on top of the loaded model: address space (RLIMIT_AS) on the CPU, memory of torch's allocator on CUDA.
        threads: Threads of a torch operation in the worker; None for this worker's share of torch's default.
        sharing: How many workers share this machine's cores.
        load_timeout_s: Wall seconds that loading the model may take, a first download and conversion included.
    """

    workers = 1

    def __init__(
        self,
        source: ModelSource,
        limits: Limits,
        *,
        threads: int | None = None,
        sharing: int = 1,
        load_timeout_s: float = 1800.0,
    ) -> None:
        self._limits, self._load_timeout_s = limits, load_timeout_s
        self._settings = worker.Settings(pickle.dumps(source), limits.memory_gib, threads, sharing)
        self._worker: _Worker | None = None
        self._closed = False
        self._turn = threading.Lock()  # held for a whole job
        self._change = threading.Lock()  # held while the worker is made or ended

    @classmethod
    def from_settings(
        cls,
        source: ModelSource,
        *,
        workers: int,
        timeout_s: float,
        memory_gib: float | None,
        threads: int | None,
        load_timeout_s: float,
    ) -> Executor:
        """Make one from the settings of conf/executor/process.yaml, or several that act as one.

        Raises:
            InputError: When a setting is out of bounds.
        """
        workers = whole("executor.workers", workers, 1)
        threads = threads_from_settings(threads)
        load_timeout_s = positive("executor.load_timeout_s", load_timeout_s, "seconds above 0")
        limits = limits_from_settings(timeout_s, memory_gib)
        executors = [
            cls(source, limits, threads=threads, sharing=workers, load_timeout_s=load_timeout_s) for _ in range(workers)
        ]
        return executors[0] if workers == 1 else Workers(executors)

    def start(self) -> None:
        """Have the model loaded in the background; `run` waits for it. Optional, and does nothing when it is there."""
        self._live_worker()

    def run(self, job: Job[R], report: Report) -> Outcome[R]:
        """Run a job to its outcome. `report` is called in this thread.

        Raises:
            InputError: When the model, or something the job reads, is not as it must be.
            ExecutorClosed: When the executor was closed before there was an outcome.
            Exception: Whatever else the job raises that is not a job's failure, the worker's traceback in a note.
        """
        return self.run_pickled(pickle.dumps(job), report)

    def run_pickled(self, job: bytes, report: Report) -> Outcome[Any]:
        """`run` for a job that is pickled already."""
        with self._turn:
            try:
                outcome = self._run(job, report)
            except BaseException:  # an interrupt too: whatever happens here, nothing is left running
                self._end_worker()
                raise
            if outcome.status in BROKEN:
                self._end_worker()
            if outcome.status is Status.DIED and self._closed:
                raise ExecutorClosed
            return outcome

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        self._closed = True
        self._end_worker()

    def _run(self, job: bytes, report: Report) -> Outcome[Any]:
        warm = self._live_worker()
        loading = warm.loaded(report)
        if loading.status is not Status.OK:
            return failed_loading(loading)
        return warm.run(job, self._limits.timeout_s, report)

    def _live_worker(self) -> "_Worker":
        """The worker, or a fresh one that begins to load the model where there is none, or it died between jobs."""
        with self._change:
            if self._closed:
                raise ExecutorClosed
            if self._worker is not None and not self._worker.alive:
                self._worker.end()
                self._worker = None
            if self._worker is None:
                self._worker = _Worker(self._settings, self._load_timeout_s)
            return self._worker

    def _end_worker(self) -> None:
        with self._change:
            if self._worker is not None:
                self._worker.end()
                self._worker = None


def threads_from_settings(threads: int | None) -> int | None:
    """Check the threads that a user set.

    Raises:
        InputError: When it is not a whole number above 0, or null.
    """
    return None if threads is None else whole("executor.threads", threads, 1, ", or null for torch's default")


class _Worker:
    """One worker process, from its start to its end: the pool that watches it and the pipe of its progress."""

    def __init__(self, settings: worker.Settings, load_timeout_s: float) -> None:
        self._progress, sender = SPAWN.Pipe(duplex=False)
        self._load_timeout_s, self._jobs, self._ended = load_timeout_s, 0, False
        self._pool = ProcessPool(max_workers=1, initializer=worker.begin, initargs=(sender, settings), context=SPAWN)
        try:
            with _interrupts_held_back():
                self._loading: Future[bytes] = self._pool.schedule(worker.load, timeout=load_timeout_s)
        except BaseException:  # such as an interrupt that was held back
            self.end()
            raise
        finally:
            # With this end closed here, the pipe ends when the worker does, and pebble cannot start a second worker
            # that would have no model.
            sender.close()

    @property
    def alive(self) -> bool:
        return bool(self._pool.active)

    def loaded(self, report: Report) -> Outcome[None]:
        """Wait for the model, reporting that only if there is something to wait for."""
        started, waiting = time.perf_counter(), not self._loading.done()
        if waiting:
            report(Progress("load", 0, 1))
        for _ in self._messages(self._loading):
            pass
        outcome: Outcome[None] = _outcome(self._loading, self._load_timeout_s, started)
        if waiting and outcome.status is Status.OK:
            report(Progress("load", 1, 1))
        return outcome

    def run(self, job: bytes, timeout_s: float, report: Report) -> Outcome[Any]:
        self._jobs += 1
        started, number = time.perf_counter(), self._jobs
        try:
            future: Future[bytes] = self._pool.schedule(worker.run, args=(number, job), timeout=timeout_s)
        except RuntimeError:  # the pool takes no more: its worker has died or been ended
            return Outcome(Status.DIED, None, NO_ANSWER, 0.0)
        for sender, progress in self._messages(future):
            if sender == number:  # and not a thread that an earlier job left behind
                report(progress)
        return _outcome(future, timeout_s, started)

    def end(self) -> None:
        """End the process. The pipe closes with the last reference to it: another thread may still be reading it."""
        self._ended = True
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _messages(self, future: Future[bytes]) -> Iterator[tuple[int, Progress]]:
        """What the worker says, as it comes, until `future` is done."""
        try:
            while not future.done() and not self._ended:
                if self._progress.poll(POLL_S):
                    yield self._progress.recv()
            while self._progress.poll():
                yield self._progress.recv()
        except (EOFError, BrokenPipeError):  # the worker is gone
            self._wait_for_last_word(future)

    def _wait_for_last_word(self, future: Future[bytes]) -> None:
        """Wait for how pebble says that the worker ended; it says nothing when it was told to stop."""
        deadline = time.monotonic() + LAST_WORD_S
        while not future.done() and not self._ended and time.monotonic() < deadline:
            concurrent.futures.wait((future,), POLL_S)


def _outcome(future: Future[bytes], timeout_s: float, started: float) -> Outcome[Any]:
    """What came of a future that is done, or whose worker is gone."""
    try:
        replied = future.result(timeout=0)
    except (TimeoutError, BrokenProcessPool, ProcessExpired) as error:
        seconds = time.perf_counter() - started
        if isinstance(error, TimeoutError) and future.done():
            return Outcome(Status.TIMEOUT, None, timeout_message(timeout_s), seconds)
        return Outcome(Status.DIED, None, _cause_of_death(error), seconds)
    return worker.outcome(replied)


def _cause_of_death(error: Exception) -> str:
    code = error.exitcode if isinstance(error, ProcessExpired) else None
    if code is None:
        return NO_ANSWER
    if code >= 0:
        return f"the worker ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ", as by a system that is out of memory" if name == "SIGKILL" else ""
    return f"the worker was ended by {name}{hint}"


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start a process in here that no Ctrl-C at the terminal reaches, not even while its interpreter starts.

    A blocked signal stays blocked in a new process; here it comes through when the block is left.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it later would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
