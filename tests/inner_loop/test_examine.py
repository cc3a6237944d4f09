"""Examinations on the demonstrations: what they see, what they say, and that they leave no trace."""

from dataclasses import replace

import pytest

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import OverBudget
from arc_seal.inner_loop.adapt import examine, left_out
from arc_seal.inner_loop.job import ExamineJob, Progress
from arc_seal.models.scripted import ScriptedModel
from tests.inner_loop.builders import copying_task, ignore, job
from tests.inner_loop.test_adapter import snapshot
from tests.self_edit.builders import edit

TASK = copying_task()
CONSTANT = Task(
    "constant",
    tuple(
        Demonstration(Grid.from_rows([[one, two]]), Grid.from_rows([[7, 3]])) for one, two in ((1, 2), (5, 5), (0, 4))
    ),
    (Grid.from_rows([[9, 8]]),),
)
"""One answer to everything: it takes training to know it."""


def test_the_left_out_demonstration_is_the_query_and_nothing_else() -> None:
    inner, output = left_out(job(TASK), 1)
    assert inner.task.demos == (TASK.demos[0], TASK.demos[2])
    assert inner.task.queries == (TASK.demos[1].input,)
    assert output == TASK.demos[1].output
    assert replace(inner, task=TASK) == job(TASK)


def test_a_better_edit_is_worth_more() -> None:
    model = ScriptedModel()
    good = examine(ExamineJob(job(CONSTANT, edit(learning_rate=0.02, epochs=40)), (0, 2)), model, ignore)
    poor = examine(ExamineJob(job(CONSTANT, edit(learning_rate=0.00002)), (0, 2)), model, ignore)
    context = examine(ExamineJob(job(CONSTANT, None), (0, 2)), model, ignore)
    assert (good.hits, good.folds) == (2, 2)
    assert poor.hits == 0
    assert poor.log_probability < good.log_probability <= 0
    assert context.tokens == 0 < poor.tokens
    assert good.seconds.keys() == {"train", "predict"} and context.seconds.keys() == {"predict"}


def test_the_task_s_own_queries_have_no_part_in_it() -> None:
    other = Task(TASK.id, TASK.demos, (Grid.from_rows([[4] * 9]),) * 2)
    found = [
        replace(examine(ExamineJob(job(task), (0, 1)), ScriptedModel(), ignore), seconds={}) for task in (TASK, other)
    ]
    assert found[0] == found[1]


def test_log_probability_is_the_mean_over_folds() -> None:
    model = ScriptedModel()
    alone = [examine(ExamineJob(job(TASK), (index,)), model, ignore).log_probability for index in (0, 2)]
    both = examine(ExamineJob(job(TASK), (0, 2)), model, ignore).log_probability
    assert both == pytest.approx(sum(alone) / 2)


def test_folds_are_reported_and_the_model_is_left_as_it_was() -> None:
    model, seen = ScriptedModel(), list[Progress]()
    before = snapshot(model)
    examine(ExamineJob(job(TASK), (0, 1)), model, seen.append)
    assert seen == [Progress("examine", step, 2) for step in range(3)]
    assert snapshot(model) == before


def test_the_only_demonstration_is_judged_behind_itself() -> None:
    task = Task("one", TASK.demos[:1], TASK.queries)
    found = examine(ExamineJob(job(task, edit(learning_rate=0.02, epochs=60)), (0,)), ScriptedModel(), ignore)
    assert (found.folds, found.hits) == (1, 1)


def test_failures_are_a_job_s() -> None:
    with pytest.raises(OverBudget):
        examine(ExamineJob(job(TASK, max_training_tokens=5), (0,)), ScriptedModel(), ignore)
