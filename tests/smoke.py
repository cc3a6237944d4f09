"""A run of the commands on a tiny network that really samples and really learns: what its tests share."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arc_seal.errors import InputError
from arc_seal.outer_loop.ledger import Ledger, Policy
from arc_seal.outer_loop.rollout import Rollout
from tests.outer_loop.fakes import untimed

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
        rollouts: Every self-edit and what came of it.
        policies: What was trained on which.
        files: The policies' files, by their places.
    """

    rollouts: Sequence[Rollout]
    policies: Sequence[Policy]
    files: dict[str, bytes]


def rows(place: Path) -> list[Rollout | Policy]:
    """Everything that is finished and recorded of the run in this folder, so far."""
    try:
        with Ledger.read_only(place / "ledger.sqlite") as ledger:
            return [*ledger.rollouts("train"), *ledger.policies("train")]
    except InputError:  # it is not there yet
        return []


def events(place: Path) -> int:
    """How often something of the run was recorded, so far: a proposal, what came of it, a policy."""
    try:
        with Ledger.read_only(place / "ledger.sqlite") as ledger:
            return len(ledger.rollouts("train", finished=None)) + len(rows(place))
    except InputError:  # it is not there yet
        return 0


def kept(place: Path) -> Kept:
    """What the run in this folder keeps."""
    found = rows(place)
    rollouts = untimed([row for row in found if isinstance(row, Rollout)])
    policies = [row for row in found if isinstance(row, Policy)]
    return Kept(
        rollouts=[row.model_copy(update={"git_commit": None}) for row in rollouts],
        policies=[row.model_copy(update={"seconds": 0.0, "finished_at": ""}) for row in policies],
        files={str(path.relative_to(place)): _content(path) for path in sorted((place / "policies").rglob("*"))},
    )


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def wait(process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    """Wait for a moment in the life of a process."""
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.05)
