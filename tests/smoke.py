"""A run of the commands on a tiny network that really samples and really learns: what its tests share."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arc_seal.errors import InputError
from arc_seal.outer_loop.ledger import Ledger, PolicyRow, ProposalRow, RolloutRow

ROOT = Path(__file__).parents[1]

PATIENCE_S = 600
"""More than a busy machine needs."""

SMOKE = ("-cd", str(ROOT / "tests" / "conf"), "experiment=smoke")

LABEL_FREE = (*SMOKE, "restem.reward=held_out_demo", "restem.margin=0", "restem.rounds=2")
"""A tiny network solves nothing, so the demonstrations reward it."""


TASKS = ("25ff71a9", "5582e5ca")
"""What it trains on; conf/experiment/smoke.yaml names them."""


def command(name: str, *argv: str) -> list[str]:
    """A command line; the commands keep what they do in runs/ where they are started."""
    return [sys.executable, "-u", "-m", f"arc_seal.{name}", *argv]


def environment() -> dict[str, str]:
    """One thread, for numbers to be the same in all processes."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def run(folder: Path, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder to its end."""
    return subprocess.run(
        command(name, *argv), capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder, env=environment()
    )


@dataclass(frozen=True)
class Finished:
    """A command that has ended.

    Attributes:
        place: The folder of what it keeps.
        process: How it ended and what it said.
        seconds: Wall time it took.
    """

    place: Path
    process: subprocess.CompletedProcess[str]
    seconds: float


@dataclass(frozen=True)
class Kept:
    """What a training run keeps, times aside, and the commit, which may be made while tests run.

    Attributes:
        proposals: Every self-edit before it was tried.
        rollouts: What came of them.
        policies: What was trained on which.
        files: The policies' files, by their places.
    """

    proposals: Sequence[ProposalRow]
    rollouts: Sequence[RolloutRow]
    policies: Sequence[PolicyRow]
    files: dict[str, bytes]


def rows(place: Path) -> list[ProposalRow | RolloutRow | PolicyRow]:
    """Everything that is recorded of the run in this folder, so far."""
    try:
        with Ledger.read_only(place / "ledger.sqlite") as ledger:
            proposals = [row for round in range(2) for task in TASKS for row in ledger.proposals("train", round, task)]
            policies = [row for row in (ledger.policy("train", round) for round in range(2)) if row is not None]
            return [*proposals, *ledger.rollouts("train"), *policies]
    except InputError:  # it is not there yet
        return []


def kept(place: Path) -> Kept:
    """What the run in this folder keeps."""
    found = rows(place)
    return Kept(
        proposals=[replace(row, seconds=0.0) for row in found if isinstance(row, ProposalRow)],
        rollouts=[
            replace(row, seconds={}, finished_at="", git_commit=None) for row in found if isinstance(row, RolloutRow)
        ],
        policies=[replace(row, seconds=0.0, finished_at="") for row in found if isinstance(row, PolicyRow)],
        files={str(path.relative_to(place)): _content(path) for path in sorted((place / "policies").rglob("*"))},
    )


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
