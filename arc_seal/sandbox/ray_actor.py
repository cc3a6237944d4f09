"""What runs on the nodes of a Ray cluster for `ray.py`: a process executor behind an actor's methods.

The actor itself runs no job and loads no model, so a job cannot break it: when it is lost, the machine is at fault.
"""

import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

from arc_seal.inner_loop.job import Progress
from arc_seal.sandbox.base import Limits
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.worker import reply

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
