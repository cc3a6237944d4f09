"""Measuring: what is counted as right, against an oracle and against counting by hand."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from arc_seal.arc.task import Solution, Task
from arc_seal.models.grid_codec import OUTPUT, VOCABULARY, GridCodec
from arc_seal.models.grid_network import GridForCausalLM
from arc_seal.models.prompt import Encoded, query_prompt
from arc_seal.pretraining.loop import measure, pool_contexts, task_contexts
from tests.models.builders import SMALL, grid_network
from tests.pretraining.tiny import tiny_pool

SOLVED = (SMALL, Solution("small", (SMALL.demos[1].output,)))
CONTEXTS = pool_contexts(tiny_pool(), pairs=3, each=2, max_tokens=1000, seed=0)


@dataclass
class Oracle:
    """Knows every token that follows; where it is told to, it says another."""

    wrong: frozenset[tuple[int, int]] = frozenset()
    device = torch.device("cpu")

    def model(self, input_ids: Tensor, position_ids: Tensor, use_cache: bool) -> Any:
        following = input_ids.roll(-1, 1)
        for row, column in self.wrong:
            following[row, column] += 1
        return SimpleNamespace(last_hidden_state=20.0 * one_hot(following, VOCABULARY).float())

    def lm_head(self, hidden: Tensor) -> Tensor:
        return hidden


def oracle(*wrong: tuple[int, int]) -> GridForCausalLM:
    return cast(GridForCausalLM, Oracle(frozenset(wrong)))


def test_who_knows_everything_has_all_right() -> None:
    found = measure(oracle(), CONTEXTS, 200)
    assert (found.contexts, found.accuracy, found.exact) == (len(CONTEXTS), 1.0, 1.0)
    assert found.loss < 1e-5


def test_one_wrong_token_is_one_wrong_output() -> None:
    context = CONTEXTS[0]
    targets = np.flatnonzero(context.target)
    for target in (targets[0], targets[-1]):
        found = measure(oracle((0, int(target) - 1)), [context], 10_000)
        assert (found.exact, found.accuracy) == (0.0, pytest.approx(1 - 1 / len(targets)))
    assert measure(oracle((0, int(targets[0]) - 2)), [context], 10_000).exact == 1.0  # the mark is given
    assert measure(oracle((1, int(targets[0]) - 1)), [context, context], 10_000).exact == 0.5


@torch.no_grad()
@pytest.mark.parametrize("batch_tokens", [1, 300, 10_000])
def test_scores_are_those_counted_context_by_context(batch_tokens: int) -> None:
    network = grid_network().eval()
    torch.manual_seed(1)  # whatever test has drawn before, some tokens are guessed right and some wrong
    torch.nn.init.zeros_(network.lm_head.weight)
    torch.nn.init.normal_(network.lm_head.weight[:12], std=5.0)
    losses, hits, exact = [], [], 0
    for context in CONTEXTS:
        logits = network(input_ids=torch.from_numpy(context.ids)[None]).logits[0]
        said = np.flatnonzero(context.target)
        labels, guesses = torch.from_numpy(context.ids[said]), logits[said - 1]
        losses.append(cross_entropy(guesses, labels, reduction="none"))
        hits.append(guesses.argmax(-1) == labels)
        exact += int(hits[-1].all())
    found = measure(network, CONTEXTS, batch_tokens)
    assert found.contexts == len(CONTEXTS) == 8 and found.exact == exact / 8
    assert found.loss == pytest.approx(float(torch.cat(losses).mean()), abs=1e-5)
    assert found.accuracy == pytest.approx(float(torch.cat(hits).float().mean()))
    assert 0 < found.accuracy < 1


def test_measuring_changes_nothing() -> None:
    network = grid_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    measure(network, CONTEXTS, 200)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training and all(weight.grad is None for weight in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def answer(context: Encoded) -> list[int]:
    return context.ids[context.target].tolist()


def test_a_task_is_asked_as_it_is_when_it_is_solved() -> None:
    (context,) = task_contexts([SOLVED], 1000)
    asked = GridCodec().encode(query_prompt(SMALL, SMALL.queries[0]))
    length = len(asked.ids)
    np.testing.assert_array_equal(context.ids[:length], asked.ids)
    np.testing.assert_array_equal(context.positions[:, :length], asked.positions)
    assert context.target.tolist() == [False] * length + [True] * (len(context.ids) - length)
    assert context.ids[length - 1] == OUTPUT


def test_each_test_of_a_task_is_a_context_and_one_without_solution_none() -> None:
    task = Task("two", SMALL.demos, (SMALL.queries[0], SMALL.demos[0].input))
    outputs = (SMALL.demos[0].output, SMALL.demos[1].output)
    contexts = task_contexts([(task, Solution("two", outputs)), (SMALL, None)], 1000)
    assert [len(answer(context)) for context in contexts] == [3, 8]
    lengths = [len(context.ids) for context in contexts]
    assert [len(context.ids) for context in task_contexts([(task, Solution("two", outputs))], min(lengths))] == [
        min(lengths)
    ]


def test_contexts_of_a_pool_are_fixed_by_the_seed() -> None:
    pool = tiny_pool(tasks=3)
    one, again, other = (pool_contexts(pool, 3, 2, 1000, seed) for seed in (0, 0, 1))
    assert len(one) == 6
    assert [each.ids.tolist() for each in one] == [each.ids.tolist() for each in again]
    assert [each.ids.tolist() for each in one] != [each.ids.tolist() for each in other]
    for context in one:
        assert len(set(context.positions[0].tolist())) == 6
        assert set(context.positions[0][context.target].tolist()) == {5}


def test_a_pools_tasks_with_too_few_pairs_or_too_many_tokens_are_left_out() -> None:
    assert pool_contexts(tiny_pool(pairs=2), 3, 2, 1000, 0) == []
    assert pool_contexts(tiny_pool(), 3, 2, 20, 0) == []
