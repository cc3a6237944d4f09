"""Jobs in this very process: nothing to start, easy to step through, and only as safe as that.

Failures are told apart here for every executor. The memory limit is not enforced, and a job is stopped at its
deadline only when it next reports progress: one that hangs hangs the process. `process.py` keeps both for real.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Self

from arc_seal.errors import ExecutorClosed, InputError, JobFailure, Status
from arc_seal.inner_loop.job import Progress, Report
from arc_seal.models.base import Model, ModelSource
from arc_seal.sandbox.base import Job, Limits, Outcome, R


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

    def load(self) -> Model:
        """The model, loaded if it is not yet.

        Raises:
            ModelError: When it cannot be found, read or used.
            ExecutorClosed: When the executor has been closed.
        """
        if self._closed:
            raise ExecutorClosed
        if self._model is None:
            self._model = self._source.load()
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
            return attempt(lambda: job.run(model, self._until_deadline(report)))

    def close(self) -> None:
        """Let the model go. A job that another thread is at ends when it next reports progress."""
        self._closed, self._model = True, None

    def _load(self, report: Report) -> Model:
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
