"""A run's state on disk: there whole or not at all, so that a run killed at any moment goes on."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.optim import Optimizer

from arc_seal.errors import InputError
from arc_seal.pretraining.stream import Position
from arc_seal.whole_file import UNFINISHED, write_whole

LATEST = "checkpoint.pt"
"""Where a run goes on."""

STABLE = "stable.pt"
"""The state before the learning rate began to fall: where a run goes on that is to be longer than it was."""

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a run is.

    Attributes:
        step: Updates done.
        tokens: Tokens read, padding left out.
        seconds: Time spent on training, over all runs of the command.
        position: What of the stream comes next.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    position: Position = field(default_factory=Position)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have a run's folder for oneself, for two processes with one run would spoil each other's files.

    What a killed process has left half-written is removed.

    Raises:
        InputError: When another process has it, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise InputError(str(folder), "", "a folder that can be written to", error.strerror or str(error)) from error
    with lock:
        try:
            # A lock of this process alone: worker processes, which may outlive it by seconds, do not share it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(str(folder), "", "a run that nobody else works on", "a process that does") from error
        for left in folder.glob(f"*{UNFINISHED}"):
            left.unlink()
        yield


def save(
    path: Path, network: nn.Module, optimizers: tuple[Optimizer, ...], clock: Clock, identity: Mapping[str, Any]
) -> None:
    """Write a checkpoint.

    Args:
        path: The file.
        network: Its weights are kept, and
        optimizers: their states. Nothing in training draws random numbers but the stream, whose place `clock` has.
        clock: How far the run is.
        identity: The settings that make the run what it is; a run with others does not go on from here.
    """
    state = {
        "network": network.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "clock": asdict(clock),
        "identity": dict(identity),
    }
    write_whole(path, lambda file: torch.save(state, file))


def restore(
    path: Path, network: nn.Module, optimizers: tuple[Optimizer, ...], identity: Mapping[str, Any]
) -> Clock | None:
    """Take up what `save` wrote; None when there is no such file.

    Raises:
        InputError: When the file cannot be read, or is another run's.
    """
    if not path.exists():
        return None
    state = _read(path)
    before = state["identity"]
    changed = next((name for name in {**before, **identity} if before.get(name) != identity.get(name)), None)
    if changed is not None:
        expected = f"{json.dumps(before.get(changed))}, as the run has it that goes on here (or another folder)"
        raise InputError("configuration", changed, expected, json.dumps(identity.get(changed)))
    network.load_state_dict(state["network"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    return _clock(state)


def read_clock(path: Path) -> Clock | None:
    """How far a run was when `save` wrote the file; None when there is no such file.

    Raises:
        InputError: When the file cannot be read.
    """
    return _clock(_read(path)) if path.exists() else None


class Log:
    """Rows of numbers as JSON lines, in the order of their steps.

    Args:
        path: The file.
        step: The last step that counts: rows of later ones, which a killed run has left, are taken out.

    Raises:
        InputError: When the file holds anything else.
    """

    def __init__(self, path: Path, step: int) -> None:
        rows = [line for number, line in enumerate(_whole_lines(path), 1) if _step(path, number, line) <= step]
        write_whole(path, lambda file: file.write("".join(rows).encode()))
        self._file = path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the file go."""
        self._file.close()

    def add(self, **row: Any) -> None:
        """Add a row; `step` is one of its values."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def _read(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU."""
    expected = "a checkpoint"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a torn or foreign file makes of unpickling
        raise InputError(str(path), "", expected, str(error).splitlines()[0] if str(error) else "none") from error
    if not isinstance(state, dict) or not {"network", "optimizers", "clock", "identity"} <= state.keys():
        raise InputError(str(path), "", expected, "something else")
    return state


def _clock(state: Mapping[str, Any]) -> Clock:
    clock = state["clock"]
    return Clock(clock["step"], clock["tokens"], clock["seconds"], Position(**clock["position"]))


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file, but for one that a killed process has not finished."""
    lines = path.read_text("utf-8", "replace").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _step(path: Path, number: int, line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(str(path), f"line {number}", "a row of a run's log", repr(line.strip()[:40])) from error
