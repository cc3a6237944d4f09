"""The protocol of a sandbox (a job goes in, an outcome always comes out), jobs in this process, and worker processes.

This is a sandbox for resources (seconds, memory, a crash), not for hostile code: a tool file is code that
its user has chosen to run.
"""

import fcntl
import gc
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from arc_seal.errors import ExecutorClosed, InputError, JobFailure, Status, one_line
from arc_seal.inner_loop.job import (
    AdaptJob,
    ExamineJob,
    FinetuneJob,
    Job,
    LookJob,
    Progress,
    Report,
    ScoreJob,
    WriteJob,
)
from arc_seal.models.weights import ChatSource, GridSource, ModelSource
from arc_seal.settings import Settings, first_fault

if TYPE_CHECKING:
    from arc_seal.models.model import Model

R = TypeVar("R")

GIB = 1 << 30

BARRIER_SPINS = "1000"
"""How often a thread looks before it sleeps at a barrier of OpenMP's. GNU's own 300,000 keeps a core from whatever else
has work, and halves the speed beside it; 0 costs a fifth on an idle machine (benchmarks/README.md)."""

OUT_OF_MEMORY_MARKS = ("out of memory", "allocate memory", "alloc_failed", "bad_alloc")
"""What the messages of failed allocations have in common, in lower case: CUDA's and MPS's "out of memory", torch's
CPU allocator's "can't allocate memory", the C library's "Cannot allocate memory", cuBLAS's and cuDNN's
"..._STATUS_ALLOC_FAILED", C++'s "std::bad_alloc"."""


class Limits(Settings, strict=True, allow_inf_nan=True):
    """conf/executor/inline.yaml; each setting is described there."""

    timeout_s: float = Field(default=600.0, gt=0)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """An executor's settings; an `InputError` when one is unknown or out of bounds."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            place, expected, found = first_fault(error)
            raise InputError(f"executor.{place}", "", expected, found) from None


class ProcessSettings(Limits):
    """conf/executor/process.yaml; each setting is described there."""

    workers: int = Field(default=1, ge=1)
    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    threads: int | None = Field(default=None, ge=1)
    load_timeout_s: float = Field(default=1800.0, gt=0)


class StackedSettings(ProcessSettings):
    """conf/executor/stacked.yaml; each setting is described there."""

    tokens: int | None = Field(default=None, ge=1)
    max_padding: float = Field(default=0.25, ge=0, lt=1)
    length_bucket: int = Field(default=1, ge=1)


class RaySettings(ProcessSettings):
    """conf/executor/ray.yaml; each setting is described there."""

    address: str | None = None
    stacked: int = Field(default=1, ge=1)
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    place_timeout_s: float = Field(default=300.0, gt=0)
    retries: int = Field(default=3, ge=0)

    @field_validator("address", "num_cpus", "num_gpus")
    @classmethod
    def _is_known_to_ray(cls, value: Any) -> Any:
        match value:
            case str() if not value or value.startswith("ray://"):
                expected = "auto, HOST:PORT of a cluster's head, or null for a cluster on this machine"
            case float() if value and not 0.0001 <= value <= 1 and not (value > 1 and value.is_integer()):
                expected = "0, a part of 1, or a whole number"
            case _:
                return value
        raise PydanticCustomError("unknown_to_ray", expected)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """How a job ended."""

    status: Status  # `OK`, or why there is no result
    result: R | None  # what the job made; None unless the status is `OK`
    message: str  # one line for people on a failure, else empty
    seconds: float  # wall time the job took


class Executor(Protocol):
    """Runs jobs on models that stay loaded, up to `workers` of them at the same time.

    `run` may be called from any number of threads; a job waits until a worker is free, so use one thread a worker.
    """

    workers: int
    """How many jobs run at the same time."""

    def start(self) -> None:
        """Begin to load the models, in the background where there is one."""

    def run(self, job: Job[R], report: Report, timeout_s: float | None = None) -> Outcome[R]:
        """Run a job to its outcome. A failed job is an outcome; a programming error is raised.

        Args:
            job: What to run.
            report: Called in this thread with what the job reports.
            timeout_s: Wall seconds of this job, loading the model left out; None for the executor's own `timeout_s`.

        Raises:
            InputError: When the model, or something the job reads, is not as it must be.
            ExecutorClosed: When the executor was closed before there was an outcome, or before the call.
            Exception: What else the job raises that is not its failure, with another process's traceback in a note.
        """

    def close(self) -> None:
        """End the workers, for good, whatever they are doing; from any thread.

        Threads that are in `run` come back from it: close the executor first, and wait for the threads after that.
        """


class InlineExecutor:
    """Runs jobs in this process: nothing to start, easy to step through, and only as safe as that.

    Memory is not limited, and a job is stopped at its deadline only when it next reports progress: one that hangs hangs
    the process. `process.py` enforces both.
    """

    workers = 1

    def __init__(self, source: ModelSource, limits: Limits) -> None:
        self._source, self._limits = source, limits
        self._model: Model | None = None
        self._turn, self._closed = threading.Lock(), False

    @classmethod
    def from_settings(cls, source: ModelSource, **settings: Any) -> Self:
        """Make one from the settings of conf/executor/inline.yaml; an `InputError` says which one is wrong."""
        return cls(source, Limits.checked(settings))

    def start(self) -> None:
        """Nothing to begin early: loading in this process would keep it from anything else. `run` loads."""

    def load(self) -> "Model":
        """The model, loaded if it is not yet."""
        if self._closed:
            raise ExecutorClosed
        if self._model is None:
            self._model = load_model(self._source)
        return self._model

    def run(self, job: Job[R], report: Report, timeout_s: float | None = None) -> Outcome[R]:
        """Run a job to its outcome, loading the model first if need be; see `Executor.run`."""
        limit_s = self._limits.timeout_s if timeout_s is None else timeout_s

        def report_in_time(progress: Progress) -> None:
            report(progress)
            if self._closed:
                raise ExecutorClosed
            if time.perf_counter() > deadline:
                raise TimeIsUp(limit_s)

        with self._turn:
            waiting = self._model is None
            if waiting:
                report(Progress("load", 0, 1))
            loading = attempt(self.load)
            if loading.result is None:
                return failed_loading(loading)
            if waiting:
                report(Progress("load", 1, 1))
            deadline = time.perf_counter() + limit_s
            return attempt(carry_out, job, loading.result, report_in_time)

    def close(self) -> None:
        """Let the model go. A job that another thread is at ends when it next reports progress."""
        self._closed, self._model = True, None


class TimeIsUp(JobFailure):
    """A job was stopped at its deadline."""

    status = Status.TIMEOUT

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"not done within {timeout_s:g} s")


def load_model(source: ModelSource) -> "Model":
    """Load a model; torch is imported only for arc-seal's own kinds of source."""
    match source:
        case ChatSource() | GridSource():
            from arc_seal.models.model import load

            return load(source)
        case _:
            return source.load()


def load_for_good(source: bytes) -> "Model":
    """Load a pickled source's model for as long as the process lives.

    Torch's and transformers' modules are hundreds of thousands of objects that stay. To look through them for garbage,
    while they come and ever again later, would cost a quarter of the time that loading takes.
    """
    gc.disable()
    try:
        return load_model(pickle.loads(source))
    finally:
        gc.freeze()
        gc.enable()


def carry_out(job: Job[R], model: "Model", report: Report) -> R:
    """Do a job's work on a loaded model."""
    done: Any
    match job:
        case AdaptJob() | ExamineJob():
            from arc_seal.inner_loop.adapt import adapt, examine

            done = adapt(job, model, report) if isinstance(job, AdaptJob) else examine(job, model, report)
        case ScoreJob():
            from arc_seal.inner_loop.adapt import score_known

            done = score_known(job, model)
        case LookJob():
            from arc_seal.inner_loop.policy import difficulty

            done = difficulty(job.task, model)
        case WriteJob() | FinetuneJob():
            from arc_seal.inner_loop.policy import finetune, write

            done = write(job, model, report) if isinstance(job, WriteJob) else finetune(job, model, report)
        case _:
            done = job.run(model, report)
    return cast(R, done)


def attempt(action: Callable[..., R], *arguments: Any) -> Outcome[R]:
    """Call `action` and say how it ended; an error that is not a job's failure is raised."""
    started = time.perf_counter()
    try:
        result = action(*arguments)
    except BaseException as error:
        status = failure_status(error)
        if status is None:
            raise
        return Outcome(status, None, one_line(error), time.perf_counter() - started)
    return Outcome(Status.OK, result, "", time.perf_counter() - started)


def failure_status(error: BaseException) -> Status | None:
    """How a job that raised `error` is recorded; None when the error is not a job's failure.

    What is no `Exception`, such as a tool's `sys.exit`, is the job's death. But a KeyboardInterrupt in a main thread
    that hears of Ctrl-C, as a worker's does not, may be the user's.

    Torch has no exception of its own for a CPU out of memory, and importing torch to ask for its CUDA one would
    cost seconds: failed allocations are known by their messages.
    """
    if isinstance(error, JobFailure):
        return error.status
    if not isinstance(error, Exception):
        hears = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT)
        return None if isinstance(error, KeyboardInterrupt) and hears not in (False, signal.SIG_IGN) else Status.DIED
    marked = any(mark in str(error).lower() for mark in OUT_OF_MEMORY_MARKS)
    if isinstance(error, MemoryError) or (marked and isinstance(error, RuntimeError | OSError | ImportError)):
        return Status.OUT_OF_MEMORY
    return None


def failed_loading(outcome: Outcome[Any]) -> Outcome[Any]:
    """The outcome of a job whose model could not be loaded."""
    return replace(outcome, message=f"while loading the model: {outcome.message}")


def serve(pipe: Connection, output: Connection, source: bytes, settings: ProcessSettings) -> None:
    """What a worker process does: load the model, then run one pickled job after another, until its parent ends it.

    Into `pipe` go `(number of the job, Progress)` and, as what came of the model and of each job, a pickled `Outcome`
    or exception: pickled here, so that what cannot be pickled is an error with a traceback at the place that made it.
    Into `output` goes what is printed, by whichever process that a job starts.
    """
    become_worker(output)
    sending, model, worker = threading.Lock(), None, os.getpid()

    def send(message: bytes | tuple[int, Progress]) -> None:
        if os.getpid() != worker:
            os._exit(0)  # a job has forked: the answer is the worker's to give
        with sending:  # a thread that a job has left behind may report too
            pipe.send(message)

    def load() -> None:
        nonlocal model
        model = load_for_good(source)
        apply_limits(settings)

    def run(number: int, job: bytes) -> Outcome[Any]:
        return attempt(carry_out, pickle.loads(job), model, lambda progress: send((number, progress)))

    with suppress(EOFError, OSError):  # the parent is gone
        send(answered(attempt, load))
        for number in count(1):
            send(answered(run, number, pipe.recv_bytes()))


def become_worker(output: Connection) -> None:
    """Have this process end with its parent, hear no Ctrl-C, and print into `output`."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", BARRIER_SPINS)  # before torch loads OpenMP
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it, and ends this process
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setpgid(0, 0)  # it and what its jobs start are ended together
    for standard, own in enumerate((os.open(os.devnull, os.O_RDONLY), output.fileno(), output.fileno())):
        os.dup2(own, standard)
    sys.stdout = sys.stderr  # which keeps no line back
    end_with_parent()


def answered(action: Callable[..., Outcome[Any]], *arguments: Any) -> bytes:
    """The outcome of an action, or what it raised, pickled."""
    try:
        return pickle.dumps(action(*arguments))
    except Exception as error:
        return pickle.dumps(_portable(error))


def apply_limits(settings: ProcessSettings) -> None:
    """Limit torch's threads to this worker's share, and allow `memory_gib` more than what the loaded model uses.

    A limit on all of the address space would be hard to set: torch maps gigabytes of libraries and reserves of
    which it touches little. What a job adds to it is what the job allocates.
    """
    torch = sys.modules.get("torch")  # there if the model needs it; a sandbox does not import torch itself
    if torch is not None and (settings.threads or settings.workers > 1):  # torch's default: one for each physical core
        torch.set_num_threads(settings.threads or max(1, torch.get_num_threads() // settings.workers))
    if settings.memory_gib is None:
        return
    if torch is not None and torch.cuda.is_initialized():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        allowed = torch.cuda.memory_reserved() + settings.memory_gib * GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    elif sys.platform == "linux":
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        allowed = in_use + int(settings.memory_gib * GIB)
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(
            resource.RLIMIT_AS, (allowed if most == resource.RLIM_INFINITY else min(allowed, most), most)
        )
    else:
        found = f"{settings.memory_gib:g}"
        raise InputError("executor.memory_gib", "", "null where there is neither Linux nor CUDA", found)


def end_with_parent() -> None:
    """End the process group when the parent ends, however it does: nobody else would stop a job that goes on.

    The parent's sentinel is a pipe that it holds open. A thread waits for the pipe's end; on Linux the kernel sends
    SIGIO as well, whose default is to end the process, because a C function that keeps the interpreter's lock would
    keep the thread from running.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("a worker has a parent")
    if sys.platform == "linux":
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, -os.getpid())  # to all of its group
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, os.O_ASYNC)

    def follow() -> None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()


def _portable(error: BaseException) -> Exception:
    """The error, or its text where it cannot be pickled and unpickled, with its traceback as a note."""
    note = "in the worker:\n" + "".join(traceback.format_exception(error))
    try:
        travels = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # whatever its own pickling raises
        travels = False
    portable = error if travels and isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
    portable.add_note(note)
    return portable
