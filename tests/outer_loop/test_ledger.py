import json
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Attempt
from arc_seal.outer_loop.ledger import TABLES, Ledger, PolicyRow, ProposalRow, RolloutRow, connect_writer, key
from tests.arc.strategies import grids
from tests.outer_loop.ledger_builders import policy, proposal, rollout

# SQLite keeps no sign of a zero; adding 0.0 takes it off.
NUMBERS = st.floats(allow_nan=False).map(lambda number: number + 0.0)
FINITE = NUMBERS.filter(math.isfinite)
TEXTS = st.text(max_size=20)
NONE = st.none()
COUNTS = st.integers(0, 2**40)
SELF_EDITS = NONE | st.dictionaries(TEXTS, FINITE, max_size=2).map(json.dumps)
KEYS = {"run": TEXTS, "round": COUNTS, "task": TEXTS, "sample": COUNTS}
WRITTEN = {"completion": NONE | TEXTS, "self_edit": SELF_EDITS, "status": st.sampled_from(Status), "message": TEXTS}
LOSSES = st.lists(st.floats(), max_size=4).map(tuple)
ATTEMPTS = st.builds(Attempt, grids(), st.integers(0, 99), st.floats(), st.floats())
PROPOSALS = st.builds(ProposalRow, **KEYS, **WRITTEN, seconds=FINITE)
POLICIES = st.builds(
    PolicyRow,
    run=TEXTS,
    round=COUNTS,
    folder=TEXTS,
    rows=st.lists(st.tuples(TEXTS, COUNTS, TEXTS, COUNTS), max_size=3).map(tuple),
    losses=LOSSES,
    seconds=FINITE,
    finished_at=TEXTS,
)
ROLLOUTS = st.builds(
    RolloutRow,
    **KEYS,
    **WRITTEN,
    seed=st.integers(0, 2**31 - 1),
    reward=NONE | st.integers(0, 1),
    score=NONE | st.floats(0, 1),
    held_out=NONE | NUMBERS,
    held_out_hits=NONE | COUNTS,
    attempts=st.lists(st.lists(ATTEMPTS, max_size=2).map(tuple), max_size=2).map(tuple),
    losses=LOSSES,
    tokens=COUNTS,
    updates=COUNTS,
    seconds=st.dictionaries(TEXTS, st.floats(), max_size=3),
    same_as=NONE | COUNTS,
    model=TEXTS,
    versions=st.dictionaries(TEXTS, TEXTS, max_size=3),
    git_commit=NONE | TEXTS,
    finished_at=TEXTS,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as opened:
        opened.begin("seal", {})
        yield opened


def same(one: Any, other: Any) -> bool:
    """Equal, and NaN equal to NaN."""
    return repr(one) == repr(other)


@settings(max_examples=20)  # each waits for the disk
@given(rollouts=st.lists(ROLLOUTS, max_size=3), proposals=st.lists(PROPOSALS, max_size=3), trained=POLICIES)
def test_what_is_recorded_is_there_when_the_ledger_is_opened_again(
    rollouts: list[RolloutRow], proposals: list[ProposalRow], trained: PolicyRow
) -> None:
    rollouts = list({order(row): row for row in rollouts}.values())
    proposals = list({order(row): row for row in proposals}.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger #1?%.sqlite"
        with Ledger.open(path) as ledger:
            for run in {row.run for row in (*rollouts, *proposals, trained)}:
                ledger.begin(run, {})
            for row in rollouts:
                ledger.record(row)
            ledger.record_proposals(proposals)
            ledger.record_policy(trained)
        with Ledger.read_only(path) as ledger:
            assert same(ledger.rollouts(), tuple(sorted(rollouts, key=order)))
            for one in proposals:
                assert one in ledger.proposals(one.run, one.round, one.task)
            assert same(ledger.policy(trained.run, trained.round), trained)
            assert ledger.policy(trained.run, trained.round + 1) is None


def order(row: RolloutRow | ProposalRow) -> tuple[str, int, str, int]:
    return row.run, row.round, row.task, row.sample


def test_rows_are_chosen_by_run_round_and_task_and_come_in_the_order_of_their_keys(ledger: Ledger) -> None:
    ledger.begin("b", {})
    keys = [
        (run, round, task, sample)
        for run in ("b", "seal")
        for round in (0, 1)
        for task in "xy"
        for sample in (2, 9, 10)
    ]
    rows = [rollout(sample, run=run, round=round, task=task) for run, round, task, sample in keys]
    for row in random.Random(0).sample(rows, len(rows)):
        ledger.record(row)
    assert ledger.rollouts() == tuple(rows)
    assert ledger.rollouts(run="b") == tuple(rows[:12])
    assert ledger.rollouts(run="b", round=0, task="y") == tuple(rows[3:6])
    assert ledger.rollouts(round=0, task="x") == (*rows[:3], *rows[12:15])
    assert ledger.rollouts(run="none") == ()
    for task in ("x", "y"):
        ledger.record_proposals([proposal(sample, task=task) for sample in (2, 0, 1)])
    assert ledger.proposals("seal", 0, "x") == tuple(proposal(sample, task="x") for sample in range(3))


def test_every_field_has_its_column_and_every_column_its_field(tmp_path: Path) -> None:
    with closing(connect_writer(tmp_path / "ledger")) as connection:
        for kind, table in TABLES.items():
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            assert [column["name"] for column in columns] == [field.name for field in fields(kind)]
            assert tuple(column["name"] for column in columns if column["pk"]) == key(kind)


@pytest.mark.parametrize(
    ("table", "again"),
    [
        ("rollouts", lambda ledger: ledger.record(rollout(3, reward=None))),
        ("proposals", lambda ledger: ledger.record_proposals([proposal(4), proposal(3, message="other")])),
        ("policies", lambda ledger: ledger.record_policy(policy(folder="other"))),
    ],
)
def test_a_key_is_recorded_once(ledger: Ledger, table: str, again: Callable[[Ledger], None]) -> None:
    ledger.record(rollout(3))
    ledger.record_proposals([proposal(3)])
    ledger.record_policy(policy())
    with pytest.raises(ValueError, match=rf"ledger\.sqlite: {table}: run seal, round 0.*UNIQUE"):
        again(ledger)
    assert ledger.rollouts() == (rollout(3),)
    assert ledger.proposals("seal", 0, "0d3d703e") == (proposal(3),)  # and not one without the other
    assert ledger.policy("seal", 0) == policy()


@pytest.mark.parametrize(
    "changes",
    [
        {"score": math.nan},
        {"held_out": math.nan},
        {"reward": 2},
        {"score": 1.5},
        {"round": -1},
        {"self_edit": "{"},
        {"run": "not begun"},
        {"tokens": "many"},
        {"model": None},
        {"losses": ("high",)},
    ],
)
def test_a_value_that_does_not_fit_is_a_programming_error(ledger: Ledger, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ledger.record(rollout(**changes))
    assert ledger.rollouts() == ()


def test_a_reader_cannot_write(ledger: Ledger, path: Path) -> None:
    with Ledger.read_only(path) as reader:
        for write in (lambda: reader.record(rollout()), lambda: reader.begin("other", {})):
            with pytest.raises(RuntimeError, match=r"ledger\.sqlite is open for reading only"):
                write()
        assert reader.rollouts() == ()


CONFIGURATION: dict[str, Any] = {
    "restem": {"samples": 15, "rate": 5e-5, "cap": None, "tuned": True, "limit": math.inf},
    "data": {"tasks": ["a", "b"], "none": []},
    "prompt": "x" * 200,
}


def test_a_run_goes_on_under_its_own_configuration(ledger: Ledger, path: Path) -> None:
    ledger.begin("run", CONFIGURATION)
    ledger.begin("run", json.loads(json.dumps(CONFIGURATION)))
    reordered = dict(reversed(CONFIGURATION.items()))
    ledger.begin("run", {**reordered, "restem": {**CONFIGURATION["restem"], "samples": 15.0}})
    ledger.begin("other", {})
    ledger.close()
    with Ledger.open(path) as again:
        again.begin("run", CONFIGURATION)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"restem": {**CONFIGURATION["restem"], "samples": 5}}, "restem.samples: 15 recorded, 5 now"),
        ({"restem": {**CONFIGURATION["restem"], "limit": 3.5}}, 'restem.limit: "Infinity" recorded, 3.5 now'),
        ({"restem": {**CONFIGURATION["restem"], "tuned": 1}}, "restem.tuned: true recorded, 1 now"),
        ({"restem": {**CONFIGURATION["restem"], "cap": 3, "new": None}},
         "restem.cap: null recorded, 3 now; restem.new: nothing recorded, null now"),
        ({"data": {"tasks": ["a"], "none": ["é\n"]}},
         'data.tasks[1]: "b" recorded, nothing now; data.none: [] recorded, nothing now; '
         'data.none[0]: nothing recorded, "\\u00e9\\n" now'),
        ({"prompt": ""}, f'prompt: "{"x" * 96}... recorded, "" now'),
        ({"restem": {"a": 1}}, "restem.samples: 15 recorded, nothing now; restem.rate: 5e-05 recorded, nothing now; "
         "restem.cap: null recorded, nothing now; restem.tuned: true recorded, nothing now; "
         'restem.limit: "Infinity" recorded, nothing now; and 1 more'),
    ],
)  # fmt: skip
def test_another_configuration_is_refused_with_the_difference(
    ledger: Ledger, path: Path, changed: dict[str, Any], found: str
) -> None:
    ledger.begin("run", CONFIGURATION)
    ledger.record(rollout())
    with pytest.raises(InputError) as caught:
        ledger.begin("run", {**CONFIGURATION, **changed})
    expected = "expected the configuration that is recorded of it (or another run's name)"
    assert str(caught.value) == f"{path}: run run: {expected}, found {found}"
    ledger.begin("run", CONFIGURATION)  # nothing of the refused one was kept


def test_an_empty_ledger_takes_another_configuration(ledger: Ledger, path: Path) -> None:
    ledger.begin("run", {"samples": 15})
    ledger.begin("run", {"samples": 5})
    ledger.record(rollout(run="run"))
    ledger.begin("run", {"samples": 5})
    with pytest.raises(InputError, match="samples: 5 recorded, 15 now"):
        ledger.begin("run", {"samples": 15})


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    def work(thread: int) -> list[int]:
        counts = []
        for sample in range(10):
            ledger.record_proposals([proposal(sample, task=str(thread))])
            ledger.record(rollout(sample, task=str(thread)))
            counts.append(len(ledger.rollouts(task=str(thread))))
        return counts

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [list(range(1, 11))] * 4
    assert len(ledger.rollouts()) == 40


def test_export_writes_a_line_a_rollout(ledger: Ledger, tmp_path: Path) -> None:
    rows = [rollout(0, losses=(math.nan, math.inf, 1.5), held_out=-math.inf), rollout(1, completion="two\nlines é")]
    for row in reversed(rows):
        ledger.record(row)
    ledger.export(tmp_path / "rows.jsonl")
    lines = (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["sample"] for line in lines] == [0, 1]
    assert json.loads(lines[0])["losses"] == ["NaN", "Infinity", 1.5]
    assert json.loads(lines[1])["attempts"][0][0]["grid"] == [[1, 1], [2, 3]]
    assert set(json.loads(lines[0])) == set(asdict(rows[0]))
    assert same([TypeAdapter(RolloutRow).validate_json(line) for line in lines], rows)
    ledger.record(rollout(2))
    with pytest.raises(InputError, match=r"none/rows\.jsonl: expected a file that can be written, found no such file"):
        ledger.export(tmp_path / "none" / "rows.jsonl")
    ledger.export(tmp_path / "rows.jsonl")
    assert len((tmp_path / "rows.jsonl").read_text("utf-8").splitlines()) == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rows.jsonl", "runs"]
