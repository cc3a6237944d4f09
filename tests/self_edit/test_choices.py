"""The form of choices: what it stands for, and that it is one text for each self-edit."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given

from arc_seal.errors import InvalidSelfEdit
from arc_seal.self_edit.augment import augment, views
from arc_seal.self_edit.edit import SelfEdit, canonical
from arc_seal.self_edit.random_edit import draw_edit
from arc_seal.self_edit.schema import Bounds, ChoiceBounds, ChoiceSchema, SelfEditSchema
from tests.self_edit.builders import TOOLBOX, ByteGrammar, edit, random_task, values

WIDE = ChoiceBounds(
    tokens=(8000, 30000, 60000, 120000),
    learning_rate=(0.0005, 0.001, 0.002, 0.003, 0.005),
    rank=(16, 64, 128),
    demonstrations=(2, 3, "all"),
    symmetries=(False, True),
    colours=(False, True),
)
SCHEMA = ChoiceSchema(WIDE)
GRAMMAR = ByteGrammar(SCHEMA.json_schema())
TEXT = '{"tokens":120000,"learning_rate":0.002,"rank":64,"demonstrations":"all","symmetries":true,"colours":true}'
FIXED = (
    '{"tools":[{"tool":"chain","steps":[{"tool":"rotate","quarter_turns":"any"},{"tool":"flip","direction":"any"},'
    '{"tool":"permute_colors","keep_background":true},{"tool":"shuffle_demos"}]}],"training":{"loss_on":"outputs",'
    '"learning_rate":0.002,"epochs":1,"batch_size":4,"lora_rank":64,"max_examples":256}}'
)
"""The self-edit of conf/self_edit/fixed.yaml."""


def test_it_stands_for_the_fixed_self_edit_with_its_tokens() -> None:
    made, fixed = SCHEMA.parse(TEXT), SelfEditSchema(TOOLBOX, Bounds()).parse(FIXED)
    assert made.tools == fixed.tools
    assert made.training == fixed.training.model_copy(update={"tokens": 120_000, "max_examples": 1200})
    few = SCHEMA.parse(TEXT.replace("120000", "8000").replace('"all"', "2"))
    assert (few.training.tokens, few.training.demonstrations, few.training.max_examples) == (8000, 2, 256)


@pytest.mark.parametrize(
    ("symmetries", "colours", "call"),
    [
        (False, False, "shuffle_demos()"),
        (False, True, "chain(steps=[permute_colors(keep_background=True), shuffle_demos()])"),
        (True, False, "chain(steps=[rotate(quarter_turns=any), flip(direction=any), shuffle_demos()])"),
    ],
)
def test_augmentations_are_one_call_that_can_be_undone(symmetries: bool, colours: bool, call: str) -> None:
    made = SCHEMA.parse({**json.loads(TEXT), "symmetries": symmetries, "colours": colours})
    assert [str(each) for each in made.tools] == [call]
    task = random_task(3, demos=3)
    assert augment(task, made, TOOLBOX, Random(0))[1] == 0
    assert len(views(task, made, TOOLBOX, Random(0), 4)) == 4


@given(data=values(SCHEMA.json_schema()))
def test_reads_back(data: Any) -> None:
    self_edit = SCHEMA.parse(data)
    text = SCHEMA.canonical(self_edit)
    assert json.loads(text) == data and SCHEMA.parse(text) == self_edit
    assert GRAMMAR.accepts(text)
    assert SelfEdit.model_validate_json(self_edit.model_dump_json()) == self_edit  # as a ledger keeps it
    assert SelfEdit.model_validate_json(canonical(self_edit)) == self_edit


@pytest.mark.parametrize("seed", range(20))
def test_sampled_text_is_canonical(seed: int) -> None:
    text = GRAMMAR.sample(Random(seed))
    assert SCHEMA.canonical(SCHEMA.parse(text)) == text


def test_every_choice_is_drawn_by_chance() -> None:
    rng, seen = Random(0), dict[str, set[Any]]()
    for _ in range(300):
        for name, value in json.loads(SCHEMA.canonical(draw_edit(SCHEMA, rng))).items():
            seen.setdefault(name, set()).add(value)
    bounds = WIDE.model_dump(exclude={"form", "max_examples"})
    assert seen == {name: set(each) for name, each in bounds.items()}


def test_other_self_edits_have_no_text_in_this_form() -> None:
    others = (
        edit(),
        SelfEditSchema(TOOLBOX, Bounds()).parse(FIXED),
        SCHEMA.parse(TEXT).model_copy(update={"tools": ()}),
    )
    for other in others:
        with pytest.raises(ValueError, match="no text in the form of choices"):
            SCHEMA.canonical(other)


def test_what_is_left_open_is_in_no_text_of_other_forms() -> None:
    """Texts, records and pickled results of before the fields were there stay what they are."""
    made = SelfEditSchema(TOOLBOX, Bounds()).parse(FIXED)
    assert canonical(made) == made.model_dump_json() == FIXED
    assert list(made.model_dump()["training"]) == list(json.loads(FIXED)["training"])
    assert (made.training.tokens, made.training.demonstrations) == (None, None)
    with pytest.raises(InvalidSelfEdit, match=r"^training\.tokens: expected no such key, found 8000$"):
        SelfEditSchema(TOOLBOX, Bounds()).parse(FIXED.replace("256}", '256,"tokens":8000}'))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("120000", "5", "tokens: expected 8000, 30000, 60000 or 120000, found 5"),
        ("0.002", "0.004", "learning_rate: expected 0.0005, 0.001, 0.002, 0.003 or 0.005, found 0.004"),
        ('"all"', "4", "demonstrations: expected 2, 3 or 'all', found 4"),
        ("64", "64.0", "rank: expected 64, found 64.0"),
        ("true", '"yes"', 'symmetries: expected a valid boolean, found "yes"'),
        (',"colours":true', "", "colours: expected a value, found nothing"),
        ("}", ',"epochs":2}', "epochs: expected no such key, found 2"),
    ],
)
def test_refuses_with_place_expected_found(old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidSelfEdit) as caught:
        SCHEMA.parse(TEXT.replace(old, new, 1))
    assert str(caught.value) == message


def test_menu_names_every_field_and_choice() -> None:
    assert SCHEMA.menu().splitlines() == [
        "- tokens: 8000|30000|60000|120000",
        "- learning_rate: 0.0005|0.001|0.002|0.003|0.005",
        "- rank: 16|64|128",
        "- demonstrations: 2|3|all",
        "- symmetries: false|true",
        "- colours: false|true",
    ]
