"""What runs on the nodes of a Ray cluster for `ray.py`: a process executor behind an actor's methods.

The actor itself runs no job and loads no model, so a job cannot break it: when it is lost, the machine is at fault.
"""

import atexit
import importlib.util
import logging
import math
import os
import pickle
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from arc_seal.errors import ExecutorClosed, InputError, Status
from arc_seal.inner_loop.job import Job, Progress, Report
from arc_seal.models.weights import ModelSource
from arc_seal.sandbox import worker
from arc_seal.sandbox.process import ProcessExecutor, threads_from_settings
from arc_seal.sandbox.worker import Limits, Outcome, R, limits_from_settings, one_line, positive, reply, whole

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

Message = tuple[Progress, ...] | bytes
"""What a job reported since the last message; or, last of all, the pickled reply."""


@dataclass(frozen=True, slots=True)
class ActorSettings:
    """What an actor is told when it is made.

    Attributes:
        source: The pickled model source.
        limits: What one job may use.
        threads: Threads of a torch operation; None for torch's default, which Ray sets to the actor's CPUs.
        load_timeout_s: Wall seconds that loading the model may take.
        sees_gpus: Whether the worker is to see the GPUs that Ray has given it, or else none at all.
    """

    source: bytes
    limits: Limits
    threads: int | None
    load_timeout_s: float
    sees_gpus: bool


class JobActor:
    """A worker on some node; its methods are called through Ray."""

    def __init__(self, settings: ActorSettings) -> None:
        _keep_ray_out_of_new_processes()
        if not settings.sees_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves them visible
        self._executor = ProcessExecutor(
            pickle.loads(settings.source),
            settings.limits,
            threads=settings.threads,
            load_timeout_s=settings.load_timeout_s,
        )

    def ready(self) -> None:
        """Come back once the actor is there."""

    def load(self) -> None:
        """Begin to load the model."""
        self._executor.start()

    def run(self, job: bytes) -> Iterator[Message]:
        """Run a pickled job. The first message says only that it has begun."""
        yield ()
        said: SimpleQueue[Progress | bytes] = SimpleQueue()
        Thread(
            target=lambda: said.put(reply(lambda: self._executor.run_pickled(job, said.put))), name="job", daemon=True
        ).start()
        while True:
            progress = []
            first = said.get()
            while isinstance(first, Progress):
                progress.append(first)
                if said.empty():
                    break
                first = said.get()
            yield tuple(progress)
            if isinstance(first, bytes):
                yield first
                return


def _keep_ray_out_of_new_processes() -> None:
    """Have no process that is spawned here run Ray's main module again: that would load Ray, for seconds."""
    main = sys.modules["__main__"]
    if hasattr(main, "__file__"):
        del main.__file__


# The actors of `ray.py` as the command sees them: made, waited for, replaced when they are lost, ended.
#
# One thread does all of that, from the connection to the cluster to its end. The kernel ends a cluster that was
# started
# on this machine together with the thread that started it, so that must be one that stays.

OBJECT_STORE_BYTES = 100 << 20
"""Shared memory of a cluster on this machine: jobs and results are small."""

POLL_S = 0.1
"""How late an actor that has got its place may be seen."""

ENTRY_S = 120.0
"""How long Ray may take to start or to enter a cluster; it never gives up on one that keeps silent."""

KNOCK_S = 10.0
"""How long the head of a cluster may take to accept a connection."""

FAREWELL_S = 10.0
"""How long threads may take to hear that their actors are gone."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the actors are to be.

    Attributes:
        address: A running cluster's address; None starts one on this machine.
        workers: How many actors.
        num_cpus: CPUs that Ray sets aside for each.
        num_gpus: GPUs that Ray sets aside for each.
        timeout_s: Wall seconds that the cluster may be without room for a single actor.
    """

    address: str | None
    workers: int
    num_cpus: float
    num_gpus: float
    timeout_s: float


class Roster:
    """Keeps as many actors as are wanted and the cluster has room for, and lends them out.

    Args:
        placement: Where they are to be.
        settings: What each is told.
    """

    def __init__(self, placement: Placement, settings: ActorSettings) -> None:
        self._placement, self._settings = placement, settings
        self._free: deque[ActorHandle] = deque()
        self._lent: set[ActorHandle] = set()
        self._coming: dict[ObjectRef, ActorHandle] = {}
        self._changed = threading.Condition()
        self._ahead = self._entered = self._closed = self._left = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, *, ahead: bool) -> None:
        """Begin to connect and to make the actors; does nothing when that is done.

        Args:
            ahead: Have the actors load their models before they are asked for anything.
        """
        with self._changed:
            if self._closed:
                raise ExecutorClosed
            self._ahead = self._ahead or ahead
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="ray-roster", daemon=True)
                self._thread.start()

    def take(self) -> "ActorHandle":
        """An actor that is free, when there is one; it is to be given back or dropped.

        Raises:
            InputError: When the cluster cannot be reached or has had no room for an actor for too long.
            ExecutorClosed: When the roster is closed.
        """
        with self._changed:
            self._wait(lambda: self._entered, ENTRY_S, lambda: _no_answer(self._placement, "none"))
            self._wait(lambda: bool(self._free), self._placement.timeout_s, lambda: _no_room(self._placement))
            actor = self._free.pop()  # the last one used has its model loaded
            self._lent.add(actor)
            return actor

    def give(self, actor: "ActorHandle") -> None:
        """Take an actor back."""
        with self._changed:
            self._lent.discard(actor)
            self._free.append(actor)
            self._changed.notify_all()

    def drop(self, actor: "ActorHandle") -> None:
        """End an actor that is lost or not to be trusted; another takes its place."""
        import ray

        with self._changed:
            if not self._left:
                ray.kill(actor)
            self._lent.discard(actor)
            self._changed.notify_all()

    def close(self) -> None:
        """End all actors, then the cluster or the connection that was made for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:  # where Ray does not come back, the process takes the thread with it
            self._thread.join(None if self._entered else FAREWELL_S)
        atexit.unregister(self.close)

    def _wait(self, condition: Callable[[], bool], timeout_s: float, complaint: Callable[[], InputError]) -> None:
        """Wait until a condition holds; the time that some actor is at work does not count."""
        deadline = time.monotonic() + timeout_s
        while self._closed or not condition():
            self._check()
            if self._lent:
                deadline = time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                raise complaint()
            self._changed.wait(1.0)

    def _check(self) -> None:
        if self._closed:
            raise ExecutorClosed
        if isinstance(self._error, InputError):
            raise self._error
        if self._error is not None:
            raise RuntimeError("Ray's workers could not be kept up") from self._error

    def _keep(self) -> None:
        """What the thread does."""
        try:
            owned = _connect(self._placement)
            atexit.register(self.close)  # before Ray's own, which knows nothing of this thread
            try:
                self._serve()
            finally:
                self._leave(owned)
        except Exception as error:  # raised in the threads that wait for an actor
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _serve(self) -> None:
        import ray

        make = ray.remote(num_cpus=self._placement.num_cpus, num_gpus=self._placement.num_gpus)(JobActor)
        with self._changed:
            self._entered = True
            self._changed.notify_all()
            while not self._closed:
                while len(self._free) + len(self._lent) + len(self._coming) < self._placement.workers:
                    actor = make.remote(self._settings)
                    self._coming[actor.ready.remote()] = actor
                self._welcome()
                self._changed.wait(POLL_S if self._coming else None)

    def _welcome(self) -> None:
        """Take in the actors that have got their place; one that was lost on the way is made again."""
        import ray

        waiting = list(self._coming)
        arrived, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
        for ready in arrived:
            actor = self._coming.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayActorError as error:
                if error.actor_init_failed:  # as every other would
                    raise
                continue
            if self._ahead:
                actor.load.remote()
            self._free.appendleft(actor)
            self._changed.notify_all()

    def _leave(self, owned: bool) -> None:
        """End all actors, wait until their jobs' threads have heard of it, and leave Ray if it was entered here."""
        import ray

        with self._changed:
            for actor in (*self._free, *self._lent, *self._coming.values()):
                ray.kill(actor)
            self._free.clear()
            self._coming.clear()
            self._changed.wait_for(lambda: not self._lent, FAREWELL_S)
            self._left = True
        if owned:
            ray.shutdown()


def _connect(placement: Placement) -> bool:
    """Enter the cluster. Returns whether it was done here: this process may be in one already, which is then used.

    Raises:
        InputError: When there is no such cluster, or one on this machine would have too few GPUs.
    """
    import ray

    if ray.is_initialized():
        return False
    if placement.address is not None:
        _knock(placement)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {
        "num_cpus": max(1, math.ceil(placement.workers * placement.num_cpus)),  # book-keeping, whatever the cores
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_system_config": {"worker_niceness": 0},  # else 15: on a busy machine jobs would miss their deadlines
    }
    try:
        ray.init(
            address=placement.address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **({} if placement.address else here),
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if placement.address is None:
            raise
        raise _no_answer(placement, one_line(error)) from error
    gpus = ray.cluster_resources().get("GPU", 0)
    if placement.address is None and placement.workers * placement.num_gpus > gpus:
        ray.shutdown()
        raise _no_room(placement, f"a machine with {gpus:g} GPUs for {placement.workers} workers")
    return True


def _knock(placement: Placement) -> None:
    """Try HOST:PORT first: Ray would try it for ever, in the middle of the terminal."""
    host, _, port = (placement.address or "").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
        except (OSError, OverflowError) as error:
            raise _no_answer(placement, one_line(error)) from error


def _no_answer(placement: Placement, found: str) -> InputError:
    return InputError(
        "executor.address", "", f"a Ray cluster that answers at {placement.address or 'this machine'}", found
    )


def _no_room(placement: Placement, found: str = "") -> InputError:
    import ray

    room = f"room for a worker with num_cpus={placement.num_cpus:g} and num_gpus={placement.num_gpus:g}"
    if not found:
        total = ray.cluster_resources()
        cluster = f"a cluster of {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
        found = f"none within {placement.timeout_s:g} s on {cluster}"
    return InputError("executor", "", room, found)


# Jobs on a Ray cluster: each worker is an actor that holds a process executor.
#
# Timeouts, memory and deaths of a job are the process executor's affair, on whichever node, and come back as the same
# outcomes as without Ray; they are never tried again. What is lost with an actor or its node is no fault of the
# job's:
# the job is sent again, to another actor. Loads Ray when it is first used.


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
