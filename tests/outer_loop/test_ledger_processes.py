"""The ledger among processes: one writer, any readers, a kill at any moment."""

import random
import time
from pathlib import Path

import pytest

from arc_seal.errors import InputError
from arc_seal.outer_loop.ledger import Ledger
from tests.outer_loop.ledger_builders import hold, proposals_of, received, rollout, running, write_without_end


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "ledger.sqlite"


def test_another_process_that_writes_is_refused_until_the_first_is_killed(path: Path) -> None:
    with running(hold, path) as (process, ready):
        next(received(ready))
        with pytest.raises(InputError) as caught:
            Ledger.open(path)
        assert str(caught.value) == f"{path}: expected a ledger that nobody else writes, found somebody who does"
        Ledger.read_only(path).close()
        process.kill()
        process.join()
        Ledger.open(path).close()


def test_one_process_writes_a_ledger_in_one_place(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other name").symlink_to(path.parent)
    with Ledger.open(path) as ledger:
        ledger.begin("seal", {})
        for name in (path, tmp_path / "other name" / path.name):
            with pytest.raises(InputError, match="expected a ledger that nobody else writes, found somebody who does"):
                Ledger.open(name)
        with running(hold, path) as (_, ready):  # the refused ones have not let the lock go
            assert list(received(ready)) == []
        ledger.record([rollout()])
    ledger.close()
    with Ledger.open(path) as ledger:
        ledger.close()
        assert Ledger.open(path).close() is None


@pytest.mark.parametrize("seed", range(3))
def test_every_acknowledged_row_outlives_a_kill(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with running(write_without_end, path) as (process, written):
        numbers = received(written)
        acknowledged = [next(numbers) for _ in range(rng.randint(1, 40))]
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        acknowledged += numbers
    assert_left_whole(path, acknowledged)


def assert_left_whole(path: Path, acknowledged: list[int]) -> None:
    assert acknowledged == list(range(len(acknowledged)))
    with Ledger.open(path) as ledger:
        rows = ledger.rollouts()
        assert len(rows) - len(acknowledged) in (0, 1)  # one may have been written and not yet acknowledged
        assert rows == [rollout(number) for number in range(len(rows))]
        for number in range(len(rows) + 1):
            found = ledger.rollouts("seal", 0, f"task{number}", finished=False)
            assert found == proposals_of(number) or (number == len(rows) and found == [])
        ledger.begin("seal", {})
        ledger.record([rollout(len(rows))])


def test_a_reader_sees_whole_rows_while_another_process_writes(path: Path) -> None:
    with running(write_without_end, path) as (_, written):
        numbers = received(written)
        first = next(numbers)
        with Ledger.read_only(path) as reader:
            seen = [len(reader.rollouts())]
            assert seen[0] > first
            while seen[-1] < 30:
                rows = reader.rollouts()
                assert rows == [rollout(number) for number in range(len(rows))]
                seen.append(len(rows))
    assert seen == sorted(seen)
