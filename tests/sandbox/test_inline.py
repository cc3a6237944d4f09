"""What counts as a job's failure, and the inline executor's own ways."""

import errno
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arc_seal.errors import (
    Diverged,
    ExecutorClosed,
    GridError,
    InvalidSelfEdit,
    ModelError,
    OutOfMemory,
    OverBudget,
    Status,
    one_line,
)
from arc_seal.inner_loop.job import Progress
from arc_seal.sandbox.worker import InlineExecutor, Limits, failure_status
from tests.sandbox import jobs


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidSelfEdit("x"), Status.INVALID_SELF_EDIT),
        (OverBudget("x"), Status.OVER_BUDGET),
        (Diverged("x"), Status.DIVERGED),
        (OutOfMemory("x"), Status.OUT_OF_MEMORY),
        (MemoryError(), Status.OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), Status.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."), Status.OUT_OF_MEMORY),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), Status.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), Status.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), Status.OUT_OF_MEMORY),
        (RuntimeError("std::bad_alloc"), Status.OUT_OF_MEMORY),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), None),
        (ValueError("a word about out of memory"), None),
        (FileNotFoundError("tools/none.py"), None),
        (ModelError("a", "b", "c", "d"), None),
        (GridError("x"), None),
        (TypeError("x"), None),
    ],
)
def test_failures_are_told_from_errors(error: Exception, status: Status | None) -> None:
    assert failure_status(error) is status


def test_numpy_out_of_memory_is_known() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, dtype=np.uint8)
    assert failure_status(caught.value) is Status.OUT_OF_MEMORY


def test_a_job_shares_the_process_and_loads_on_first_use(tmp_path: Path) -> None:
    executor = InlineExecutor(jobs.FakeSource(tmp_path / "log"), Limits())
    executor.start()
    assert not (tmp_path / "log").exists()
    seen: list[Progress] = []
    outcome = executor.run(jobs.Echo("here"), seen.append)
    assert outcome.result == ("here", "fake model", os.getpid())


def test_a_job_that_would_end_the_process_has_died(tmp_path: Path) -> None:
    executor = InlineExecutor(jobs.FakeSource(tmp_path / "log"), Limits())
    outcome = executor.run(jobs.Call(jobs.leave), lambda progress: None)
    assert (outcome.status, outcome.message) == (Status.DIED, "SystemExit 0")
    with ThreadPoolExecutor(1) as threads:  # which never hears of Ctrl-C: the job has raised it
        outcome = threads.submit(executor.run, jobs.Call(jobs.interrupt), lambda progress: None).result()
    assert (outcome.status, outcome.message) == (Status.DIED, "KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):  # it may be the user's own
        executor.run(jobs.Call(jobs.interrupt), lambda progress: None)


def test_no_control_character_reaches_a_message() -> None:
    assert one_line(ValueError("\x1b[31mred\x07 \nsecond")) == "\ufffd[31mred\ufffd "
    assert len(one_line(ValueError("x" * (20 << 20)))) == 300


class Network:
    """A model that is an object, so that it can be seen to go."""


class NetworkSource:
    def __init__(self) -> None:
        self.models: list[weakref.ref[Network]] = []

    def load(self) -> Any:
        network = Network()
        self.models.append(weakref.ref(network))
        return network


def test_closing_lets_the_model_go() -> None:
    source = NetworkSource()
    executor = InlineExecutor(source, Limits())
    executor.load()
    assert source.models[0]() is not None
    executor.close()
    assert source.models[0]() is None
    with pytest.raises(ExecutorClosed):
        executor.load()
