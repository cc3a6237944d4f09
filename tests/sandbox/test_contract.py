"""What every executor keeps, whichever processes and machines it runs its jobs on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from arc_seal.errors import ExecutorClosed, InputError, ModelError, Status
from arc_seal.inner_loop.job import LoadJob, Progress
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.ray import RayExecutor
from arc_seal.sandbox.stacked import StackedExecutor
from arc_seal.sandbox.worker import Executor, InlineExecutor, Limits, ProcessSettings, StackedSettings
from tests.sandbox import jobs
from tests.sandbox.cluster import needs_ray, on_cluster

TIMEOUT_S = 30.0
CONF = Path(__file__).parents[2] / "conf" / "executor"
Make = Callable[[Any, float], Executor]


def ignore(progress: Progress) -> None:
    pass


def inline(source: Any, timeout_s: float) -> Executor:
    return InlineExecutor(source, Limits(timeout_s=timeout_s))


def one_process(source: Any, timeout_s: float) -> Executor:
    return ProcessExecutor(source, ProcessSettings(timeout_s=timeout_s))


def two_processes(source: Any, timeout_s: float) -> Executor:
    return ProcessExecutor(source, ProcessSettings(workers=2, timeout_s=timeout_s))


def stacked(source: Any, timeout_s: float) -> Executor:
    return StackedExecutor(source, StackedSettings(workers=2, timeout_s=timeout_s))


def on_ray(source: Any, timeout_s: float) -> Executor:
    return RayExecutor(source, on_cluster(timeout_s=timeout_s))


@pytest.fixture(
    scope="module",
    params=[inline, one_process, two_processes, stacked, pytest.param(on_ray, marks=[needs_ray, pytest.mark.slow])],
)
def make(request: pytest.FixtureRequest) -> Make:
    executor: Make = request.param
    if executor is on_ray:
        request.getfixturevalue("cluster")
    return executor


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loads") / "log"


@pytest.fixture(scope="module")
def executor(make: Make, log: Path) -> Iterator[Executor]:
    log.unlink(missing_ok=True)
    executor = make(jobs.FakeSource(log), TIMEOUT_S)
    yield executor
    executor.close()


def test_model_is_loaded_once_and_its_loading_reported_once(executor: Executor, log: Path) -> None:
    seen: list[Progress] = []
    first = executor.run(jobs.Echo("first"), seen.append)
    second = executor.run(jobs.Echo("second"), seen.append)
    assert first.status is second.status is Status.OK
    assert first.result is not None and second.result is not None
    assert first.result[:2] == ("first", "fake model")
    assert second.result[:2] == ("second", "fake model")
    assert first.result[2] == second.result[2] == int(log.read_text())
    assert seen == [Progress("load", 0, 1), Progress("load", 1, 1)]


def test_a_job_that_only_loads_is_done_at_once(make: Make, tmp_path: Path) -> None:
    executor, seen = make(jobs.FakeSource(tmp_path / "log"), TIMEOUT_S), list[Progress]()
    try:
        for _ in range(2):
            done = executor.run(LoadJob(), seen.append)
            assert (done.status, done.result, done.message) == (Status.OK, None, "")
        assert {each.stage for each in seen} == {"load"}
        echoed = executor.run(jobs.Echo("after it"), ignore)
        assert echoed.result is not None and echoed.result[0] == "after it"
    finally:
        executor.close()


def test_progress_comes_whole_and_in_order(executor: Executor) -> None:
    executor.run(jobs.Echo("warm"), ignore)
    seen: list[Progress] = []
    outcome = executor.run(jobs.Echo("steps", steps=500), seen.append)
    assert seen == [Progress("train", step, 500, loss=1.0 / (step + 1)) for step in range(500)]
    assert outcome.message == ""
    assert 0 < outcome.seconds < TIMEOUT_S


def test_a_large_result_comes_back(executor: Executor) -> None:
    assert executor.run(jobs.Call(jobs.large_result), ignore).result == jobs.large_result()


def test_a_job_failure_is_an_outcome_and_keeps_the_model(executor: Executor, log: Path) -> None:
    executor.run(jobs.Echo("warm"), ignore)
    loads = log.read_text()
    outcome = executor.run(jobs.Call(jobs.diverge), ignore)
    assert (outcome.status, outcome.result) == (Status.DIVERGED, None)
    assert outcome.message == "the loss is nan at update 3"
    assert executor.run(jobs.Echo("next"), ignore).status is Status.OK
    assert log.read_text() == loads


def test_a_programming_error_is_raised_where_it_can_be_seen(executor: Executor) -> None:
    with pytest.raises(TypeError, match="unsupported operand") as caught:
        executor.run(jobs.Call(jobs.programming_error), ignore)
    text = "".join(getattr(caught.value, "__notes__", [])) + str(caught.getrepr(chain=True))
    assert 'return 1 + "1"' in text
    assert executor.run(jobs.Echo("next"), ignore).status is Status.OK


def test_an_error_of_the_report_is_raised(executor: Executor) -> None:
    def faulty(progress: Progress) -> None:
        raise ZeroDivisionError("in the report")

    with pytest.raises(ZeroDivisionError, match="in the report"):
        executor.run(jobs.Echo("steps", steps=3), faulty)
    assert executor.run(jobs.Echo("next"), ignore).status is Status.OK


def test_an_input_error_of_a_job_is_raised_as_itself(executor: Executor) -> None:
    with pytest.raises(ModelError) as caught:
        executor.run(jobs.Call(jobs.unreadable_input), ignore)
    error = caught.value
    assert (error.source, error.place, error.expected, error.found) == (
        "tools/mine.py",
        "line 3",
        "a function",
        "a hole",
    )


def test_a_model_error_is_raised_as_itself(make: Make) -> None:
    executor = make(jobs.BadSource(jobs.missing_model), TIMEOUT_S)
    with pytest.raises(ModelError, match=r"^models/none: config\.json: expected a file, found nothing$") as caught:
        executor.run(jobs.Echo("never"), ignore)
    assert caught.value.place == "config.json"
    executor.close()


def test_a_model_too_large_is_an_outcome(make: Make) -> None:
    executor = make(jobs.BadSource(jobs.greedy_model), TIMEOUT_S)
    outcome = executor.run(jobs.Echo("never"), ignore)
    assert outcome.status is Status.OUT_OF_MEMORY
    assert outcome.message == "while loading the model: cannot hold the weights"
    executor.close()


def test_a_job_that_reports_is_stopped_at_its_deadline(make: Make, log: Path) -> None:
    executor = make(jobs.FakeSource(log), 0.3)
    seen: list[Progress] = []
    outcome = executor.run(jobs.Steps(), seen.append)
    assert (outcome.status, outcome.message) == (Status.TIMEOUT, "not done within 0.3 s")
    assert 0.3 <= outcome.seconds < 3.0
    assert Progress("train", 10, 1 << 62) in seen
    executor.close()


def test_a_job_may_have_a_limit_of_its_own(make: Make, executor: Executor, log: Path) -> None:
    outcome = executor.run(jobs.Steps(), ignore, timeout_s=0.3)
    assert (outcome.status, outcome.message) == (Status.TIMEOUT, "not done within 0.3 s")
    assert 0.3 <= outcome.seconds < 3.0
    assert executor.run(jobs.Steps(0.6), ignore).status is Status.OK
    hasty = make(jobs.FakeSource(log), 0.3)
    assert hasty.run(jobs.Steps(0.6), ignore, timeout_s=TIMEOUT_S).status is Status.OK
    assert hasty.run(jobs.Steps(0.6), ignore).status is Status.TIMEOUT
    hasty.close()


def test_as_many_jobs_run_at_once_as_there_are_workers(executor: Executor, tmp_path: Path) -> None:
    at_once = 1 if isinstance(executor, StackedExecutor) else executor.workers  # it stacks only jobs that train
    meetings = [jobs.Meet(tmp_path, str(number), at_once) for number in range(3 * executor.workers)]
    with ThreadPoolExecutor(executor.workers + 1) as threads:
        results = [outcome.result for outcome in threads.map(lambda job: executor.run(job, ignore), meetings)]
    spans = [result[1:] for result in results if result is not None and result[0]]
    assert len(spans) == len(meetings), "no job waited for the others in vain"
    assert max(sum(begun <= now < ended for begun, ended in spans) for now, _ in spans) == at_once


def test_each_thread_hears_of_its_own_job(executor: Executor) -> None:
    def steps(count: int) -> list[int]:
        seen: list[Progress] = []
        assert executor.run(jobs.Echo("steps", steps=count), seen.append).status is Status.OK
        return [progress.step for progress in seen if progress.total == count]

    with ThreadPoolExecutor(executor.workers) as threads:
        assert list(threads.map(steps, range(90, 96))) == [list(range(count)) for count in range(90, 96)]


def test_closing_ends_what_is_under_way_and_what_waits(make: Make, log: Path) -> None:
    executor = make(jobs.FakeSource(log), TIMEOUT_S)
    seen: list[Progress] = []
    with ThreadPoolExecutor(executor.workers + 2) as threads:
        running = [threads.submit(executor.run, jobs.Steps(), seen.append) for _ in range(executor.workers + 2)]
        assert jobs.wait_for(lambda: any(progress.stage == "train" for progress in seen), 60)
        executor.close()
        for each in running:
            with pytest.raises(ExecutorClosed, match="the executor was closed"):
                each.result(timeout=10)


def test_closing_is_for_good(make: Make, tmp_path: Path) -> None:
    executor = make(jobs.FakeSource(tmp_path / "log"), TIMEOUT_S)
    executor.close()
    executor.close()
    with pytest.raises(ExecutorClosed):
        executor.run(jobs.Echo("late"), ignore)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("name", "setting", "kind", "workers"),
    [
        ("inline", {}, InlineExecutor, 1),
        ("process", {}, ProcessExecutor, 1),
        ("process", {"workers": 2}, ProcessExecutor, 2),
        ("stacked", {}, StackedExecutor, 16),
    ],
)
def test_configuration_makes_the_executor(
    name: str, setting: dict[str, Any], kind: type, workers: int, log: Path
) -> None:
    executor = instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), setting))(jobs.FakeSource(log))
    assert (type(executor), executor.workers) == (kind, workers)
    assert executor.run(jobs.Echo("configured"), ignore).status is Status.OK
    executor.close()


@needs_ray
def test_configuration_makes_the_ray_executor(log: Path) -> None:
    executor = instantiate(OmegaConf.load(CONF / "ray.yaml"))(jobs.FakeSource(log))
    assert (type(executor), executor.workers) == (RayExecutor, 2)
    executor.close()


@pytest.mark.parametrize(
    ("name", "setting", "line"),
    [
        ("inline", {"timeout_s": 0}, "executor.timeout_s: expected greater than 0, found 0"),
        ("process", {"timeout_s": -1.5}, "executor.timeout_s: expected greater than 0, found -1.5"),
        ("process", {"timeout_s": "soon"}, 'executor.timeout_s: expected a valid number, found "soon"'),
        ("process", {"timeout_s": float("nan")}, "executor.timeout_s: expected greater than 0, found NaN"),
        ("process", {"timeout_s": True}, "executor.timeout_s: expected a valid number, found true"),
        ("process", {"memory_gib": 0.0}, "executor.memory_gib: expected greater than 0, found 0.0"),
        ("process", {"threads": 1.5}, "executor.threads: expected a valid integer, found 1.5"),
        ("process", {"load_timeout_s": None}, "executor.load_timeout_s: expected a valid number, found null"),
        ("process", {"workers": 0}, "executor.workers: expected greater than or equal to 1, found 0"),
        ("process", {"workers": "two"}, 'executor.workers: expected a valid integer, found "two"'),
        ("process", {"retries": 1}, "executor.retries: expected a setting that there is, found an unknown one"),
        ("inline", {"workers": 1}, "executor.workers: expected a setting that there is, found an unknown one"),
        ("stacked", {"tokens": 0}, "executor.tokens: expected greater than or equal to 1, found 0"),
        ("stacked", {"max_padding": 1.0}, "executor.max_padding: expected less than 1, found 1.0"),
        ("stacked", {"length_bucket": 0.5}, "executor.length_bucket: expected a valid integer, found 0.5"),
        ("ray", {"workers": 1.0}, "executor.workers: expected a valid integer, found 1.0"),
        ("ray", {"stacked": 0}, "executor.stacked: expected greater than or equal to 1, found 0"),
        ("ray", {"num_cpus": -1}, "executor.num_cpus: expected 0, a part of 1, or a whole number, found -1"),
        ("ray", {"num_gpus": 1.5}, "executor.num_gpus: expected 0, a part of 1, or a whole number, found 1.5"),
        ("ray", {"retries": -1}, "executor.retries: expected greater than or equal to 0, found -1"),
        ("ray", {"place_timeout_s": 0}, "executor.place_timeout_s: expected greater than 0, found 0"),
        (
            "ray",
            {"address": "ray://head:10001"},
            "executor.address: expected auto, HOST:PORT of a cluster's head, or null for a cluster on this machine, "
            'found "ray://head:10001"',
        ),
    ],
)
def test_configuration_is_checked(name: str, setting: dict[str, Any], line: str, log: Path) -> None:
    conf = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), setting)
    with pytest.raises(InputError) as caught:
        instantiate(conf)(jobs.FakeSource(log))
    assert str(caught.value) == line
