"""The protocol of a sandbox: a job goes in, an outcome always comes out.

This is a sandbox for resources (seconds, memory, a crash), not for hostile code: a tool file is code that
its user has chosen to run.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast

from arc_seal.errors import ExecutorClosed, InputError, JobFailure, Status
from arc_seal.inner_loop.job import AdaptJob, ExamineJob, FinetuneJob, Job, Progress, Report, WriteJob
from arc_seal.models.weights import ModelSource

if TYPE_CHECKING:
    from arc_seal.models.model import Model

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use; documented in conf/executor/.

    Attributes:
        timeout_s: Wall seconds of one job, loading the model left out.
        memory_gib: Memory of one job in GiB on top of the loaded model; None for no limit.
    """

    timeout_s: float = 600.0
    memory_gib: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """How a job ended.

    Attributes:
        status: `OK`, or why there is no result.
        result: What the job made; None unless the status is `OK`.
        message: One line for people on a failure, else empty.
        seconds: Wall time the job took.
    """

    status: Status
    result: R | None
    message: str
    seconds: float


class Executor(Protocol):
    """Runs jobs on models that stay loaded, up to `workers` of them at the same time.

    `run` may be called from any number of threads; a job waits until a worker is free, so use one thread a worker.
    """

    @property
    def workers(self) -> int:
        """How many jobs run at the same time."""
        ...

    def start(self) -> None:
        """Begin to load the models, in the background where there is one."""
        ...

    def run(self, job: Job[R], report: Report) -> Outcome[R]:
        """Run a job to its outcome. A failed job is an outcome; a programming error is raised.

        Args:
            job: What to run.
            report: Called in this thread with what the job reports.

        Raises:
            ExecutorClosed: When the executor was closed before there was an outcome, or before the call.
        """
        ...

    def close(self) -> None:
        """Let the workers go, for good, from any thread.

        Threads that are in `run` come back from it: close the executor first, and wait for the threads after that.
        """
        ...


# Jobs in this very process: nothing to start, easy to step through, and only as safe as that.
#
# Failures are told apart here for every executor. The memory limit is not enforced, and a job is stopped at its
# deadline only when it next reports progress: one that hangs hangs the process. `process.py` keeps both for real.


def load_model(source: ModelSource) -> "Model":
    """Load a model; torch is loaded here, and not before.

    Raises:
        ModelError: When it cannot be found, read or used.
    """
    from arc_seal.models.model import load

    return load(source)


def carry_out(job: Job[R], model: "Model", report: Report) -> R:
    """Do a job's work on a loaded model.

    Raises:
        JobFailure: When the job comes to nothing for a reason that is to be recorded.
        InputError: When something that it reads is not as it must be.
    """
    done: Any
    match job:
        case AdaptJob():
            from arc_seal.inner_loop.adapt import adapt

            done = adapt(job, model, report)
        case ExamineJob():
            from arc_seal.inner_loop.adapt import examine

            done = examine(job, model, report)
        case WriteJob():
            from arc_seal.inner_loop.policy import write

            done = write(job, model, report)
        case FinetuneJob():
            from arc_seal.inner_loop.policy import finetune

            done = finetune(job, model, report)
        case _:
            done = job.run(model, report)
    return cast(R, done)


class InlineExecutor:
    """Runs jobs in this process.

    Args:
        source: Where the model comes from; it is loaded once, when first needed.
        limits: `timeout_s` is checked whenever a job reports progress; `memory_gib` is not enforced.
    """

    workers = 1

    def __init__(self, source: ModelSource, limits: Limits) -> None:
        self._source, self._limits = source, limits
        self._model: Model | None = None
        self._turn, self._closed = threading.Lock(), False

    @classmethod
    def from_settings(cls, source: ModelSource, *, timeout_s: float) -> Self:
        """Make one from the settings of conf/executor/inline.yaml.

        Raises:
            InputError: When a setting is out of bounds.
        """
        return cls(source, limits_from_settings(timeout_s, None))

    def start(self) -> None:
        """Nothing to begin early: loading in this process would keep it from anything else. `run` loads."""

    def load(self) -> "Model":
        """The model, loaded if it is not yet.

        Raises:
            ModelError: When it cannot be found, read or used.
            ExecutorClosed: When the executor has been closed.
        """
        if self._closed:
            raise ExecutorClosed
        if self._model is None:
            self._model = load_model(self._source)
        return self._model

    def run(self, job: Job[R], report: Report) -> Outcome[R]:
        """Run a job to its outcome, loading the model first if need be.

        Raises:
            InputError: When the model, or something the job reads, is not as it must be.
            ExecutorClosed: When the executor has been closed.
            Exception: Whatever else the job raises that is not a job's failure.
        """
        with self._turn:
            loading = attempt(lambda: self._load(report))
            if loading.result is None:
                return failed_loading(loading)
            model = loading.result
            return attempt(lambda: carry_out(job, model, self._until_deadline(report)))

    def close(self) -> None:
        """Let the model go. A job that another thread is at ends when it next reports progress."""
        self._closed, self._model = True, None

    def _load(self, report: Report) -> "Model":
        if self._model is not None:
            return self._model
        report(Progress("load", 0, 1))
        model = self.load()
        report(Progress("load", 1, 1))
        return model

    def _until_deadline(self, report: Report) -> Report:
        """A `report` that ends the job once its time is up or the executor is closed."""
        deadline = time.perf_counter() + self._limits.timeout_s

        def report_in_time(progress: Progress) -> None:
            report(progress)
            if self._closed:
                raise ExecutorClosed
            if time.perf_counter() > deadline:
                raise _DeadlinePassed(timeout_message(self._limits.timeout_s))

        return report_in_time


class _DeadlinePassed(JobFailure):
    """Raised into a job whose time is up."""

    status = Status.TIMEOUT


def limits_from_settings(timeout_s: float, memory_gib: float | None) -> Limits:
    """Check the limits that a user set.

    Raises:
        InputError: When one is not a number above 0 (or null, for the memory).
    """
    if memory_gib is not None:
        memory_gib = positive("executor.memory_gib", memory_gib, "GiB above 0, or null for no limit")
    return Limits(positive("executor.timeout_s", timeout_s, "seconds above 0"), memory_gib)


def positive(setting: str, value: float, expected: str) -> float:
    """Check that a setting is a number above 0.

    Raises:
        InputError: When it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(setting, "", expected, repr(value))
    return float(value)


def whole(setting: str, value: int, least: int, otherwise: str = "") -> int:
    """Check that a setting is a whole number of at least `least`.

    Args:
        setting: Its name.
        value: What was found.
        least: The smallest that will do.
        otherwise: What else would do, for the message, as `, or null`.

    Raises:
        InputError: When it is not.
    """
    if type(value) is not int or value < least:
        raise InputError(setting, "", f"a whole number above {least - 1}{otherwise}", repr(value))
    return value


def attempt(action: Callable[[], R]) -> Outcome[R]:
    """Do `action` to its outcome.

    Raises:
        Exception: What `action` raises, unless it is a job's failure.
    """
    started = time.perf_counter()
    try:
        result = action()
    except Exception as error:
        status = failure_status(error)
        if status is None:
            raise
        return Outcome(status, None, one_line(error), time.perf_counter() - started)
    return Outcome(Status.OK, result, "", time.perf_counter() - started)


def failed_loading(outcome: Outcome[Any]) -> Outcome[R]:
    """The outcome of a job whose model could not be loaded, for a reason that is to be recorded."""
    return Outcome(outcome.status, None, f"while loading the model: {outcome.message}", outcome.seconds)


def timeout_message(timeout_s: float) -> str:
    """What to tell people about a job that was stopped at its deadline."""
    return f"not done within {timeout_s:g} s"


OUT_OF_MEMORY_MARKS = ("out of memory", "allocate memory", "alloc_failed", "bad_alloc")
"""What the messages of failed allocations have in common, in lower case: CUDA's and MPS's "out of memory", torch's
CPU allocator's "can't allocate memory", the C library's "Cannot allocate memory", cuBLAS's and cuDNN's
"..._STATUS_ALLOC_FAILED", C++'s "std::bad_alloc"."""


def failure_status(error: Exception) -> Status | None:
    """How a job that raised `error` is recorded; None when the error is not a job's failure.

    Torch has no exception of its own for a CPU out of memory, and importing torch to ask for its CUDA one would
    cost seconds: failed allocations are known by their messages.
    """
    if isinstance(error, JobFailure):
        return error.status
    marked = any(mark in str(error).lower() for mark in OUT_OF_MEMORY_MARKS)
    if isinstance(error, MemoryError) or (marked and isinstance(error, RuntimeError | OSError | ImportError)):
        return Status.OUT_OF_MEMORY
    return None


def one_line(error: Exception) -> str:
    """The first line of what an error says, else its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# What runs in the worker process of `process.py`: an inline executor, under limits, at the end of a pipe.
#
# Jobs come and outcomes go as pickled bytes, so that an object that cannot be pickled is an error with a traceback
# at the place that made it, rather than a fault in the pool's own threads.

if sys.platform != "win32":
    import fcntl
    import resource

GIB = 1 << 30

IN_WORKER = "in the worker:\n"
"""How a note begins that has the traceback of an error's own process."""

NO_LIMITS = Limits(timeout_s=float("inf"))
"""For the executor in the worker: the limits are kept from outside it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is told when it starts.

    Attributes:
        source: The pickled model source.
        memory_gib: Memory of one job in GiB, on top of the loaded model; None for no limit.
        threads: Threads of a torch operation; None for this worker's share of torch's default.
        sharing: How many workers share this machine's cores.
    """

    source: bytes
    memory_gib: float | None
    threads: int | None
    sharing: int = 1


@dataclass(slots=True)
class _State:
    settings: Settings
    progress: Connection
    executor: InlineExecutor | None = None


_state: _State | None = None
"""The one global of a worker process: pebble hands its initializer's work on in no other way."""


def begin(progress: Connection, settings: Settings) -> None:
    """Make this process a worker that sends progress into `progress` and ends when its parent does."""
    global _state
    _state = _State(settings, progress)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # end at once, in the middle of a torch operation too
    end_with_parent()


def load() -> bytes:
    """Load the model, then apply the limits. Returns a pickled `Outcome[None]`, or the error it ended in."""
    return reply(lambda: attempt(_load))


def run(number: int, job: bytes) -> bytes:
    """Run a pickled job, its progress tagged with `number`. Returns its pickled outcome, or the error it ended in."""
    return reply(lambda: _run(number, job))


def _load() -> None:
    state = _this_worker()
    state.executor = InlineExecutor(pickle.loads(state.settings.source), NO_LIMITS)
    state.executor.load()
    _limit_threads(state.settings.threads, state.settings.sharing)
    _limit_memory(state.settings.memory_gib)


def _run(number: int, job: bytes) -> Outcome[Any]:
    state = _this_worker()
    if state.executor is None:
        raise RuntimeError("a job was sent before the model was loaded")

    def report(progress: Progress) -> None:
        state.progress.send((number, progress))

    return state.executor.run(pickle.loads(job), report)


def _this_worker() -> _State:
    if _state is None:
        raise RuntimeError("this process is not a worker")
    return _state


def _limit_threads(threads: int | None, sharing: int) -> None:
    torch = sys.modules.get("torch")  # there if the model needs it; a sandbox does not import torch itself
    if torch is None:
        return
    if threads is None and sharing > 1:
        threads = max(1, torch.get_num_threads() // sharing)  # torch's default: the physical cores, OMP_NUM_THREADS
    if threads is not None:
        torch.set_num_threads(threads)


def _limit_memory(memory_gib: float | None) -> None:
    """Allow `memory_gib` more than what is in use now that the model is loaded.

    A limit on all of the address space would be a riddle to set: torch maps gigabytes of libraries and reserves of
    which it touches little. What a job adds to it is what the job allocates.
    """
    torch = sys.modules.get("torch")
    if memory_gib is None:
        return
    if torch is not None and torch.cuda.is_initialized():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        allowed = torch.cuda.memory_reserved() + memory_gib * GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    elif sys.platform == "linux":
        _limit_address_space(memory_gib)
    else:
        raise InputError("executor.memory_gib", "", "null where there is neither Linux nor CUDA", f"{memory_gib:g}")


def _limit_address_space(memory_gib: float) -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    allowed = in_use + int(memory_gib * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (allowed if most == resource.RLIM_INFINITY else min(allowed, most), most))


def end_with_parent() -> None:
    """End when the parent does, however it ends: nobody else would stop a job that goes on.

    The parent's sentinel is a pipe that it holds open. A thread waits for the pipe's end; on Linux the kernel sends
    SIGIO as well, whose default is to end the process, because a C function that keeps the interpreter's lock would
    keep the thread from running.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("a worker has a parent")
    if sys.platform == "linux":
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, os.O_ASYNC)
    Thread(target=_follow, args=(parent.sentinel,), name="follow-parent", daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def reply(action: Callable[[], Outcome[Any]]) -> bytes:
    """What came of `action`, pickled: an outcome, or the error it ended in; `outcome` reads it."""
    try:
        return pickle.dumps(action())
    except BaseException as error:  # also SystemExit, which would end the worker without a word
        return pickle.dumps(_portable(error))


def outcome(replied: bytes) -> Outcome[Any]:
    """What a `reply` says.

    Raises:
        Exception: The error in it.
    """
    answer = pickle.loads(replied)
    if isinstance(answer, Outcome):
        return answer
    raise answer


def _portable(error: BaseException) -> Exception:
    """The error with the worker's traceback as a note, as something that survives the way to the parent."""
    note = IN_WORKER + "".join(traceback.format_exception(error))
    if not any(each.startswith(IN_WORKER) for each in getattr(error, "__notes__", ())):  # it may have come further
        error.add_note(note)
    try:
        if isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # whatever its own pickling raises, it cannot travel as itself
        pass
    stand_in = RuntimeError(f"{type(error).__name__}: {error}")
    stand_in.add_note(note)
    return stand_in
