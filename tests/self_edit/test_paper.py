"""The paper's seven fields and what they stand for."""

import json
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given

from arc_seal.errors import InvalidSelfEdit
from arc_seal.self_edit.augment import augment
from arc_seal.self_edit.edit import ToolCall, canonical
from arc_seal.self_edit.paper import ORACLE, PaperBounds, PaperSchema, compiled
from tests.self_edit.builders import TOOLBOX, ByteGrammar, edit, random_task, values

SCHEMA = PaperSchema(PaperBounds())
GRAMMAR = ByteGrammar(SCHEMA.json_schema())
TEXT = (
    '{"data_generation":{"use_basic_augmentations":true,"use_size_augmentations":true,"use_chain_augmentations":true,'
    '"use_repeat_augmentations":true},"training":{"strategy":"train_using_output_tokens","learning_rate":0.0001,'
    '"num_train_epochs":2}}'
)


def text_with(*uses: bool) -> str:
    data = json.loads(TEXT)
    data["data_generation"] = dict(zip(data["data_generation"], uses, strict=True))
    return json.dumps(data)


def test_oracle_is_the_paper_s() -> None:
    oracle = compiled(ORACLE)
    assert SCHEMA.parse(TEXT) == oracle
    assert SCHEMA.canonical(oracle) == TEXT
    assert canonical(oracle.training) == (
        '{"loss_on":"outputs","learning_rate":0.0001,"epochs":2,"batch_size":2,"lora_rank":128,"max_examples":250}'
    )
    assert len(oracle.tools) == 23 + 24
    assert len(set(oracle.tools)) == len(oracle.tools)


@pytest.mark.parametrize(
    ("uses", "ways"),
    [
        ((False, False, False, False), 0),
        ((True, False, False, False), 11),
        ((False, True, False, False), 3),
        ((False, False, True, False), 6),
        ((False, False, False, True), 3),
    ],
)
def test_group_has_its_ways_and_each_again_in_other_colours(uses: tuple[bool, ...], ways: int) -> None:
    tools = SCHEMA.parse(text_with(*uses)).tools
    assert len(tools) == (2 * ways + 1 if ways else 0)
    recoloured = tools[ways:]
    assert all(str(call).endswith("permute_colors(keep_background=True), shuffle_demos()])") for call in recoloured)


def test_chains_enlarge_last() -> None:
    tools = SCHEMA.parse(text_with(False, False, True, False)).tools
    assert str(tools[0]) == "chain(steps=[rotate(quarter_turns=1), enlarge(sides=both)])"
    assert str(tools[5]) == "chain(steps=[transpose(), enlarge(sides=both)])"


def test_every_call_is_one_that_the_toolbox_can_make() -> None:
    task = random_task(3, demos=3, sides=(2, 3))
    made, skipped = augment(task, compiled(ORACLE), TOOLBOX, Random(0))
    assert skipped == 0
    assert 100 < len(made) <= 250
    for call in compiled(ORACLE).tools:
        assert TOOLBOX.bind(call)(task, Random(0)).invert is not None


@pytest.mark.parametrize("uses", list(product((False, True), repeat=4)))
def test_canonical_text_is_in_the_grammar(uses: tuple[bool, ...]) -> None:
    self_edit = SCHEMA.parse(text_with(*uses))
    text = SCHEMA.canonical(self_edit)
    assert json.loads(text) == json.loads(text_with(*uses))
    assert GRAMMAR.accepts(text)


@given(data=values(SCHEMA.json_schema()))
def test_reads_back(data: Any) -> None:
    self_edit = SCHEMA.parse(data)
    text = SCHEMA.canonical(self_edit)
    assert json.loads(text) == data
    assert GRAMMAR.accepts(text)


@pytest.mark.parametrize("seed", range(20))
def test_sampled_text_parses(seed: int) -> None:
    text = GRAMMAR.sample(Random(seed))
    assert json.loads(SCHEMA.canonical(SCHEMA.parse(text))) == json.loads(text)


def test_other_self_edits_have_no_text_in_this_form() -> None:
    with pytest.raises(ValueError, match="no text in the paper's form"):
        SCHEMA.canonical(edit(ToolCall.of("rotate", quarter_turns=1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"use_size_augmentations":true,',
            "",
            "data_generation.use_size_augmentations: expected a value, found nothing",
        ),
        ("true", '"yes"', 'data_generation.use_basic_augmentations: expected a valid boolean, found "yes"'),
        ("0.0001", "0.5", "training.learning_rate: expected a multiple of 0.00001 from 0.00001 to 0.001, found 0.5"),
        (":2", ":9", "training.num_train_epochs: expected less than or equal to 3, found 9"),
        ("output_tokens", "no_tokens", "training.strategy: expected 'train_using_all_tokens' or 'train_using_output_"),
        ('"training"', '"tools"', "training: expected a value, found nothing"),
    ],
)
def test_refuses_with_place_expected_found(old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidSelfEdit) as caught:
        SCHEMA.parse(TEXT.replace(old, new, 1))
    assert str(caught.value).startswith(message)


def test_menu_names_all_seven_fields() -> None:
    fields = json.loads(TEXT)
    assert all(f"- {name}: " in SCHEMA.menu() for part in fields.values() for name in part)
