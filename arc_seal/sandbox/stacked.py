"""Jobs side by side in one worker process: executor=stacked, for a GPU that one small training leaves idle.

Jobs that train an adapter on the model as it is are trained and asked together (`inner_loop/stack.py`), as many as
there are workers; a job that waits is begun as soon as one of them is done. All others have the process for
themselves, one at a time (`stack_worker.py`).

Limits are kept as the other executors keep them. Seconds count from when a job is begun; over time it is asked to
stop, which it does at its next update or token, and beyond `GRACE_S` the process is ended. What was under way beside a
job that breaks the process is done again from its beginning: together with others where it is known whose fault it
was, else alone, in a worker of `process.py`. That is also where the jobs of a stack go that finds no memory.
"""

import atexit
import pickle
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Self, cast

from arc_seal.errors import ExecutorClosed, Status
from arc_seal.inner_loop.job import Job, Progress, Report
from arc_seal.models.weights import ModelSource
from arc_seal.sandbox.process import BROKEN, ProcessExecutor, WorkerProcess
from arc_seal.sandbox.stack_worker import serve_stack
from arc_seal.sandbox.worker import Outcome, ProcessSettings, R, StackedSettings, TimeIsUp, failed_loading

GRACE_S = 30.0
"""For a job to stop that is over time: an update of the whole stack takes seconds on a CPU."""


class Again(Enum):
    """How a job is to be done that has no outcome through no fault of its own."""

    TOGETHER = "beside others"
    ALONE = "with nothing beside it"


class StackedExecutor:
    """Runs jobs side by side in one worker process, under limits that are enforced.

    Args:
        source: Where the model comes from. It is loaded once, and once more where jobs have to be done alone.
        settings: As those of `ProcessExecutor`, but `workers` is how many jobs are stacked, and `memory_gib` is what
            all of them together may take.
    """

    def __init__(self, source: ModelSource, settings: StackedSettings) -> None:
        self._source, self._settings, self.workers = pickle.dumps(source), settings, settings.workers
        self._room = threading.Semaphore(settings.workers)
        self._worker: _StackProcess | None = None
        shared = settings.model_dump(include=set(ProcessSettings.model_fields))
        self._alone = ProcessExecutor(source, ProcessSettings(**{**shared, "workers": 1}))  # starts when it is needed
        self._change, self._closed = threading.Lock(), False
        atexit.register(self.close)  # as ProcessExecutor does

    @classmethod
    def from_settings(cls, source: ModelSource, **settings: Any) -> Self:
        """Make one from the settings of conf/executor/stacked.yaml; an `InputError` says which one is wrong."""
        return cls(source, StackedSettings.checked(settings))

    def start(self) -> None:
        """Have the worker load its model in the background; `run` waits for it. Does nothing where it is there."""
        self._living()

    def run(self, job: Job[R], report: Report, timeout_s: float | None = None) -> Outcome[R]:
        """Run a job to its outcome beside others; see `Executor.run`. Where it is done again, progress is too."""
        payload, limit_s = pickle.dumps(job), self._settings.timeout_s if timeout_s is None else timeout_s
        with self._room:
            while True:
                match self._living().run(payload, report, limit_s):
                    case Outcome() as outcome:
                        return outcome
                    case Again.ALONE:
                        return self._alone.run(job, report, limit_s)

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        with self._change:
            self._closed = True
            if self._worker is not None:
                self._worker.end()
        self._alone.close()
        atexit.unregister(self.close)

    def _living(self) -> "_StackProcess":
        """The worker, or a fresh one that begins to load the model where there is none, or it has ended."""
        with self._change:
            if self._closed:
                raise ExecutorClosed
            if self._worker is None or not self._worker.process.is_alive():
                if self._worker is not None:
                    self._worker.end()  # what its jobs have left running
                self._worker = _StackProcess(self._source, self._settings)
            return self._worker


class _StackProcess(WorkerProcess):
    """The worker process, and what it says of each job; see `stack_worker.py`."""

    def __init__(self, source: bytes, settings: StackedSettings) -> None:
        super().__init__(serve_stack, source, settings)
        self._loaded: Future[bytes | None] = Future()  # what came of the model, pickled; None if it was ended from here
        self._numbers = count(1)
        self._to_say: SimpleQueue[tuple[int, bytes | None] | None] = SimpleQueue()
        self._change = threading.Lock()  # of what follows
        self._heard: dict[int, SimpleQueue[Any]] = {}  # of each job that has no answer yet
        self._begun: set[int] = set()
        self._over = self._ended = False  # whether it has ended, and whether it was ended from here
        for target in (self._say, self._hear):
            threading.Thread(target=target, name=f"stack{target.__name__}", daemon=True).start()

    def run(self, job: bytes, report: Report, timeout_s: float) -> Outcome[Any] | Again:
        """Wait for the model, which is reported if it takes time, and have a pickled job done."""
        failed = self._wait_for_model(report)
        if failed is not None:
            return failed
        number, heard = next(self._numbers), SimpleQueue[Any]()
        try:
            self._begin(number, job, heard)
            said = self._answer(number, heard, report, timeout_s)
        except Exception:  # its report has failed
            self._stop(number, heard)
            raise
        except BaseException:  # an interrupt: nothing is left running
            self.end()
            raise
        finally:
            self._forget(number)
        if not isinstance(said, bytes):
            return said
        found: Outcome[Any] | Exception | None = pickle.loads(said)
        if isinstance(found, Exception):
            raise found
        if found is not None and found.status in BROKEN:
            self.end()
        return Again.ALONE if found is None else found

    def end(self) -> None:
        """End the process; jobs under way are to be done again."""
        self._ended = True
        self.kill()
        self.process.join()

    def _wait_for_model(self, report: Report) -> Outcome[Any] | Again | None:
        """None once it is loaded, else how the jobs that wait for it end."""
        if waiting := not self._loaded.done():
            report(Progress("load", 0, 1))
        loading: Outcome[Any] | Exception
        try:
            said = self._loaded.result(max(0.0, self._started + self._load_timeout_s - time.perf_counter()))
        except TimeoutError:
            loading = Outcome(Status.TIMEOUT, None, str(TimeIsUp(self._load_timeout_s)), self._seconds)
        else:
            if said is None:
                return Again.TOGETHER
            loading = pickle.loads(said)
        if isinstance(loading, Outcome) and loading.status is Status.OK:
            if waiting:
                report(Progress("load", 1, 1))
            return None
        self.end()
        if isinstance(loading, Outcome):
            return failed_loading(loading)
        raise loading

    @property
    def _seconds(self) -> float:
        """Since it was started."""
        return time.perf_counter() - self._started

    def _begin(self, number: int, job: bytes, heard: "SimpleQueue[Any]") -> None:
        with self._change:
            if self._over:
                heard.put(Again.TOGETHER)
                return
            self._heard[number] = heard
        self._to_say.put((number, job))

    def _answer(
        self, number: int, heard: "SimpleQueue[Any]", report: Report, timeout_s: float
    ) -> Outcome[Any] | Again | bytes:
        """What comes of a job, its progress reported; bytes are the worker's own answer, pickled."""
        begun: float | None = None
        while True:
            try:
                said = heard.get(timeout=None if begun is None else max(0.0, begun + timeout_s - time.perf_counter()))
            except Empty:
                self._stop(number, heard)
                said = Outcome(Status.TIMEOUT, None, str(TimeIsUp(timeout_s)), 0.0)
            match said:
                case None:
                    begun = time.perf_counter()
                case Progress():
                    report(said)
                case Outcome():  # made here
                    return replace(said, seconds=time.perf_counter() - (begun or time.perf_counter()))
                case _:
                    return cast("Again | bytes", said)

    def _stop(self, number: int, heard: "SimpleQueue[Any]") -> None:
        """Have a job stopped; the process is ended where it does not stop."""
        deadline = time.perf_counter() + GRACE_S
        self._to_say.put((number, None))
        with suppress(Empty):
            while isinstance(heard.get(timeout=max(0.0, deadline - time.perf_counter())), Progress | None):
                pass
            return
        self.end()

    def _forget(self, number: int) -> None:
        with self._change:
            self._heard.pop(number, None)
            self._begun.discard(number)

    def _say(self) -> None:
        """In a thread of its own, as a process that reads nothing would keep any other: what the process is told."""
        with suppress(OSError):  # the process is gone; the thread that hears it will say so
            while (said := self._to_say.get()) is not None:
                self._pipe.send(said)

    def _hear(self) -> None:
        """In a thread of its own: what the process says, until it has ended."""
        with suppress(EOFError, OSError):
            while self._pipe.poll(1.0) or self.process.is_alive() or self._pipe.poll():
                if self._pipe.poll():  # it does not end with the worker where a job has left a process behind
                    self._note(*self._pipe.recv())
        with self._change:
            self._over, waiting, begun, ended = True, dict(self._heard), set(self._begun), self._ended
        self._to_say.put(None)
        died: Outcome[Any] = Outcome(Status.DIED, None, "" if ended else self._cause_of_death(), self._seconds)
        if not self._loaded.done():
            self._loaded.set_result(None if ended else pickle.dumps(died))
        for number, heard in waiting.items():
            if ended or (begun and number not in begun):
                heard.put(Again.TOGETHER)
            else:  # where several were under way, or none, it is not known whose fault it was
                heard.put(died if len(begun) == 1 else Again.ALONE)

    def _note(self, number: int, said: Progress | bytes | None) -> None:
        """Give what was said to the thread that waits for it."""
        if number == 0:
            self._loaded.set_result(cast(bytes, said))
            return
        with self._change:
            if (heard := self._heard.get(number)) is None:  # nobody waits for it any more
                return
            if said is None:
                self._begun.add(number)
            elif isinstance(said, bytes):
                self._begun.discard(number)
        heard.put(said)
