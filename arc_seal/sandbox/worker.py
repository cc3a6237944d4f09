"""What runs in the worker process of `process.py`: an inline executor, under limits, at the end of a pipe.

Jobs come and outcomes go as pickled bytes, so that an object that cannot be pickled is an error with a traceback
at the place that made it, rather than a fault in the pool's own threads.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any

from arc_seal.errors import InputError
from arc_seal.inner_loop.job import Progress
from arc_seal.sandbox.base import Limits, Outcome
from arc_seal.sandbox.inline import InlineExecutor, attempt

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
