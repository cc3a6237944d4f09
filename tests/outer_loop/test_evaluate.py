"""An evaluation: what each row measures, what is chosen by what, and that nothing is measured twice."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, get_args

import pytest

from arc_seal.arc.task import Solution
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import AdaptJob, ExamineJob, WriteJob
from arc_seal.outer_loop.evaluate import (
    TITLES,
    Evaluation,
    RowName,
    evaluate,
    held_out_auc,
    preferred,
    table_rows,
)
from arc_seal.outer_loop.ledger import Ledger
from arc_seal.outer_loop.rollout import Rollout
from tests.outer_loop.fakes import (
    POLICY,
    RIGHT,
    ROLLOUTS,
    SCHEMA,
    TEXTS,
    WRONG,
    FakeExecutor,
    Notes,
    changed,
    entries,
    rate,
    untimed,
)
from tests.outer_loop.ledger_builders import rollout
from tests.self_edit.builders import random_task

ALL: tuple[RowName, ...] = get_args(RowName)
HELD_OUT = tuple(entries(2))
TRAINING = tuple(
    (task, Solution(task.id, (RIGHT,)))
    for task in (replace(random_task(seed), id=f"training{seed}") for seed in (8, 9))
)
CONFIGURATION = {"temperature": 1.0}
TRAINED = replace(POLICY, policy="/runs/policies/round-1")


def with_candidates(*texts: str) -> Any:
    """Settings whose fixed self-edit is one of these."""
    edits = ROLLOUTS.self_edit.model_dump(by_alias=True)
    return changed(ROLLOUTS, self_edit={**edits, "candidates": texts})


def wanted(*rows: RowName, **changes: Any) -> Evaluation:
    whole: dict[str, Any] = {
        "rows": rows,
        "entries": HELD_OUT,
        "training": TRAINING,
        "samples": 3,
        "settings": with_candidates(*TEXTS[:3]),
        "seed": 0,
        "trained": TRAINED,
        "configuration": CONFIGURATION,
    }
    return Evaluation(**{**whole, **changes})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def measure(ledger: Ledger, executor: FakeExecutor, *rows: RowName, **changes: Any) -> dict[RowName, list[Rollout]]:
    return evaluate(wanted(*rows, **changes), executor, ledger, Notes())


def authors(executor: FakeExecutor) -> list[str | None]:
    """Who wrote, in order: the folder of the policy, None for the model as it came."""
    return [job.policy for job in executor.of(WriteJob)]


def test_each_row_is_measured_in_its_own_way(ledger: Ledger) -> None:
    executor, view = FakeExecutor(), Notes()
    measured = evaluate(wanted(*ALL), executor, ledger, view)
    assert set(measured) == set(ALL) - {"ceiling"}
    counts = {name: len(rows) for name, rows in measured.items()}
    of_policy = {"seal": 6, "seal_policy": 6, "in_context_policy": 2}
    assert counts == {"in_context": 2, "random": 6, "untrained": 6, "fixed": 2, **of_policy, "chosen": 6}
    assert {row.self_edit for row in measured["in_context"]} == {None}
    assert len({row.self_edit for row in measured["random"]}) == 6
    assert authors(executor) == [None, None, *["/runs/policies/round-1"] * 4]
    kept_on = [job for job in executor.of(AdaptJob) if job.adapt_from is not None]
    assert {job.adapt_from for job in kept_on} == {"/runs/policies/round-1"}
    assert sorted(job.self_edit is None for job in kept_on) == [False] * 6 + [True] * 2
    edits = [[row.self_edit for row in measured[name]] for name in ("seal", "seal_policy")]
    assert edits[0] == edits[1]
    assert len({row.self_edit for row in measured["fixed"]}) == 1
    assert all(row.round == 0 and row.task in ("task0", "task1") for rows in measured.values() for row in rows)
    assert view.notes == [
        "In context only",
        "Random self-edits",
        "Untrained policy",
        "Candidates for the fixed self-edit, on the training tasks",
        "Best fixed self-edit",
        "SEAL",
        "SEAL, solving with the policy on",
        "In context, with the policy on",
        "Untrained, held-out choice",
    ]


def test_only_what_is_asked_for_is_measured(ledger: Ledger) -> None:
    executor = FakeExecutor()
    assert set(measure(ledger, executor, "in_context")) == {"in_context"}
    assert len(executor.jobs) == 2
    assert set(measure(ledger, executor, "chosen", "ceiling")) == {"untrained", "chosen"}


def test_the_fixed_self_edit_is_chosen_on_the_training_tasks_alone(ledger: Ledger) -> None:
    def solves(job: AdaptJob) -> bool:
        """The second solves the training tasks, the third what is held out."""
        return rate(job) == (0.002 if job.task.id.startswith("training") else 0.003)

    executor = FakeExecutor(solves=solves)
    rows = measure(ledger, executor, "fixed")["fixed"]
    assert [(row.self_edit, row.reward) for row in rows] == [(SCHEMA.parse(TEXTS[1]), 0)] * 2
    held_out = [job for job in executor.of(AdaptJob) if not job.task.id.startswith("training")]
    assert [rate(job) for job in held_out] == [0.002, 0.002]
    assert len(executor.jobs) == 2 + 3 * 2


def test_nothing_is_measured_twice(ledger: Ledger) -> None:
    first = measure(ledger, FakeExecutor(), *ALL)
    again = FakeExecutor()
    assert measure(ledger, again, *ALL) == first
    assert (again.jobs, again.starts) == ([], 0)


def test_a_row_can_be_added_later(ledger: Ledger, tmp_path: Path) -> None:
    """The choice among the untrained policy's self-edits too, whether or not it was asked for from the first."""
    with Ledger.open(tmp_path / "at once.sqlite") as other:
        at_once = measure(other, FakeExecutor(), "untrained", "chosen")
    before = measure(ledger, FakeExecutor(), "untrained")
    more = FakeExecutor()
    later = measure(ledger, more, "untrained", "chosen")
    assert len(more.jobs) == len(more.of(ExamineJob)) == 6
    assert later["untrained"] == before["untrained"]
    for name in ("untrained", "chosen"):
        assert untimed(later[name]) == untimed(at_once[name])
    assert all(row.held_out is None and "examine" not in row.seconds for row in later["untrained"])
    assert all(row.held_out is not None and row.seconds["examine"] == 1.0 for row in later["chosen"])


def test_every_policy_has_its_own_roll_outs(ledger: Ledger) -> None:
    measure(ledger, FakeExecutor(), "in_context", trained=None)
    first = measure(ledger, FakeExecutor(), "in_context", "seal")
    executor = FakeExecutor()
    later = replace(POLICY, policy="/runs/policies/round-2")
    second = measure(ledger, executor, "in_context", "seal", trained=later)
    assert second["in_context"] == first["in_context"]
    assert authors(executor) == [later.policy] * 2 and len(executor.of(AdaptJob)) == 6
    assert measure(ledger, FakeExecutor(), "seal")["seal"] == first["seal"]


@pytest.mark.parametrize(
    ("rows", "changes", "difference"),
    [
        (("seal",), {"samples": 4}, "samples: 3 recorded, 4 now"),
        (("in_context",), {"configuration": {"temperature": 0.5}}, "temperature: 1.0 recorded, 0.5 now"),
        (("fixed",), {"settings": with_candidates(TEXTS[9])}, "candidates"),
        (
            ("seal",),
            {"trained": replace(TRAINED, adapt_from="/runs/policies/round-1")},
            'adapt_from: null recorded, "round-1" now',
        ),
    ],
)
def test_another_configuration_is_refused(
    rows: tuple[RowName, ...], changes: dict[str, Any], difference: str, ledger: Ledger
) -> None:
    measure(ledger, FakeExecutor(), *rows)
    executor = FakeExecutor()
    with pytest.raises(InputError) as caught:
        measure(ledger, executor, *rows, **changes)
    assert difference in str(caught.value) and "\n" not in str(caught.value)
    assert executor.jobs == []


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (("in_context",), {"entries": tuple(entries(1, solved=False))}, "task0: expected a task with its solution"),
        (("fixed",), {"training": tuple(entries(1, solved=False))}, "task0: expected a task with its solution"),
        (("seal",), {"trained": None}, "rows: seal: expected a run that python -m arc_seal.train has trained"),
        (
            ("fixed",),
            {"settings": with_candidates()},
            "self_edit.candidates: expected at least one self-edit to try",
        ),
        (
            ("fixed",),
            {"settings": with_candidates(TEXTS[0], "{}")},
            "self_edit.candidates[1]: expected a valid self-edit, found",
        ),
        (("ceiling",), {}, "rows: expected a row beside ceiling"),
        (("random", "random"), {}, "rows: expected each row once, found random, random"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_done(
    rows: tuple[RowName, ...], changes: dict[str, Any], message: str, ledger: Ledger
) -> None:
    executor = FakeExecutor()
    with pytest.raises(InputError) as caught:
        measure(ledger, executor, *rows, **changes)
    assert message in str(caught.value)
    assert executor.jobs == []


def test_the_table_counts_every_roll_out_of_every_seed(ledger: Ledger, tmp_path: Path) -> None:
    right = FakeExecutor(solves=lambda job: job.task.id == "task0")
    wrong = FakeExecutor(solves=lambda job: False)
    by_seed = {0: measure(ledger, right, *ALL)}
    with Ledger.open(tmp_path / "one.sqlite") as other:
        by_seed[1] = measure(other, wrong, *ALL, seed=1, trained=replace(TRAINED, seed=1))
    rows = {row.name: row for row in table_rows(ALL, by_seed, HELD_OUT)}
    assert list(rows) == [TITLES[name] for name in ALL]
    counts = {name: (sum(mark.solved for mark in row.marks), len(row.marks)) for name, row in rows.items()}
    assert counts == {
        "in context only": (1, 4),
        "random self-edits": (3, 12),
        "untrained policy": (3, 12),
        "best fixed self-edit": (1, 4),
        "SEAL": (3, 12),
        "SEAL, solving with the policy on": (3, 12),
        "in context, with the policy on": (1, 4),
        "untrained, held-out choice": (1, 4),
        "best of all": (1, 2),
    }
    assert {mark.seed for mark in rows["SEAL"].marks} == {0, 1}
    assert [row.name for row in table_rows(("seal", "in_context"), by_seed, HELD_OUT)] == ["SEAL", "in context only"]


def test_the_choice_costs_all_that_was_asked_and_one_inner_loop(ledger: Ledger) -> None:
    measured = measure(ledger, FakeExecutor(), "chosen")
    (row,) = table_rows(("chosen",), {0: measured}, HELD_OUT)
    assert [mark.seconds for mark in row.marks] == [1.0 + 3 * 1.0 + 1.0] * 2  # writing, examining, solving
    (untrained,) = table_rows(("untrained",), {0: measured}, HELD_OUT)
    assert sum(mark.seconds for mark in untrained.marks) == pytest.approx(2 * (1.0 + 3 * 1.0))


def test_a_mark_knows_the_first_attempt_from_the_second() -> None:
    ((task, solution),) = entries(1)
    first, second = rollout().attempts[0][0], rollout().attempts[0][0]
    first, second = replace(first, grid=RIGHT), replace(second, grid=WRONG)
    made = [
        rollout(0, task=task.id, reward=1, score=1.0, attempts=((first, second),), held_out=None, writing_s=0.0),
        rollout(1, task=task.id, reward=1, score=1.0, attempts=((second, first),), held_out=None, writing_s=0.0),
        rollout(2, task=task.id, reward=0, score=0.0, result=None, status=Status.TIMEOUT, held_out=None, writing_s=0.0),
    ]
    (row,) = table_rows(("random",), {0: {"random": made}}, [(task, solution)])
    assert [(mark.solved, mark.pass_at_1, mark.seconds, mark.status) for mark in row.marks] == [
        (True, True, 1.75, "ok"),
        (True, False, 1.75, "ok"),
        (False, False, 0, "timeout"),
    ]


@pytest.mark.parametrize(("solving", "best"), [((0.002, 0.003), 1), ((), 0), ((0.001, 0.002), 0), ((0.003,), 2)])
def test_among_equally_good_candidates_the_first_is_fixed(
    solving: tuple[float, ...], best: int, ledger: Ledger
) -> None:
    rows = measure(ledger, FakeExecutor(solves=lambda job: rate(job) in solving), "fixed")["fixed"]
    assert {row.self_edit for row in rows} == {SCHEMA.parse(TEXTS[best])}


@pytest.mark.parametrize(
    ("held_out", "statuses", "best"),
    [
        ((-2.0, -1.0, -1.0), "ooo", 1),
        ((-2.0, -1.0, None), "oto", 0),
        ((None, None, None), "too", 0),
        ((-inf, -2.0, 0.0), "ooo", 2),
    ],
)
def test_the_demonstrations_choose_what_ran(held_out: Sequence[float | None], statuses: str, best: int) -> None:
    rows = [
        rollout(sample, held_out=score, status=Status.OK if status == "o" else Status.TIMEOUT)
        for sample, (score, status) in enumerate(zip(held_out, statuses, strict=True))
    ]
    other = rollout(0, task="25ff71a9")
    assert [(row.task, row.sample) for row in preferred([*rows, other])] == [("0d3d703e", best), ("25ff71a9", 0)]


def test_how_well_the_demonstrations_predict_the_reward() -> None:
    def made(task: str, *pairs: tuple[float, int]) -> list[Rollout]:
        return [rollout(n, task=task, held_out=score, reward=reward) for n, (score, reward) in enumerate(pairs)]

    rows = [*made("a", (-1.0, 1), (-2.0, 0)), *made("b", (-5.0, 1), (-6.0, 0))]
    found = held_out_auc(rows)
    assert found is not None
    over_all, within = found
    assert (over_all.mean, within.mean) == (0.75, 1.0)
    uncounted = [rollout(7, held_out=None), rollout(8, reward=None)]
    assert held_out_auc([*rows, *uncounted]) == found
    assert held_out_auc(made("a", (-1.0, 1), (-2.0, 1))) is None
    assert held_out_auc([]) is None
