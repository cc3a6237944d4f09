"""The ledger: every roll-out of a training or evaluation run, there whole or not at all, whatever kills the process."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError
from pydantic_core import to_json

from arc_seal.arc.json_file import write_json
from arc_seal.errors import InputError
from arc_seal.outer_loop.ledger_rows import (
    TABLES,
    PolicyRow,
    ProposalRow,
    RolloutRow,
    Row,
    from_columns,
    key,
    to_columns,
    to_line,
)
from arc_seal.outer_loop.ledger_schema import connect_reader, connect_writer, faults, transaction
from arc_seal.outer_loop.provenance import utc_now
from arc_seal.outer_loop.writer_lock import WriterLock

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
