"""Jobs side by side in one process: each ends as it would alone, and what breaks the process costs the others time."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from arc_seal.errors import InputError, Status
from arc_seal.files import tools_dir
from arc_seal.inner_loop import stack
from arc_seal.inner_loop.adapt import adapt
from arc_seal.inner_loop.job import AdaptJob, Job, Progress, Result, TrainingSettings, WriteJob
from arc_seal.models.prompt import Sampling
from arc_seal.models.scripted import ScriptedModel, ScriptedSource
from arc_seal.sandbox import stacked
from arc_seal.sandbox.ray import RayExecutor
from arc_seal.sandbox.stack_worker import can_be_stacked
from arc_seal.sandbox.stacked import StackedExecutor
from arc_seal.sandbox.worker import Executor, Outcome, StackedSettings
from arc_seal.self_edit.edit import ToolCall
from tests.inner_loop.builders import TURNS, copying_task, ignore, job
from tests.sandbox.cluster import needs_ray, on_cluster
from tests.sandbox.jobs import (
    Call,
    Forks,
    exit_with_3,
    hang_with_the_lock,
    nothing,
    torch_threads,
    unreadable_result,
)
from tests.self_edit.builders import edit

TIMEOUT_S = 120.0
WIDTH = 3


@dataclass(frozen=True)
class CrampedSource:
    """A source of a model with which no two jobs find memory."""

    def load(self) -> ScriptedModel:
        advance = stack.Stack.advance

        def cramped(self: stack.Stack) -> Any:
            if len(self) > 1:
                raise MemoryError("no room for two")
            return advance(self)

        stack.Stack.advance = cramped  # type: ignore[method-assign]
        return ScriptedModel()


@dataclass(frozen=True)
class Large:
    """A job of many bytes."""

    text: str

    def run(self, model: Any, report: Any) -> int:
        return len(self.text)


@pytest.fixture(scope="module")
def executor() -> Iterator[StackedExecutor]:
    executor = StackedExecutor(ScriptedSource(), StackedSettings(workers=WIDTH, timeout_s=TIMEOUT_S))
    yield executor
    executor.close()


@pytest.fixture
def toolbox(tmp_path: Path) -> tuple[str, str]:
    """The usual tools, and two that no process survives."""
    for name, body in (("dies", "os._exit(3)"), ("hangs", "time.sleep(600)")):
        head = "import os, time\nfrom arc_seal.self_edit.toolbox import View\n"
        text = f'def {name}(task, rng) -> View:\n    """Break."""\n    {body}\n'
        (tmp_path / f"{name}.py").write_text(f"{head}\n\n{text}")
    return str(tools_dir()), str(tmp_path)


def chosen(number: int, **training: Any) -> AdaptJob:
    chosen_edit, exact = edit(*TURNS.tools, **{"max_examples": 4} | training), TrainingSettings(precision="float32")
    return job(copying_task((2, 3 + number), seed=number), chosen_edit, training=exact)


def together(
    executor: Executor, jobs: Sequence[Job[Any]], limits: Sequence[float | None] = (), threads: int = WIDTH
) -> list[Outcome[Any]]:
    """Outcomes of jobs that are run at the same time."""
    limits = limits or [None] * len(jobs)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda one, limit: executor.run(one, ignore, limit), jobs, limits))


def assert_as_alone(outcomes: Sequence[Outcome[Any]], jobs: Sequence[AdaptJob]) -> None:
    model = ScriptedModel()
    for outcome, one in zip(outcomes, jobs, strict=True):
        assert outcome.status is Status.OK, outcome.message
        found, alone = outcome.result, adapt(one, model, ignore)
        assert isinstance(found, Result) and found.training is not None and alone.training is not None
        assert found.training.losses == pytest.approx(alone.training.losses, abs=1e-5)
        assert [each.grid for each in found.candidates] == [each.grid for each in alone.candidates]


def test_jobs_are_trained_at_the_same_time_and_refilled(executor: StackedExecutor) -> None:
    jobs = [chosen(number, epochs=4) for number in range(2 * WIDTH)]
    under_way, most, change = 0, 0, threading.Lock()

    def run(one: AdaptJob) -> Outcome[Result]:
        def report(progress: Progress) -> None:
            nonlocal under_way, most
            if progress.stage == "train" and progress.step in (1, progress.total):
                with change:
                    under_way += 1 if progress.step == 1 else -1
                    most = max(most, under_way)

        return executor.run(one, report)

    with ThreadPoolExecutor(WIDTH) as pool:
        outcomes = list(pool.map(run, jobs))
    assert_as_alone(outcomes, jobs)
    assert most == WIDTH


def test_failures_are_each_jobs_own(executor: StackedExecutor) -> None:
    fine, wild, greedy = chosen(0), chosen(1, learning_rate=1e30, epochs=3), replace(chosen(2), max_training_tokens=5)
    outcomes = together(executor, [fine, wild, greedy])
    assert [each.status for each in outcomes] == [Status.OK, Status.DIVERGED, Status.OVER_BUDGET]
    assert outcomes[1].message.startswith("the loss became") and "allowed" in outcomes[2].message
    assert_as_alone(outcomes[:1], [fine])


def test_one_over_time_is_stopped_and_the_others_go_on(executor: StackedExecutor) -> None:
    outcomes = together(executor, [chosen(0), chosen(1, epochs=1000), chosen(2)], [None, 0.5, None])
    assert (outcomes[1].status, outcomes[1].message) == (Status.TIMEOUT, "not done within 0.5 s")
    assert 0.5 <= outcomes[1].seconds < 5.0
    assert_as_alone([outcomes[0], outcomes[2]], [chosen(0), chosen(2)])


def test_other_jobs_are_done_between(executor: StackedExecutor) -> None:
    in_context, whole = replace(chosen(1), self_edit=None), replace(chosen(2), training=TrainingSettings(method="full"))
    write = WriteJob(copying_task(), "menu", "{}", {"type": "boolean"}, Sampling(1, 0.0, 0, 8))
    jobs: list[Job[Any]] = [chosen(0, epochs=3), in_context, write, chosen(1), whole, Call(torch_threads), chosen(2)]
    outcomes = together(executor, jobs, threads=len(jobs))
    assert [each.status for each in outcomes] == [Status.OK] * len(jobs)
    assert_as_alone([outcomes[place] for place in (0, 3, 6)], [chosen(0, epochs=3), chosen(1), chosen(2)])
    assert outcomes[1].result.training is None and outcomes[1].result.candidates
    assert outcomes[2].result[0].text in ("true", "false")
    assert outcomes[5].result >= 1


def test_an_error_of_a_job_is_raised_and_the_others_go_on(executor: StackedExecutor, tmp_path: Path) -> None:
    lost = replace(chosen(1), toolbox=(str(tmp_path / "none"),))
    with ThreadPoolExecutor(2) as pool:
        fine = pool.submit(executor.run, chosen(0, epochs=3), ignore)
        with pytest.raises(InputError, match="expected a folder of tools, found nothing there"):
            executor.run(lost, ignore)
    assert_as_alone([fine.result()], [chosen(0, epochs=3)])


def test_a_job_that_forks_is_answered_once(executor: StackedExecutor) -> None:
    worker, answered = executor.run(Forks(), ignore).result or (0, 1)
    assert worker == answered
    assert executor.run(Call(nothing), ignore).status is Status.OK


def test_a_result_that_cannot_be_read_is_an_error_of_its_job(executor: StackedExecutor) -> None:
    with ThreadPoolExecutor(2) as pool:
        fine = pool.submit(executor.run, chosen(0, epochs=3), ignore)
        with pytest.raises(InputError, match="a hole"):
            executor.run(Call(unreadable_result), ignore)
    assert_as_alone([fine.result()], [chosen(0, epochs=3)])


def test_a_death_is_the_jobs_that_was_under_way(executor: StackedExecutor) -> None:
    executor.run(Call(nothing), ignore)
    time.sleep(0.2)
    begun = time.perf_counter()
    outcome = executor.run(Call(exit_with_3), ignore)
    assert (outcome.status, outcome.message) == (Status.DIED, "the worker ended with exit code 3")
    assert outcome.seconds <= time.perf_counter() - begun
    assert executor.run(Call(nothing), ignore).status is Status.OK


def test_only_a_fresh_adapter_on_the_plain_model_is_stacked() -> None:
    plain = chosen(0)
    assert can_be_stacked(plain)
    assert not can_be_stacked(replace(plain, self_edit=None))
    assert not can_be_stacked(replace(plain, adapt_from="policy"))
    assert not can_be_stacked(replace(plain, training=TrainingSettings(method="full")))


@pytest.mark.slow
def test_who_was_under_way_beside_a_death_is_done_alone(executor: StackedExecutor, toolbox: tuple[str, str]) -> None:
    deadly = replace(job(copying_task(), edit(ToolCall.of("dies"))), toolbox=toolbox)
    others = [chosen(0, epochs=60, max_examples=8), chosen(1, epochs=60, max_examples=8)]
    outcomes = together(executor, [*others, deadly])
    assert outcomes[2].status is Status.DIED
    assert outcomes[2].message.startswith("the worker ended with exit code 3")
    assert_as_alone(outcomes[:2], others)


@pytest.mark.slow
def test_one_that_does_not_stop_ends_the_process_and_the_others_begin_again(
    executor: StackedExecutor, toolbox: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked, "GRACE_S", 0.5)
    stuck = replace(job(copying_task(), edit(ToolCall.of("hangs"))), toolbox=toolbox)
    others = [chosen(0), chosen(1, epochs=100, max_examples=8)]
    outcomes = together(executor, [*others, stuck], [None, None, 1.0])
    assert (outcomes[2].status, outcomes[2].message) == (Status.TIMEOUT, "not done within 1 s")
    assert_as_alone(outcomes[:2], others)


@pytest.mark.slow
def test_one_that_keeps_the_process_from_reading_is_ended(
    executor: StackedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked, "GRACE_S", 0.5)
    executor.run(Call(nothing), ignore)
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(executor.run, Call(hang_with_the_lock), ignore, 1.0)
        time.sleep(0.5)
        large = pool.submit(executor.run, Large("x" * (1 << 22)), ignore)  # more than the pipe holds
        assert stuck.result(timeout=30).status is Status.TIMEOUT
        assert large.result(timeout=60).status is Status.OK


@pytest.mark.slow
def test_one_over_time_leaves_though_it_only_waits_for_others() -> None:
    """It is trained, and would predict when as many are as a stack of eight asks for."""
    executor = StackedExecutor(ScriptedSource(), StackedSettings(workers=8, timeout_s=TIMEOUT_S))
    try:
        outcomes = together(executor, [chosen(0, epochs=1000, max_examples=8), chosen(1)], [6.0, 3.0])
        assert [each.status for each in outcomes] == [Status.TIMEOUT] * 2
        assert 3.0 <= outcomes[1].seconds < 6.0
    finally:
        executor.close()


@pytest.mark.slow
def test_a_stack_that_finds_no_memory_is_done_one_at_a_time() -> None:
    executor = StackedExecutor(CrampedSource(), StackedSettings(workers=2, timeout_s=TIMEOUT_S))
    try:
        jobs = [chosen(0, epochs=20), chosen(1, epochs=20)]
        assert_as_alone(together(executor, jobs), jobs)
    finally:
        executor.close()


@needs_ray
@pytest.mark.slow
def test_a_worker_of_a_cluster_may_hold_a_stack(cluster: Any, tmp_path: Path) -> None:
    executor = RayExecutor(ScriptedSource(), on_cluster(workers=1, stacked=WIDTH, timeout_s=TIMEOUT_S))
    lost = replace(chosen(1), toolbox=(str(tmp_path / "none"),))
    jobs, under_way = [chosen(number, epochs=20) for number in range(WIDTH + 1)], threading.Barrier(WIDTH)
    try:
        assert executor.workers == WIDTH
        for _ in range(2):  # the error of a job is not the worker's
            with pytest.raises(InputError, match="expected a folder of tools"):
                executor.run(lost, ignore)

        def meet(progress: Progress) -> None:
            if (progress.stage, progress.step) == ("train", 1):
                under_way.wait(60)

        with ThreadPoolExecutor(WIDTH) as pool:
            outcomes = list(pool.map(lambda one: executor.run(one, meet), jobs[:WIDTH]))
        assert_as_alone([*outcomes, executor.run(jobs[WIDTH], ignore)], jobs)
    finally:
        executor.close()
