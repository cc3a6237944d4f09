"""Jobs on a Ray cluster: each worker is an actor on some node that holds an executor. Loads Ray when used.

That is a process executor, or a stacked one for several jobs side by side. Timeouts, memory and deaths of a job come
back from it and are never tried again. An actor runs no job itself, so a job cannot break it: when it is lost, its
machine is at fault; another is made, and the job goes to whichever is free. (Ray's own retries would keep the job with
the one actor, even where that finds no room any more.)
"""

import importlib.util
import logging
import math
import os
import pickle
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from arc_seal.errors import ExecutorClosed, InputError, Status, one_line
from arc_seal.inner_loop.job import Job, Progress, Report
from arc_seal.models.weights import ModelSource
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.stacked import StackedExecutor
from arc_seal.sandbox.worker import Outcome, ProcessSettings, R, RaySettings, StackedSettings

if TYPE_CHECKING:
    from ray.actor import ActorHandle

CONNECT_TIMEOUT_S, ENTRY_TIMEOUT_S, SHUTDOWN_TIMEOUT_S = 10.0, 120.0, 10.0
"""For a cluster's head to accept a connection; for Ray to start or enter a cluster, as it never gives up on one that
keeps silent; for threads to notice that their actors are gone."""


class RayExecutor:
    """Runs jobs on the workers of a Ray cluster, under limits that are enforced. Where it has less room, fewer work."""

    def __init__(self, source: ModelSource, settings: RaySettings) -> None:
        self._source, self._settings = pickle.dumps(source), settings
        self.workers = settings.workers * settings.stacked
        self._actors: set[ActorHandle] = set()
        # Once for each job that an actor is at, and for each that it has room for; the last one used is the last.
        self._busy: list[ActorHandle] = []
        self._free: list[ActorHandle] = []
        self._change, self._closed, self._load_ahead = threading.Condition(), False, False
        self._entry: Future[None] = Future()  # of the cluster
        self._thread = threading.Thread(target=self._stay, name="ray-cluster", daemon=True)

    @classmethod
    def from_settings(cls, source: ModelSource, **settings: Any) -> Self:
        """Make one from the settings of conf/executor/ray.yaml; an `InputError` says which is wrong, or Ray missing."""
        checked = RaySettings.checked(settings)
        if getattr(importlib.util.find_spec("ray"), "origin", None) is None:  # some folder named ray has no origin
            raise InputError("executor", "", "Ray (pip install 'arc-seal[ray]')", "no package named ray")
        return cls(source, checked)

    def start(self, load: bool = True) -> None:
        """Have the cluster entered and the workers placed, and their models loaded too, all in the background."""
        with self._change:
            if self._closed:
                raise ExecutorClosed
            self._load_ahead |= load
            if self._thread.ident is None:
                self._thread.start()

    def run(self, job: Job[R], report: Report, timeout_s: float | None = None) -> Outcome[R]:
        """Run a job to its outcome; see `Executor.run`. After a loss, progress begins again."""
        self.start(load=False)
        import ray

        started, payload, losses, idle_losses = time.perf_counter(), pickle.dumps(job), 0, 0
        while True:
            begun = False
            try:
                with self._actor() as actor:
                    for reference in actor.carry_out.options(num_returns="streaming").remote(payload, timeout_s):
                        match ray.get(reference):
                            case Outcome() as outcome:
                                return outcome
                            case Progress() as progress:
                                report(progress)
                        begun = True
            except ray.exceptions.RayTaskError as error:  # raised by the job
                raise error.cause from error
            except ray.exceptions.RayError as error:
                losses, idle_losses = losses + begun, idle_losses + (not begun)
                if getattr(error, "actor_init_failed", False) or idle_losses > self._settings.retries + self.workers:
                    raise  # an actor that was lost before says nothing about the job, but so many are no accident
                if losses > self._settings.retries and not self._closed:
                    message = f"lost with its worker {losses} times: {one_line(error)}"
                    return Outcome(Status.DIED, None, message, time.perf_counter() - started)

    def close(self) -> None:
        """End the workers, whatever they are doing (elsewhere a moment later), and a cluster started for them."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread.ident is not None:  # where Ray does not come back, the process takes the thread with it
            self._thread.join(None if self._entry.done() else SHUTDOWN_TIMEOUT_S)

    def _stay(self) -> None:
        """Enter the cluster, have the actors made, leave when closed: in one thread, with which the cluster ends."""
        import ray

        try:
            owned = _connect(self._settings)
            for _ in range(self._settings.workers):
                self._add_actor()
        except Exception as error:  # raised in the threads that wait for an actor
            self._entry.set_exception(error)
            return
        self._entry.set_result(None)
        with self._change:
            self._change.wait_for(lambda: self._closed)
            for actor in self._actors:
                ray.kill(actor)
            self._change.wait_for(lambda: not self._busy, SHUTDOWN_TIMEOUT_S)
        if owned:
            ray.shutdown()

    def _add_actor(self) -> None:
        """Have an actor made, wherever there is room and as soon as there is."""
        import ray

        place = {"num_cpus": self._settings.num_cpus, "num_gpus": self._settings.num_gpus}
        room = self._settings.stacked
        made, place = (StackActor, place | {"max_concurrency": room + 1}) if room > 1 else (JobActor, place)
        actor = ray.remote(**place)(made).remote(self._source, self._settings)
        self._actors.add(actor)
        placed = actor.start.remote() if self._load_ahead else actor.__ray_ready__.remote()

        def offer(ready: object) -> None:  # in Ray's thread: without the lock
            self._free[:0] = [actor] * room

        placed.future().add_done_callback(offer)

    @contextmanager
    def _actor(self) -> "Iterator[ActorHandle]":
        """An actor that has its place and is free, when there is one; after an error, another is made instead of it."""
        import ray

        started = waiting_since = time.monotonic()
        with self._change:
            while self._closed or not self._free:
                now, entered = time.monotonic(), self._entry.done()
                if self._closed:
                    raise ExecutorClosed
                if entered:
                    self._entry.result()  # raises what went wrong
                elif now > started + ENTRY_TIMEOUT_S:
                    raise _no_answer(self._settings, "none")
                if self._busy or not entered:  # a cluster with one actor at work has room
                    waiting_since = now
                elif now > waiting_since + self._settings.place_timeout_s:
                    total = ray.cluster_resources()
                    cluster = f"a cluster of {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
                    raise _no_room(self._settings, f"none within {self._settings.place_timeout_s:g} s on {cluster}")
                self._change.wait(0.1)  # the latest that an actor's arrival is seen
            actor = min(reversed(self._free), key=self._busy.count)
            self._free.remove(actor)
            self._busy.append(actor)
        keep = False
        try:
            yield actor
            keep = True
        except ray.exceptions.RayTaskError:  # the job's own, which others that the actor is at are not to suffer for
            keep = True
            raise
        finally:  # after an interrupt too: the job may go on, and its worker ends with it
            with self._change:
                self._busy.remove(actor)
                if keep and actor in self._actors:
                    self._free.append(actor)
                elif not self._closed and actor in self._actors:
                    ray.kill(actor)
                    self._actors.discard(actor)
                    while actor in self._free:
                        self._free.remove(actor)
                    self._add_actor()
                self._change.notify_all()


class JobActor(ProcessExecutor):
    """A worker on some node; its methods are called through Ray."""

    def __init__(self, source: bytes, settings: RaySettings) -> None:
        _settle(settings)
        super().__init__(pickle.loads(source), settings.model_copy(update={"workers": 1}))

    def carry_out(self, job: bytes, timeout_s: float | None) -> Iterator[Progress | Outcome[Any] | None]:
        """`stream` a pickled job, after a None that says that it has begun."""
        yield None
        yield from self.stream(job, timeout_s)


class StackActor(StackedExecutor):
    """A worker on some node that does several jobs side by side; its methods are called through Ray."""

    def __init__(self, source: bytes, settings: RaySettings) -> None:
        _settle(settings)
        shared = settings.model_dump(include=set(ProcessSettings.model_fields))
        super().__init__(pickle.loads(source), StackedSettings(**{**shared, "workers": settings.stacked}))

    def carry_out(self, job: bytes, timeout_s: float | None) -> Iterator[Progress | Outcome[Any] | None]:
        """As `JobActor` does, for as many jobs at the same time as are stacked."""
        yield None
        said: SimpleQueue[Progress | None] = SimpleQueue()
        with ThreadPoolExecutor(1) as thread:
            running: Future[Outcome[Any]] = thread.submit(self.run, pickle.loads(job), said.put, timeout_s)
            running.add_done_callback(lambda _: said.put(None))
            while (progress := said.get()) is not None:
                yield progress
        yield running.result()


def _settle(settings: RaySettings) -> None:
    """Make an actor's process one that worker processes can be spawned from, which see no GPU that is not theirs."""
    main = sys.modules["__main__"]
    if hasattr(main, "__file__"):  # a process spawned here would run Ray's main module again, which takes seconds
        del main.__file__
    if not settings.num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves them visible


def _connect(settings: RaySettings) -> bool:
    """Enter the cluster. Returns whether it was done here: this process may be in one already, which is then used."""
    import ray

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    where: dict[str, Any] = {"address": settings.address or "local"}
    if settings.address is None:
        where["num_cpus"] = max(1, math.ceil(settings.workers * settings.num_cpus))  # book-keeping, whatever the cores
        where |= {"object_store_memory": 100 << 20, "include_dashboard": False}  # jobs and results are small
        where["_system_config"] = {"worker_niceness": 0}  # else 15: on a busy machine jobs would miss their deadlines
    host, _, port = (settings.address or "").rpartition(":")
    try:
        if host and port.isdecimal():  # a head that is not there Ray would try for ever, in the middle of the terminal
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, OverflowError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise _no_answer(settings, one_line(error)) from error
    gpus = ray.cluster_resources().get("GPU", 0)
    if settings.address is None and settings.workers * settings.num_gpus > gpus:
        ray.shutdown()
        raise _no_room(settings, f"a machine with {gpus:g} GPUs for {settings.workers} workers")
    return True


def _no_answer(settings: RaySettings, found: str) -> InputError:
    at = settings.address or "this machine"
    return InputError("executor.address", "", f"a Ray cluster that answers at {at}", found)


def _no_room(settings: RaySettings, found: str) -> InputError:
    room = f"room for a worker with num_cpus={settings.num_cpus:g} and num_gpus={settings.num_gpus:g}"
    return InputError("executor", "", room, found)
