"""The actors of `ray.py` as the command sees them: made, waited for, replaced when they are lost, ended.

One thread does all of that, from the connection to the cluster to its end. The kernel ends a cluster that was started
on this machine together with the thread that started it, so that must be one that stays.
"""

import atexit
import logging
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arc_seal.errors import ExecutorClosed, InputError
from arc_seal.sandbox.inline import one_line
from arc_seal.sandbox.ray_actor import ActorSettings, JobActor

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

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
