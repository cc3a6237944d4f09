"""The protocol of a sandbox: a job goes in, an outcome always comes out.

This is a sandbox for resources (seconds, memory, a crash), not for hostile code: a tool file is code that
its user has chosen to run.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from arc_seal.errors import Status
from arc_seal.inner_loop.job import Report

if TYPE_CHECKING:
    from arc_seal.models.base import Model

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[R_co]):
    """Work for a loaded model; picklable."""

    def run(self, model: "Model", report: Report) -> R_co:
        """Do the work, saying now and then how far it is."""
        ...


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
