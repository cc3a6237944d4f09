"""Models, sources and jobs for the sandbox's tests, in a module that a spawned worker can import."""

import ctypes
import gc
import importlib
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arc_seal.errors import Diverged, ModelError
from arc_seal.inner_loop.job import Progress, Report

GIB = 1 << 30


@dataclass(frozen=True)
class FakeSource:
    """A source of a model that is only a name, counting its loads as lines of a file.

    Attributes:
        log: The file.
        imports: A module that the model needs.
    """

    log: Path
    imports: str = "json"

    def load(self) -> Any:
        importlib.import_module(self.imports)
        with self.log.open("a") as log:
            log.write(f"{os.getpid()}\n")
        return "fake model"


@dataclass(frozen=True)
class BadSource:
    """A source whose loading goes wrong in a way of choice."""

    load_instead: Callable[[], Any]

    def load(self) -> Any:
        return self.load_instead()


def missing_model() -> None:
    raise ModelError("models/none", "config.json", "a file", "nothing")


def greedy_model() -> None:
    raise MemoryError("cannot hold the weights")


@dataclass(frozen=True)
class Echo:
    """Reports some steps, then returns its value, the model and the process it ran in."""

    value: str
    steps: int = 0

    def run(self, model: Any, report: Report) -> tuple[str, Any, int]:
        for step in range(self.steps):
            report(Progress("train", step, self.steps, loss=1.0 / (step + 1)))
        return self.value, model, os.getpid()


@dataclass(frozen=True)
class Call:
    """Reports the process it runs in, then calls a function of this module."""

    function: Callable[[], Any]

    def run(self, model: Any, report: Report) -> Any:
        report(Progress("predict", os.getpid(), 1 << 62))
        return self.function()


@dataclass(frozen=True)
class Steps:
    """Reports a step every hundredth of a second, for ever or for some seconds."""

    seconds: float = float("inf")

    def run(self, model: Any, report: Report) -> None:
        step, end = 0, time.monotonic() + self.seconds
        while time.monotonic() < end:
            report(Progress("train", step, 1 << 62))
            step += 1
            time.sleep(0.01)


@dataclass(frozen=True)
class Meet:
    """Waits until as many jobs are there as are to meet; returns whether they were, and when it began and ended.

    Attributes:
        folder: Where each leaves a file of its name.
        name: This one's.
        count: How many are to meet.
    """

    folder: Path
    name: str
    count: int

    def run(self, model: Any, report: Report) -> tuple[bool, float, float]:
        begun = time.monotonic()
        (self.folder / self.name).touch()
        met = wait_for(lambda: len(list(self.folder.iterdir())) >= self.count, 60)
        time.sleep(0.05)
        return met, begun, time.monotonic()


@dataclass(frozen=True)
class Waits:
    """Notes its name and process in a file, waits for a gate to open, then calls a function of this module.

    Attributes:
        log: The file.
        name: What to note.
        gate: A file; the gate is open when it is there.
        function: What to do then.
    """

    log: Path
    name: str
    gate: Path
    function: Callable[[], Any]

    def run(self, model: Any, report: Report) -> Any:
        with self.log.open("a") as log:
            log.write(f"{self.name} {os.getpid()}\n")
        wait_for(self.gate.exists, 120)
        return self.function()


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@dataclass(frozen=True)
class StepsThenDies:
    """Reports a thousand steps and is killed."""

    def run(self, model: Any, report: Report) -> None:
        for step in range(1000):
            report(Progress("train", step, 1000))
        kill_self()


@dataclass(frozen=True)
class LeavesThreadBehind:
    """Returns, while a thread of it goes on to report a hundred steps."""

    def run(self, model: Any, report: Report) -> str:
        def haunt() -> None:
            for step in range(100):
                report(Progress("train", step, 100))
                time.sleep(0.01)

        threading.Thread(target=haunt, daemon=True).start()
        return "left"


class Unpicklable:
    """A result that cannot travel."""

    def __reduce__(self) -> Any:
        raise TypeError("this cannot travel")


class Peculiar(Exception):
    """An error that can be pickled but not unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def nothing() -> None:
    pass


def hang() -> None:
    while True:
        pass


def hang_in_c() -> None:
    time.sleep(1e6)


def hang_with_the_lock() -> int:
    """Stay in one C function that keeps the interpreter's lock: no thread, no signal handler gets a turn."""
    return sum(range(1 << 60))


def allocate() -> int:
    return len(bytearray(50 * GIB))


def map_just_less_than_two_gib() -> int:
    with mmap.mmap(-1, 2 * GIB - GIB // 8) as memory:
        return len(memory)


def map_just_more_than_two_gib() -> int:
    with mmap.mmap(-1, 2 * GIB + GIB // 8) as memory:
        return len(memory)


def allocate_with_torch() -> None:
    import torch

    torch.empty(50 * GIB, dtype=torch.uint8).fill_(1)


def torch_is_there() -> bool:
    return "torch" in sys.modules


def garbage_collection() -> tuple[bool, bool]:
    """Whether garbage is collected, and whether what was loaded is left out of it."""
    return gc.isenabled(), gc.get_freeze_count() > 1000


def torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def exit_with_3() -> None:
    os._exit(3)


def exit_with_0() -> None:
    os._exit(0)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_parent() -> None:
    """Take the process down that started this one, and with it this one."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def segfault() -> None:
    ctypes.string_at(0)


def diverge() -> None:
    loss = float("inf") - float("inf")
    raise Diverged(f"the loss is {loss} at update 3\nand more that nobody asked for")


def programming_error() -> int:
    return 1 + "1"  # type: ignore[operator]


def peculiar_error() -> None:
    raise Peculiar(1, 2)


def leave() -> None:
    sys.exit(0)


def interrupt() -> None:
    raise KeyboardInterrupt


def prints_and_dies() -> None:
    print("first\nalmost\n\n\x1b[31mred\nlast")
    os._exit(3)


def prints_much() -> str:
    for _ in range(20):
        print("x" * (1 << 20))
        print("y" * (1 << 10), file=sys.stderr)
    os.system("echo raw; echo error >&2")
    return "printed"


def leaves_a_child_and_dies() -> None:
    if os.fork() == 0:
        time.sleep(60)
    os._exit(3)


def barrier_spins() -> str | None:
    return os.environ.get("GOMP_SPINCOUNT")


@dataclass(frozen=True)
class Forks:
    """Forks, and returns the worker's process and its own in both."""

    def run(self, model: Any, report: Report) -> tuple[int, int]:
        worker = os.getpid()
        if os.fork() != 0:
            time.sleep(0.1)  # the child answers first
        return worker, os.getpid()


@dataclass(frozen=True)
class HoldsSemaphore:
    """Makes a named semaphore, notes its name, and hangs with it."""

    name: Path

    def run(self, model: Any, report: Report) -> None:
        lock = multiprocessing.get_context("spawn").Lock()
        self.name.write_text(lock._semlock.name)  # type: ignore[attr-defined]
        report(Progress("predict", os.getpid(), 1 << 62))
        hang_in_c()


@dataclass(frozen=True)
class StartsProcesses:
    """Forks one process and starts another, notes their numbers, and calls a function of this module."""

    pids: Path
    then: Callable[[], Any]

    def run(self, model: Any, report: Report) -> Any:
        forked = os.fork() or hang_in_c()
        started = subprocess.Popen(["sleep", "600"])
        self.pids.write_text(f"{forked} {started.pid}")
        report(Progress("predict", os.getpid(), 1 << 62))
        return self.then()


def unpicklable() -> Unpicklable:
    return Unpicklable()


class Unreadable:
    """Something that can be sent, but not received."""

    def __reduce__(self) -> Any:
        return unreadable_input, ()


def unreadable_result() -> Unreadable:
    return Unreadable()


def unreadable_input() -> None:
    raise ModelError("tools/mine.py", "line 3", "a function", "a hole")


def large_result() -> bytes:
    return b"x" * (8 << 20)
