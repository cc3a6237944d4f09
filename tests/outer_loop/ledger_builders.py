"""Rows for a ledger, and processes that write one."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from arc_seal.arc.grid import Grid
from arc_seal.errors import Status
from arc_seal.inner_loop.job import Attempt, Examination, Result, TrainingRecord
from arc_seal.outer_loop.ledger import Ledger, Policy
from arc_seal.outer_loop.rollout import Rollout
from tests.self_edit.builders import edit

PROCESSES = multiprocessing.get_context("forkserver")

PATIENCE_S = 240
"""More than a busy machine needs."""

SAMPLES = 3
"""Proposals for each of the tasks that `write_without_end` writes."""


def rollout(sample: int = 0, **changes: Any) -> Rollout:
    """A roll-out that went well; every sample's is another. `held_out`, `attempts`, `losses` reach into its parts."""
    held_out = changes.pop("held_out", -1.25 - sample)
    attempts = changes.pop("attempts", ((Attempt(Grid.from_rows([[sample % 10, 1], [2, 3]]), 5, -0.5, 4.5),), ()))
    losses = changes.pop("losses", (2.5, 1.25, 0.5 / (sample + 1)))
    values: dict[str, Any] = {
        "run": "seal",
        "round": 0,
        "task": "0d3d703e",
        "sample": sample,
        "seed": 1000 + sample,
        "completion": f'{{"number": {sample}}}',
        "self_edit": edit(max_examples=16 + sample),
        "status": Status.OK,
        "message": "",
        "writing_s": 0.5,
        "examination": None if held_out is None else Examination(held_out, 2, 100, {"train": 0.5}),
        "result": Result(attempts, (), TrainingRecord(3, 0, 3, 900, 90, 0.0, losses), {"train": 1.5, "predict": 0.25}),
        "reward": sample % 2,
        "score": 0.5,
        "model": "grid",
        "versions": {"arc-seal": "0.1", "python": "3.11"},
        "git_commit": "0" * 40,
        "finished_at": "2025-01-01T00:00:00.000+00:00",
    }
    return Rollout(**{**values, **changes})


def proposal(sample: int = 0, **changes: Any) -> Rollout:
    """A roll-out that is yet to be tried."""
    untried = {"result": None, "held_out": None, "reward": None, "score": None, "finished_at": None}
    return rollout(sample, **{**untried, **changes})


def policy(**changes: Any) -> Policy:
    """A policy trained on two roll-outs."""
    row = {
        "run": "seal",
        "round": 0,
        "folder": "policies/0",
        "rollouts": (("seal", 0, "0d3d703e", 1), ("earlier", 2, "25ff71a9", 0)),
        "losses": (1.5, 0.5),
        "seconds": 12.5,
        "finished_at": "2025-01-01T00:00:00.000+00:00",
    }
    return Policy(**{**row, **changes})  # type: ignore[arg-type]


def proposals_of(number: int) -> list[Rollout]:
    """The proposals that `write_without_end` writes together."""
    return [proposal(sample, task=f"task{number}") for sample in range(SAMPLES)]


def hold(path: Path, ready: Connection) -> None:
    """Have a ledger open for writing until killed."""
    with Ledger.open(path):
        ready.send(0)
        signal.pause()


def write_without_end(path: Path, written: Connection) -> None:
    """Go on with a ledger's run until killed: send each number when its rows are recorded."""
    with Ledger.open(path) as ledger:
        ledger.begin("seal", {})
        number = len(ledger.rollouts())
        while True:
            if not ledger.rollouts("seal", 0, f"task{number}", finished=None):
                ledger.record(proposals_of(number))
            ledger.record([rollout(number)])
            written.send(number)
            number += 1


@contextmanager
def running(target: Any, path: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process at work on a ledger, and what it sends; it is killed in the end."""
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=target, args=(path, there))
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()


def received(connection: Connection) -> Iterator[int]:
    """What a process sends, until it is killed."""
    while True:
        assert connection.poll(PATIENCE_S), "it hangs"
        try:
            yield connection.recv()
        except EOFError:
            return
