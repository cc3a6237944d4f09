"""Examinations on the demonstrations: what they see, what they say, and that they leave no trace."""

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import Diverged, OverBudget
from arc_seal.inner_loop.adapt import adapt, examine, left_out
from arc_seal.inner_loop.job import ExamineJob, Progress
from arc_seal.models.scripted import ScriptedModel
from tests.inner_loop.builders import copying_task, ignore, job
from tests.inner_loop.test_adapter import snapshot
from tests.models.builders import MODELS, MakeModel
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
    assert good.folds == poor.folds == 2
    assert poor.log_probability < -0.5 < -0.1 < good.log_probability <= 0
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
    learnt, fresh = (
        examine(ExamineJob(job(task, each), (0,)), ScriptedModel(), ignore)
        for each in (edit(learning_rate=0.02, epochs=60), None)
    )
    assert learnt.folds == fresh.folds == 1
    assert learnt.log_probability > -0.1 > fresh.log_probability


def test_failures_are_a_job_s() -> None:
    with pytest.raises(OverBudget):
        examine(ExamineJob(job(TASK, max_training_tokens=5), (0,)), ScriptedModel(), ignore)
    astray = job(TASK, edit(learning_rate=1e30, max_examples=1))
    with pytest.raises(Diverged, match=r"^the network's outputs are not finite$"):
        examine(ExamineJob(astray, (0,)), ScriptedModel(), ignore)


@pytest.mark.parametrize("make", MODELS)
def test_outputs_are_judged_in_one_pass_and_nothing_is_decoded(make: MakeModel) -> None:
    """Beside what training reads, the network reads the prompts, and then the output in place of an answer.

    Keys and values of one fold are let go before the next is trained.
    """
    model, cached, caches = make(0), list[bool](), list[weakref.ref[Any]]()

    def note(decoder: torch.nn.Module, inputs: object, given: dict[str, Any], output: Any) -> None:
        if given["use_cache"]:
            cached.append(given["past_key_values"] is not None)
            caches.append(weakref.ref(output.past_key_values))
        else:
            assert [cache for cache in caches if cache() is not None] == []

    model.network.get_decoder().register_forward_hook(note, with_kwargs=True)
    examine(ExamineJob(job(TASK), (0, 2)), model, ignore)
    assert cached == [False, True] * 2


def test_what_is_examined_is_trained_as_the_inner_loop_that_it_stands_for() -> None:
    """Its seed too: what the tools draw and the adapter's first weights are the same."""
    inner, _ = left_out(job(TASK, seed=7), 0)
    assert inner.seed == 7
    one, other = (ExamineJob(job(TASK, seed=seed), (0,)) for seed in (7, 8))
    alone = adapt(inner, ScriptedModel(), ignore).training
    found = examine(one, ScriptedModel(), ignore)
    assert alone is not None and found.tokens == alone.tokens
    assert found.log_probability != examine(other, ScriptedModel(), ignore).log_probability
