"""One task from self-edits to attempts, on a tiny network that is really trained."""

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Solution, Task
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import AdaptJob, ScoreJob, TrainedAdapter, TrainingSettings, WriteJob, pooled, vote
from arc_seal.models.scripted import ScriptedSource
from arc_seal.outer_loop.provenance import versions
from arc_seal.outer_loop.rollout import derived_seed
from arc_seal.outer_loop.solve import Solved, SolveSettings, solve_task
from arc_seal.sandbox.worker import InlineExecutor, Limits
from arc_seal.self_edit.edit import SelfEdit, ToolCall
from tests.inner_loop.builders import copying_task
from tests.outer_loop.fakes import RIGHT, SCHEMA, TEXTS, WRONG, FakeExecutor, Notes, changed, rate
from tests.outer_loop.fakes import SETTINGS as SHARED
from tests.outer_loop.fakes import untimed as without_times
from tests.self_edit.builders import edit, random_grid

TASK = copying_task()
SOLUTION = Solution(TASK.id, (Grid.from_rows([[0], [0]]),))
ONE, TWO = (edit(ToolCall.of("rotate", quarter_turns=turns), learning_rate=0.01) for turns in (1, 2))
REPEATED = json.dumps({"tools": [{"tool": "transpose"}] * 2, "training": ONE.training.model_dump()})
"""Within the grammar, and yet no self-edit: two calls are equal."""

SETTINGS = SolveSettings.model_validate(
    {
        **SHARED.model_dump(by_alias=True),
        "seed": 0,
        "samples": 1,
        "select": "all",
        "margin": 0.02,
        "stages": (),
        "confidence": None,
        "abstain_below": None,
        "deadline_s": None,
        "policy": None,
        "train": True,
    }
)


def written(*self_edits: SelfEdit | str) -> tuple[str, ...]:
    return tuple(each if isinstance(each, str) else SCHEMA.canonical(each) for each in self_edits)


def solve(
    completions: Sequence[str] = written(ONE),
    task: Task = TASK,
    solution: Solution | None = SOLUTION,
    timeout_s: float = 120.0,
    **settings: Any,
) -> tuple[Solved, Notes]:
    executor, notes = InlineExecutor(ScriptedSource(tuple(completions)), Limits(timeout_s=timeout_s)), Notes()
    return solve_task(task, solution, executor, changed(SETTINGS, **settings), notes), notes


def by_hand(text: str) -> dict[str, Any]:
    return {"self_edit": {**SETTINGS.self_edit.model_dump(by_alias=True), "json": text}}


def said(notes: Notes) -> list[tuple[int, str | None, SelfEdit | None]]:
    return [(each.sample, each.completion, each.self_edit) for each in notes.proposals]


def ends(notes: Notes) -> list[tuple[int, Status, str]]:
    return [(each.sample, each.status, each.message) for each in notes.ends]


def untimed(solved: Solved) -> Solved:
    return solved.model_copy(update={"rollouts": tuple(without_times(solved.rollouts)), "seconds": {}})


def test_model_writes_and_the_loop_carries_it_out() -> None:
    solved, notes = solve()
    (rollout,) = solved.rollouts
    assert (rollout.completion, rollout.self_edit, rollout.status, rollout.message) == (
        SCHEMA.canonical(ONE),
        ONE,
        Status.OK,
        "",
    )
    assert rollout.seed == derived_seed(0, TASK.id, "adapt", 0)
    assert rollout.result is not None and rollout.result.training is not None
    assert solved.attempts == rollout.result.attempts
    assert (solved.task_id, solved.seed, solved.model, solved.versions) == (TASK.id, 0, "scripted", versions())
    assert said(notes) == [(0, SCHEMA.canonical(ONE), ONE)]
    assert notes.steps == [(0, "load"), (0, "write"), (0, "train"), (0, "predict")]
    assert ends(notes) == [(0, Status.OK, "")]
    assert solved.seconds.keys() == {"load", "write", "train", "predict", "other"}
    assert all(seconds >= 0 for seconds in solved.seconds.values())


def test_seed_fixes_everything_but_the_time() -> None:
    texts = written(ONE, REPEATED, TWO)
    first, again, other = (solve(texts, samples=2, seed=seed)[0] for seed in (3, 3, 4))
    assert untimed(first) == untimed(again)
    assert untimed(first).attempts != untimed(other).attempts


def test_a_single_self_edit_is_the_likeliest_and_several_are_different_ones() -> None:
    executor = FakeExecutor(
        texts=lambda job: (TEXTS[:2] * 3 if len(executor.jobs) == 1 else TEXTS[1:])[: job.sampling.count]
    )
    solved = solve_task(TASK, None, executor, changed(SETTINGS, samples=4), Notes())
    asked = executor.of(WriteJob)
    assert [(job.sampling.count, job.sampling.temperature) for job in asked] == [(4, 1.0), (2, 1.0), (1, 1.0)]
    edits = [SCHEMA.canonical(each.self_edit) for each in solved.rollouts if each.self_edit]
    assert edits[:2] == TEXTS[:2] and len(set(edits)) == 3  # TEXTS[1] again, TEXTS[2], then TEXTS[1] once more
    alone = FakeExecutor(texts=lambda job: TEXTS[:1])
    solve_task(TASK, None, alone, changed(SETTINGS, samples=1), Notes())
    assert [job.sampling.temperature for job in alone.of(WriteJob)] == [0.0]


def test_self_edit_by_hand_asks_no_model() -> None:
    solved, notes = solve(["never asked"], **by_hand(SCHEMA.canonical(TWO)))
    (rollout,) = solved.rollouts
    assert (rollout.completion, rollout.self_edit, rollout.status) == (None, TWO, Status.OK)
    assert said(notes) == [(0, SCHEMA.canonical(TWO), TWO)]
    assert (0, "write") not in notes.steps
    assert "write" not in solved.seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"^self_edit\.json: expected a valid self-edit, found "),
        (REPEATED, r"^self_edit\.json: expected a valid self-edit, found .*unlike the others"),
        (SCHEMA.canonical(ONE).replace("0.01", "7"), r"training\.learning_rate"),
    ],
)
def test_invalid_self_edit_by_hand_is_bad_input(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve(**by_hand(text))


def test_invalid_completion_is_sampled_again() -> None:
    solved, notes = solve(written(REPEATED, "{}", ONE))
    assert [rollout.self_edit for rollout in solved.rollouts] == [ONE]
    assert said(notes) == [(0, SCHEMA.canonical(ONE), ONE)]


def test_only_invalid_completions_are_sampled_again() -> None:
    solved, _ = solve(written(ONE, REPEATED, TWO), samples=2)
    assert [rollout.self_edit for rollout in solved.rollouts] == [ONE, TWO]


@pytest.mark.parametrize("max_resamples", [0, 1, 3])
def test_completion_that_stays_invalid_is_recorded(max_resamples: int) -> None:
    texts = [f"no {number}" for number in range(10)]
    solved, notes = solve(texts, max_resamples=max_resamples)
    (rollout,) = solved.rollouts
    assert (rollout.completion, rollout.self_edit, rollout.result) == (f"no {max_resamples}", None, None)
    assert (rollout.status, rollout.reward) == (Status.INVALID_SELF_EDIT, 0)
    assert rollout.message and "\n" not in rollout.message
    assert (solved.attempts, solved.reward, solved.score) == (((),), 0, 0.0)
    assert said(notes) == [(0, f"no {max_resamples}", None)]
    assert ends(notes) == [(0, Status.INVALID_SELF_EDIT, rollout.message)]


def test_completion_that_is_cut_is_invalid() -> None:
    solved, _ = solve((), max_tokens=5, max_resamples=1)
    (rollout,) = solved.rollouts
    assert rollout.status is Status.INVALID_SELF_EDIT
    assert rollout.message == "the self-edit was cut off at max_tokens"
    assert rollout.completion is not None and len(rollout.completion) == 5


def test_samples_are_pooled_in_one_vote() -> None:
    solved, notes = solve(written(ONE, TWO, "no", "no"), samples=3, max_resamples=0)
    assert [rollout.status for rollout in solved.rollouts] == [Status.OK, Status.OK, Status.INVALID_SELF_EDIT]
    assert [rollout.self_edit for rollout in solved.rollouts] == [ONE, TWO, None]
    assert [rollout.sample for rollout in solved.rollouts] == [0, 1, 2]
    assert len({rollout.seed for rollout in solved.rollouts}) == 3
    results = [rollout.result for rollout in solved.rollouts if rollout.result is not None]
    assert solved.attempts == vote([each for result in results for each in result.candidates], 1)
    for stage in ("train", "predict"):
        assert solved.seconds[stage] == pytest.approx(sum(result.seconds[stage] for result in results))
    assert [end[:2] for end in ends(notes)] == [(0, Status.OK), (1, Status.OK), (2, Status.INVALID_SELF_EDIT)]


@pytest.mark.parametrize("workers", [1, 3])
def test_attempts_of_several_roll_outs_are_scored_under_the_adapters_of_all(workers: int) -> None:
    settings = changed(SETTINGS, samples=3, decode={**SETTINGS.decode.model_dump(), "score": True})
    executor = Kept(texts=lambda job: TEXTS[:3], solves=lambda job: rate(job) < 0.002, workers=workers)
    solved = solve_task(TASK, None, executor, settings, Notes())
    asked = {rate(job.adapt): (job.adapt.known, job.adapt.begin) for job in executor.of(ScoreJob)}
    assert [asked[rate] for rate in (0.001, 0.002, 0.003)] == [
        (((WRONG,),), adapter(0.001)), (((RIGHT,),), adapter(0.002)), (((RIGHT,),), adapter(0.003)),
    ]  # fmt: skip
    results = [rollout.result for rollout in solved.rollouts if rollout.result is not None]
    assert [[each.grid for each in result.known] for result in results] == [[WRONG], [RIGHT], [RIGHT]]
    assert all(result.adapter is None and result.seconds["score"] == 1.0 for result in results)
    assert solved.attempts == vote(pooled([], results), 1)
    assert solved.seconds["score"] == 3.0


def test_one_roll_out_keeps_no_adapter_and_scores_nothing_more() -> None:
    for settings in ({"samples": 1, "decode": {**SETTINGS.decode.model_dump(), "score": True}}, {"samples": 2}):
        executor = Kept(texts=lambda job: TEXTS[: job.sampling.count])
        solve_task(TASK, None, executor, changed(SETTINGS, **settings), Notes())
        assert executor.of(ScoreJob) == [] and not any(job.keep for job in executor.of(AdaptJob))


def test_what_could_not_be_scored_under_all_is_as_it_was() -> None:
    settings = changed(SETTINGS, samples=2, decode={**SETTINGS.decode.model_dump(), "score": True})
    executor = Kept(
        texts=lambda job: TEXTS[:2],
        solves=lambda job: rate(job) < 0.002,
        fails=lambda job: Status.TIMEOUT if isinstance(job, ScoreJob) else None,
    )
    solved = solve_task(TASK, None, executor, settings, Notes())
    assert len(executor.of(ScoreJob)) == 2 and all(rollout.status is Status.OK for rollout in solved.rollouts)
    assert {attempt.grid for attempt in solved.attempts[0]} == {RIGHT, WRONG}


def adapter(rate: float) -> TrainedAdapter:
    return TrainedAdapter(str(rate).encode(), 100)


class Kept(FakeExecutor):
    """Keeps an adapter that is known by its learning rate, and scores candidates."""

    def _result(self, job: Any) -> Any:
        made = super()._result(job)
        if not isinstance(job, AdaptJob):
            return made
        candidates = (
            tuple(replace(each, score=-1.0) for each in made.candidates) if job.decode.score else made.candidates
        )
        return replace(made, candidates=candidates, adapter=adapter(rate(job)) if job.keep else None)


def test_in_context_only() -> None:
    solved, notes = solve(["never asked"], train=False)
    (rollout,) = solved.rollouts
    assert (rollout.completion, rollout.self_edit, rollout.status) == (None, None, Status.OK)
    assert rollout.result is not None and rollout.result.training is None
    assert notes.proposals == []
    assert notes.steps == [(0, "load"), (0, "predict")]


def test_without_a_solution_there_is_no_reward() -> None:
    solved, _ = solve(written(ONE, "no"), solution=None, samples=2, max_resamples=0)
    assert (solved.reward, solved.score) == (None, None)
    assert [rollout.reward for rollout in solved.rollouts] == [None, None]


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        ({"timeout_s": 0.2, "max_training_tokens": 10**12}, Status.TIMEOUT, "not done within 0.2 s"),
        ({"max_training_tokens": 10}, Status.OVER_BUDGET, "training tokens planned, 10 allowed"),
        ({"ttt": TrainingSettings(max_tokens=10)}, Status.OVER_BUDGET, "no training example fits into 10 tokens"),
    ],
)
def test_failed_job_is_recorded(settings: dict[str, Any], status: Status, message: str) -> None:
    endless = edit(learning_rate=0.001, epochs=500, max_examples=16)
    solved, notes = solve(**by_hand(SCHEMA.canonical(endless)), **settings)
    (rollout,) = solved.rollouts
    assert (rollout.status, rollout.result, rollout.reward) == (status, None, 0)
    assert message in rollout.message
    assert (solved.attempts, solved.reward, solved.score) == (((),), 0, 0.0)
    assert ends(notes) == [(0, status, rollout.message)]


def test_failure_to_write_is_recorded_for_each_sample() -> None:
    solved, notes = solve((), samples=2, timeout_s=1e-6)
    assert [rollout.status for rollout in solved.rollouts] == [Status.TIMEOUT, Status.TIMEOUT]
    assert [rollout.completion for rollout in solved.rollouts] == [None, None]
    assert said(notes) == [(0, None, None), (1, None, None)]


def test_trivial_task_is_solved() -> None:
    """Two queries, one answer to everything: it takes training to know it, in context it is not known."""
    answer = Grid.from_rows([[7, 3]])
    inputs = [Grid.from_rows([[first, second]]) for first, second in ((1, 2), (5, 5), (0, 4), (9, 8), (6, 1))]
    task = Task("constant", tuple(Demonstration(grid, answer) for grid in inputs[:3]), tuple(inputs[3:]))
    solution = Solution("constant", (answer, answer))
    given = by_hand(SCHEMA.canonical(edit(learning_rate=0.02, epochs=40)))
    solved, _ = solve(task=task, solution=solution, **given)
    assert (solved.reward, solved.score) == (1, 1.0)
    assert [rollout.reward for rollout in solved.rollouts] == [1]
    assert [attempts[0].grid for attempts in solved.attempts] == [answer, answer]
    untrained, _ = solve(task=task, solution=solution, train=False)
    assert (untrained.reward, untrained.score) == (0, 0.0)
    half = Solution("constant", (answer, Grid.from_rows([[0]])))
    partly, _ = solve(task=task, solution=half, **given)
    assert (partly.reward, partly.score) == (0, 0.5)


def test_solution_has_no_part_in_the_attempts() -> None:
    garbage = Solution(TASK.id, (random_grid(Random(1), 30, 30),))
    texts = written(ONE, REPEATED, TWO)
    with_it, without, wrong = (
        untimed(solve(texts, solution=solution, samples=2)[0]) for solution in (SOLUTION, None, garbage)
    )
    assert with_it.attempts == without.attempts == wrong.attempts
    for rollouts in zip(with_it.rollouts, without.rollouts, wrong.rollouts, strict=True):
        unrewarded = [each.model_copy(update={"reward": None, "score": None}) for each in rollouts]
        assert unrewarded[0] == unrewarded[1] == unrewarded[2]


def test_everything_reads_back_from_json() -> None:
    for solved in (
        solve(written(ONE, "no"), samples=2, max_resamples=0)[0],
        solve(train=False, solution=None)[0],
        solve(**by_hand(SCHEMA.canonical(TWO)), max_training_tokens=10)[0],
    ):
        assert Solved.model_validate_json(solved.model_dump_json()) == solved


def test_seeds_of_parts_are_apart_and_stay_the_same() -> None:
    seeds = {derived_seed(seed, *path) for seed in range(3) for path in (("adapt", 0), ("adapt", 1), ("write", 0))}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derived_seed(0, "adapt", 0) == 1543514921  # earlier runs can be repeated


def test_samples_are_tried_side_by_side_where_there_are_workers() -> None:
    texts = tuple(TEXTS[:4])
    alone, together = (
        solve_task(
            TASK, None, FakeExecutor(texts=lambda job: texts, workers=count), changed(SETTINGS, samples=4), Notes()
        )
        for count in (1, 3)
    )
    assert untimed(alone) == untimed(together)


def test_versions_name_what_can_change_a_result() -> None:
    assert {"arc-seal", "python", "torch", "transformers", "peft", "numpy", "llguidance"} == versions().keys()
