"""The ledger: every roll-out of a training or evaluation run, there whole or not at all, whatever kills the process."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any, Self, TypeVar

from filelock import BaseFileLock, FileLock, Timeout
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_json

from arc_seal.arc.task import Entry, write_json
from arc_seal.errors import InputError
from arc_seal.outer_loop.provenance import utc_now
from arc_seal.outer_loop.rollout import Key, Rollout
from arc_seal.settings import first_fault, joined

SCHEMA_VERSION = 3

TABLES = """
CREATE TABLE runs (
    run TEXT PRIMARY KEY, configuration TEXT NOT NULL, begun_at TEXT NOT NULL, checksum TEXT NOT NULL
) STRICT;
CREATE TABLE tasks (
    run TEXT NOT NULL REFERENCES runs, task TEXT NOT NULL, record TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (run, task)
) STRICT;
CREATE TABLE rollouts (
    run TEXT NOT NULL REFERENCES runs, round INTEGER NOT NULL, task TEXT NOT NULL, sample INTEGER NOT NULL,
    finished INTEGER NOT NULL CHECK (finished IN (0, 1)), record TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (run, round, task, sample)
) STRICT;
CREATE TABLE policies (
    run TEXT NOT NULL REFERENCES runs, round INTEGER NOT NULL, record TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (run, round)
) STRICT;
"""
"""Records are the JSON of their pydantic models, the columns before them what they are looked up by. A checksum of all
these tells when the disk has changed one."""

KEYS = {
    "runs": ("run",),
    "tasks": ("run", "task"),
    "rollouts": ("run", "round", "task", "sample"),
    "policies": ("run", "round"),
}
"""The columns that tell the rows of a table apart, and that they are ordered by."""

APPLICATION_ID = int.from_bytes(b"SEAL")
"""In the file's header: whose database it is."""

BUSY_TIMEOUT_S = 60.0
"""How long to wait while another connection, as a reader that recovers the log, has the file for itself."""

NOT_OURS = frozenset(
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("BUSY", "CANTOPEN", "CORRUPT", "FULL", "IOERR", "NOTADB", "PERM", "PROTOCOL", "READONLY")
)
"""SQLite's errors that say something of the file or the machine; the others are programming errors."""

_MOST_DIFFERENCES = 5
"""Differing settings that an error names."""

_LONGEST_SETTING = 100
"""Characters of a setting that an error shows."""

_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


class Policy(BaseModel):
    """A policy adapter that a round has ended in."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    run: str  # name of the run
    round: int  # the round that trained it
    folder: str  # name of the folder that the adapter is in, among the run's policies
    rollouts: tuple[Key, ...]  # keys of the roll-outs it was trained on, which may be another ledger's
    losses: tuple[float, ...]  # mean loss of each update, nats a target token
    seconds: float  # wall time of the training
    finished_at: str  # when it was done, ISO 8601 in UTC


Record = TypeVar("Record", Rollout, Policy)


class Ledger:
    """A ledger, open: made by `open` or `read_only`, and closed by leaving its `with` block.

    What a method has recorded when it returns is on the disk. Any thread may call any method. A roll-out is recorded
    when it is proposed and once more when it is finished; a finished one never changes. A run is begun before anything
    of it is recorded. Every method raises InputError when the file is found to be corrupted or the disk full.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: BaseFileLock | None) -> None:
        self._path, self._connection, self._lock = path, connection, lock
        self._mutex = RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a ledger for writing, which one place can do at a time; it is made if it is not there.

        InputError where somebody else writes it, it cannot be written, or is no ledger, a corrupted one or another
        version's.
        """
        lock = FileLock(f"{path}.lock", timeout=0)  # it goes with the process that holds it; the file means nothing
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise InputError(str(path), "", "a ledger that nobody else writes", "somebody who does") from None
        except OSError as error:
            found = (error.strerror or str(error)).lower()
            raise InputError(str(path.parent), "", "a folder that can be written to", found) from None
        try:
            with _connected(path, "mode=rwc") as connection:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                if mode != "wal":
                    expected = "a disk where SQLite can keep a write-ahead log"
                    raise InputError(str(path), "", expected, f"one for mode {mode}")
                if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    header = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
                    connection.executescript(f"BEGIN IMMEDIATE; {TABLES} {header} COMMIT;")
                connection.executescript("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
            return cls(path, connection, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def read_only(cls, path: Path) -> Self:
        """Open a ledger for reading, also while somebody writes it.

        InputError where it cannot be read, or is no ledger, a corrupted one or another version's.
        """
        if not path.is_file():
            raise InputError(str(path), "", "a ledger of arc-seal", "no such file" if not path.exists() else "a folder")
        # A reader takes part in the write-ahead log; where there is none and nobody can write, none needs to.
        writable = os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
        shared = writable or path.with_name(f"{path.name}-wal").exists()
        with _connected(path, "mode=ro" if shared else "immutable=1") as connection:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise InputError(str(path), "", "a ledger of arc-seal", "an empty file")
            return cls(path, connection, None)

    def close(self) -> None:
        """Let the file go; closing twice does nothing."""
        with self._mutex:
            self._connection.close()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, run: str, configuration: Mapping[str, Any], entries: Sequence[Entry] = ()) -> None:
        """Begin a run, or go on with it; InputError says what differs where it was begun under another configuration.

        `configuration` has values that JSON can hold; `entries` are the tasks that the run learns from. While nothing
        of any run is recorded, a run that was begun takes what it is given now: whoever stops a command before anything
        came of it may change their mind.
        """
        now = to_json(dict(configuration), inf_nan_mode="strings").decode()
        found = self._rows("runs", run=run)
        with self._writing() as connection:
            recorded = "SELECT 1 FROM rollouts UNION ALL SELECT 1 FROM policies LIMIT 1"
            if not found or not connection.execute(recorded).fetchone():
                connection.execute("DELETE FROM tasks WHERE run = ?", (run,))
                self._put(connection, "INSERT OR REPLACE INTO runs", (run, now, utc_now()))
                for entry in entries:
                    values = (run, entry[0].id, _ENTRY.dump_json(entry).decode())
                    self._put(connection, "INSERT OR IGNORE INTO tasks", values)
                return
        changes = differences(json.loads(found[0]["configuration"]), json.loads(now))
        if changes:
            expected = "the configuration that is recorded of it (or another run's name)"
            raise InputError(str(self._path), f"run {run}", expected, _listed(changes))

    def configuration(self, run: str) -> dict[str, Any]:
        """What a run was begun under; empty when there is no such run."""
        found = self._rows("runs", run=run)
        configuration: dict[str, Any] = json.loads(found[0]["configuration"]) if found else {}
        return configuration

    def entries(self, run: str) -> list[Entry]:
        """The tasks that a run learns from, with their solutions; none when there is no such run."""
        return [_ENTRY.validate_json(row["record"]) for row in self._rows("tasks", run=run)]

    def record(self, rollouts: Sequence[Rollout]) -> None:
        """Record roll-outs, proposed or finished: all of them or, when the process is killed, none.

        ValueError where one is recorded as finished already, or as proposed and is not finished now, or its run was not
        begun.
        """
        once = "ON CONFLICT DO UPDATE SET finished = excluded.finished, record = excluded.record,"
        once += " checksum = excluded.checksum WHERE excluded.finished > rollouts.finished"
        with self._writing() as connection:
            for each in rollouts:
                values = (*each.key, int(each.finished_at is not None), each.model_dump_json())
                if not self._put(connection, "INSERT INTO rollouts", values, once):
                    raise ValueError(f"{self._path}: {_named(each.key)} is recorded already")

    def rollouts(
        self, run: str | None = None, round: int | None = None, task: str | None = None, *, finished: bool | None = True
    ) -> list[Rollout]:
        """The roll-outs, all or those of a run, a round, a task, in the order of their keys.

        They are those that are `finished`; with False those that are proposed only; with None both.
        """
        return self._read(Rollout, "rollouts", run=run, round=round, task=task, finished=finished)

    def record_policy(self, policy: Policy) -> None:
        """Record a round's policy adapter, whose files are there; ValueError where it has one, or no run was begun."""
        with self._writing() as connection:
            values = (policy.run, policy.round, policy.model_dump_json())
            if not self._put(connection, "INSERT OR IGNORE INTO policies", values):
                raise ValueError(f"{self._path}: {_named(values[:2])} has a policy already")

    def policies(self, run: str) -> list[Policy]:
        """The policy adapters of a run, in the order of its rounds; a round with nothing to imitate has none."""
        return self._read(Policy, "policies", run=run)

    def export(self, path: Path) -> None:
        """Write the finished roll-outs as JSON lines in the order of their keys, the file whole or not at all.

        Numbers that JSON does not know are "NaN", "Infinity" and "-Infinity". InputError where it cannot be written.
        """
        write_json(path, "".join(f"{rollout.model_dump_json()}\n" for rollout in self.rollouts()))

    def _put(self, connection: sqlite3.Connection, statement: str, values: tuple[Any, ...], end: str = "") -> bool:
        """Put in a row and its checksum; returns whether that changed anything."""
        row = (*values, _checksum(values))
        try:
            return connection.execute(f"{statement} VALUES ({', '.join('?' * len(row))}) {end}", row).rowcount == 1
        except sqlite3.IntegrityError as error:
            raise ValueError(f"{self._path}: {_named(values)}: {error}") from error

    def _rows(self, table: str, **where: str | int | None) -> list[sqlite3.Row]:
        """The rows of a table in the order of their keys, each as it was written."""
        wanted = {name: value for name, value in where.items() if value is not None}
        condition = " AND ".join(f"{name} = :{name}" for name in wanted) or "TRUE"
        statement = f"SELECT * FROM {table} WHERE {condition} ORDER BY {', '.join(KEYS[table])}"
        with self._mutex, faults(self._path):
            found: list[sqlite3.Row] = self._connection.execute(statement, wanted).fetchall()
        for *values, checksum in found:
            if _checksum(values) != checksum:
                expected, place = "a record as it was written", _named(values[: len(KEYS[table])])
                raise InputError(str(self._path), f"{table}: {place}", expected, "one that has changed since")
        return found

    def _read(self, kind: type[Record], table: str, **where: str | int | None) -> list[Record]:
        try:
            return [kind.model_validate_json(row["record"]) for row in self._rows(table, **where)]
        except ValidationError as error:
            place, expected, wrong = first_fault(error)
            raise InputError(str(self._path), f"{table}: {place}", expected, wrong) from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread and within one transaction."""
        if self._lock is None:
            raise RuntimeError(f"{self._path} is open for reading only")
        with self._mutex, faults(self._path):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Say in one line, an InputError, what is wrong with a ledger's file or its disk; other faults come through."""
    try:
        yield
    except sqlite3.Error as error:
        undecodable = "decode" in str(error)  # text whose bytes have changed
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in NOT_OURS and not undecodable:
            raise
        raise InputError(str(path), "", "a ledger of arc-seal that can be read and written", str(error)) from None


def differences(recorded: Any, now: Any) -> list[str]:
    """Where two JSON values differ, such as `restem.samples: 15 recorded, 5 now`, in their own order."""
    return [f"{place}: {before} recorded, {after} now" for place, before, after in differing(recorded, now)]


def differing(one: Any, other: Any) -> list[tuple[str, str, str]]:
    """The places where two JSON values differ, and what stands there in each, cut where it grows long."""
    before, after = dict(_leaves(one)), dict(_leaves(other))
    paths = [path for path in {**before, **after} if not _is_same(before.get(path, ...), after.get(path, ...))]
    return [(joined(path), _shown(before, path), _shown(after, path)) for path in paths]


@contextmanager
def _connected(path: Path, how: str) -> Iterator[sqlite3.Connection]:
    """A connection to a ledger, which stays open unless what is done within fails."""
    with faults(path):
        address = f"{path.resolve().as_uri()}?{how}"
        connection = sqlite3.connect(
            address, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True
        )
        try:
            connection.row_factory = sqlite3.Row
            _check(path, connection)
            yield connection
        except BaseException:
            connection.close()
            raise


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse what is no ledger, a corrupted one, or another version's."""

    def first(statement: str) -> Any:
        with closing(connection.execute(statement)) as cursor:
            return cursor.fetchone()[0]

    owner, found = first("PRAGMA application_id"), first("PRAGMA user_version")
    new = not (owner or found or first("SELECT count(*) FROM sqlite_master"))
    if owner != APPLICATION_ID and not new:
        raise InputError(str(path), "", "a ledger of arc-seal", "another program's database")
    if found != SCHEMA_VERSION and not new:
        raise InputError(str(path), "", f"a ledger of schema version {SCHEMA_VERSION}", f"version {found}")
    fault = str(first("PRAGMA quick_check(1)"))
    if fault != "ok":
        raise InputError(str(path), "", "a ledger that is whole", " ".join(fault.split()))


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value that has no parts, and the keys and indices that lead to it."""
    if isinstance(value, dict | list) and value:
        for step, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, (*path, step))
    else:
        yield path, value


def _is_same(one: Any, other: Any) -> bool:
    """Whether two leaves are equal; 1 and 1.0 are, 1 and true are not."""
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


def _shown(leaves: Mapping[tuple[str | int, ...], Any], path: tuple[str | int, ...]) -> str:
    if path not in leaves:
        return "nothing"
    text = json.dumps(leaves[path])
    return text if len(text) <= _LONGEST_SETTING else f"{text[: _LONGEST_SETTING - 3]}..."


def _listed(found: Sequence[str]) -> str:
    more = len(found) - _MOST_DIFFERENCES
    return "; ".join(found[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _checksum(values: Sequence[Any]) -> str:
    return sha256(json.dumps(list(values)).encode()).hexdigest()[:16]


def _named(key: Sequence[Any]) -> str:
    """Which record it is, for people."""
    return ", ".join(f"{name} {value}" for name, value in zip(("run", "round", "task", "sample"), key, strict=False))
