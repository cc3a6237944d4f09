"""The ledger's file: its tables, how one of an older version gets them, and what can be wrong with it."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arc_seal.errors import InputError

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
