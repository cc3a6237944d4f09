"""Stages: what each trains and asks, and when a task is done."""

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Entry
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import (
    AdaptJob,
    Candidate,
    Report,
    Result,
    TrainedAdapter,
    TrainingRecord,
    WriteJob,
    vote,
)
from arc_seal.outer_loop.confidence import CALIBRATION, FEATURES
from arc_seal.outer_loop.rollout import derived_seed
from arc_seal.outer_loop.solve import Solved, SolveSettings, Solving, solve_task
from arc_seal.outer_loop.stages import Adapters, solve_until
from arc_seal.sandbox.worker import Outcome
from tests.outer_loop.fakes import RIGHT, WRONG, FakeExecutor, Notes, changed, entries, untimed
from tests.outer_loop.fakes import SETTINGS as SHARED
from tests.outer_loop.test_solve import SETTINGS
from tests.self_edit.builders import random_task

PATIENCE_S = 60.0
((TASK, SOLUTION),) = entries(1)
STAGES = (0, 4000, 16000)


def staged(*budgets: int, settings: SolveSettings = SETTINGS, **others: Any) -> SolveSettings:
    """Settings under which so many tokens are read after each stage."""
    *earlier, most = budgets
    return changed(settings, stages=earlier, ttt={**settings.ttt.model_dump(), "token_budget": most}, **others)


PLAIN = SHARED.self_edit.model_dump(by_alias=True)

NEVER_SURE = staged(*STAGES)


@dataclass
class Trained(FakeExecutor):
    """Trains on as many tokens as it may, a thousand a second; predicting takes half a second.

    Attributes:
        score: The score of a grid in a job.
        now_s: What the clock says.
        most: Tokens that a task's examples have.
    """

    score: Callable[[AdaptJob, Grid], float] = lambda job, grid: -1.0
    now_s: float = 0.0
    most: int = 10**9
    cut: list[AdaptJob] = field(default_factory=list)

    def tokens(self, job: AdaptJob) -> int:
        return min(self.most, job.training.token_budget or 0) if job.self_edit else 0

    def run(self, job: Any, report: Report, timeout_s: float | None = None) -> Outcome[Any]:
        """Answer in time, or not."""
        needed_s = self.tokens(job) / 1000 + 0.5 if isinstance(job, AdaptJob) else 0.0
        late = timeout_s is not None and needed_s > timeout_s
        self.now_s += timeout_s if late and timeout_s else needed_s
        done = super().run(job, report, timeout_s)
        if late:
            self.cut.append(job)
            return Outcome(Status.TIMEOUT, None, "not done in time", timeout_s or 0.0)
        return done

    def _result(self, job: Any) -> Any:
        if not isinstance(job, AdaptJob):
            return super()._result(job)
        answer, tokens, queries = RIGHT if self.solves(job) else WRONG, self.tokens(job), range(len(job.task.queries))
        made = tuple(Candidate(query, "identity", answer, -0.5, self.score(job, answer)) for query in queries)
        known = tuple(
            Candidate(query, "known", grid, -0.5, self.score(job, grid))
            for query, grids in enumerate(job.known)
            for grid in grids
        )
        before = job.begin.tokens if job.begin is not None else 0
        training = TrainingRecord(3, 0, 2, tokens, 10, 0.0, (1.0, 0.5), before) if tokens else None
        adapter = TrainedAdapter(b"", before + tokens) if training and job.keep else None
        seconds = {"train": tokens / 1000, "predict": 0.5}
        return Result(vote(made, len(queries)), made, training, seconds, known, adapter)


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Trained:
    return with_clock(monkeypatch)


def with_clock(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """An executor whose jobs alone make time pass."""
    made = Trained()
    for module in ("solve", "stages"):
        monkeypatch.setattr(f"arc_seal.outer_loop.{module}.time", SimpleNamespace(monotonic=lambda: made.now_s))
    return made


def calibrated(
    folder: Path,
    constant: float,
    a_digit_of_tokens: float,
    budgets: Sequence[int] = STAGES,
    **settings: Any,
) -> SolveSettings:
    """Settings with a model that is the surer, the more tokens were read in training, where that is the score."""
    found = {"constant": constant + 10 * a_digit_of_tokens, "score": a_digit_of_tokens}
    weights = [found.get(name, 0.0) for name in FEATURES]
    (folder / CALIBRATION).write_text(json.dumps({"first": weights, "either": weights, "gain": 0.25}))
    values = {"confidence": 0.9, "model": {"name": "scripted", "location": str(folder)}}
    return staged(*budgets, **{**values, **settings})


def digits_of_tokens(job: AdaptJob, grid: Grid) -> float:
    """The logarithm of all tokens read, less ten."""
    read = (job.training.token_budget or 0) + (job.begin.tokens if job.begin is not None else 0)
    return math.log10(1 + read * (job.self_edit is not None)) - 10


def solve(executor: FakeExecutor, settings: SolveSettings, before: Solved | None = None) -> Solved:
    return solve_task(TASK, SOLUTION, executor, settings, Notes(), before)


def budgets(solved: Solved) -> list[int | None]:
    return [each.token_budget for each in solved.rollouts]


def same(one: Solved, other: Solved) -> bool:
    plain = [
        each.model_copy(update={"rollouts": tuple(untimed(each.rollouts)), "seconds": {}}) for each in (one, other)
    ]
    return plain[0] == plain[1]


def solvings(executor: FakeExecutor, settings: SolveSettings, made: list[Entry]) -> list[Solving]:
    return [Solving(*entry, executor, settings, Notes()) for entry in made]


def test_without_stages_there_is_one_loop_as_the_settings_say() -> None:
    executor = Trained()
    solved = solve(executor, SETTINGS)
    assert (budgets(solved), solved.open, SETTINGS.rollouts) == ([None], False, 1)
    (job,) = executor.of(AdaptJob)
    assert (job.training, job.known, executor.limits) == (SETTINGS.ttt, (), [None, None])


def test_each_stage_trains_on_more_under_the_same_self_edit_with_another_seed() -> None:
    executor = Trained()
    solved = solve(executor, NEVER_SURE)
    assert (budgets(solved), solved.open, len(executor.of(WriteJob))) == ([0, 4000, 16000], False, 1)
    assert [each.sample for each in solved.rollouts] == [0, 1, 2]
    assert [each.seed for each in solved.rollouts] == [derived_seed(0, TASK.id, "adapt", number) for number in range(3)]
    first, *others = executor.of(AdaptJob)
    assert first.self_edit is None and len({each.self_edit for each in others}) == 1 and others[0].self_edit
    assert [each.training.token_budget for each in others] == [4000, 12000]
    assert [each.begin and each.begin.tokens for each in others] == [None, 4000]
    assert [each.keep for each in (first, *others)] == [False, True, False]
    assert [each.result and each.result.adapter for each in solved.rollouts] == [None] * 3  # it is not recorded
    assert [each.seconds.get("write") for each in solved.rollouts][2] is None  # writing is counted once
    assert Solved.model_validate_json(solved.model_dump_json()) == solved


def test_the_stages_end_where_no_more_tokens_may_be_read() -> None:
    assert staged(4000, 16000, settings=changed(SETTINGS, select="held_out")).budgets == (None,)
    assert staged(4000, 16000, settings=changed(SETTINGS, train=False)).budgets == (None,)
    assert changed(staged(3000), stages=STAGES).budgets == (0, 3000)
    assert changed(SETTINGS, stages=STAGES).budgets == (*STAGES, None) and SETTINGS.ttt.token_budget is None
    assert staged(16000).budgets == (16000,) and changed(staged(16000), stages=None).budgets == (16000,)


def test_with_a_deadline_there_are_early_stages_and_further_ones() -> None:
    settings = changed(staged(16000), stages=None, deadline_s=5.0)
    assert settings.budgets == (8000, 16000, 32000, 64000)
    assert changed(settings, stages=(0,)).budgets == (0, 16000, 32000, 64000)
    assert changed(SETTINGS, stages=None, deadline_s=5.0).budgets == (8000, 30000, None)


def test_a_self_edit_that_wants_fewer_tokens_has_no_stage_beyond_them() -> None:
    choices = {"learning_rate": 0.002, "rank": 64, "demonstrations": "all", "symmetries": True, "colours": True}
    text = json.dumps({"tokens": 8000, **choices})
    self_edit = {**PLAIN, "json": text, "example": text, "bounds": {"form": "choices"}}
    solved = solve(Trained(), staged(4000, 8000, 16000, self_edit=self_edit))
    assert budgets(solved) == [4000, 8000] and not solved.open


def test_with_a_deadline_stages_go_on_beyond_what_a_self_edit_wants_where_nothing_else_gains_more() -> None:
    choices = {"learning_rate": 0.002, "rank": 64, "demonstrations": "all", "symmetries": True, "colours": True}
    text = json.dumps({"tokens": 8000, **choices})
    self_edit = {**PLAIN, "json": text, "example": text, "bounds": {"form": "choices"}}
    executor = Trained()
    solved = solve(executor, staged(4000, 8000, 16000, self_edit=self_edit, deadline_s=1000.0))
    assert budgets(solved)[:3] == [4000, 8000, 16000]
    wanted = [rollout.self_edit.training.tokens for rollout in solved.rollouts if rollout.self_edit]
    assert wanted[:3] == [8000, 8000, 16000]
    solving = Solving(entries(1)[0][0], None, executor, staged(4000, 8000, 16000, self_edit=self_edit), Notes())
    gains = []
    for budget in (4000, 8000):
        gains.append(solving.gain)
        solving.advance(budget, None, threading.Semaphore(1))
    assert [*gains, solving.gain] == [1.0, 1.0, 0.1]


def test_every_sample_is_tried_in_every_trained_stage() -> None:
    executor, settings = Trained(workers=3), changed(NEVER_SURE, samples=3)
    solved = solve(executor, settings)
    assert budgets(solved) == [0, 4000, 4000, 4000, 16000, 16000, 16000]
    assert [each.sample for each in solved.rollouts] == list(range(7)) and settings.rollouts == 7
    edits = [each.self_edit for each in solved.rollouts]
    assert edits[1:4] == edits[4:] and len(set(edits)) == 4
    assert same(solved, solve(Trained(), settings))  # whatever the workers


def test_what_was_found_before_is_scored_again_and_an_adapter_is_not_asked_of_itself() -> None:
    """Each stage is sure of its own answer; the last finds the first's answer more probable than its own."""
    answers = {0: WRONG, 4000: RIGHT, 12000: WRONG}
    executor = Trained(
        solves=lambda job: answers[executor.tokens(job)] == RIGHT,
        score=lambda job, grid: {0: -0.1, 4000: -0.2, 12000: -1.0}[executor.tokens(job)] - 8 * (grid == WRONG),
    )
    solved = solve(executor, NEVER_SURE)
    assert [job.known for job in executor.of(AdaptJob)] == [(), (), ()]  # no scores were asked for
    scored = changed(NEVER_SURE, decode=NEVER_SURE.decode.model_copy(update={"score": True}))
    executor.jobs.clear()
    solved = solve(executor, scored)
    assert [job.known for job in executor.of(AdaptJob)] == [(), ((WRONG,),), ((RIGHT, WRONG),)]
    assert [attempt.grid for attempt in solved.attempts[0]] == [RIGHT, WRONG] and solved.reward == 1


@pytest.mark.parametrize(
    ("status", "expected"), [(Status.DIVERGED, 3), (Status.OVER_BUDGET, 3), (Status.TIMEOUT, 3), (Status.DIED, 3)]
)
@pytest.mark.parametrize("deadline_s", [None, 1000.0])
def test_a_failed_stage_is_not_tried_again(
    executor: Trained, status: Status, expected: int, deadline_s: float | None
) -> None:
    executor.fails = lambda job: status if isinstance(job, AdaptJob) else None
    solved = solve(executor, changed(NEVER_SURE, deadline_s=deadline_s))
    assert [each.status for each in solved.rollouts] == [status] * expected
    assert (len(executor.of(AdaptJob)), solved.open, solved.attempts, solved.reward) == (expected, False, ((),), 0)


def test_an_invalid_self_edit_leaves_the_answer_in_context() -> None:
    executor = Trained(texts=lambda job: ["no"] * job.sampling.count, solves=lambda job: True)
    solved = solve(executor, NEVER_SURE)
    assert [each.status for each in solved.rollouts] == [Status.OK, *[Status.INVALID_SELF_EDIT] * 2]
    assert (solved.reward, len(executor.of(AdaptJob)), solved.open) == (1, 1, False)


@pytest.mark.parametrize(
    ("constant", "digit", "tried"),
    [(9.0, 0.0, [0]), (-35.0, 10.0, [0, 4000, 16000]), (-33.0, 10.0, [0, 4000]), (-9.0, 0.0, [0, 4000, 16000])],
)
def test_a_task_ends_once_it_is_sure(tmp_path: Path, constant: float, digit: float, tried: list[int]) -> None:
    settings = calibrated(tmp_path, constant, digit)
    solved = solve(Trained(score=digits_of_tokens), settings)
    assert budgets(solved) == tried and not solved.open
    (attempt, *_), *_ = solved.attempts
    assert attempt.confidence is not None and (attempt.confidence >= 0.9) == (constant != -9.0)
    assert budgets(solve(Trained(score=digits_of_tokens), changed(settings, confidence=None))) == list(STAGES)


def test_sure_of_one_test_is_not_sure_of_the_task(tmp_path: Path) -> None:
    """Both at 0.92 are 0.85 together."""
    task = random_task(3, queries=2)
    solving = Solving(task, None, Trained(), calibrated(tmp_path, 2.4423, 0.0, (0, 4000)), Notes())
    solving.advance(0, None, threading.Semaphore(1))
    assert solving.chance == pytest.approx(0.92**2, abs=1e-3) and solving.gain == pytest.approx(0.25 * 0.1536, abs=1e-3)


def test_adapters_are_let_go_once_a_task_is_done() -> None:
    adapters, turns, made = Adapters(), threading.Semaphore(1), []
    for task, solution in entries(2):
        made.append(Solving(task, solution, Trained(), staged(4000, 16000), Notes(), None, adapters, task.id))
    for each in made:
        each.advance(4000, None, turns)
    assert [adapters.get(each.task.id, 0) for each in made] == [TrainedAdapter(b"", 4000)] * 2
    made[0].advance(16000, None, turns)
    assert [adapters.get(each.task.id, 0) for each in made] == [None, TrainedAdapter(b"", 4000)]


def test_adapters_in_a_file_outlive_the_process_that_kept_them(tmp_path: Path) -> None:
    file, kept = tmp_path / "x.sqlite", TrainedAdapter(b"weights", 7)
    Adapters(file).keep("a", 0, kept)
    again = Adapters(file)
    assert (again.get("a", 0), again.get("a", 1), again.get("b", 0)) == (kept, None, None)
    again.remove()
    assert not file.exists() and again.get("a", 0) is None
    file.write_bytes(b"no database" * 1000)
    broken = Adapters(file)
    broken.keep("a", 0, kept)
    broken.let_go("a")
    assert broken.get("a", 0) is None
    nowhere = Adapters(tmp_path / "no" / "x.sqlite")
    nowhere.keep("a", 0, kept)
    assert nowhere.get("a", 0) == kept


@pytest.mark.parametrize("samples", [1, 3])
def test_with_its_adapters_a_resumed_task_comes_to_what_is_undisturbed(tmp_path: Path, samples: int) -> None:
    settings, executor, turns = changed(NEVER_SURE, samples=samples), Trained(), threading.Semaphore(1)
    whole = solve(executor, settings)
    partly = Solving(TASK, SOLUTION, executor, settings, Notes(), None, Adapters(tmp_path / "x"), "a")
    for _ in range(2):
        partly.advance(partly.budgets[0], None, turns)
    before = Solved.model_validate_json(partly.solved().model_dump_json())
    resumed = Solving(TASK, SOLUTION, executor, settings, Notes(), before, Adapters(tmp_path / "x"), "a")
    solve_until(None, [resumed], executor)
    assert same(resumed.solved(), whole)


@pytest.mark.parametrize(("constant", "kept"), [(-0.01, 0), (0.01, 1)])
def test_unsure_answers_are_left_out_where_asked(tmp_path: Path, constant: float, kept: int) -> None:
    executor = Trained(solves=lambda job: True)
    solved = solve(executor, calibrated(tmp_path, constant, 0.0, abstain_below=0.5))
    assert (len(solved.attempts[0]), solved.reward) == (kept, kept)
    assert all(each.attempts[0] and each.reward == 1 for each in solved.rollouts)  # what was found is recorded


def test_without_a_calibration_nothing_is_left_out_of_what_cannot_be_judged(tmp_path: Path) -> None:
    staged(*STAGES, confidence=0.9, model={"name": "x", "location": str(tmp_path)}).check()
    with pytest.raises(InputError, match=r"^abstain_below: expected a model that comes with a calibration, found x$"):
        changed(SETTINGS, abstain_below=0.5, model={"name": "x", "location": str(tmp_path)}).check()
