"""The policy that comes with the grid model."""

import json
from random import Random

import pytest

from arc_seal.api import _composed
from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Demonstration, Task
from arc_seal.inner_loop.job import WriteJob
from arc_seal.inner_loop.policy import write
from arc_seal.models.model import Model, load
from arc_seal.models.prompt import Completion, Sampling
from arc_seal.models.weights import GridSource
from arc_seal.outer_loop.provenance import check_policy
from tests.inner_loop.builders import ignore
from tests.self_edit.builders import random_grid

SETTINGS = _composed([])


@pytest.fixture(scope="module")
def model() -> Model:
    return load(GridSource("grid", SETTINGS.model["location"]))


def written(task: Task, model: Model) -> Completion:
    schema, policy = SETTINGS.edit_schema, SETTINGS.self_edit.policy
    sampling = Sampling(1, 0.0, 0, SETTINGS.max_tokens)
    told = SETTINGS.self_edit.difficulty
    job = WriteJob(task, schema.menu(), SETTINGS.edit_example, schema.json_schema(), sampling, policy, told)
    (found,) = write(job, model, ignore)
    return found


def test_it_goes_with_the_weights_and_is_the_default() -> None:
    policy = SETTINGS.self_edit.policy
    assert policy is not None and SETTINGS.author.policy == policy
    check_policy(policy, SETTINGS.model)


def test_it_trains_long_on_what_is_neither_easy_nor_hopeless(model: Model) -> None:
    rng = Random(0)
    chance = [Demonstration(random_grid(rng, 12, 12), random_grid(rng, 12, 12)) for _ in range(3)]
    hopeless = written(Task("chance", tuple(chance), (random_grid(rng, 12, 12),)), model)
    assert (hopeless.difficulty, json.loads(hopeless.text)["tokens"]) == (9, 8000)
    easy = written(load_tasks("tasks/5582e5ca.json")[0][0], model)
    assert easy.difficulty == 3 and json.loads(easy.text)["tokens"] == 30000
    middling = written(load_tasks("arcagi1/dev/2204b7a8")[0][0], model)
    assert middling.difficulty == 4 and json.loads(middling.text)["tokens"] == 120000


def test_what_it_writes_is_valid_and_comes_with_its_chances(model: Model) -> None:
    found = written(load_tasks("arcagi1/dev/d9fac9be")[0][0], model)
    edit = SETTINGS.edit_schema.parse(found.text)
    chances = SETTINGS.edit_schema.alternatives(found.text, found.choices)
    assert list(chances) == ["tokens"] and set(chances["tokens"]) == {"8000", "30000", "120000"}
    assert chances["tokens"][str(edit.training.tokens)] == max(chances["tokens"].values()) > 0.5
