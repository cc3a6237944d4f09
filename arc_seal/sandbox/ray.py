"""Jobs on a Ray cluster: each worker is an actor that holds a process executor.

Timeouts, memory and deaths of a job are the process executor's affair, on whichever node, and come back as the same
outcomes as without Ray; they are never tried again. What is lost with an actor or its node is no fault of the job's:
the job is sent again, to another actor. Loads Ray when it is first used.
"""

import importlib.util
import pickle
import time
from typing import TYPE_CHECKING, Any, Self

from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Report
from arc_seal.models.base import ModelSource
from arc_seal.sandbox import worker
from arc_seal.sandbox.base import Job, Limits, Outcome, R
from arc_seal.sandbox.inline import limits_from_settings, one_line, positive, whole
from arc_seal.sandbox.process import threads_from_settings
from arc_seal.sandbox.ray_actor import ActorSettings
from arc_seal.sandbox.ray_roster import Placement, Roster

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class RayExecutor:
    """Runs jobs on the workers of a Ray cluster, under limits that are enforced.

    Args:
        source: Where the model comes from; each worker loads it once.
        limits: As a `ProcessExecutor`'s.
        placement: Where the workers are to be.
        threads: Threads of a torch operation in a worker; None for torch's default, which Ray sets to `num_cpus`.
        load_timeout_s: Wall seconds that loading the model may take, a first download and conversion included.
        retries: How often a job is sent again that was lost with its worker. One that was lost oftener has died: it may
            be what takes the machines down.
    """

    def __init__(
        self,
        source: ModelSource,
        limits: Limits,
        placement: Placement,
        *,
        threads: int | None = None,
        load_timeout_s: float = 1800.0,
        retries: int = 3,
    ) -> None:
        settings = ActorSettings(pickle.dumps(source), limits, threads, load_timeout_s, placement.num_gpus > 0)
        self._workers, self._retries = placement.workers, retries
        self._roster = Roster(placement, settings)

    @classmethod
    def from_settings(
        cls,
        source: ModelSource,
        *,
        address: str | None,
        workers: int,
        num_cpus: float,
        num_gpus: float,
        timeout_s: float,
        memory_gib: float | None,
        threads: int | None,
        load_timeout_s: float,
        place_timeout_s: float,
        retries: int,
    ) -> Self:
        """Make one from the settings of conf/executor/ray.yaml.

        Raises:
            InputError: When a setting is out of bounds, or Ray is not installed.
        """
        placement = Placement(
            address=_address(address),
            workers=whole("executor.workers", workers, 1),
            num_cpus=_share("executor.num_cpus", num_cpus),
            num_gpus=_share("executor.num_gpus", num_gpus),
            timeout_s=positive("executor.place_timeout_s", place_timeout_s, "seconds above 0"),
        )
        limits = limits_from_settings(timeout_s, memory_gib)
        threads = threads_from_settings(threads)
        load_timeout_s = positive("executor.load_timeout_s", load_timeout_s, "seconds above 0")
        retries = whole("executor.retries", retries, 0)
        require_ray()
        return cls(source, limits, placement, threads=threads, load_timeout_s=load_timeout_s, retries=retries)

    @property
    def workers(self) -> int:
        """How many jobs run at the same time, where the cluster has room for as many workers."""
        return self._workers

    def start(self) -> None:
        """Have the cluster entered, the workers placed and their models loaded, all in the background."""
        self._roster.start(ahead=True)

    def run(self, job: Job[R], report: Report) -> Outcome[R]:
        """Run a job to its outcome. `report` is called in this thread; after a loss, progress begins again.

        Raises:
            InputError: When the model, or something the job reads, is not as it must be; when the cluster cannot be
                reached or has no room for a worker.
            ExecutorClosed: When the executor was closed before there was an outcome.
            Exception: Whatever else the job raises that is not a job's failure, the worker's traceback in a note.
        """
        started, payload, losses, idle_losses = time.perf_counter(), pickle.dumps(job), 0, 0
        self._roster.start(ahead=False)
        while True:
            actor = self._roster.take()
            try:
                replied = _send(actor, payload, report)
            except _Lost as loss:
                self._roster.drop(actor)
                losses, idle_losses = losses + loss.begun, idle_losses + (not loss.begun)
                if losses > self._retries or idle_losses > self._retries + self._workers:
                    message = f"lost with its worker {losses + idle_losses} times: {loss}"
                    return Outcome(Status.DIED, None, message, time.perf_counter() - started)
            except BaseException:  # an interrupt too: the job may go on, and its worker ends with it
                self._roster.drop(actor)
                raise
            else:
                self._roster.give(actor)
                return worker.outcome(replied)

    def close(self) -> None:
        """End the workers, whatever they are doing, and a cluster that was started for them.

        On another cluster the workers are told to end, which they do a moment later.
        """
        self._roster.close()


class _Lost(Exception):
    """An actor was lost: its process, its node or the way to it.

    Attributes:
        begun: Whether the job had begun; else the actor was lost before, and nobody had noticed.
    """

    def __init__(self, begun: bool, error: Exception) -> None:
        super().__init__(one_line(error))
        self.begun = begun


def require_ray() -> None:
    """Check that Ray is installed, without loading it.

    Raises:
        InputError: When it is not.
    """
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:  # some folder named ray has no origin
        raise InputError("executor", "", "Ray (pip install 'arc-seal[ray]')", "no package named ray")


def _send(actor: "ActorHandle", job: bytes, report: Report) -> bytes:
    """Have an actor run a job; returns its reply."""
    import ray

    begun = False
    try:
        for message in actor.run.options(num_returns="streaming").remote(job):
            said = ray.get(message)
            begun = True
            if isinstance(said, bytes):
                return said
            for progress in said:
                report(progress)
    except ray.exceptions.RayTaskError:  # a fault of ours in the actor's own code
        raise
    except ray.exceptions.RayError as error:
        raise _Lost(begun, error) from error
    raise RuntimeError("an actor came to an end without a reply")


def _address(address: Any) -> str | None:
    if address is None or (isinstance(address, str) and address and not address.startswith("ray://")):
        return address
    expected = "auto, HOST:PORT of a cluster's head, or null for a cluster on this machine"
    raise InputError("executor.address", "", expected, repr(address))


def _share(setting: str, value: Any) -> float:
    """Check CPUs or GPUs of one worker; Ray counts parts of one in ten-thousandths."""
    whole_or_part = isinstance(value, int | float) and not isinstance(value, bool) and (value == 0 or value >= 0.0001)
    if not whole_or_part or (value > 1 and value != int(value)):
        raise InputError(setting, "", "0, a part of 1, or a whole number", repr(value))
    return float(value)
