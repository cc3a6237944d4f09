"""What the ledger holds: its rows, and how each stands in the columns of a table."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from arc_seal.errors import Status
from arc_seal.inner_loop.job import Attempt

Key = tuple[str, int, str, int]
"""A roll-out's key: run, round, task, sample."""

_JSON = ConfigDict(ser_json_inf_nan="strings")
"""JSON knows no NaN, no infinities: they are written "NaN", "Infinity" and "-Infinity", and read as numbers again."""


@dataclass(frozen=True, slots=True)
class ProposalRow:
    """A self-edit before it is tried.

    Attributes:
        run: Name of the run.
        round: Round of the run, from 0.
        task: Id of the task.
        sample: Which of the task's samples in this round it is.
        completion: What the model wrote; None when it wrote nothing.
        self_edit: The self-edit's canonical text; None when there is none.
        status: `OK`, or why there is nothing to try.
        message: One line on a failure, else empty.
        seconds: Wall time of writing it.
    """

    run: str
    round: int
    task: str
    sample: int
    completion: str | None
    self_edit: str | None
    status: Status
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A self-edit and what came of it.

    Attributes:
        run: Name of the run.
        round: Round of the run, from 0.
        task: Id of the task.
        sample: Which of the task's samples in this round it is.
        seed: Seed of its inner loop.
        completion: What the model wrote; None when the self-edit was given or there is none.
        self_edit: The self-edit's canonical text; None when it was invalid or nothing is trained.
        status: How the job ended.
        message: One line on a failure, else empty.
        reward: 1 when every test output is right in either attempt, else 0; None without a solution.
        score: Share of the test outputs that an attempt gets right; None without a solution.
        held_out: Mean log-probability of the held-out demonstrations' outputs in nats, which may be minus infinity;
            None when none was held out.
        held_out_hits: How many of them were reproduced exactly; None when none was held out.
        attempts: For each query, at most two distinct answers, best first; none on a failure.
        losses: Mean loss of each update in nats a target token; of a job that diverged perhaps NaN or infinite.
        tokens: Tokens read in training, padding left out.
        updates: Optimiser steps.
        seconds: Wall time by stage.
        same_as: The sample of the same task whose recorded result this is, as both have one canonical self-edit; None
            when the job was run.
        model: Name of the model.
        versions: Versions of what can change a result.
        git_commit: See `provenance.git_commit`.
        finished_at: When it ended, ISO 8601 in UTC.
    """

    run: str
    round: int
    task: str
    sample: int
    seed: int
    completion: str | None
    self_edit: str | None
    status: Status
    message: str
    reward: int | None
    score: float | None
    held_out: float | None
    held_out_hits: int | None
    attempts: tuple[tuple[Attempt, ...], ...]
    losses: tuple[float, ...]
    tokens: int
    updates: int
    seconds: dict[str, float]
    same_as: int | None
    model: str
    versions: dict[str, str]
    git_commit: str | None
    finished_at: str

    __pydantic_config__ = _JSON


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy adapter that a round has ended in.

    Attributes:
        run: Name of the run.
        round: The round that trained it.
        folder: Name of the folder that the adapter is in, among the run's policies.
        rows: Keys of the roll-outs it was trained on, which may be another ledger's.
        losses: Mean loss of each update, nats a target token.
        seconds: Wall time of the training.
        finished_at: When it was done, ISO 8601 in UTC.
    """

    run: str
    round: int
    folder: str
    rows: tuple[Key, ...]
    losses: tuple[float, ...]
    seconds: float
    finished_at: str


Row = TypeVar("Row", ProposalRow, RolloutRow, PolicyRow)

TABLES: dict[type, str] = {ProposalRow: "proposals", RolloutRow: "rollouts", PolicyRow: "policies"}
"""The table that each kind of row is kept in."""


def key(kind: type) -> tuple[str, ...]:
    """The columns that tell the rows of a kind apart, and that they are ordered by."""
    return ("run", "round") if kind is PolicyRow else ("run", "round", "task", "sample")


def to_columns(row: ProposalRow | RolloutRow | PolicyRow) -> dict[str, str | int | float | None]:
    """A row as the columns of its table; `from_columns` reads them again.

    Raises:
        ValueError: When a number that has a column of its own is NaN, which SQLite would keep as NULL.
    """
    return {name: _to_column(name, getattr(row, name), column) for name, column in _columns()[type(row)].items()}


def from_columns(kind: type[Row], columns: dict[str, Any]) -> Row:
    """The row that `to_columns` made these of.

    Raises:
        ValueError: When they are not such columns; pydantic's ValidationError is one.
    """
    values = {
        name: column.validate_json(columns[name]) if is_json else column.validate_python(columns[name])
        for name, (column, is_json) in _columns()[kind].items()
    }
    return kind(**values)


def to_line(row: RolloutRow) -> str:
    """A roll-out as one line of JSON."""
    return TypeAdapter(RolloutRow).dump_json(row).decode() + "\n"


Column = tuple[TypeAdapter[Any], bool]
"""A column's type, and whether it is kept as JSON."""


@cache
def _columns() -> dict[type, dict[str, Column]]:
    """The columns of each kind of row; made when first asked for, as making them takes a moment."""
    return {kind: {name: _column(hint) for name, hint in get_type_hints(kind).items()} for kind in TABLES}


def _column(hint: Any) -> Column:
    """What has parts is kept as JSON."""
    return TypeAdapter(hint, config=_JSON), get_origin(hint) in (tuple, dict)


def _to_column(name: str, value: Any, column: Column) -> str | int | float | None:
    adapter, is_json = column
    if is_json:
        return adapter.dump_json(value, warnings="error").decode()
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{name} is NaN")
    plain: str | int | float | None = value
    return plain
