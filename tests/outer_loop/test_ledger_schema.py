import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from arc_seal.errors import InputError
from arc_seal.outer_loop.ledger import (
    APPLICATION_ID,
    MIGRATIONS,
    Step,
    connect_reader,
    connect_writer,
    faults,
    migrate,
    transaction,
    version,
)

FIRST: Step = ("CREATE TABLE notes (name TEXT PRIMARY KEY, note TEXT) STRICT",)
SECOND: Step = (
    "ALTER TABLE notes ADD COLUMN length INTEGER",
    "UPDATE notes SET length = length(note)",
)
THIRD: Step = ("CREATE INDEX by_length ON notes (length)",)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "ledger", isolation_level=None)) as opened:
        yield opened


def test_a_ledger_of_an_older_version_goes_through_every_step_since(connection: sqlite3.Connection) -> None:
    migrate(connection, [FIRST])
    connection.execute("INSERT INTO notes VALUES ('a', 'four')")
    assert version(connection) == 1
    migrate(connection, [FIRST, SECOND, THIRD])
    assert version(connection) == 3
    assert connection.execute("SELECT * FROM notes").fetchall() == [("a", "four", 4)]
    migrate(connection, [FIRST, SECOND, THIRD])
    assert version(connection) == 3


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(connection: sqlite3.Connection) -> None:
    migrate(connection, [FIRST])
    connection.execute("INSERT INTO notes VALUES ('a', 'four')")
    before = list(connection.iterdump())
    with pytest.raises(sqlite3.OperationalError, match="no such table: songs"):
        migrate(connection, [FIRST, SECOND, ("DELETE FROM songs",)])
    assert version(connection) == 1
    assert list(connection.iterdump()) == before
    assert not connection.in_transaction


def test_a_new_ledger_has_the_newest_version_and_every_write_reaches_the_disk(tmp_path: Path) -> None:
    with closing(connect_writer(tmp_path / "ledger")) as connection:
        assert version(connection) == len(MIGRATIONS)
        pragmas = ("application_id", "journal_mode", "synchronous", "foreign_keys")
        found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
        assert found == [APPLICATION_ID, "wal", 2, 1]
        tables = connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'").fetchall()
        assert {row["name"] for row in tables if row["strict"]} == {"runs", "proposals", "rollouts", "policies"}


def test_a_reader_does_not_migrate(tmp_path: Path) -> None:
    with closing(connect_writer(tmp_path / "ledger")) as connection:
        connection.execute("PRAGMA user_version = 0")
    with pytest.raises(InputError) as caught:
        connect_reader(tmp_path / "ledger")
    expected = f"expected schema version {len(MIGRATIONS)}, to which opening it for writing brings it, found version 0"
    assert str(caught.value) == f"{tmp_path / 'ledger'}: {expected}"


def test_a_transaction_is_done_whole_or_not_at_all(connection: sqlite3.Connection) -> None:
    migrate(connection, [FIRST])
    with pytest.raises(KeyboardInterrupt), transaction(connection):
        connection.execute("INSERT INTO notes VALUES ('a', '')")
        raise KeyboardInterrupt
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    with transaction(connection):
        connection.execute("INSERT INTO notes VALUES ('b', '')")
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (1,)


def test_a_full_disk_is_the_users_and_a_wrong_statement_ours(connection: sqlite3.Connection, tmp_path: Path) -> None:
    migrate(connection, [FIRST])
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with (
        pytest.raises(InputError, match=r"ledger: .*, found database or disk is full$"),
        faults(tmp_path / "ledger"),
        transaction(connection),
    ):
        connection.execute("INSERT INTO notes VALUES ('a', ?)", ("x" * 100_000,))
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="no such table"), faults(tmp_path / "ledger"):
        connection.execute("SELECT * FROM songs")
