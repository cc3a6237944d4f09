"""What every model in memory keeps: self-edits under the schema's grammar, weights that are frozen."""

import json
from collections import Counter
from typing import Any

import llguidance.hf
import numpy as np
import pytest
import torch

from arc_seal.errors import ModelError
from arc_seal.models.generate import allowed_tokens, matcher, model_positions
from arc_seal.models.model import Model, collate
from arc_seal.models.prompt import END, Completion, Encoded, Prompt, Sampling, Turn
from arc_seal.self_edit.bounds import COMPACT
from arc_seal.self_edit.schema import Bounds, SelfEditSchema
from tests.models.builders import MODELS, SMALL
from tests.self_edit.builders import TOOLBOX

SCHEMA = SelfEditSchema(TOOLBOX, Bounds())
PROMPT = Prompt((Turn("user", ("An example: ", SMALL.queries[0], "\nGo on.")),))
LONG = 3000
"""More tokens than any self-edit below has."""


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    model: Model = request.param(0)
    return model


def write(model: Model, **settings: Any) -> tuple[Completion, ...]:
    """Write behind `PROMPT`, self-edits unless another schema is given."""
    on_token = settings.pop("on_token", lambda tokens: None)
    schema = settings.pop("schema", None) or SCHEMA.json_schema()
    sampling = Sampling(**{"count": 1, "temperature": 1.0, "seed": 0, "max_tokens": LONG, **settings})
    return model.write(PROMPT, schema, sampling, on_token)


def parse_but_for_repeats(text: str) -> None:
    """Read a completion as a self-edit, without the repeated calls and small sets that no grammar can rule out."""
    data = json.loads(text)
    data["tools"] = [call for index, call in enumerate(data["tools"]) if call not in data["tools"][:index]]
    SCHEMA.parse(data)


def test_every_completion_is_a_self_edit(model: Model) -> None:
    completions = write(model, count=4, temperature=1.5)
    assert all(completion.finished for completion in completions)
    assert len({completion.text for completion in completions}) == 4
    for completion in completions:
        parse_but_for_repeats(completion.text)


def test_seed_fixes_each_completion_alone_or_beside_others(model: Model) -> None:
    together = write(model, count=3, seed=5, max_tokens=200)
    assert together == write(model, count=3, seed=5, max_tokens=200)
    assert together == tuple(write(model, seed=seed, max_tokens=200)[0] for seed in (5, 6, 7))
    assert len({completion.text for completion in together}) == 3


@torch.no_grad()
def test_temperature_0_takes_the_likeliest_allowed_token(model: Model) -> None:
    """Against reading everything anew for every token."""
    first, second = write(model, count=2, temperature=0, max_tokens=60)
    assert first == second == write(model, temperature=0, seed=9, max_tokens=60)[0]
    vocabulary = llguidance.hf.from_tokenizer(model.tokenizer, eos_token=model.codec.symbols[END])
    grammar = matcher(vocabulary, SCHEMA.json_schema())
    prompt = model.codec.encode(PROMPT)
    ids, positions = torch.from_numpy(prompt.ids)[None], torch.from_numpy(prompt.positions)[:, None]
    for _ in range(60):
        output = model.network(input_ids=ids, position_ids=model_positions(positions))
        token = int(
            output.logits[0, -1]
            .masked_fill(~torch.from_numpy(allowed_tokens(grammar, vocabulary.vocab_size)), float("-inf"))
            .argmax()
        )
        assert grammar.consume_token(token)
        following = model.codec.next_positions(positions[..., -1:], ids[:, -1:])
        positions, ids = torch.cat([positions, following], dim=2), torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert first.text == model.tokenizer.decode(ids[0, len(prompt.ids) :])


def test_lower_temperature_is_likelier(model: Model) -> None:
    cold = write(model, count=2, seed=1, temperature=1e-4, max_tokens=30)
    assert {completion.text for completion in cold} == {write(model, temperature=0, max_tokens=30)[0].text}


def test_completion_that_is_cut_is_not_finished(model: Model) -> None:
    steps: list[int] = []
    (cut,) = write(model, max_tokens=10, on_token=steps.append)
    assert (cut.finished, cut.tokens, len(cut.text)) == (False, 10, 10)
    assert steps == sorted(set(steps)) and steps[-1] == 10


def test_completions_of_different_length_end_on_their_own(model: Model) -> None:
    steps: list[int] = []
    completions = write(model, count=4, temperature=1.5, on_token=steps.append)
    lengths = [completion.tokens for completion in completions]
    assert len(set(lengths)) > 1
    assert steps[-1] == max(lengths)
    assert all(completion.text.endswith("}}") for completion in completions)
    assert [len(completion.text) for completion in completions] == lengths  # a byte a token


CHOICES: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "yy", "yz"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "x-guidance": COMPACT,
}
"""Six texts: t or f, x or y, and behind y again y or z."""


def said(model: Model, text: str) -> Encoded:
    """`PROMPT` and the text behind it, which alone is target."""
    return model.codec.encode(Prompt((*PROMPT.turns, Turn("assistant", (text,), target=True))))


@torch.no_grad()
def chance(model: Model, text: str) -> float:
    """Of writing a text under `CHOICES`."""
    batch = collate([model.bound(said(model, text), CHOICES)])
    logits = model.network(input_ids=batch.ids, position_ids=model_positions(batch.positions)).logits
    limited = batch.limited(logits[batch.where[0], batch.where[1]].float())  # [targets, vocabulary]
    return float(torch.softmax(limited, -1).gather(1, batch.labels[:, None]).prod())


def test_bound_to_a_schema_the_chances_are_those_of_writing(model: Model) -> None:
    chances = {text: chance(model, text) for text in (
        f'{{"a":{a},"b":"{b}"}}' for a in ("true", "false") for b in ("x", "yy", "yz")
    )}  # fmt: skip
    assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
    written = Counter(completion.text for completion in write(model, count=400, schema=CHOICES))
    for text, share in chances.items():
        assert written[text] / 400 == pytest.approx(share, abs=0.1)  # four standard deviations


def test_bound_to_a_schema_only_choices_are_targets(model: Model) -> None:
    encoded = said(model, '{"a":true,"b":"yz"}')
    bound = model.bound(encoded, CHOICES)
    assert model.tokenizer.decode(encoded.ids[bound.target]) == "tyz"
    assert (bound.target <= encoded.target).all() and bound.ids is encoded.ids
    assert bound.allowed is not None
    allowed = [set(model.tokenizer.decode(np.flatnonzero(row))) for row in np.unpackbits(bound.allowed, axis=1)]
    assert allowed == [{"t", "f"}, {"x", "y"}, {"y", "z"}]


def test_a_text_without_a_choice_has_no_target(model: Model) -> None:
    bound = model.bound(said(model, '"x"'), {"enum": ["x"], "x-guidance": COMPACT})
    assert not bound.target.any() and bound.allowed is not None and len(bound.allowed) == 0


@pytest.mark.parametrize("text", ['{"a":1}', '{"a":true,"b":"z"}', "no"])
def test_what_a_schema_does_not_allow_is_not_bound_to_it(model: Model, text: str) -> None:
    with pytest.raises(ValueError, match=r"expected targets that the schema allows, found token \d+ at \d+"):
        model.bound(said(model, text), CHOICES)


def test_unusable_schema_is_refused(model: Model) -> None:
    with pytest.raises(ModelError, match="expected a schema that compiles"):
        write(model, schema={"type": "zork"})


def test_weights_are_frozen(model: Model) -> None:
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert not model.network.training
