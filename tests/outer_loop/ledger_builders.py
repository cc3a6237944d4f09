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
from arc_seal.inner_loop.job import Attempt
from arc_seal.outer_loop.ledger import Ledger, PolicyRow, ProposalRow, RolloutRow

PROCESSES = multiprocessing.get_context("forkserver")

PATIENCE_S = 240
"""More than a busy machine needs."""

SAMPLES = 3
"""Proposals for each of the tasks that `write_without_end` writes."""


def rollout(sample: int = 0, **changes: Any) -> RolloutRow:
    """A roll-out that went well; every sample's is another."""
    row: dict[str, Any] = {
        "run": "seal",
        "round": 0,
        "task": "0d3d703e",
        "sample": sample,
        "seed": 1000 + sample,
        "completion": f'{{"number": {sample}}}',
        "self_edit": f'{{"number":{sample}}}',
        "status": Status.OK,
        "message": "",
        "reward": sample % 2,
        "score": 0.5,
        "held_out": -1.25 - sample,
        "held_out_hits": 1,
        "attempts": ((Attempt(Grid.from_rows([[sample % 10, 1], [2, 3]]), 5, -0.5, 4.5),), ()),
        "losses": (2.5, 1.25, 0.5 / (sample + 1)),
        "tokens": 900,
        "updates": 3,
        "seconds": {"train": 1.5, "predict": 0.25},
        "same_as": None,
        "model": "grid",
        "versions": {"arc-seal": "0.1", "python": "3.11"},
        "git_commit": "0" * 40,
        "finished_at": "2025-01-01T00:00:00.000+00:00",
    }
    return RolloutRow(**{**row, **changes})


def proposal(sample: int = 0, **changes: Any) -> ProposalRow:
    """A proposal that can be tried."""
    row = {
        "run": "seal",
        "round": 0,
        "task": "0d3d703e",
        "sample": sample,
        "completion": "{ }",
        "self_edit": "{}",
        "status": Status.OK,
        "message": "",
        "seconds": 0.5 + sample,
    }
    return ProposalRow(**{**row, **changes})  # type: ignore[arg-type]


def policy(**changes: Any) -> PolicyRow:
    """A policy trained on two roll-outs."""
    row = {
        "run": "seal",
        "round": 0,
        "folder": "policies/0",
        "rows": (("seal", 0, "0d3d703e", 1), ("earlier", 2, "25ff71a9", 0)),
        "losses": (1.5, 0.5),
        "seconds": 12.5,
        "finished_at": "2025-01-01T00:00:00.000+00:00",
    }
    return PolicyRow(**{**row, **changes})  # type: ignore[arg-type]


def proposals_of(number: int) -> tuple[ProposalRow, ...]:
    """The proposals that `write_without_end` writes together."""
    return tuple(proposal(sample, task=f"task{number}") for sample in range(SAMPLES))


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
            if not ledger.proposals("seal", 0, f"task{number}"):
                ledger.record_proposals(proposals_of(number))
            ledger.record(rollout(number))
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
