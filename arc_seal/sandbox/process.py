"""Jobs in worker processes that are kept warm, and killed when a job breaks a limit.

A worker loads the model once and runs job after job. After a timeout, an out of memory or its death it is
replaced by a fresh one, so that no job ever meets what a broken one left behind. This process loads no torch.

Any thread may start, use or close an executor: nothing here needs the main thread, and an interrupt, which only the
main thread sees, reaches the others through `close`.
"""

import atexit
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import LifoQueue
from typing import Any, Self

from arc_seal.errors import LONGEST_LINE, ExecutorClosed, Status, printable
from arc_seal.inner_loop.job import Job, Progress, Report
from arc_seal.models.weights import ModelSource
from arc_seal.sandbox.worker import Outcome, ProcessSettings, R, TimeIsUp, failed_loading, serve

SPAWN = multiprocessing.get_context("spawn")
"""A fresh interpreter: a fork would copy this process's threads' locks, and CUDA does not survive one."""

BROKEN = frozenset({Status.TIMEOUT, Status.OUT_OF_MEMORY, Status.DIED})
"""After these the worker is not to be trusted, or gone."""


class ProcessExecutor:
    """Runs jobs in worker processes, under limits that are enforced.

    Args:
        source: Where the model comes from; each worker loads it once.
        settings: `timeout_s` counts from when the job is sent to a loaded worker. `memory_gib` is what a job may take
            on top of the loaded model: address space (RLIMIT_AS) on the CPU, memory of torch's allocator on CUDA.
    """

    def __init__(self, source: ModelSource, settings: ProcessSettings) -> None:
        self._source, self._settings, self.workers = pickle.dumps(source), settings, settings.workers
        self._living: dict[int, _Worker] = {}
        self._free: LifoQueue[int] = LifoQueue()  # numbers of workers; the last one used has its model loaded
        for number in reversed(range(self.workers)):
            self._free.put(number)
        self._change, self._closed = threading.Lock(), False
        atexit.register(self.close)  # runs before multiprocessing's own function, which would wait for the workers

    @classmethod
    def from_settings(cls, source: ModelSource, **settings: Any) -> Self:
        """Make one from the settings of conf/executor/process.yaml; an `InputError` says which one is wrong."""
        return cls(source, ProcessSettings.checked(settings))

    def start(self) -> None:
        """Have every worker load its model in the background; `run` waits for it. Does nothing where it is there."""
        for number in range(self.workers):
            self._worker(number)

    def run(self, job: Job[R], report: Report, timeout_s: float | None = None) -> Outcome[R]:
        """Run a job to its outcome on the next worker that is free; see `Executor.run`."""
        with closing(self.stream(pickle.dumps(job), timeout_s)) as running:
            for said in running:
                if isinstance(said, Outcome):
                    return said
                report(said)
        raise RuntimeError("a job came to an end without an outcome")

    def stream(self, job: bytes, timeout_s: float | None = None) -> Generator[Progress | Outcome[Any]]:
        """Run a pickled job: yields its progress, at last its outcome. Closed early, it ends the worker."""
        number = self._free.get()
        try:
            living = self._worker(number)
            outcome = yield from living.run(job, self._settings.timeout_s if timeout_s is None else timeout_s)
            if outcome.status in BROKEN or not living.loaded:
                self._end(number)
        except BaseException:  # an interrupt too: whatever happens here, nothing is left running
            self._end(number)
            raise
        finally:
            self._free.put(number)
        if outcome.status is Status.DIED and self._closed:
            raise ExecutorClosed
        yield outcome

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        with self._change:
            self._closed = True
            for living in self._living.values():  # all at the same time: one on a GPU takes a moment to end
                living.kill()
        for number in range(self.workers):
            self._end(number)
        atexit.unregister(self.close)

    def _worker(self, number: int) -> "_Worker":
        """The worker, or a fresh one that begins to load the model where there is none, or it died between jobs."""
        with self._change:
            if self._closed:
                raise ExecutorClosed
            living = self._living.get(number)
            if living is None or not living.process.is_alive():
                if living is not None:
                    living.kill()  # what its jobs have left running
                living = self._living[number] = _Worker(self._source, self._settings)
            return living

    def _end(self, number: int) -> None:
        with self._change:
            if number in self._living:
                living = self._living.pop(number)
                living.kill()
                living.process.join()


class WorkerProcess:
    """One worker process, from its start to its end, and the pipe to it; what it prints is kept for its last words.

    The pipe closes with the last reference to it: when the process is ended, another thread may still be reading.
    """

    def __init__(self, target: Callable[..., None], source: bytes, settings: ProcessSettings) -> None:
        self._pipe, other_end = SPAWN.Pipe()
        printed, output = SPAWN.Pipe(duplex=False)
        self._printed = b""
        self._load_timeout_s, self._started = settings.load_timeout_s, time.perf_counter()
        self.process = SPAWN.Process(target=target, args=(other_end, output, source, settings))
        self._listener = threading.Thread(target=self._listen, args=(printed,), name="worker-output", daemon=True)
        try:
            with _interrupts_held_back():
                self.process.start()
        except BaseException:  # such as an interrupt that was held back
            self.kill()
            raise
        other_end.close()  # only the worker has these now: the pipes end when the worker does
        output.close()
        self._listener.start()

    def kill(self) -> None:
        """End the process, if it was started, with all that its jobs have left running."""
        if self.process.pid is not None:
            self.process.kill()
            with suppress(OSError):  # it has no group yet, or nobody is left of it
                os.killpg(self.process.pid, signal.SIGKILL)

    def _cause_of_death(self) -> str:
        deadline = time.perf_counter() + 10.0  # it has closed its pipe, so it is about to end
        while self.process.is_alive() and time.perf_counter() < deadline:
            time.sleep(0.01)  # `join` would wait for what it has left running, too
        code = self.process.exitcode
        self.kill()
        self._listener.join(1.0)
        lines = [line for line in self._printed.decode(errors="replace").splitlines() if line.strip()][-3:]
        printed = f", after printing: {printable(' / '.join(lines))[:LONGEST_LINE]}" if lines else ""
        if not code:
            cause = "ended without an answer"
        elif code > 0:
            cause = f"ended with exit code {code}"
        else:
            hint = ", as by a system that is out of memory" if code == -signal.SIGKILL else ""
            cause = f"was ended by {signal.Signals(-code).name}{hint}"
        return f"the worker {cause}{printed}"

    def _listen(self, output: Connection) -> None:
        """Keep the end of what the worker prints, until the last process that can print is gone."""
        with output:
            while block := os.read(output.fileno(), 1 << 16):
                self._printed = (self._printed + block)[-4096:]


class _Worker(WorkerProcess):
    """A process that does one job after the other; see `worker.serve`."""

    def __init__(self, source: bytes, settings: ProcessSettings) -> None:
        self.loaded, self._jobs = False, 0
        super().__init__(serve, source, settings)

    def run(self, job: bytes, timeout_s: float) -> Generator[Progress, None, Outcome[Any]]:
        """Wait for the model, which is reported if it takes time, and run a pickled job: yields progress."""
        if not self.loaded:
            waiting = not self._pipe.poll()
            if waiting:
                yield Progress("load", 0, 1)
            loading = yield from self._answer(self._started, self._load_timeout_s)
            if loading.status is not Status.OK:
                return failed_loading(loading)
            self.loaded = True
            if waiting:
                yield Progress("load", 1, 1)
        self._jobs += 1
        with suppress(OSError):  # the worker is gone; the answer will say how
            self._pipe.send_bytes(job)
        return (yield from self._answer(time.perf_counter(), timeout_s))

    def _answer(self, started: float, timeout_s: float) -> Generator[Progress, None, Outcome[Any]]:
        while (left_s := started + timeout_s - time.perf_counter()) > 0:
            try:  # the pipe does not end with the worker where a process that a job has left behind holds it open
                message = self._pipe.recv() if self._pipe.poll(min(left_s, 1.0)) else None
                if message is None and not (self.process.is_alive() or self._pipe.poll()):
                    raise EOFError
            except (EOFError, OSError):
                return Outcome(Status.DIED, None, self._cause_of_death(), time.perf_counter() - started)
            match message:
                case bytes():
                    answer = pickle.loads(message)
                    if isinstance(answer, Outcome):
                        return answer
                    raise answer
                case (self._jobs, progress):  # and not from a thread that an earlier job left behind
                    yield progress
        return Outcome(Status.TIMEOUT, None, str(TimeIsUp(timeout_s)), time.perf_counter() - started)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start a process in here that no Ctrl-C reaches, not even while its interpreter starts: it inherits the block."""
    interrupts = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # a command takes each as a Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, interrupts)
    sys.warnoptions.append(quiet := "ignore:resource_tracker")  # it tidies up after killed workers: no news to users
    try:
        resource_tracker.ensure_running()  # where it starts it lifts the block
        sys.warnoptions.remove(quiet)
        signal.pthread_sigmask(signal.SIG_BLOCK, interrupts)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
