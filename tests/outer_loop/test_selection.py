"""Choosing among self-edits by the demonstrations: the best first, the rest as far as time goes."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from arc_seal.arc.task import Solution, Task
from arc_seal.errors import Status
from arc_seal.inner_loop.job import AdaptJob, ExamineJob, WriteJob
from arc_seal.outer_loop.rollout import Rollout, Runner
from arc_seal.outer_loop.solve import SolveSettings, solve_task
from arc_seal.outer_loop.stages import roll_out_best
from tests.outer_loop.fakes import POLICY, SCHEMA, TEXTS, FakeExecutor, Notes, changed, entries, rate, spoken
from tests.outer_loop.ledger_builders import proposal
from tests.outer_loop.test_solve import SETTINGS
from tests.self_edit.builders import random_task

((TASK, SOLUTION),) = entries(1)
ROLLOUTS = changed(SETTINGS, max_resamples=0, select="held_out")
INVALID = {"status": Status.INVALID_SELF_EDIT, "message": "no self-edit"}


def proposals(*rates: int) -> list[Rollout]:
    """Self-edits by their learning rates in thousandths; an invalid one for 0."""
    edits = [SCHEMA.parse(TEXTS[each - 1]) if each else None for each in rates]
    return [
        proposal(sample, task=TASK.id, self_edit=each, **({} if each else INVALID)) for sample, each in enumerate(edits)
    ]


def best(
    proposed: list[Rollout],
    executor: FakeExecutor,
    settings: SolveSettings = ROLLOUTS,
    task: Task = TASK,
    solution: Solution | None = SOLUTION,
    view: Notes | None = None,
    start: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Rollout, ...]:
    start = clock() if start is None else start
    runner = Runner(executor, settings, POLICY, view or Notes())
    limits = settings.margin, settings.deadline_s
    return tuple(roll_out_best(proposed, task, solution, runner, *limits, start, clock))


def at(*scores: float) -> Callable[[ExamineJob], float]:
    """What examinations say, by learning rate in thousandths."""
    return lambda job: scores[round(1000 * rate(job)) - 1]


def select(
    executor: FakeExecutor,
    *rates: int,
    solution: Solution | None = SOLUTION,
    started_s_ago: float = 0.0,
    **settings: Any,
) -> tuple[Rollout, ...]:
    start = time.monotonic() - started_s_ago
    found = best(proposals(*rates), executor, changed(ROLLOUTS, **settings), solution=solution, start=start)
    assert [rollout.sample for rollout in found] == list(range(len(rates)))
    return found


def tried(executor: FakeExecutor) -> list[int]:
    """What was tried, by learning rate in thousandths, in its order."""
    return [round(1000 * rate(job)) for job in executor.of(AdaptJob)]


def examined(executor: FakeExecutor) -> list[int]:
    return [round(1000 * rate(job)) for job in executor.of(ExamineJob)]


def statuses(rollouts: tuple[Rollout, ...]) -> list[Status]:
    return [rollout.status for rollout in rollouts]


@pytest.mark.parametrize(
    ("margin", "order"), [(0.0, [2]), (0.01, [2]), (0.02, [2, 4]), (0.5, [2, 4, 1]), (99.0, [2, 4, 1, 3])]
)
def test_the_best_is_tried_first_and_those_close_to_it_after_it(margin: float, order: list[int]) -> None:
    executor = FakeExecutor(foresees=at(-1.25, -1.0, -9.0, -1.015625))
    rollouts = select(executor, 1, 2, 3, 4, margin=margin)
    assert (examined(executor), tried(executor)) == ([1, 2, 3, 4], order)
    assert [rollout.status is Status.OK for rollout in rollouts] == [number in order for number in (1, 2, 3, 4)]
    scores = [rollout.held_out for rollout in rollouts]
    assert scores == [-1.25, -1.0, -9.0, -1.015625]


def test_what_is_not_tried_says_why() -> None:
    fails = lambda job: Status.DIVERGED if isinstance(job, ExamineJob) and rate(job) == 0.003 else None  # noqa: E731
    executor, view = FakeExecutor(foresees=at(-1.0, -2.5, -0.1), fails=fails), Notes()
    rollouts = best(proposals(1, 0, 2, 3, 1), executor, view=view)
    assert [(rollout.status, rollout.message) for rollout in rollouts[1:]] == [
        (Status.INVALID_SELF_EDIT, "no self-edit"),
        (Status.NOT_CHOSEN, "held-out log-probability -2.500 a symbol"),
        (Status.DIVERGED, "diverged on purpose"),
        (Status.NOT_CHOSEN, "not examined: equal to another"),
    ]
    assert [rollout.reward for rollout in rollouts[1:]] == [0] * 4
    assert [end.sample for end in view.ends] == [0, 1, 2, 3, 4]


def test_equal_self_edits_are_examined_and_tried_once() -> None:
    executor = FakeExecutor(foresees=at(-1.0, -1.0))
    rollouts = select(executor, 1, 1, 2, 1, 2)
    assert (examined(executor), tried(executor)) == ([1, 2], [1, 2])
    assert statuses(rollouts) == [Status.OK, Status.NOT_CHOSEN, Status.OK, Status.NOT_CHOSEN, Status.NOT_CHOSEN]


def test_of_equally_good_ones_the_first_written_is_first() -> None:
    executor = FakeExecutor(foresees=at(-1.0, -1.0, -1.0))
    select(executor, 3, 1, 2)
    assert tried(executor) == [3, 1, 2]


def test_what_can_never_be_foreseen_is_ranked_last_and_not_left_out() -> None:
    executor = FakeExecutor(foresees=at(float("-inf"), -9.0))
    select(executor, 1, 2)
    assert tried(executor) == [2]
    hopeless = FakeExecutor(foresees=at(float("-inf"), float("-inf")))
    select(hopeless, 1, 2)
    assert tried(hopeless) == [1, 2]


class Passing(FakeExecutor):
    """Time passes while it works: 10 s for an inner loop, and an examination is two."""

    now_s, examination_s = 0.0, 20.0

    def run(self, job: Any, report: Any, timeout_s: float | None = None) -> Any:
        """Answer, and let time pass."""
        self.seconds = self.examination_s if isinstance(job, ExamineJob) else 10.0
        self.now_s += self.seconds
        return super().run(job, report, timeout_s)


@pytest.mark.parametrize(
    ("deadline_s", "count", "order"),
    [
        (None, 4, [4, 3, 2, 1]),
        (1000.0, 4, [4, 3, 2, 1]),
        (115.0, 4, [4, 3, 2]),  # reckoned at half more than half an examination
        (105.0, 4, [4, 3]),
        (95.0, 4, [4]),
        (94.0, 3, [3, 2]),
        (54.0, 1, [1]),
        (1.0, 1, [1]),  # the best so far is tried all the same
    ],
)
def test_a_deadline_leaves_room_for_the_best(deadline_s: float | None, count: int, order: list[int]) -> None:
    executor = Passing(foresees=at(-4.0, -3.0, -2.0, -1.0))
    settings = changed(ROLLOUTS, margin=99.0, deadline_s=deadline_s)
    rollouts = best(proposals(1, 2, 3, 4), executor, settings, solution=None, start=0.0, clock=lambda: executor.now_s)
    assert (len(examined(executor)), tried(executor)) == (count, order)
    assert statuses(rollouts).count(Status.OK) == len(order)
    assert deadline_s is None or executor.now_s <= max(deadline_s, 30.0)


def test_what_was_spent_before_counts() -> None:
    executor = FakeExecutor(foresees=at(-1.0, -1.0, -1.0))
    select(executor, 1, 2, 3, deadline_s=100.0, started_s_ago=101.0)
    assert (examined(executor), tried(executor)) == ([1], [1])


def test_without_time_for_more_only_the_best_is_tried() -> None:
    executor = Passing(foresees=at(-1.0, -1.0))
    settings = changed(ROLLOUTS, deadline_s=5.0)
    rollouts = best(proposals(1, 2), executor, settings, start=0.0, clock=lambda: executor.now_s)
    assert (examined(executor), tried(executor)) == ([1], [1])
    assert rollouts[1].message == "not examined: time was up"


def test_a_task_with_one_demonstration_has_one_fold() -> None:
    """Its examination is one inner loop and no two, whatever `folds` says: another takes all of its 10 s."""
    task = random_task(0, demos=1)
    executor = Passing(foresees=at(-1.0, -1.0))
    executor.examination_s = 10.0
    settings = changed(ROLLOUTS, folds=9, deadline_s=24.0)
    best(proposals(1, 2), executor, settings, task, None, start=0.0, clock=lambda: executor.now_s)
    assert {job.left_out for job in executor.of(ExamineJob)} == {(0,)}
    assert (examined(executor), tried(executor)) == ([1], [1])


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.DIVERGED])
def test_where_every_examination_fails_the_first_self_edit_is_tried(status: Status) -> None:
    executor = FakeExecutor(fails=lambda job: status if isinstance(job, ExamineJob) else None, solves=lambda job: True)
    rollouts = select(executor, 0, 1, 2)
    assert (examined(executor), tried(executor)) == ([1, 2], [1])
    assert statuses(rollouts) == [Status.INVALID_SELF_EDIT, Status.OK, status]
    assert [rollout.reward for rollout in rollouts] == [0, 1, 0]


def test_where_the_only_examination_failed_and_time_is_up_another_is_tried() -> None:
    executor = Passing(fails=lambda job: Status.TIMEOUT if isinstance(job, ExamineJob) else None)
    settings = changed(ROLLOUTS, deadline_s=5.0)
    best(proposals(1, 2), executor, settings, start=0.0, clock=lambda: executor.now_s)
    assert (examined(executor), tried(executor)) == ([1], [2])


def test_without_a_valid_self_edit_nothing_is_tried() -> None:
    executor = FakeExecutor()
    assert statuses(select(executor, 0, 0)) == [Status.INVALID_SELF_EDIT] * 2
    assert executor.jobs == []


def test_a_solution_has_no_part_in_the_choice() -> None:
    with_it, without = (
        [
            each.model_copy(update={"reward": None, "score": None, "finished_at": None})
            for each in select(FakeExecutor(), 1, 2, 3, solution=solution, margin=0.001)
        ]
        for solution in (SOLUTION, None)
    )
    assert with_it == without
    assert all(rollout.reward is None for rollout in select(FakeExecutor(), 1, 0, solution=None))


def test_a_task_is_solved_by_what_is_chosen() -> None:
    """Through `solve_task`: the right answer is that of the self-edit that the demonstrations prefer."""
    executor = FakeExecutor(
        texts=spoken(*TEXTS[:3]), foresees=at(-3.0, -1.0, -2.0), solves=lambda job: rate(job) == 0.002
    )
    chosen, every = (
        solve_task(TASK, SOLUTION, executor, changed(ROLLOUTS, samples=3, select=how), Notes())
        for how in ("held_out", "all")
    )
    assert (chosen.reward, chosen.attempts[0][0].votes) == (1, 1)
    assert [rollout.reward for rollout in chosen.rollouts] == [0, 1, 0]
    assert chosen.seconds["examine"] == 3.0 and "examine" not in every.seconds
    assert len(executor.of(WriteJob)) == 2 and len(executor.of(AdaptJob)) == 1 + 3
