"""What the ledger holds: its rows, and how each stands in the columns of a table."""

import fcntl
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock, RLock
from types import TracebackType
from typing import Any, Self, TypeVar, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_json

from arc_seal.arc.task import write_json
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Attempt
from arc_seal.outer_loop.rollout import utc_now

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


# The ledger's file: its tables, how one of an older version gets them, and what can be wrong with it.

Step = tuple[str, ...]
"""Statements that bring a ledger from one schema version to the next."""

MIGRATIONS: tuple[Step, ...] = (
    (
        """
        CREATE TABLE runs (
            run TEXT PRIMARY KEY,
            configuration TEXT NOT NULL CHECK (json_valid(configuration)),
            begun_at TEXT NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE proposals (
            run TEXT NOT NULL REFERENCES runs,
            round INTEGER NOT NULL CHECK (round >= 0),
            task TEXT NOT NULL,
            sample INTEGER NOT NULL CHECK (sample >= 0),
            completion TEXT,
            self_edit TEXT CHECK (self_edit IS NULL OR json_valid(self_edit)),
            status TEXT NOT NULL,
            message TEXT NOT NULL,
            seconds REAL NOT NULL,
            PRIMARY KEY (run, round, task, sample)
        ) STRICT
        """,
        """
        CREATE TABLE rollouts (
            run TEXT NOT NULL REFERENCES runs,
            round INTEGER NOT NULL CHECK (round >= 0),
            task TEXT NOT NULL,
            sample INTEGER NOT NULL CHECK (sample >= 0),
            seed INTEGER NOT NULL,
            completion TEXT,
            self_edit TEXT CHECK (self_edit IS NULL OR json_valid(self_edit)),
            status TEXT NOT NULL,
            message TEXT NOT NULL,
            reward INTEGER CHECK (reward IN (0, 1)),
            score REAL CHECK (score BETWEEN 0 AND 1),
            held_out REAL,
            held_out_hits INTEGER,
            attempts TEXT NOT NULL CHECK (json_valid(attempts)),
            losses TEXT NOT NULL CHECK (json_valid(losses)),
            tokens INTEGER NOT NULL,
            updates INTEGER NOT NULL,
            seconds TEXT NOT NULL CHECK (json_valid(seconds)),
            same_as INTEGER,
            model TEXT NOT NULL,
            versions TEXT NOT NULL CHECK (json_valid(versions)),
            git_commit TEXT,
            finished_at TEXT NOT NULL,
            PRIMARY KEY (run, round, task, sample)
        ) STRICT
        """,
        """
        CREATE TABLE policies (
            run TEXT NOT NULL REFERENCES runs,
            round INTEGER NOT NULL CHECK (round >= 0),
            folder TEXT NOT NULL,
            "rows" TEXT NOT NULL CHECK (json_valid("rows")),
            losses TEXT NOT NULL CHECK (json_valid(losses)),
            seconds REAL NOT NULL,
            finished_at TEXT NOT NULL,
            PRIMARY KEY (run, round)
        ) STRICT
        """,
    ),
)
"""Step n brings schema version n to n + 1; what stands here is never changed, only added to."""

APPLICATION_ID = int.from_bytes(b"SEAL")
"""In the file's header: whose database it is."""

BUSY_TIMEOUT_S = 60.0
"""How long to wait while another connection, as a reader that recovers the log, has the file for itself."""

OLDEST_SQLITE = (3, 38, 0)
"""The first that has STRICT tables and, always, JSON."""

_NOT_OURS = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""SQLite's errors that say something of the file or the machine; the others are programming errors."""


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open a ledger for writing; it is made, or brought to the newest schema version, if it has to be.

    Raises:
        InputError: When it cannot be written, or is no ledger, a corrupted one or a newer arc-seal's.
    """
    with _opened(path, "mode=rwc") as connection:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise InputError(str(path), "", "a disk where SQLite can keep a write-ahead log", f"one for mode {mode}")
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection)
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a ledger for reading, at any time.

    Raises:
        InputError: When it cannot be read, or is no ledger, a corrupted one, or one of another schema version.
    """
    if not path.is_file():
        raise InputError(str(path), "", "a ledger of arc-seal", "no such file" if not path.exists() else "a folder")
    with _opened(path, "mode=ro" if _can_be_shared(path) else "immutable=1") as connection:
        found = version(connection)
        if found < len(MIGRATIONS):
            expected = f"schema version {len(MIGRATIONS)}, to which opening it for writing brings it"
            raise InputError(str(path), "", expected, f"version {found}")
    return connection


def migrate(connection: sqlite3.Connection, steps: Sequence[Step] = MIGRATIONS) -> None:
    """Bring a ledger to the schema version that the steps end in: wholly, or not at all.

    Args:
        connection: In autocommit mode.
        steps: The steps from version 0, the empty file, on.
    """
    with transaction(connection):
        for step in steps[version(connection) :]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(steps)}")


def version(connection: sqlite3.Connection) -> int:
    """The schema version of a ledger; 0 when it has no tables yet."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is done within is done, or nothing."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with a ledger's file or its disk.

    Raises:
        InputError: For such faults of SQLite's; others come through.
    """
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _NOT_OURS:  # the rest is detail
            raise
        raise InputError(str(path), "", "a ledger of arc-seal that can be read and written", str(error)) from None


@contextmanager
def _opened(path: Path, how: str) -> Iterator[sqlite3.Connection]:
    """A connection that stays open unless what is done within fails."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise InputError(str(path), "", f"Python with SQLite {oldest} or newer", sqlite3.sqlite_version)
    with faults(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?{how}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.row_factory = sqlite3.Row
            _check(path, connection)
            yield connection
        except BaseException:
            connection.close()
            raise


def _can_be_shared(path: Path) -> bool:
    """Whether a reader can take part in a write-ahead log; where there is none and nobody can write, none needs to."""
    writable = os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    return writable or path.with_name(f"{path.name}-wal").exists()


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse what is no ledger, a corrupted one, or a newer arc-seal's."""

    def first(statement: str) -> Any:
        return connection.execute(statement).fetchone()[0]

    owner, tables = first("PRAGMA application_id"), first("SELECT count(*) FROM sqlite_master")
    if owner != APPLICATION_ID and (owner or tables or version(connection)):
        raise InputError(str(path), "", "a ledger of arc-seal", "another program's database")
    if version(connection) > len(MIGRATIONS):
        expected = f"a ledger of schema version {len(MIGRATIONS)} or older"
        raise InputError(str(path), "", expected, f"version {version(connection)}, which a newer arc-seal made")
    fault = str(first("PRAGMA quick_check(1)"))
    if fault != "ok":
        raise InputError(str(path), "", "a ledger that is whole", " ".join(fault.split()))


# One writer at a time: a lock on a file, which goes with the process that holds it.

_GUARD = Lock()
_HELD: set[Path] = set()
"""The lock files that this process holds. The kernel's locks keep other processes out, and no one else; and as closing
any handle on such a file would let its lock go, it is opened once."""


class WriterLock:
    """The right to write a file, until it is released or the process ends, however that comes.

    Held by a POSIX record lock on a file beside it, which stays there: it means nothing. Processes that the holder
    forks do not share it, so workers that outlive the holder do not keep the file from the next one.

    Args:
        path: The file to be written; its folder is made if it is not there.

    Raises:
        InputError: When somebody else writes it, or its folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._lock_path = self._path.with_name(f"{self._path.name}.lock")
        with _GUARD:
            if self._lock_path in _HELD:
                raise self._refusal("this process, which does so already")
            self._acquire()
            _HELD.add(self._lock_path)

    def release(self) -> None:
        """Let the next one write; releasing twice does nothing."""
        with _GUARD:
            if not self._file.closed:
                self._file.close()
                _HELD.discard(self._lock_path)

    def _acquire(self) -> None:
        try:
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._lock_path.open("a")
        except OSError as error:
            folder, found = str(self._lock_path.parent), error.strerror or str(error)
            raise InputError(folder, "", "a folder that can be written to", found.lower()) from None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX leaves it to the system which
            self._file.close()
            raise self._refusal("another process that does") from None
        except OSError as error:
            self._file.close()
            raise InputError(str(self._lock_path), "", "a disk with file locks", str(error.strerror).lower()) from None

    def _refusal(self, found: str) -> InputError:
        return InputError(str(self._path), "", "a ledger that nobody else writes", found)


# The ledger: every roll-out of a training or evaluation run, there whole or not at all, whatever kills the process.

_MOST_DIFFERENCES = 5
"""Differing settings that an error names."""

_LONGEST_SETTING = 100
"""Characters of a setting that an error shows."""

Leaf = tuple[str | int, ...]
"""The keys and indices that lead to a value that has no parts."""


class Ledger:
    """A ledger, open: made by `open` or `read_only`, and closed by leaving its `with` block.

    What a method has recorded when it returns is on the disk. Any thread may call any method. A row is recorded once:
    its key is its run, round, task and sample, and there is no way to change it. A run is begun before anything of it
    is recorded.

    Every method raises InputError, in one line, when the file is found to be corrupted or the disk full.

    Args:
        path: The file.
        connection: To it, in autocommit mode.
        lock: The right to write it; None for a reader.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: WriterLock | None) -> None:
        self._path, self._connection, self._lock = path, connection, lock
        self._mutex = RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a ledger for writing, which one place can do at a time; it is made if it is not there.

        Raises:
            InputError: When somebody else writes it, it cannot be written, or it is no ledger, a corrupted one or one
                that a newer arc-seal made.
        """
        lock = WriterLock(path)
        try:
            return cls(path, connect_writer(path), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def read_only(cls, path: Path) -> Self:
        """Open a ledger for reading, also while somebody writes it.

        Raises:
            InputError: When it cannot be read, or is no ledger, a corrupted one or another version's.
        """
        return cls(path, connect_reader(path), None)

    def close(self) -> None:
        """Let the file go; closing twice does nothing."""
        with self._mutex:
            self._connection.close()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the file go."""
        self.close()

    def begin(self, run: str, configuration: Mapping[str, Any]) -> None:
        """Begin a run, or go on with it.

        While the ledger is empty, a run that was begun takes the configuration it is given now: whoever stops a command
        before anything came of it may change their mind.

        Args:
            run: Its name.
            configuration: What it runs under: values that JSON can hold.

        Raises:
            InputError: When the run was begun under another configuration; it says what differs.
        """
        now = to_json(dict(configuration), inf_nan_mode="strings").decode()
        with self._writing() as connection:
            found = connection.execute("SELECT configuration FROM runs WHERE run = ?", (run,)).fetchone()
            if found is None or self._is_empty(connection):
                connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (run, now, utc_now()))
                return
        differing = differences(json.loads(found["configuration"]), json.loads(now))
        if differing:
            expected = "the configuration that is recorded of it (or another run's name)"
            raise InputError(str(self._path), f"run {run}", expected, _listed(differing))

    def record_proposals(self, rows: Sequence[ProposalRow]) -> None:
        """Record proposals, as a rule all of one task: all of them or, when the process is killed, none.

        Raises:
            ValueError: When one is recorded already, its run was not begun, or a value does not fit its column.
        """
        self._add(rows)

    def proposals(self, run: str, round: int, task: str) -> tuple[ProposalRow, ...]:
        """The proposals for one task, in the order of their samples."""
        return self._rows(ProposalRow, run=run, round=round, task=task)

    def record(self, row: RolloutRow) -> None:
        """Record a roll-out.

        Raises:
            ValueError: When it is recorded already, its run was not begun, or a value does not fit its column.
        """
        self._add([row])

    def rollouts(
        self, run: str | None = None, round: int | None = None, task: str | None = None
    ) -> tuple[RolloutRow, ...]:
        """The roll-outs, all or those of a run, a round, a task, in the order of their keys."""
        return self._rows(RolloutRow, run=run, round=round, task=task)

    def record_policy(self, row: PolicyRow) -> None:
        """Record the policy adapter of a round; its files are to be there before.

        Raises:
            ValueError: When the round has one already, the run was not begun, or a value does not fit its column.
        """
        self._add([row])

    def policy(self, run: str, round: int) -> PolicyRow | None:
        """The policy adapter of a round; None when it has none yet."""
        return next(iter(self._rows(PolicyRow, run=run, round=round)), None)

    def last_policy(self, run: str) -> PolicyRow | None:
        """The policy adapter of the last round that has one; None when there is none yet."""
        return next(reversed(self._rows(PolicyRow, run=run)), None)

    def export(self, path: Path) -> None:
        """Write the roll-outs as JSON lines in the order of their keys, the file whole or not at all.

        Numbers that JSON does not know are written as "NaN", "Infinity" and "-Infinity".

        Raises:
            InputError: When the file cannot be written.
        """
        write_json(path, "".join(map(to_line, self.rollouts())))

    def _is_empty(self, connection: sqlite3.Connection) -> bool:
        """Whether no row of any run is recorded."""
        tables = TABLES.values()
        return not any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in tables)

    def _add(self, rows: Sequence[ProposalRow | RolloutRow | PolicyRow]) -> None:
        with self._writing() as connection:
            for row in rows:
                columns = to_columns(row)
                names, values = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
                statement = f"INSERT INTO {TABLES[type(row)]} ({names}) VALUES ({values})"
                try:
                    connection.execute(statement, tuple(columns.values()))
                except sqlite3.IntegrityError as error:
                    raise ValueError(f"{self._path}: {_named(type(row), columns)}: {error}") from error

    def _rows(self, kind: type[Row], **where: str | int | None) -> tuple[Row, ...]:
        wanted = {name: value for name, value in where.items() if value is not None}
        condition = " AND ".join(f"{name} = :{name}" for name in wanted) or "TRUE"
        statement = f"SELECT * FROM {TABLES[kind]} WHERE {condition} ORDER BY {', '.join(key(kind))}"
        with self._mutex, faults(self._path):
            found = self._connection.execute(statement, wanted).fetchall()
        return tuple(self._parsed(kind, dict(columns)) for columns in found)

    def _parsed(self, kind: type[Row], columns: dict[str, Any]) -> Row:
        try:
            return from_columns(kind, columns)
        except ValidationError as error:
            found = error.errors()[0]["msg"].lower()
            raise InputError(str(self._path), _named(kind, columns), "a row that arc-seal wrote", found) from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread and within one transaction."""
        if self._lock is None:
            raise RuntimeError(f"{self._path} is open for reading only")
        with self._mutex, faults(self._path), transaction(self._connection):
            yield self._connection


def differences(recorded: Any, now: Any) -> list[str]:
    """Where two JSON values differ, such as `restem.samples: 15 recorded, 5 now`, in their own order."""
    before, after = dict(_leaves(recorded)), dict(_leaves(now))
    differing = [path for path in {**before, **after} if not _is_same(before.get(path, ...), after.get(path, ...))]
    return [f"{_place(path)}: {_shown(before, path)} recorded, {_shown(after, path)} now" for path in differing]


def _leaves(value: Any, path: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """Every value that has no parts, and where it is."""
    if isinstance(value, dict | list) and value:
        for step, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, (*path, step))
    else:
        yield path, value


def _is_same(one: Any, other: Any) -> bool:
    """Whether two leaves are equal; 1 and 1.0 are, 1 and true are not."""
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


def _place(path: Leaf) -> str:
    """A path as people write it: `data.tasks[3].id`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _shown(leaves: Mapping[Leaf, Any], path: Leaf) -> str:
    if path not in leaves:
        return "nothing"
    text = json.dumps(leaves[path])
    return text if len(text) <= _LONGEST_SETTING else f"{text[: _LONGEST_SETTING - 3]}..."


def _listed(differing: Sequence[str]) -> str:
    more = len(differing) - _MOST_DIFFERENCES
    return "; ".join(differing[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _named(kind: type, columns: Mapping[str, Any]) -> str:
    """Which row of the ledger it is, for people."""
    return f"{TABLES[kind]}: " + ", ".join(f"{name} {columns[name]}" for name in key(kind))
