"""A deadline, and many tasks under one: what is cut short, which stage of which task is next, and how a run goes on."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import AdaptJob, LoadJob
from arc_seal.outer_loop.solve import Solved, Solving
from arc_seal.outer_loop.stages import solve_until
from tests.outer_loop.fakes import Notes, changed, entries
from tests.outer_loop.test_solve import SETTINGS
from tests.outer_loop.test_stages import (
    NEVER_SURE,
    PATIENCE_S,
    SOLUTION,
    TASK,
    Trained,
    budgets,
    calibrated,
    digits_of_tokens,
    same,
    solve,
    solvings,
    staged,
    with_clock,
)


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Trained:
    return with_clock(monkeypatch)


@pytest.mark.parametrize(
    ("deadline_s", "trained", "is_open"),
    [
        (100.0, [0, 4000, 16000], False),
        (21.6, [0, 4000, 16000], False),
        (13.0, [0, 4000, 10700], True),  # nine tenths of the 8 s that are left, but for the prediction
        (6.5, [0, 4000], True),  # 1.5 s are not enough for as many tokens as a stage is worth
        (3.0, [0, 1749], True),
        (1.0, [0], True),
        (0.4, [], True),  # not even that
    ],
)
def test_a_deadline_shortens_a_stage_or_leaves_it_out(
    executor: Trained, deadline_s: float, trained: list[int], is_open: bool
) -> None:
    executor.seconds = 0.0
    warm = solvings(executor, NEVER_SURE, entries(1))
    solve_until(None, warm, executor)  # by which the seconds of a token are known
    begun_s, other = executor.now_s, Solving(TASK, SOLUTION, executor, NEVER_SURE, Notes())
    solve_until(begun_s + deadline_s, [other, *warm], executor)
    solved = other.solved()
    assert budgets(solved) == pytest.approx(trained, abs=2) and solved.open == is_open
    assert executor.now_s <= begun_s + deadline_s


def test_what_time_cuts_off_is_not_recorded_and_tried_again_when_there_is_time(executor: Trained) -> None:
    short = solve(executor, changed(NEVER_SURE, deadline_s=4.0))  # a token is thought to take less than it does
    assert (budgets(short), short.open) == ([0], True)
    (job,) = executor.cut
    assert executor.now_s == pytest.approx(4.0)
    whole = solve(executor, NEVER_SURE, short)
    assert budgets(whole) == [0, 4000, 16000] and not whole.open
    assert whole.rollouts[1].seed == job.seed


def test_each_job_is_given_what_is_left_when_it_begins(executor: Trained) -> None:
    settings = staged(4000, samples=4, deadline_s=12.0)
    solved = solve(executor, settings)
    limits = [limit for job, limit in zip(executor.jobs, executor.limits, strict=True) if isinstance(job, AdaptJob)]
    assert limits == pytest.approx([12.0, 7.5, 3.0]) and executor.now_s == pytest.approx(12.0)
    assert budgets(solved) == [4000, 4000]


def test_the_executor_s_own_limit_holds_where_it_is_less(executor: Trained) -> None:
    solve(executor, staged(4000, executor={"timeout_s": 5.0}, deadline_s=1000.0))
    assert set(executor.limits) == {None}


def test_with_no_time_nothing_is_loaded(executor: Trained) -> None:
    waiting = solvings(executor, NEVER_SURE, entries(2))
    solve_until(executor.now_s, waiting, executor)
    assert (executor.starts, executor.jobs) == (0, [])
    assert [(each.solved().rollouts, each.solved().open, each.solved().attempts) for each in waiting] == [
        ((), True, ((),))
    ] * 2


def test_loading_is_waited_for_first_and_one_that_fails_is_told_by_the_jobs(executor: Trained) -> None:
    solve(executor, changed(NEVER_SURE, deadline_s=100.0))
    assert [type(job) for job in executor.jobs[:2]] == [LoadJob, AdaptJob]

    def fails(job: Any) -> Status | None:
        raise InputError("model", "", "weights", "none")

    executor.fails = fails
    with pytest.raises(InputError, match="model: expected weights"):
        solve(executor, changed(NEVER_SURE, deadline_s=1000.0))


# The order of many


def test_the_smallest_begin_first_then_what_gains_most_a_second(tmp_path: Path, executor: Trained) -> None:
    tasks = entries(4)
    settings = calibrated(tmp_path, 0.0, 0.0, (0, 4000))
    chances = {each.id: chance for (each, _), chance in zip(tasks, (0.2, 0.8, 0.1, 0.5), strict=True)}
    made = solvings(executor, settings, tasks)
    for each in made:
        each._judge = lambda each=each: setattr(each, "chance", chances[each.task.id])  # type: ignore[method-assign]
    solve_until(None, made, executor)
    order = [job.task.id for job in executor.of(AdaptJob)]
    ids, by_size = [task.id for task, _ in tasks], sorted(tasks, key=lambda entry: entry[0].cells)
    assert order == [*(task.id for task, _ in by_size), ids[2], ids[0], ids[3], ids[1]] and by_size != tasks


def test_a_task_without_more_examples_is_reckoned_by_those_it_has(executor: Trained) -> None:
    """Its next stage takes a second, not the 40 s of its budget: it is done within the time, and in whole."""
    executor.most = 1000
    solved = solve(executor, staged(0, 4000, 40000, deadline_s=10.0))
    assert (budgets(solved), solved.open) == ([0, 4000, 40000, 80000, 160000], False)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_task_is_worked_on_twice_at_a_time_and_all_are_kept(workers: int) -> None:
    executor, seen, lock = Trained(workers=workers), list[int](), threading.Lock()
    made = solvings(executor, NEVER_SURE, entries(5))

    def kept(number: int) -> None:
        with lock:
            seen.append(number)

    solve_until(None, made, executor, kept)
    assert sorted(seen) == sorted([*range(5)] * 3)
    assert all(each.done for each in made)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_who_waits_is_woken_when_another_fails(error: BaseException) -> None:
    """One of two workers waits for the only task while the other fails at it."""
    executor = Trained(workers=2)
    made = solvings(executor, staged(0, 4000), entries(2))
    reached = threading.Event()

    def fails(job: Any) -> Status | None:
        if job.task.id == made[1].task.id and reached.wait(PATIENCE_S):
            raise error
        return None

    def kept(number: int) -> None:
        if made[number].done:
            reached.set()  # it has nothing to do any more but to wait

    executor.fails, raised = fails, list[BaseException]()

    def all_of_it() -> None:
        try:
            solve_until(None, made, executor, kept)
        except BaseException as caught:
            raised.append(caught)

    thread = threading.Thread(target=all_of_it)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and raised == [error]


def test_bad_input_ends_one_task_and_no_other() -> None:
    executor, faults = Trained(workers=2), dict[int, InputError]()
    made = solvings(executor, NEVER_SURE, entries(3))

    def fails(job: Any) -> Status | None:
        if isinstance(job, AdaptJob) and job.task.id == made[1].task.id:
            raise InputError("tools/x.py", "", "a tool", "none")
        return None

    executor.fails = fails
    solve_until(None, made, executor, failed=faults.__setitem__)
    assert list(faults) == [1] and [each.done for each in made] == [True, False, True]
    with pytest.raises(InputError, match="a tool"):
        solve_until(None, [made[1]], executor)


# Going on


@pytest.mark.parametrize("stages_done", [0, 1, 2])
@pytest.mark.parametrize("samples", [1, 3])
def test_going_on_comes_to_what_is_undisturbed(stages_done: int, samples: int) -> None:
    scored = {"samples": samples, "decode": SETTINGS.decode.model_copy(update={"score": True})}
    settings, executor = changed(NEVER_SURE, **scored), Trained(score=lambda job, grid: -1.0 - job.seed % 7)
    whole = solve(executor, settings)
    partly = Solving(TASK, SOLUTION, executor, settings, Notes())
    turns = threading.Semaphore(1)
    for _ in range(stages_done):
        partly.advance(partly.budgets[0], None, turns)
    before = Solved.model_validate_json(partly.solved().model_dump_json())
    assert before.open and len(before.rollouts) == len(whole.rollouts[: [0, 1, 1 + samples][stages_done]])
    resumed = solve(executor, settings, before)
    assert same(untrained(resumed), untrained(whole)) and not resumed.open
    assert same(resumed, whole) == (stages_done < 2)  # the adapters are gone: what they had read is read anew
    read = [each.result.training.total for each in resumed.rollouts if each.result and each.result.training]
    assert read == [4000] * samples + [16000] * samples


def untrained(solved: Solved) -> Solved:
    """Without what training did."""
    rollouts = [
        each.model_copy(update={"result": each.result and replace(each.result, training=None)})
        for each in solved.rollouts
    ]
    return solved.model_copy(update={"rollouts": tuple(rollouts)})


def test_once_sure_a_resumed_task_stays_so(tmp_path: Path) -> None:
    settings = calibrated(tmp_path, -33.0, 10.0)
    solved, executor = solve(Trained(score=digits_of_tokens), settings), Trained()
    assert same(solve(executor, settings, solved), solved) and executor.jobs == []
