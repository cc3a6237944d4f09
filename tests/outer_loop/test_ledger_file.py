"""The ledger's file: what can be wrong with it."""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from arc_seal.errors import InputError
from arc_seal.outer_loop.ledger import APPLICATION_ID, SCHEMA_VERSION, Ledger
from tests.outer_loop.ledger_builders import rollout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as opened:
        opened.begin("seal", {})
        yield opened


def test_a_row_that_somebody_spoiled_is_refused_in_one_line(ledger: Ledger, path: Path) -> None:
    ledger.record([rollout(7)])
    ledger.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE rollouts SET record = json_set(record, '$.status', 'fine')")
    with Ledger.read_only(path) as reader, pytest.raises(InputError) as caught:
        reader.rollouts()
    place = "rollouts: run seal, round 0, task 0d3d703e, sample 7"
    expected = "expected a record as it was written, found one that has changed since"
    assert str(caught.value) == f"{path}: {place}: {expected}"


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bits_never_read_back_as_other_values(ledger: Ledger, path: Path, seed: int) -> None:
    rows, rng = [rollout(sample) for sample in range(4)], Random(seed)
    ledger.record(rows)
    ledger.close()
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(100, len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    try:
        with Ledger.read_only(path) as reader:
            assert [each for each in reader.rollouts() if each not in rows] == []
    except InputError as error:
        assert str(error).isprintable()


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be an ordinary user for a while: root may write anywhere."""
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can look into and nobody may write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Ledger.open(folder / "ledger.sqlite") as ledger:
            ledger.begin("seal", {})
            ledger.record([rollout(1)])
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_to_can_be_read_from(open_folder: Path) -> None:
    with without_privileges():
        with Ledger.read_only(open_folder / "ledger.sqlite") as reader:
            assert reader.rollouts() == [rollout(1)]
        for path in (open_folder / "new.sqlite", open_folder / "deep" / "new.sqlite"):
            with pytest.raises(
                InputError,
                match=r": expected a folder that can be written to, found permission denied$",
            ):
                Ledger.open(path)


def test_a_path_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        InputError,
        match=r"/file: expected a folder that can be written to, found (not a dir|file exists)",
    ):
        Ledger.open(tmp_path / "file" / "ledger.sqlite")
    with pytest.raises(InputError, match=r"/folder: expected a ledger of arc-seal.*, found unable to open"):
        Ledger.open(tmp_path / "folder")
    with pytest.raises(InputError, match=r"/folder: expected a ledger of arc-seal, found a folder$"):
        Ledger.read_only(tmp_path / "folder")
    with pytest.raises(InputError, match=r"/none: expected a ledger of arc-seal, found no such file$"):
        Ledger.read_only(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def sql(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    return change


def foreign(path: Path) -> None:
    path.unlink()
    sql("CREATE TABLE songs (name TEXT)")(path)


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : len(content) - 4096] = b"\x5a" * (len(content) - 2 * 4096)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda path: path.write_text("no database at all" * 9), "file is not a database"),
        (foreign, "another program's database"),
        (sql("PRAGMA application_id = 7"), "another program's database"),
        (sql(f"PRAGMA user_version = {SCHEMA_VERSION + 1}"), f"version {SCHEMA_VERSION + 1}$"),
        (sql(f"PRAGMA user_version = {SCHEMA_VERSION - 1}"), f"version {SCHEMA_VERSION - 1}$"),
        (overwritten, r"(database disk image is malformed|\*\*\* in database main)"),
        (
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
            "database disk image is malformed",
        ),
    ],
    ids=["text", "foreign tables", "foreign id", "newer", "older", "overwritten", "cut"],
)
def test_a_file_that_is_no_whole_ledger_is_refused_in_one_line(
    ledger: Ledger, path: Path, spoil: Callable[[Path], None], found: str
) -> None:
    for sample in range(20):
        ledger.record([rollout(sample, completion="x" * 500)])
    ledger.close()
    spoil(path)
    content = path.read_bytes()
    for opening in (Ledger.open, Ledger.read_only):
        with pytest.raises(InputError, match=rf"ledger\.sqlite: expected a ledger\b.*, found {found}") as caught:
            opening(path)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_corruption_met_while_reading_is_refused_in_one_line(ledger: Ledger, path: Path) -> None:
    for sample in range(10):
        ledger.record([rollout(sample, completion="x" * 1_000_000)])  # more than a connection keeps in memory
    ledger.close()
    with Ledger.read_only(path) as reader:
        overwritten(path)
        with pytest.raises(
            InputError, match=r"ledger\.sqlite: expected a ledger of arc-seal that can be read and written"
        ):
            reader.rollouts()


def test_an_empty_file_is_made_a_ledger(path: Path) -> None:
    path.parent.mkdir()
    path.touch()  # as a process leaves it that is killed before its first write
    with pytest.raises(InputError, match=r"ledger\.sqlite: expected a ledger of arc-seal, found an empty file$"):
        Ledger.read_only(path)
    with Ledger.open(path) as ledger:
        ledger.begin("seal", {})
        ledger.record([rollout()])
        assert ledger.rollouts() == [rollout()]


def test_every_write_reaches_the_disk(ledger: Ledger) -> None:
    pragmas = ("application_id", "journal_mode", "synchronous", "foreign_keys", "user_version")
    found = [ledger._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert found == [APPLICATION_ID, "wal", 2, 1, SCHEMA_VERSION]


@pytest.mark.parametrize("change", ["sample = 9", "round = 3", "task = 'other'", "finished = 0", "checksum = 'x'"])
def test_a_row_that_is_put_elsewhere_is_refused(ledger: Ledger, path: Path, change: str) -> None:
    ledger.record([rollout(7)])
    ledger.close()
    sql(f"UPDATE rollouts SET {change}")(path)
    with Ledger.read_only(path) as reader, pytest.raises(InputError, match=r"found one that has changed since$"):
        reader.rollouts(finished=None)


def test_what_is_recorded_together_is_recorded_whole_or_not_at_all(ledger: Ledger) -> None:
    ledger.record([rollout(1)])
    with pytest.raises(ValueError, match="sample 1 is recorded already"):
        ledger.record([rollout(0), rollout(1), rollout(2)])
    assert ledger.rollouts() == [rollout(1)]


def test_a_full_disk_is_the_users_and_loses_nothing(ledger: Ledger) -> None:
    ledger.record([rollout(0)])
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match=r"ledger\.sqlite: .*, found database or disk is full$"):
        ledger.record([rollout(1, completion="x" * 100_000)])
    assert ledger.rollouts() == [rollout(0)]
