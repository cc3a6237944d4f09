"""No test output is within reach of whatever prompts, trains or predicts."""

import dataclasses
import json
import pickle
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution, Task
from arc_seal.inner_loop.adapt import adapt
from arc_seal.inner_loop.job import AdaptJob, DecodeSettings, WriteJob
from arc_seal.models.prompt import Sampling
from tests.inner_loop.builders import TURNS, copying_task, ignore, job
from tests.models.builders import MODELS, MakeModel
from tests.self_edit.builders import random_grid

TASKS = Path(__file__).parents[2] / "tasks"


def types_within(kind: Any, seen: set[Any]) -> set[Any]:
    """Every type that a value of `kind` can hold, by its fields and type arguments."""
    if kind in seen:
        return seen
    seen.add(kind)
    for argument in typing.get_args(kind):
        types_within(argument, seen)
    if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel)):
        for field in typing.get_type_hints(kind).values():
            types_within(field, seen)
    return seen


def grids_within(value: Any) -> Iterator[Grid]:
    """Every grid that can be reached from a value."""
    if isinstance(value, Grid):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from grids_within(getattr(value, field.name))
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from grids_within(getattr(value, name))
    elif isinstance(value, dict):
        yield from grids_within([*value, *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from grids_within(item)
    else:
        assert value is None or isinstance(value, str | int | float | types.FunctionType), f"what is in {value!r}?"


@dataclasses.dataclass(frozen=True)
class Leaky:
    """What a job must never look like."""

    task: Task
    known: dict[str, tuple[Solution | None, ...]]


def jobs(task: Task) -> tuple[AdaptJob, WriteJob]:
    write = WriteJob(task, "menu", "{}", {"type": "object"}, Sampling(1, temperature=1.0, seed=0, max_tokens=10))
    return job(task, TURNS), write


@pytest.mark.parametrize("kind", [AdaptJob, WriteJob])
def test_a_job_has_no_place_for_a_solution(kind: type) -> None:
    within = types_within(kind, set())
    assert Task in within and Grid in within
    assert Solution not in within
    assert Solution in types_within(Leaky, set())


@pytest.mark.parametrize("make", MODELS)
def test_true_outputs_that_are_scored_change_nothing_else(make: MakeModel) -> None:
    """Whether they are predicted or not: here one is what the model finds by itself."""
    task = copying_task()
    plain = job(task, TURNS, decode=DecodeSettings(views=3, score=True))
    alone = adapt(plain, make(0), ignore)
    predicted = next(each.grid for each in alone.candidates if each.grid is not None)
    for truth in (predicted, random_grid(Random(0), 9, 7)):
        asked = adapt(replace(plain, known=((truth,),)), make(0), ignore)
        assert replace(asked, known=(), seconds={}) == replace(alone, seconds={})
        assert [(each.grid, each.view) for each in asked.known] == [(truth, "known")]


@pytest.mark.parametrize("file", sorted(TASKS.glob("*.json")), ids=lambda file: file.stem)
def test_a_job_made_from_a_file_holds_no_test_output(file: Path, tmp_path: Path) -> None:
    """The file's test outputs are made unmistakable, for some tasks show theirs in a demonstration too."""
    data, unmistakable = json.loads(file.read_text()), random_grid(Random(0), 29, 23)
    for pair in data["test"]:
        pair["output"] = [list(row) for row in unmistakable.rows]
    (tmp_path / file.name).write_text(json.dumps(data))
    ((task, solution),) = load_tasks(str(tmp_path / file.name))
    assert solution is not None and set(solution.outputs) == {unmistakable}
    for made in jobs(task):
        assert set(task.queries) <= set(grids_within(made))
        assert unmistakable not in set(grids_within(made))
        assert unmistakable.cells not in pickle.dumps(made)
    leaky = Leaky(task, {"x": (None, solution)})
    assert unmistakable in set(grids_within(leaky))
    assert unmistakable.cells in pickle.dumps(leaky)
