import json
import math
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.arc.task import Solution
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Attempt, Candidate, Examination, Result, TrainingRecord
from arc_seal.outer_loop.ledger import Ledger, Policy
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.self_edit.random_edit import draw_edit
from arc_seal.self_edit.schema import Bounds, SelfEditSchema
from tests.arc.strategies import grids
from tests.outer_loop.fakes import RIGHT
from tests.outer_loop.ledger_builders import policy, proposal, rollout
from tests.self_edit.builders import TOOLBOX, random_task

SCHEMA = SelfEditSchema(TOOLBOX, Bounds())
NUMBERS = st.floats(allow_nan=False)
TEXTS = st.text(max_size=20)
NONE = st.none()
COUNTS = st.integers(0, 2**40)
KEYS = {"run": TEXTS, "round": COUNTS, "task": TEXTS, "sample": COUNTS}
LOSSES = st.lists(st.floats(), max_size=4).map(tuple)
SECONDS = st.dictionaries(TEXTS, NUMBERS, max_size=3)
ATTEMPTS = st.builds(Attempt, grids(), st.integers(0, 99), st.floats(), st.floats())
CANDIDATES = st.builds(Candidate, st.integers(0, 3), TEXTS, NONE | grids(), st.floats(), NONE | st.floats())
RECORDS = st.builds(TrainingRecord, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.floats(0, 1), LOSSES)
POLICIES = st.builds(
    Policy,
    run=TEXTS,
    round=COUNTS,
    folder=TEXTS,
    rollouts=st.lists(st.tuples(TEXTS, COUNTS, TEXTS, COUNTS), max_size=3).map(tuple),
    losses=LOSSES,
    seconds=NUMBERS,
    finished_at=TEXTS,
)
ROLLOUTS = st.builds(
    Rollout,
    **KEYS,
    seed=st.integers(0, 2**31 - 1),
    completion=NONE | TEXTS,
    self_edit=NONE | st.integers(0, 9).map(lambda seed: draw_edit(SCHEMA, random.Random(seed))),
    status=st.sampled_from(Status),
    message=TEXTS,
    writing_s=NUMBERS,
    examination=NONE | st.builds(Examination, st.floats(), COUNTS, COUNTS, SECONDS),
    result=NONE
    | st.builds(
        Result,
        st.lists(st.lists(ATTEMPTS, max_size=2).map(tuple), max_size=2).map(tuple),
        st.lists(CANDIDATES, max_size=3).map(tuple),
        NONE | RECORDS,
        SECONDS,
    ),
    reward=NONE | st.integers(0, 1),
    score=NONE | st.floats(0, 1),
    model=TEXTS,
    versions=st.dictionaries(TEXTS, TEXTS, max_size=3),
    git_commit=NONE | TEXTS,
    finished_at=NONE | TEXTS,
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
@given(rollouts=st.lists(ROLLOUTS, max_size=3, unique_by=lambda each: each.key), trained=POLICIES)
def test_what_is_recorded_is_there_when_the_ledger_is_opened_again(rollouts: list[Rollout], trained: Policy) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger #1?%.sqlite"
        with Ledger.open(path) as ledger:
            for run in {each.run for each in (*rollouts, trained)}:
                ledger.begin(run, {})
            ledger.record(rollouts)
            ledger.record_policy(trained)
        with Ledger.read_only(path) as ledger:
            ordered = sorted(rollouts, key=lambda each: each.key)
            assert same(ledger.rollouts(finished=None), ordered)
            assert same(ledger.rollouts(), [each for each in ordered if each.finished_at is not None])
            assert same(ledger.policies(trained.run), [trained])
            assert ledger.policies(f"{trained.run}2") == []


def test_roll_outs_are_chosen_by_run_round_and_task_and_come_in_the_order_of_their_keys(ledger: Ledger) -> None:
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
        ledger.record([row])
    assert ledger.rollouts() == rows
    assert ledger.rollouts(run="b") == rows[:12]
    assert ledger.rollouts(run="b", round=0, task="y") == rows[3:6]
    assert ledger.rollouts(round=0, task="x") == [*rows[:3], *rows[12:15]]
    assert ledger.rollouts(run="none") == []
    for task in ("x", "y"):
        ledger.record([proposal(sample, round=5, task=task) for sample in (2, 0, 1)])
    untried = [proposal(sample, round=5, task="x") for sample in range(3)]
    assert ledger.rollouts("seal", 5, "x", finished=False) == untried == ledger.rollouts("seal", 5, "x", finished=None)
    assert ledger.rollouts("seal", 5, "x") == []


def test_a_proposal_is_finished_once(ledger: Ledger) -> None:
    ledger.record([proposal(3), proposal(4)])
    ledger.record([rollout(3)])
    assert ledger.rollouts() == [rollout(3)]
    assert ledger.rollouts(finished=False) == [proposal(4)]
    for again in (rollout(3, reward=0), proposal(3), proposal(4, message="other")):
        with pytest.raises(ValueError, match=r"ledger\.sqlite: run seal, round 0, .*, sample \d is recorded already"):
            ledger.record([rollout(5), again])
    assert ledger.rollouts(finished=None) == [rollout(3), proposal(4)]  # and not one without the other


def test_a_round_has_one_policy(ledger: Ledger) -> None:
    ledger.record_policy(policy())
    with pytest.raises(ValueError, match=r"ledger\.sqlite: run seal, round 0 has a policy already"):
        ledger.record_policy(policy(folder="other"))
    ledger.record_policy(policy(round=2))
    assert ledger.policies("seal") == [policy(), policy(round=2)]


@pytest.mark.parametrize("changes", [{"score": 1.5}, {"reward": 2}, {"round": -1}, {"model": None}])
def test_a_value_that_makes_no_sense_is_a_programming_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        rollout(**changes)


def test_a_run_is_begun_before_anything_of_it_is_recorded(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="FOREIGN KEY"):
        ledger.record([rollout(run="not begun")])
    assert ledger.rollouts() == []


def test_a_run_says_which_tasks_it_learns_from(ledger: Ledger, path: Path) -> None:
    entries = [(random_task(seed), Solution(f"task{seed}", (RIGHT,))) for seed in (1, 0)]
    assert ledger.entries("seal") == []
    ledger.begin("run", {}, [*entries, entries[0]])
    assert ledger.entries("run") == sorted(entries, key=lambda entry: entry[0].id)
    ledger.begin("run", {}, entries[:1])  # nothing has come of it yet
    ledger.record([rollout(run="run")])
    ledger.begin("run", {}, entries)
    ledger.close()
    with Ledger.read_only(path) as reader:
        assert reader.entries("run") == entries[:1]


def test_a_reader_cannot_write(ledger: Ledger, path: Path) -> None:
    with Ledger.read_only(path) as reader:
        for write in (lambda: reader.record([rollout()]), lambda: reader.begin("other", {})):
            with pytest.raises(RuntimeError, match=r"ledger\.sqlite is open for reading only"):
                write()
        assert reader.rollouts() == []


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
    ledger.record([rollout()])
    with pytest.raises(InputError) as caught:
        ledger.begin("run", {**CONFIGURATION, **changed})
    expected = "expected the configuration that is recorded of it (or another run's name)"
    assert str(caught.value) == f"{path}: run run: {expected}, found {found}"
    ledger.begin("run", CONFIGURATION)  # nothing of the refused one was kept


def test_an_empty_ledger_takes_another_configuration(ledger: Ledger, path: Path) -> None:
    ledger.begin("run", {"samples": 15})
    ledger.begin("run", {"samples": 5})
    ledger.record([rollout(run="run")])
    ledger.begin("run", {"samples": 5})
    with pytest.raises(InputError, match="samples: 5 recorded, 15 now"):
        ledger.begin("run", {"samples": 15})


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    def work(thread: int) -> list[int]:
        counts = []
        for sample in range(10):
            ledger.record([proposal(sample, task=str(thread))])
            ledger.record([rollout(sample, task=str(thread))])
            counts.append(len(ledger.rollouts(task=str(thread))))
        return counts

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [list(range(1, 11))] * 4
    assert len(ledger.rollouts()) == 40


def test_export_writes_a_line_a_rollout(ledger: Ledger, tmp_path: Path) -> None:
    rows = [rollout(0, losses=(math.nan, math.inf, 1.5), held_out=-math.inf), rollout(1, completion="two\nlines é")]
    ledger.record([*reversed(rows), proposal(9)])
    ledger.export(tmp_path / "rows.jsonl")
    lines = (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["sample"] for line in lines] == [0, 1]
    assert json.loads(lines[0])["result"]["training"]["losses"] == ["NaN", "Infinity", 1.5]
    assert json.loads(lines[0])["examination"]["log_probability"] == "-Infinity"
    assert json.loads(lines[1])["result"]["attempts"][0][0]["grid"] == [[1, 1], [2, 3]]
    assert same([Rollout.model_validate_json(line) for line in lines], rows)
    ledger.record([rollout(2)])
    with pytest.raises(InputError, match=r"none/rows\.jsonl: expected a file that can be written, found no such file"):
        ledger.export(tmp_path / "none" / "rows.jsonl")
    ledger.export(tmp_path / "rows.jsonl")
    assert len((tmp_path / "rows.jsonl").read_text("utf-8").splitlines()) == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rows.jsonl", "runs"]
