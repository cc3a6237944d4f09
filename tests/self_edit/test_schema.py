"""One schema for menu, grammar and validation; one text for each self-edit."""

import json
import pickle
from random import Random
from typing import Any

import pytest
from hypothesis import given
from omegaconf import OmegaConf
from pydantic import ValidationError

from arc_seal.errors import InputError, InvalidSelfEdit
from arc_seal.files import conf_dir
from arc_seal.self_edit.edit import SelfEdit, ToolCall, canonical
from arc_seal.self_edit.paper import PaperBounds, PaperSchema
from arc_seal.self_edit.schema import Bounds, ChoiceBounds, ChoiceSchema, SelfEditSchema, make_schema
from tests.self_edit.builders import TOOLBOX, ByteGrammar, edit, values

SCHEMA = SelfEditSchema(TOOLBOX, Bounds())
GRAMMAR = ByteGrammar(SCHEMA.json_schema())

CHAIN = ToolCall.of("chain", steps=[{"tool": "rotate", "quarter_turns": "any"}, {"tool": "enlarge", "sides": "both"}])
RICH = edit(CHAIN, ToolCall.of("permute_colors", keep_background=True), ToolCall.of("transpose"), learning_rate=0.00005)
TEXT = (
    '{"tools":[{"tool":"chain","steps":[{"tool":"rotate","quarter_turns":"any"},{"tool":"enlarge","sides":"both"}]},'
    '{"tool":"permute_colors","keep_background":true},{"tool":"transpose"}],'
    '"training":{"loss_on":"outputs","learning_rate":0.00005,"epochs":1,"batch_size":1,"lora_rank":8,"max_examples":16}}'
)


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def distinct(data: Any) -> Any:
    """The same self-edit without its repeated calls."""
    tools = [call for index, call in enumerate(data["tools"]) if call not in data["tools"][:index]]
    return {**data, "tools": tools}


def test_self_edit_is_a_value() -> None:
    assert SCHEMA.parse(TEXT) == RICH
    assert canonical(RICH) == SCHEMA.canonical(RICH) == TEXT
    assert hash(SCHEMA.parse(TEXT)) == hash(RICH)
    assert pickle.loads(pickle.dumps(RICH)) == RICH
    assert SelfEdit.model_validate_json(RICH.model_dump_json()) == RICH
    assert SelfEdit.model_validate(RICH.model_dump()) == RICH
    assert ToolCall(tool="flip", arguments=(("direction", "any"),)) == ToolCall.of("flip", direction="any")
    assert str(CHAIN) == "chain(steps=[rotate(quarter_turns=any), enlarge(sides=both)])"


@given(data=values(SCHEMA.json_schema()).map(distinct))
def test_canonical_text_is_in_the_grammar_and_reads_back(data: Any) -> None:
    self_edit = SCHEMA.parse(data)
    text = SCHEMA.canonical(self_edit)
    assert SCHEMA.parse(text) == self_edit
    assert json.loads(text) == data
    assert GRAMMAR.accepts(text)


@pytest.mark.parametrize("seed", range(50))
def test_sampled_text_parses(seed: int) -> None:
    text = GRAMMAR.sample(Random(seed))
    data = json.loads(text)
    if data != distinct(data):  # the one thing here that the grammar cannot hold
        with pytest.raises(InvalidSelfEdit, match="expected a call unlike the others"):
            SCHEMA.parse(text)
    self_edit = SCHEMA.parse(distinct(data))
    assert GRAMMAR.accepts(SCHEMA.canonical(self_edit))
    assert len(text.partition('"learning_rate":')[2].partition(",")[0]) <= len("0.00002")


def test_every_learning_rate_can_be_written() -> None:
    for step in range(2, 201):
        rate = step / 100_000
        text = canonical(edit(learning_rate=rate))
        assert "e-" not in text
        assert GRAMMAR.accepts(text)
        assert SCHEMA.parse(text).training.learning_rate == rate


def test_equal_self_edits_are_equal_text() -> None:
    written = json.dumps(dict(reversed(json.loads(changed("0.00005", "5e-05")).items())), indent=2)
    assert SCHEMA.canonical(SCHEMA.parse(written)) == TEXT
    left_out = changed(',"quarter_turns":"any"', "")
    assert SCHEMA.canonical(SCHEMA.parse(left_out)) == TEXT
    assert canonical(ToolCall.of("x", a=-0.0)) == canonical(ToolCall.of("x", a=0.0))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "character 1: expected value, found the end"),
        (TEXT[:-1], f"character {len(TEXT)}: expected ',' delimiter, found the end"),
        ("[" * 100_000, "self-edit: expected JSON, found brackets nested too deep"),
        ("[]", "self-edit: expected an object, found []"),
        (changed('"rotate"', '"spin"'), "tools[0].steps[0].tool: expected one of 'drop_demos', "),
        (changed('"rotate"', '"chain"'), "tools[0].steps[0].tool: expected one of 'drop_demos', "),
        (changed('"tool":"rotate",', ""), "tools[0].steps[0].tool: expected the name of a tool, found nothing"),
        (changed('"any"', "7"), "tools[0].steps[0].quarter_turns: expected 'any', 1, 2 or 3, found 7"),
        (changed('"any"', "true"), "tools[0].steps[0].quarter_turns: expected 1, found true"),
        (changed('"any"', "1.0"), "tools[0].steps[0].quarter_turns: expected 1, found 1.0"),
        (changed('"quarter_turns"', '"turns"'), 'tools[0].steps[0].turns: expected no such key, found "any"'),
        (changed(',{"tool":"enlarge","sides":"both"}', ""), "tools[0].steps: expected at least 2 items, found 1"),
        (changed("true", "1"), "tools[1].keep_background: expected a valid boolean, found 1"),
        (changed("true", '"yes"'), 'tools[1].keep_background: expected a valid boolean, found "yes"'),
        (changed('{"tool":"transpose"}', "7"), "tools[2]: expected an object, found 7"),
        (
            changed('{"tool":"transpose"}', '{"tool":"permute_colors"}'),
            "tools[2]: expected a call unlike the others, found permute_colors(keep_background=True) as in tools[1]",
        ),
        (changed('"outputs"', '"inputs"'), "training.loss_on: expected 'outputs' or 'all', found \"inputs\""),
        (changed("0.00005", "NaN"), "self-edit: expected finite numbers, found NaN"),
        (changed("0.00005", "-Infinity"), "self-edit: expected finite numbers, found -Infinity"),
        (
            changed("0.00005", "1e999"),
            "training.learning_rate: expected a multiple of 0.00001 from 0.00002 to 0.01, found",
        ),
        (changed("0.00005", "0.000055"), "training.learning_rate: expected a multiple of 0.00001 from 0.00002 to"),
        (changed("0.00005", "0.00001"), "training.learning_rate: expected a multiple of 0.00001 from 0.00002 to"),
        (changed("0.00005", '"fast"'), 'training.learning_rate: expected a valid number, found "fast"'),
        (changed('"epochs":1', '"epochs":5'), "training.epochs: expected less than or equal to 4, found 5"),
        (changed('"epochs":1', '"epochs":1.0'), "training.epochs: expected a valid integer, found 1.0"),
        (changed('"epochs":1', '"epochs":' + "9" * 5000), "self-edit: expected numbers of fewer digits, found"),
        (changed('"epochs":1,', ""), "training.epochs: expected a value, found nothing"),
        (changed('"epochs":1', '"epochs":1,"epochs":1'), "epochs: expected the key once, found it twice"),
        (changed('"batch_size":1', '"batch_size":3'), "training.batch_size: expected 1, 2, 4 or 8, found 3"),
        (changed('"batch_size":1', '"batch_size":true'), "training.batch_size: expected 1, found true"),
        (changed('"training"', '"extra":1,"training"'), "extra: expected no such key, found 1"),
        (changed('"any"', '"\\ud800"'), "self-edit: expected JSON, found "),
        ({"tools": 7}, "tools: expected a valid array, found 7"),
        ({"tools": {1}}, "self-edit: expected JSON values, found "),
    ],
)
def test_refuses_with_place_expected_found(written: Any, message: str) -> None:
    with pytest.raises(InvalidSelfEdit) as caught:
        SCHEMA.parse(written)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_too_many_tools() -> None:
    many = [{"tool": "translate", "max_shift": shift} for shift in range(1, 8)]
    with pytest.raises(InvalidSelfEdit, match=r"^tools: expected at most 6 items, found 7$"):
        SCHEMA.parse({**json.loads(TEXT), "tools": many})


def test_batch_is_no_larger_than_the_examples() -> None:
    schema = SelfEditSchema(TOOLBOX, Bounds(max_examples=(4,)))
    assert schema.parse(canonical(edit(max_examples=4, batch_size=4)))
    with pytest.raises(InvalidSelfEdit, match=r"^training\.batch_size: expected at most max_examples, 4, found 8$"):
        schema.parse(canonical(edit(max_examples=4, batch_size=8)))


def test_schema_says_how_it_is_spaced() -> None:
    schema = SCHEMA.json_schema()
    assert list(schema["properties"]) == ["tools", "training"]
    assert schema["x-guidance"] == {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    assert "$ref" not in json.dumps(schema)


def test_menu_says_all_that_may_be_written() -> None:
    menu = SCHEMA.menu()
    assert all(f"- {tool.menu_line}" in menu for tool in TOOLBOX.tools)
    for name in ("loss_on", "learning_rate", "epochs", "batch_size", "lora_rank", "max_examples"):
        assert f"- {name}: " in menu
    assert "- learning_rate: 0.00002 to 0.01 by 0.00001" in menu


@pytest.mark.parametrize(
    ("name", "bounds", "kind"),
    [
        ("default", Bounds(), SelfEditSchema),
        ("choices", ChoiceBounds(), ChoiceSchema),
        ("paper", PaperBounds(), PaperSchema),
    ],
)
def test_configuration_holds_the_bounds_of_the_code(
    name: str, bounds: Bounds | ChoiceBounds | PaperBounds, kind: type
) -> None:
    settings: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "self_edit" / f"{name}.yaml"))
    assert settings["json"] is None
    assert type(bounds).model_validate(settings["bounds"]) == bounds
    assert isinstance(make_schema(settings["bounds"], TOOLBOX), kind)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"form": "poem"}, "self_edit.bounds: expected "),
        (
            {"form": "default", "lora_ranks": [8]},
            "self_edit.bounds.lora_ranks: expected a setting that there is, found",
        ),
        ({"form": "default", "batch_size": []}, "self_edit.bounds.batch_size: expected "),
        ({"form": "default", "epochs": {"low": 3, "high": 2}}, "self_edit.bounds.epochs: expected low <= high"),
        ({"form": "choices", "demonstrations": [1]}, "self_edit.bounds.demonstrations[0]: expected 2 or more, or all"),
        ({"form": "choices", "demonstrations": ["any"]}, "self_edit.bounds.demonstrations[0]: expected 2 or more, or"),
        ({"form": "choices", "rank": []}, "self_edit.bounds.rank: expected at least 1 items, found 0"),
        (
            {"form": "paper", "learning_rate": {"low": 0.00015, "high": 0.001, "step": 0.0001}},
            "self_edit.bounds.learning_rate: expected multiples of 0.0001, which low = 0.00015 is not",
        ),
        (
            {"form": "paper", "learning_rate": {"low": 0.2, "high": 0.1, "step": 0.1}},
            "self_edit.bounds.learning_rate: expected low <= high",
        ),
    ],
)
def test_wrong_bounds_are_refused(bounds: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_schema(bounds, TOOLBOX)
    assert str(caught.value).startswith(f"configuration: {message}")
    assert "\n" not in str(caught.value)


def test_training_needs_sense_even_without_bounds() -> None:
    for wrong in ({"learning_rate": float("nan")}, {"epochs": 0}, {"max_examples": 0}):
        with pytest.raises(ValidationError):
            edit(**wrong)
