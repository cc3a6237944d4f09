"""Reading behind prompts: in chunks as token by token, several times over, and from the prompts on again."""

import numpy as np
import pytest
import torch

from arc_seal.models.generate import CachedContext
from arc_seal.models.model import Model
from arc_seal.models.prompt import Encoded, query_prompt
from tests.models.builders import MODELS, SMALL


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    model: Model = request.param(0)
    return model


def prompts(model: Model) -> list[Encoded]:
    """Of different length."""
    return [
        model.codec.encode(query_prompt(SMALL.with_demos(SMALL.demos[:shown]), SMALL.queries[0])) for shown in (3, 1)
    ]


def written(model: Model, rows: int = 2, seed: int = 0) -> np.ndarray:
    """Symbols of grids behind each prompt, [rows, 6]."""
    return np.random.default_rng(seed).choice(model.codec.symbols[:-1], (rows, 6))


@torch.inference_mode()
def read(model: Model) -> tuple[CachedContext, torch.Tensor]:
    context = CachedContext(model, prompts(model))
    return context, context.read_prompts()


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-4)


@torch.inference_mode()
def test_a_chunk_is_read_as_its_tokens_one_by_one(model: Model) -> None:
    tokens = written(model)
    whole, _ = read(model)
    states = whole.read_instead(tokens)
    single, _ = read(model)
    for column in range(6):
        assert near(single.read(tokens[:, column].tolist()), states[:, column])
    chunks, _ = read(model)
    assert near(chunks.read(tokens[:, :4]), states[:, 3]) and near(chunks.read(tokens[:, 4:]), states[:, 5])


@torch.inference_mode()
def test_each_row_is_read_as_alone(model: Model) -> None:
    tokens, (context, first) = written(model), read(model)
    states = context.read(tokens)
    for row, prompt in enumerate(prompts(model)):
        alone = CachedContext(model, [prompt])
        assert near(alone.read_prompts()[0], first[row])
        assert near(alone.read(tokens[row : row + 1])[0], states[row])


@torch.inference_mode()
def test_what_was_read_behind_the_prompts_is_forgotten(model: Model) -> None:
    context, first = read(model)
    states = context.read_instead(written(model))
    context.read(written(model, seed=1))
    assert near(context.read_instead(written(model)), states)
    assert context.first is first


@torch.inference_mode()
@pytest.mark.parametrize("keep", [0, 1, 4, 6])
def test_what_was_read_first_may_be_kept(model: Model, keep: int) -> None:
    tokens, (whole, _) = written(model), read(model)
    states = whole.read_instead(tokens)
    context, first = read(model)
    context.read(np.hstack([tokens[:, :keep], written(model, seed=1)]))
    assert near(context.part([1]).read_instead(tokens[1:, keep:], keep), states[1:, keep:])
    assert near(context.read_instead(tokens[:, keep:], keep), states[:, keep:])
    assert context.read_instead(tokens[:, :0]).shape == (len(first), 0, first.shape[1])
    assert near(context.read(tokens), states[:, -1])


@torch.inference_mode()
def test_samples_of_a_prompt_share_its_reading(model: Model) -> None:
    context, first = read(model)
    before = written(model)
    context.read(before)
    context.repeat(3)
    tokens = written(model, rows=6, seed=1)
    states = context.read(tokens)
    assert near(context.first, first[[0, 0, 0, 1, 1, 1]])
    for sample in range(3):
        own, _ = read(model)
        own.read(before)
        assert near(own.read(tokens[[sample, 3 + sample]]), states[[sample, 3 + sample]])
    again = context.read_instead(tokens)
    own, _ = read(model)
    assert near(own.read_instead(tokens[[0, 3]]), again[[0, 3]])


@torch.inference_mode()
def test_part_of_the_rows_is_read_on_in_as_all_are(model: Model) -> None:
    before, tokens = written(model), written(model, seed=1)
    all_rows, _ = read(model)
    all_rows.read(before)
    whole, _ = read(model)
    whole.read(before)
    part = whole.part([1])
    for columns in (tokens[1:, :2], tokens[1:, 2:]):
        states = part.read(columns)
    assert near(states, all_rows.read(tokens)[[1]])
    assert near(whole.read(tokens), all_rows.read_instead(np.hstack([before, tokens]))[:, -1])
    assert near(part.read_instead(before[1:]), all_rows.read_instead(before)[[1]])
