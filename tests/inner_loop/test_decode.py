"""Greedy decoding: side by side as alone, with a cache as without, grids and nothing else."""

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
import torch

from arc_seal.arc.grid import MAX_SIDE
from arc_seal.arc.task import Task
from arc_seal.errors import Diverged
from arc_seal.inner_loop.predict import Decoded, GridGrammar, decode
from arc_seal.models.generate import CachedContext, model_positions
from arc_seal.models.model import Model
from arc_seal.models.prompt import Encoded, query_prompt
from tests.inner_loop.builders import adapted, copying_task
from tests.models.builders import MODELS, MakeModel
from tests.self_edit.builders import random_grid

TASK = copying_task((1, 2, 3, 4))


def nothing(step: int, tokens_per_s: float) -> None:
    pass


@pytest.fixture(scope="module", params=MODELS)
def make(request: pytest.FixtureRequest) -> MakeModel:
    make: MakeModel = request.param
    return make


@pytest.fixture(scope="module")
def model(make: MakeModel) -> Iterator[Model]:
    """A model that has learnt to answer with columns of some height."""
    model = make(0)
    with adapted(model, TASK):
        yield model


def prompts(model: Model, task: Task = TASK) -> list[Encoded]:
    """Queries behind one to four demonstrations, so of different length."""
    tasks = [task.with_demos(task.demos[:shown]) for shown in (4, 1, 3, 2)]
    return [model.codec.encode(query_prompt(each, each.queries[0])) for each in tasks]


@torch.no_grad()
def without_cache(model: Model, prompt: Encoded) -> Decoded:
    """Greedy decoding by reading everything anew for every symbol."""
    symbols = list(model.codec.symbols)
    grammar, total, count = GridGrammar(), 0.0, 0
    ids, positions = prompt.ids[None], prompt.positions[:, None]
    while grammar.open:
        position_ids = model_positions(torch.from_numpy(positions))
        logits = model.network(input_ids=torch.from_numpy(ids), position_ids=position_ids).logits[0, -1, symbols]
        log_probabilities = torch.log_softmax(
            logits.masked_fill(~torch.from_numpy(grammar.allowed()), float("-inf")), dim=-1
        )
        symbol = int(log_probabilities.argmax())
        total, count = total + float(log_probabilities[symbol]), count + 1
        grammar.take(symbol)
        positions = np.append(positions, model.codec.next_positions(positions[..., -1:], ids[:, -1:]), axis=2)
        ids = np.append(ids, [[symbols[symbol]]], axis=1)
    return Decoded(grammar.grid, total / count, count)


def assert_alike(one: Decoded, other: Decoded) -> None:
    assert (one.grid, one.symbols) == (other.grid, other.symbols)
    assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def test_side_by_side_is_as_alone(model: Model) -> None:
    together = decode(CachedContext(model, prompts(model)), nothing)
    assert len({each.symbols for each in together}) > 1  # some end before others
    assert sum(each.grid is not None for each in together) > 1
    for prompt, each in zip(prompts(model), together, strict=True):
        assert_alike(decode(CachedContext(model, [prompt]), nothing)[0], each)


def test_cache_changes_nothing(model: Model) -> None:
    for prompt, each in zip(prompts(model), decode(CachedContext(model, prompts(model)), nothing), strict=True):
        assert_alike(without_cache(model, prompt), each)


def test_untrained_network_is_held_to_the_grammar(make: MakeModel) -> None:
    for seed in range(3):
        model = make(seed)
        for prompt, each in zip(prompts(model), decode(CachedContext(model, prompts(model)), nothing), strict=True):
            assert_alike(without_cache(model, prompt), each)
            assert 1 <= each.symbols <= MAX_SIDE * (MAX_SIDE + 1)
            assert each.log_probability <= 0


def test_what_was_learnt_is_decoded(make: MakeModel) -> None:
    task = copying_task((1, 2), seed=3)
    model = make(0)
    with adapted(model, task, updates=150):
        prompt = query_prompt(task.with_demos(task.demos[:1]), task.demos[1].input)
        (decoded,) = decode(CachedContext(model, [model.codec.encode(prompt)]), nothing)
    assert decoded.grid == task.demos[1].output
    assert decoded.symbols == 4
    assert decoded.log_probability > -0.2


def test_largest_query_can_be_asked(make: MakeModel) -> None:
    model = make(0)
    task = Task("wide", TASK.demos, (random_grid(Random(0), MAX_SIDE, MAX_SIDE),))
    for each in decode(CachedContext(model, prompts(model, task)), nothing):
        assert each.symbols <= MAX_SIDE * (MAX_SIDE + 1)


def test_steps_are_reported(model: Model) -> None:
    seen: list[tuple[int, float]] = []
    decoded = decode(CachedContext(model, prompts(model)), lambda step, rate: seen.append((step, rate)))
    assert [step for step, _ in seen] == list(range(1, max(each.symbols for each in decoded) + 1))
    assert all(np.isfinite(rate) and rate > 0 for _, rate in seen)


def test_network_without_finite_outputs_is_a_failure_not_a_grid(make: MakeModel) -> None:
    model = make(0)
    torch.nn.init.constant_(model.network.get_decoder().norm.weight, float("nan"))
    with pytest.raises(Diverged, match=r"^the network's outputs are not finite$"):
        decode(CachedContext(model, prompts(model)), nothing)
