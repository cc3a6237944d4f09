"""Collecting roll-outs: everything is tried, nothing twice, whatever stopped it before."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arc_seal.arc.task import Entry
from arc_seal.errors import Status
from arc_seal.inner_loop.job import AdaptJob, Attempt, DecodeSettings, ExamineJob, WriteJob
from arc_seal.outer_loop.author import Author, RolloutSettings
from arc_seal.outer_loop.collect import Collection, collect
from arc_seal.outer_loop.ledger import Ledger
from arc_seal.outer_loop.rollout import Rollout, Runner, derived_seed
from tests.outer_loop.fakes import (
    POLICY,
    RIGHT,
    ROLLOUTS,
    SCHEMA,
    TEXTS,
    FakeExecutor,
    Notes,
    changed,
    entries,
    rate,
    spoken,
    untimed,
)

ONE, TWO, THREE = TEXTS[:3]
SPACED = ONE.replace(":", ": ").replace(",", ", ")
"""Another text of the same self-edit."""

MIXED = spoken(ONE, TWO, SPACED, "no", ONE, "no", THREE)
"""Equal ones, invalid ones, and five to be tried."""

SCORED = changed(ROLLOUTS, decode=DecodeSettings(views=2, score=True))

RUN = "run"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with begun(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@contextmanager
def begun(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as ledger:
        ledger.begin(RUN, {})
        yield ledger


def gather(
    ledger: Ledger,
    executor: FakeExecutor,
    tasks: Sequence[Entry] | None = None,
    view: Notes | None = None,
    settings: RolloutSettings = ROLLOUTS,
    author: Author = POLICY,
    **wanted: Any,
) -> list[Rollout]:
    collection = Collection(**{"run": RUN, "round": 0, "samples": 7, **wanted})
    tasks = entries() if tasks is None else tasks
    return collect(collection, tasks, Runner(executor, settings, author, view or Notes()), ledger)


def texts(rollouts: Sequence[Rollout]) -> list[str | None]:
    return [each.self_edit and SCHEMA.canonical(each.self_edit) for each in rollouts]


def test_every_self_edit_is_tried_equal_ones_too(ledger: Ledger) -> None:
    executor, (task, _) = FakeExecutor(texts=MIXED), entries()[0]
    rows = [row for row in gather(ledger, executor) if row.task == task.id]
    assert [row.sample for row in rows] == list(range(7))
    assert [row.completion for row in rows] == [ONE, TWO, SPACED, "no", ONE, "no", THREE]
    assert texts(rows) == [ONE, TWO, ONE, None, ONE, None, THREE]
    tried = [job for job in executor.of(AdaptJob) if job.task == task]
    assert [rate(job) for job in tried] == [0.001, 0.002, 0.001, 0.001, 0.003]
    assert [job.seed for job in tried] == [derived_seed(0, task.id, "adapt", sample) for sample in (0, 1, 2, 4, 6)]
    assert len(executor.of(WriteJob)) == 2 and len(executor.jobs) == 2 + 2 * 5


def test_a_record_says_what_came_of_the_job(ledger: Ledger) -> None:
    row = gather(ledger, FakeExecutor(texts=spoken(ONE), solves=lambda job: True), entries(1, queries=2), samples=1)[0]
    assert (row.run, row.round, row.task, row.sample, row.model) == (RUN, 0, "task0", 0, "scripted")
    assert (row.status, row.message, row.reward, row.score) == (Status.OK, "", 1, 1.0)
    assert row.attempts == ((Attempt(RIGHT, 2, -0.5, 2.0),),) * 2
    assert row.result is not None and row.result.training is not None
    assert (row.result.training.losses, row.result.training.tokens, row.result.training.updates) == ((1.0, 0.5), 100, 2)
    assert len(row.result.candidates) == 2
    assert row.seconds == {"write": 1.0, "train": 1.0}
    assert (row.examination, row.held_out) == (None, None)
    assert "torch" in row.versions and row.finished_at


def test_nothing_is_done_twice(ledger: Ledger) -> None:
    first = gather(ledger, FakeExecutor(texts=MIXED))
    again, view = FakeExecutor(texts=MIXED), Notes()
    assert gather(ledger, again, view=view) == first
    assert (again.jobs, again.starts) == ([], 0)
    assert (view.proposals, view.ends) == ([], [])
    assert view.stages == [("self-edits", 2, 2), ("roll-outs", 14, 14)]


def test_another_round_is_done_anew(ledger: Ledger) -> None:
    gather(ledger, FakeExecutor(texts=MIXED))
    again = FakeExecutor(texts=MIXED)
    assert {row.round for row in gather(ledger, again, round=1)} == {1}
    assert len(again.jobs) == 12


def test_it_goes_on_from_wherever_it_was_stopped(ledger: Ledger, tmp_path: Path) -> None:
    recorded: list[Sequence[Rollout]] = []

    class Watched(Ledger):
        """Notes what is recorded, in its order."""

        def record(self, rollouts: Sequence[Rollout]) -> None:
            super().record(rollouts)
            recorded.append(rollouts)

    whole = FakeExecutor(texts=MIXED)
    with Watched.open(tmp_path / "whole.sqlite") as watched:
        watched.begin(RUN, {})
        rows = gather(watched, whole)
    assert len(recorded) == 2 + 14
    for stop in range(len(recorded)):
        with begun(tmp_path / f"{stop}.sqlite") as stopped:
            for each in recorded[:stop]:
                stopped.record(each)
            rest, view = FakeExecutor(texts=MIXED), Notes()
            assert untimed(gather(stopped, rest, view=view)) == untimed(rows)
            done = [each for made in recorded[:stop] for each in made if each.finished_at is not None]
            tried = [row for row in done if row.self_edit is not None]
            assert rest.jobs == [job for job in whole.jobs if job in rest.jobs]  # the same jobs, in the same order
            assert len(rest.of(AdaptJob)) == 10 - len(tried)
            assert len(rest.of(WriteJob)) == max(0, 2 - stop)
            assert len(view.ends) == 14 - len(done)
            assert view.stages[1] == ("roll-outs", len(done), 14)


def test_a_fault_keeps_what_was_done_before_it(ledger: Ledger) -> None:
    def broken(job: Any) -> Status | None:
        if isinstance(job, AdaptJob) and job.task.id == "task1":
            raise ZeroDivisionError
        return None

    with pytest.raises(ZeroDivisionError):
        gather(ledger, FakeExecutor(texts=MIXED, fails=broken))
    assert {row.task for row in ledger.rollouts(RUN) if row.status is Status.OK} == {"task0"}
    assert len(ledger.rollouts(RUN, 0, "task0")) == 7
    rest = FakeExecutor(texts=MIXED)
    assert len(gather(ledger, rest)) == 14
    assert {job.task.id for job in rest.of(AdaptJob)} == {"task1"} and not rest.of(WriteJob)


def test_the_order_of_the_workers_changes_nothing(ledger: Ledger, tmp_path: Path) -> None:
    tasks, said = entries(4), spoken(*TEXTS[:5], ONE, TWO)
    alone = gather(ledger, FakeExecutor(texts=said), tasks)
    together, view = FakeExecutor(texts=said, workers=4), Notes()
    with begun(tmp_path / "other.sqlite") as other:
        assert untimed(gather(other, together, tasks, view)) == untimed(alone)
    assert len(together.of(AdaptJob)) == 4 * 7
    assert len(view.ends) == 4 * 7 and len({row.key for row in view.ends}) == 4 * 7
    assert len(view.advances) == 4 + 4 * 7
    assert sum(solved for solved, _ in view.advances) == sum(row.reward == 1 for row in alone)


def test_rows_come_in_order_of_task_and_sample_and_of_these_tasks_alone(ledger: Ledger) -> None:
    gather(ledger, FakeExecutor(), entries(3))
    rows = gather(ledger, FakeExecutor(), entries(3)[1:])
    assert [(row.task, row.sample) for row in rows] == [(task, n) for task in ("task1", "task2") for n in range(7)]


@pytest.mark.parametrize("solved", [True, False])
def test_what_is_no_self_edit_is_recorded_and_not_tried(solved: bool, ledger: Ledger) -> None:
    executor = FakeExecutor(texts=spoken("no", "{}"))
    rows = gather(ledger, executor, entries(1, solved=solved), samples=2)
    assert [row.status for row in rows] == [Status.INVALID_SELF_EDIT] * 2
    assert all(row.message and "\n" not in row.message and row.self_edit is None for row in rows)
    assert [(row.reward, row.score) for row in rows] == [(0, 0.0) if solved else (None, None)] * 2
    assert executor.of(AdaptJob) == []


@pytest.mark.parametrize("solved", [True, False])
def test_a_failed_job_is_recorded(solved: bool, ledger: Ledger) -> None:
    fails = failing(AdaptJob, Status.OUT_OF_MEMORY)
    rows = gather(ledger, FakeExecutor(texts=spoken(ONE, ONE), fails=fails), entries(1, solved=solved), samples=2)
    assert [(row.status, row.message) for row in rows] == [(Status.OUT_OF_MEMORY, "out_of_memory on purpose")] * 2
    assert [(row.reward, row.score) for row in rows] == [(0, 0.0) if solved else (None, None)] * 2
    assert rows[0].attempts == () and rows[0].result is None


def test_where_nothing_could_be_written_every_sample_says_why(ledger: Ledger) -> None:
    executor = FakeExecutor(fails=failing(WriteJob, Status.TIMEOUT))
    rows = gather(ledger, executor, entries(1), samples=3)
    assert [(row.sample, row.status, row.reward) for row in rows] == [(n, Status.TIMEOUT, 0) for n in range(3)]
    assert gather(ledger, executor, entries(1), samples=3) == rows
    assert len(executor.jobs) == 1


def test_examining_alone_solves_nothing_and_rewards_nothing(ledger: Ledger) -> None:
    executor = FakeExecutor(texts=spoken(ONE, ONE, TWO, "no"))
    rows = gather(ledger, executor, entries(1), samples=4, solve=False, examine=True)
    assert executor.of(AdaptJob) == [] and len(executor.of(ExamineJob)) == 3
    assert [row.held_out for row in rows] == [-0.001, -0.001, -0.002, None]
    assert [row.status for row in rows] == [*[Status.OK] * 3, Status.INVALID_SELF_EDIT]
    assert {(row.reward, row.score, row.attempts) for row in rows} == {(None, None, ())}
    assert rows[0].seconds == {"write": 0.25, "examine": 1.0}


def test_a_failed_examination_is_recorded_where_it_is_all_there_is(ledger: Ledger) -> None:
    executor = FakeExecutor(texts=spoken(ONE), fails=failing(ExamineJob, Status.DIVERGED))
    (row,) = gather(ledger, executor, entries(1), samples=1, solve=False, examine=True)
    assert (row.status, row.message, row.held_out) == (Status.DIVERGED, "diverged on purpose", None)
    (row,) = gather(ledger, executor, entries(1), samples=1, round=1, examine=True)
    assert (row.status, row.held_out, row.reward is None) == (Status.OK, None, False)


def test_examining_as_well_is_one_more_job_a_self_edit(ledger: Ledger) -> None:
    executor = FakeExecutor(texts=MIXED, solves=lambda job: True)
    rows = gather(ledger, executor, entries(1), examine=True)
    assert len(executor.of(AdaptJob)) == len(executor.of(ExamineJob)) == 5
    assert [row.held_out is None for row in rows] == [row.reward == 0 for row in rows]
    assert rows[0].seconds == {"write": 1 / 7, "examine": 1.0, "train": 1.0}


def test_all_self_edits_of_a_task_are_examined_on_the_same_demonstrations(ledger: Ledger) -> None:
    executor = FakeExecutor()
    gather(ledger, executor, entries(1), examine=True, solve=False)
    (left_out,) = {job.left_out for job in executor.of(ExamineJob)}
    assert len(set(left_out)) == 2 and set(left_out) <= {0, 1, 2}
    many = FakeExecutor()
    gather(ledger, many, entries(1), settings=changed(ROLLOUTS, folds=9), round=1, examine=True, solve=False)
    assert {tuple(sorted(job.left_out)) for job in many.of(ExamineJob)} == {(0, 1, 2)}


def test_a_self_edit_is_examined_under_the_seed_that_it_is_solved_with(ledger: Ledger) -> None:
    executor = FakeExecutor(texts=spoken(ONE, TWO))
    gather(ledger, executor, entries(1), samples=2, examine=True)
    examined = [job.adapt for job in executor.of(ExamineJob)]
    assert examined == executor.of(AdaptJob)


def test_graded_the_true_outputs_are_scored_under_one_seed_and_nothing_else_changes(
    ledger: Ledger, tmp_path: Path
) -> None:
    tasks = entries(1, queries=2)
    answers: dict[str, Any] = {"texts": MIXED, "solves": lambda job: rate(job) > 0.001}
    plain, executor = FakeExecutor(**answers), FakeExecutor(**answers)
    with begun(tmp_path / "plain.sqlite") as other:
        before = gather(other, plain, tasks, settings=SCORED)
    rows = gather(ledger, executor, tasks, settings=SCORED, graded=True)
    assert [row.solution_log_probability for row in rows] == pytest.approx([-0.1, -0.2, -0.1, None, -0.1, None, -0.3])
    assert [row.reward for row in rows] == [row.reward for row in before] == [0, 1, 0, 0, 0, 0, 1]
    seed = derived_seed(0, "task0", "adapt", 0)
    jobs = executor.of(AdaptJob)
    assert {row.seed for row in rows} == {seed} and {job.known for job in jobs} == {((RIGHT,), (RIGHT,))}
    assert [replace(job, known=()) for job in jobs] == [replace(job, seed=seed) for job in plain.of(AdaptJob)]
    same = {"seed": 0, "solution_log_probability": None}  # nor is what was scored kept
    assert [row.model_copy(update=same) for row in untimed(rows)] == [
        row.model_copy(update=same) for row in untimed(before)
    ]
    assert all(row.result is None or row.result.known == () for row in rows)


def test_graded_a_failure_has_no_log_probability(ledger: Ledger) -> None:
    executor = FakeExecutor(texts=spoken(ONE), fails=failing(AdaptJob, Status.TIMEOUT))
    (row,) = gather(ledger, executor, entries(1), settings=SCORED, graded=True, samples=1)
    assert (row.status, row.reward, row.solution_log_probability) == (Status.TIMEOUT, 0, None)


@pytest.mark.parametrize("kind", ["none", "hand", "random"])
def test_whoever_writes_each_sample_has_its_record(kind: Any, ledger: Ledger) -> None:
    executor, author = FakeExecutor(), Author(kind, 0, by_hand=(SCHEMA.parse(ONE),) if kind == "hand" else ())
    rows = gather(ledger, executor, author=author, samples=2)
    assert executor.of(WriteJob) == [] and len(rows) == 4
    assert all(row.completion is None and "write" not in row.seconds for row in rows)
    if kind == "random":
        assert len(set(texts(rows))) == 4
    else:
        assert set(texts(rows)) == {ONE if kind == "hand" else None}


def failing(kind: type, status: Status) -> Callable[[Any], Status | None]:
    return lambda job: status if isinstance(job, kind) else None
