"""The rounds of ReST-EM: who writes, what is imitated, what is done again; and what never gets in."""

import json
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Entry, Solution, Task
from arc_seal.errors import FinetuningFailed, InputError, Status
from arc_seal.inner_loop.job import AdaptJob, ExamineJob, FinetuneJob, FinetuneSettings, LookJob, RewardedEdit, WriteJob
from arc_seal.inner_loop.policy import finetune, write
from arc_seal.models.prompt import Sampling
from arc_seal.models.scripted import ScriptedModel
from arc_seal.outer_loop.author import Author, RolloutSettings
from arc_seal.outer_loop.ledger import Ledger, Policy
from arc_seal.outer_loop.lessons import RestemSettings
from arc_seal.outer_loop.restem import fitting, restem
from arc_seal.outer_loop.rollout import Rollout, Runner, derived_seed
from arc_seal.self_edit.paper import ORACLE, compiled
from tests.inner_loop.builders import copying_task, ignore
from tests.outer_loop.fakes import RIGHT, ROLLOUTS, SCHEMA, TEXTS, FakeExecutor, Notes, entries, rate, spoken, untimed
from tests.outer_loop.fakes import changed as changed_rollouts
from tests.outer_loop.ledger_builders import rollout
from tests.outer_loop.test_collect import SCORED
from tests.outer_loop.test_restem import GRADED, LABEL_FREE, PAPER, changed, of
from tests.self_edit.builders import random_grid


class Run:
    """A run in a folder, and what was asked in it."""

    def __init__(self, ledger: Ledger, folder: Path, **executor: Any) -> None:
        self.ledger, self.folder = ledger, folder
        self.executor, self.notes = FakeExecutor(**executor), Notes()

    def go(
        self,
        wanted: RestemSettings = PAPER,
        tasks: Sequence[Entry] | None = None,
        reused: Sequence[Rollout] = (),
        seed: int = 0,
        settings: RolloutSettings = ROLLOUTS,
        **changes: Any,
    ) -> list[Policy]:
        runner = Runner(self.executor, settings, Author("policy", seed), self.notes)
        tasks = entries() if tasks is None else tasks
        fit = fitting(reused, tasks, SCHEMA)
        return restem(tasks, runner, changed(wanted, **changes), fit, self.ledger, self.folder)

    @property
    def finetuned(self) -> list[FinetuneJob]:
        """The M-steps that were asked for."""
        return self.executor.of(FinetuneJob)

    def counts(self) -> list[str]:
        """How many self-edits each M-step was said to imitate."""
        return [note.split()[0] for note in self.notes.notes if "to imitate" in note]

    def imitated(self) -> list[list[tuple[str, str]]]:
        """What was imitated in each M-step, by task."""
        return [[(each.task.id, each.self_edit) for each in job.edits] for job in self.finetuned]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with begun(tmp_path) as run:
        yield run


@contextmanager
def begun(folder: Path, **executor: Any) -> Iterator[Run]:
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        ledger.begin("train", {})
        yield Run(ledger, folder / "policies", **executor)


def test_a_round_samples_tries_and_imitates(run: Run) -> None:
    run.executor.texts = spoken(*TEXTS[:3], "no")
    run.executor.solves = lambda job: job.task.id == "task1" and job.self_edit is not None
    (policy,) = run.go()
    lesson = entries()[1][0]
    (job,) = run.finetuned
    assert job == FinetuneJob(
        edits=tuple(RewardedEdit(lesson, text) for text in TEXTS[:3]),
        menu=ROLLOUTS.edit_schema.menu(),
        example=ROLLOUTS.edit_example,
        schema=ROLLOUTS.edit_schema.json_schema(),
        settings=PAPER.finetune,
        seed=derived_seed(0, "train", "imitate", 0),
        folder=str(run.folder / "round-1"),
    )
    assert [policy] == run.ledger.policies("train")
    assert run.executor.limits[run.executor.jobs.index(job)] == PAPER.finetune.timeout_s
    assert (policy.folder, policy.losses) == ("round-1", (2.0, 1.0))
    assert policy.rollouts == tuple(("train", 0, "task1", sample) for sample in range(3))
    assert run.counts() == ["3"]
    assert len(run.executor.of(AdaptJob)) == 6 and not run.executor.of(ExamineJob)


def test_later_rounds_write_with_the_policy_and_imitate_their_own_round(run: Run) -> None:
    run.go(rounds=3)
    written = run.executor.of(WriteJob)
    folders = [None, *(str(run.folder / f"round-{number}") for number in (1, 2))]
    assert [job.policy for job in written] == [folder for folder in folders for _ in range(2)]
    assert {job.adapt_from for job in run.executor.of(AdaptJob)} == {None}
    imitated = run.imitated()
    assert len(imitated) == 3 and all(len(set(each)) == len(each) for each in imitated)
    for number, each in enumerate(imitated):
        made = run.ledger.rollouts("train", number)
        assert set(each) == {
            (row.task, ROLLOUTS.edit_schema.canonical(row.self_edit)) for row in made if row.reward == 1
        }
    assert len({job.seed for job in run.finetuned}) == 3
    assert [each.folder for each in run.ledger.policies("train")] == ["round-1", "round-2", "round-3"]


def test_gain_leaves_out_what_is_solved_without_training(run: Run) -> None:
    run.executor.texts = spoken(*TEXTS[:4])
    run.executor.solves = lambda job: job.self_edit is not None or job.task.id == "task0"
    (policy,) = run.go(reward="gain", tasks=entries(3))
    untrained, trained = run.executor.of(AdaptJob)[:3], run.executor.of(AdaptJob)[3:]
    assert [(job.task.id, job.self_edit) for job in untrained] == [("task0", None), ("task1", None), ("task2", None)]
    assert {job.task.id for job in trained} == {job.task.id for job in run.executor.of(WriteJob)} == {"task1", "task2"}
    assert {task for _, _, task, _ in policy.rollouts} == {"task1", "task2"}
    assert "1 of 3 tasks are solved without training and left out" in run.notes.notes
    asked = len(run.executor.jobs)
    assert run.go(reward="gain", tasks=entries(3)) == [policy] and len(run.executor.jobs) == asked


def test_without_samples_what_is_reused_is_all_there_is_to_imitate(run: Run) -> None:
    earlier = [*of("task0", TEXTS[0], run="earlier"), *of("task1", TEXTS[1], run="earlier", reward=0)]
    (policy,) = run.go(samples=0, reused=earlier)
    assert policy.rollouts == (("earlier", 0, "task0", 0),) and run.executor.jobs == run.finetuned
    assert run.counts() == ["1"]


def test_gain_has_nothing_to_teach_where_all_is_solved_without_training(run: Run) -> None:
    run.executor.solves = lambda job: True
    assert run.go(reward="gain") == [] and not run.finetuned and not run.executor.of(WriteJob)


def test_the_inner_loop_begins_from_the_policy_where_that_is_wanted(run: Run) -> None:
    run.go(LABEL_FREE, rounds=2, adapt_from="policy", reward="solution", examine=True)
    jobs = run.executor.of(AdaptJob)
    examinations = [job.adapt for job in run.executor.of(ExamineJob)]
    for asked in (jobs, examinations):
        assert [job.adapt_from for job in asked] == [None] * 8 + [str(run.folder / "round-1")] * 8


def test_without_a_reward_there_is_no_policy_and_the_next_round_draws_anew(run: Run) -> None:
    run.executor.solves = lambda job: False
    assert run.go(rounds=2) == []
    assert run.finetuned == [] and run.counts() == ["nothing", "nothing"]
    assert {job.policy for job in run.executor.of(WriteJob)} == {None}
    seeds = [job.sampling.seed for job in run.executor.of(WriteJob)]
    assert len(set(seeds)) == 4
    first, second = ({row.seed for row in run.ledger.rollouts("train", number)} for number in (0, 1))
    assert not first & second


def test_a_round_without_a_reward_of_its_own_goes_on_with_the_policy_before_it(run: Run) -> None:
    run.executor.solves = lambda job: len(run.finetuned) == 0
    assert [row.round for row in run.go(rounds=3)] == [0]
    assert len(run.imitated()) == 1 and run.counts()[1:] == ["nothing", "nothing"]
    assert [job.policy for job in run.executor.of(WriteJob)][-4:] == [str(run.folder / "round-1")] * 4


def test_without_labels_the_demonstrations_alone_reward(run: Run) -> None:
    run.executor.texts = spoken(*TEXTS[5:1:-1])
    (policy,) = run.go(LABEL_FREE, entries(solved=False), margin=0.0005)
    assert run.executor.of(AdaptJob) == [] and len(run.executor.of(ExamineJob)) == 8
    assert run.imitated() == [[("task0", TEXTS[2]), ("task1", TEXTS[2])]]
    assert policy.rollouts == (("train", 0, "task0", 3), ("train", 0, "task1", 3))
    assert {row.reward for row in run.ledger.rollouts()} == {None}


def test_both_rewards_are_recorded_where_that_is_wanted(run: Run) -> None:
    run.go(examine=True)
    assert len(run.executor.of(AdaptJob)) == len(run.executor.of(ExamineJob)) == 8
    assert all(row.reward is not None and row.held_out is not None for row in run.ledger.rollouts())


def test_a_task_without_a_solution_is_refused_before_anything_is_done(run: Run) -> None:
    with pytest.raises(InputError) as caught:
        run.go(tasks=[*entries(1), *entries(2, solved=False)[1:]])
    message = (
        "task1: expected a task with its solution, or restem.reward=held_out_demo, which needs none, found no solution"
    )
    assert str(caught.value) == message
    assert run.executor.jobs == []


def test_rewarded_roll_outs_of_earlier_runs_are_imitated_too(run: Run) -> None:
    run.executor.solves = lambda job: False
    reused = [
        *of("task0", TEXTS[7], TEXTS[8], run="old.sqlite"),
        *of("task0", TEXTS[9], run="older.sqlite", reward=0),
        *of("a stranger", TEXTS[9], run="old.sqlite"),
        rollout(0, task="task1", run="other.sqlite", reward=1, self_edit=compiled(ORACLE)),
    ]
    (policy,) = run.go(reused=reused)
    assert run.imitated() == [[("task0", TEXTS[7]), ("task0", TEXTS[8])]]
    assert policy.rollouts == (("old.sqlite", 0, "task0", 0), ("old.sqlite", 0, "task0", 1))
    assert run.counts() == ["2"]
    assert fitting(reused, entries(), SCHEMA) == reused[:3]


def test_roll_outs_of_other_tasks_alone_are_nothing_to_imitate(run: Run) -> None:
    run.executor.solves = lambda job: False
    assert run.go(reused=of("a stranger", TEXTS[9])) == []
    assert run.counts() == ["nothing"] and run.finetuned == []


def test_a_failed_m_step_says_why_and_is_tried_again(run: Run) -> None:
    run.executor.fails = lambda job: Status.TIMEOUT if isinstance(job, FinetuneJob) else None
    with pytest.raises(FinetuningFailed, match=r"^fine-tuning .* in round 1 failed: timeout, timeout on purpose$"):
        run.go()
    assert run.ledger.policies("train") == []
    done, run.executor.fails = list(run.executor.jobs), lambda job: None
    assert len(run.go()) == 1
    assert run.executor.jobs == [*done, done[-1]]


def test_it_goes_on_and_does_nothing_twice(run: Run, tmp_path: Path) -> None:
    policies = run.go(rounds=2)
    jobs = [*run.executor.jobs]
    assert run.go(rounds=2) == policies
    assert run.executor.jobs == jobs
    with begun(tmp_path / "by steps") as other:
        other.go(rounds=1)
        other.go(rounds=2)
        assert untimed(other.ledger.rollouts()) == untimed(run.ledger.rollouts())
        assert [each.rollouts for each in other.go(rounds=2)] == [each.rollouts for each in policies]


def test_a_solution_never_enters_a_job(tmp_path: Path) -> None:
    poison = random_grid(random.Random(7), 30, 30)
    poisoned = [(task, Solution(task.id, (poison,))) for task, _ in entries()]
    jobs: list[Any] = []
    for name, wanted, clean in (
        ("label-free", changed(LABEL_FREE, rounds=2, margin=0.0), entries(solved=False)),
        ("paper", changed(PAPER, examine=True), entries()),
    ):
        found = []
        for tasks in (poisoned, clean):
            with begun(tmp_path / f"{name}, {len(found)}") as run:
                run.go(wanted, tasks)
                unrewarded = {"reward": None, "score": None}
                found.append([each.model_copy(update=unrewarded) for each in untimed(run.ledger.rollouts())])
                jobs += run.executor.jobs if tasks is poisoned else []
        assert found[0] == found[1]  # the same whatever the solutions are
    assert {type(job) for job in jobs} == {WriteJob, AdaptJob, ExamineJob, FinetuneJob}
    for job in map(pickle.dumps, jobs):
        assert poison.cells not in job
        assert any(task.demos[0].input.cells in job for task, _ in poisoned)  # it would be seen


def test_graded_a_solution_is_scored_and_is_nowhere_else(tmp_path: Path) -> None:
    """It is among the grids that an inner loop scores, which have no vote; no prompt, training or record has it."""
    poison = random_grid(random.Random(7), 30, 30)
    found, jobs = [], list[Any]()
    for name, output in (("poisoned", poison), ("clean", RIGHT)):
        with begun(tmp_path / name) as run:
            tasks = [(task, Solution(task.id, (output,))) for task, _ in entries()]
            run.go(GRADED, tasks, settings=SCORED, rounds=2, examine=True)
            run.ledger.export(tmp_path / name / "rollouts.jsonl")
            records = (tmp_path / name / "rollouts.jsonl").read_text()
            assert json.dumps(poison.rows[0]).replace(" ", "") not in records
            assert '"grid":[[' in records and '"known":[]' in records
            unrewarded = {"reward": None, "score": None}
            rows = [each for each in run.ledger.rollouts() if each.round == 0]  # a reward may lead to another policy
            found.append([each.model_copy(update=unrewarded) for each in untimed(rows)])
            jobs += run.executor.jobs if output is poison else []
    assert found[0] == found[1]
    assert {type(job) for job in jobs} >= {WriteJob, AdaptJob, ExamineJob}
    for job in jobs:
        assert (poison.cells in pickle.dumps(job)) is isinstance(job, AdaptJob)
        assert poison.cells not in pickle.dumps(replace(job, known=()) if isinstance(job, AdaptJob) else job)


def test_graded_all_that_ran_are_imitated_by_their_weights(run: Run) -> None:
    run.executor.texts = spoken(TEXTS[9], TEXTS[29], "no", TEXTS[9])
    run.executor.solves = lambda job: False
    (policy,) = run.go(GRADED, settings=SCORED, temperature=0.1)
    (job,) = run.finetuned
    gap = (1 / (1 + exp(1 - 4.5)) - 1 / (1 + exp(3 - 4.5))) / 2  # of a grid of -1 nats, and one of -3; none is right
    best, other = 2 / (1 + exp(-gap / 0.1)), 2 / (1 + exp(gap / 0.1))
    weights = [(each.task.id, each.self_edit, each.weight) for each in job.edits]
    assert weights == [
        (task, text, pytest.approx(weight))
        for task in ("task0", "task1")
        for text, weight in ((TEXTS[9], best), (TEXTS[29], other))
    ]
    assert [(task, sample) for _, _, task, sample in policy.rollouts] == [
        ("task0", 0), ("task0", 1), ("task1", 0), ("task1", 1),
    ]  # fmt: skip
    assert any("0/8 solved" in note and "of the solution -1.667" in note for note in run.notes.notes)


def test_the_first_round_may_try_the_candidates(run: Run) -> None:
    edits = SCORED.self_edit.model_dump(by_alias=True)
    settings = changed_rollouts(SCORED, self_edit={**edits, "candidates": TEXTS[:3]})
    run.go(GRADED, settings=settings, rounds=2, first="candidates", samples=2)
    first, second = run.ledger.rollouts("train", 0), run.ledger.rollouts("train", 1)
    assert [(row.task, row.sample, SCHEMA.canonical(row.self_edit)) for row in first if row.self_edit] == [
        (task, sample, text) for task in ("task0", "task1") for sample, text in enumerate(TEXTS[:3])
    ]
    assert len({(row.task, row.seed) for row in first}) == 2 and len(second) == 4
    assert {job.policy for job in run.executor.of(WriteJob)} == {str(run.folder / "round-1")}


def test_graded_tasks_are_looked_at_where_difficulty_makes_them_alike(run: Run) -> None:
    run.go(GRADED, settings=SCORED, alike="difficulty")
    assert {job.task.id for job in run.executor.of(LookJob)} == {"task0", "task1"}
    run.executor.jobs.clear()
    run.go(GRADED, settings=SCORED, alike="difficulty")  # which is finished
    run.go(changed(GRADED, alike="difficulty", reward="solution"))
    assert run.executor.of(LookJob) == []


def test_where_all_tasks_are_alike_one_self_edit_is_the_best_of_all(run: Run) -> None:
    edits = SCORED.self_edit.model_dump(by_alias=True)
    settings = changed_rollouts(SCORED, self_edit={**edits, "candidates": TEXTS[:3]})
    run.go(GRADED, settings=settings, first="candidates", samples=1, alike="all", per_task=1)
    assert run.executor.of(LookJob) == []
    (job,) = run.executor.of(FinetuneJob)
    assert len(job.edits) == 2 and len({each.self_edit for each in job.edits}) == 1


def test_the_better_half_is_tried_again_and_what_is_left_is_imitated(run: Run) -> None:
    """Five self-edits, then three, then two; the best of the first seed is the worst of the second."""
    edits = SCORED.self_edit.model_dump(by_alias=True)
    settings = changed_rollouts(SCORED, self_edit={**edits, "candidates": TEXTS[:5]})
    first = {derived_seed(0, task.id, "adapt", 0) for task, _ in entries()}
    worse = {0.001: 3, 0.002: 1, 0.003: 0, 0.004: 2, 0.005: 4}
    run.executor.solves = lambda job: True
    run.executor.grades = lambda job: -(9 if rate(job) == 0.003 and job.seed not in first else worse[rate(job)]) / 100
    wanted = {"first": "candidates", "samples": 1, "alike": "all", "halvings": 2}
    (policy,) = run.go(GRADED, settings=settings, **wanted)
    tried: dict[int, set[float]] = {}
    for job in run.executor.of(AdaptJob):
        tried.setdefault(job.seed, set()).add(rate(job))
    assert sorted(map(sorted, tried.values())) == [
        *[[0.001, 0.002, 0.003, 0.004, 0.005]] * 2, *[[0.002, 0.003, 0.004]] * 2, *[[0.002, 0.004]] * 2,
    ]  # fmt: skip
    assert {text for _, text in run.imitated()[0]} == {TEXTS[1], TEXTS[3]}
    assert {run for run, *_ in policy.rollouts} == {"train"}
    said = [note.strip().partition(":")[0] for note in run.notes.notes if "again" in note]
    assert said == ["Tried again, seed 2", "Tried again, seed 3"]
    done = len(run.executor.jobs)
    assert run.go(GRADED, settings=settings, **wanted) == [policy]
    assert len(run.executor.jobs) == done


def test_without_candidates_the_first_round_cannot_try_them(run: Run) -> None:
    with pytest.raises(
        InputError, match=r"^self_edit\.candidates: expected at least one self-edit to try, found none$"
    ):
        run.go(GRADED, settings=SCORED, first="candidates")


def test_graded_needs_scores(run: Run) -> None:
    with pytest.raises(InputError, match=r"^decode\.score: expected true, for restem\.reward=graded .*, found false$"):
        run.go(GRADED)
    assert run.executor.jobs == []


@pytest.mark.parametrize("difficulty", [False, True])
def test_neither_writing_nor_imitating_sees_a_query(tmp_path: Path, difficulty: bool) -> None:
    task = copying_task()
    other = Task(task.id, task.demos, (Grid.from_rows([[4] * 9]),) * 2)
    model, learnt = ScriptedModel([TEXTS[0]]), []
    for number, each in enumerate((task, other)):
        asked = WriteJob(each, "menu", TEXTS[0], {}, Sampling(1, 1.0, 0, 500), difficulty=difficulty)
        write(asked, model, ignore)
        folder = tmp_path / str(number)
        job = FinetuneJob(
            (RewardedEdit(each, TEXTS[0]),), "menu", TEXTS[0], {}, FinetuneSettings(epochs=2), 0, str(folder)
        )
        job = replace(job, difficulty=difficulty)
        finetune(job, model, ignore)
        learnt.append((folder / "adapter_model.safetensors").read_bytes())
    assert model.prompts[0] == model.prompts[1]
    assert learnt[0] == learnt[1]
