"""Random self-edits are valid, and every one that is allowed can come."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.errors import InputError
from arc_seal.files import tools_dir
from arc_seal.self_edit.bounds import Rates, WholeNumbers
from arc_seal.self_edit.edit import SelfEdit, ToolCall
from arc_seal.self_edit.paper import PaperBounds, PaperSchema, Strategy
from arc_seal.self_edit.random_edit import draw_edit
from arc_seal.self_edit.schema import Bounds, Schema, SelfEditSchema
from arc_seal.self_edit.toolbox import Toolbox
from tests.self_edit.builders import TOOLBOX, ByteGrammar, edit, write_tool

BOUNDS = Bounds(
    learning_rate=Rates(low=0.00002, high=0.002, step=0.00001),
    lora_rank=(8, 16, 32, 64, 128),
    max_examples=(16, 32, 64, 96, 128, 192, 256),
)
SCHEMA = SelfEditSchema(TOOLBOX, BOUNDS)
GRAMMAR = ByteGrammar(SCHEMA.json_schema())
PRIOR = edit(learning_rate=0.0005, epochs=2, batch_size=2, lora_rank=32, max_examples=64)

TOOL = """
from random import Random
from typing import Annotated, Literal
from pydantic import Field
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import View, unchanged

def {name}(task: Task, rng: Random, *, {arguments}) -> View:
    \"\"\"Leave the task as it is.\"\"\"
    return View(task, unchanged)
"""


def test_the_bounds_in_use_are_drawn_from() -> None:
    schema = SelfEditSchema(TOOLBOX, Bounds())
    for drawn in many(schema, 50, prior=PRIOR):
        assert schema.parse(schema.canonical(drawn)) == drawn


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), near=st.sampled_from((0.0, 0.5, 1.0)))
def test_a_random_edit_is_valid(seed: int, near: float) -> None:
    drawn = draw_edit(SCHEMA, Random(seed), PRIOR, near)
    text = SCHEMA.canonical(drawn)
    assert SCHEMA.parse(text) == drawn
    assert GRAMMAR.accepts(text)
    assert draw_edit(SCHEMA, Random(seed), PRIOR, near) == drawn


def test_every_tool_argument_and_hyperparameter_comes() -> None:
    seen = Counter(leaf for drawn in many(SCHEMA, 2000) for leaf in leaves(json.loads(SCHEMA.canonical(drawn))))
    for tool in TOOLBOX.tools:
        assert seen["tool", tool.name]
        for name, kind in tool.schema["properties"].items():
            for value in choices(kind):
                assert seen[name, value], (tool.name, name, value)
    for name in ("loss_on", "batch_size", "lora_rank", "max_examples"):
        assert {value for key, value in seen if key == name} == set(getattr(BOUNDS, name))
    assert {value for key, value in seen if key == "epochs"} == set(range(1, 5))
    rates = {value for key, value in seen if key == "learning_rate"}
    assert len(rates) > 150 and min(rates) == 0.00002


def test_numbers_of_calls_are_uniform_and_rates_log_uniform() -> None:
    drawn = many(SCHEMA, 2000)
    counts = Counter(len(each.tools) for each in drawn)
    assert set(counts) == set(range(7))
    assert all(200 < count < 380 for count in counts.values())  # 286 each
    assert 0.44 < sum(each.training.learning_rate < 0.0002 for each in drawn) / 2000 < 0.56


def test_every_rate_comes() -> None:
    few = SelfEditSchema(TOOLBOX, Bounds(learning_rate=Rates(low=0.01, high=0.04, step=0.01)))
    assert {each.training.learning_rate for each in many(few, 100)} == {0.01, 0.02, 0.03, 0.04}


def test_near_the_prior_every_number_is_within_a_factor_of_two() -> None:
    drawn = [each.training for each in many(SCHEMA, 1000, prior=PRIOR, near=1.0)]
    assert {each.loss_on for each in drawn} == {"outputs"}
    assert {each.epochs for each in drawn} == {1, 2, 3, 4}
    assert {each.batch_size for each in drawn} == {1, 2, 4}
    assert {each.lora_rank for each in drawn} == {16, 32, 64}
    assert {each.max_examples for each in drawn} == {32, 64, 96, 128}
    assert {0.00025, 0.001} <= {each.learning_rate for each in drawn}
    assert all(0.00025 <= each.learning_rate <= 0.001 for each in drawn)


def test_a_prior_out_of_bounds_is_drawn_back_into_them() -> None:
    bounds = Bounds(
        learning_rate=Rates(low=0.01, high=0.02, step=0.01), epochs=WholeNumbers(low=3, high=3), lora_rank=(1,)
    )
    far = SelfEditSchema(TOOLBOX, bounds.model_copy(update={"loss_on": ("all",)}))
    for each in many(far, 20, prior=PRIOR, near=1.0):
        training = each.training
        assert (training.loss_on, training.learning_rate, training.epochs, training.lora_rank) == ("all", 0.01, 3, 1)


def test_no_batch_is_larger_than_the_training_set() -> None:
    tight = SelfEditSchema(TOOLBOX, Bounds(batch_size=(1, 64), max_examples=(16, 128)))
    pairs = {(each.training.batch_size, each.training.max_examples) for each in many(tight, 100)}
    assert pairs == {(1, 16), (1, 128), (64, 128)}


def test_bounds_that_contradict_one_another_are_said() -> None:
    with pytest.raises(InputError, match=r"a valid self-edit among 1000 random ones, found training\.batch_size"):
        draw_edit(SelfEditSchema(TOOLBOX, Bounds(max_tools=0, batch_size=(64,), max_examples=(16,))), Random(0))


def test_a_tool_that_is_dropped_in_is_drawn_too(tmp_path: Path) -> None:
    arguments = (
        "share: Annotated[float, Field(ge=0.5, le=2.0)], odd: Annotated[int, Field(gt=0, lt=4)],"
        "quarter: Annotated[float, Field(ge=0.3, le=1, multiple_of=0.25)], either: Literal['any'] | bool,"
        "word: Annotated[str, Field(min_length=1, max_length=2)], many: list[Literal[1, 2]] = [1]"
    )
    write_tool(tmp_path, "blend", TOOL.format(name="blend", arguments=arguments))
    toolbox = Toolbox.load([tools_dir(), tmp_path])
    calls = [
        call for each in many(SelfEditSchema(toolbox, BOUNDS), 1500) for call in each.tools if call.tool == "blend"
    ]
    drawn = [dict(call.arguments) for call in calls]
    assert {each["odd"] for each in drawn} == {1, 2, 3}
    assert {each["quarter"] for each in drawn} == {0.5, 0.75, 1.0}
    assert {each["either"] for each in drawn} == {"any", True, False}
    assert {len(each["word"]) for each in drawn} == {1, 2}
    assert {len(each["many"]) for each in drawn} == {0, 1, 2, 3, 4}
    assert min(each["share"] for each in drawn) < 0.6 and max(each["share"] for each in drawn) > 1.9


def test_a_toolbox_with_one_call_gives_it_once(tmp_path: Path) -> None:
    write_tool(tmp_path, "plain", TOOL.format(name="plain", arguments="side: Literal[1] = 1"))
    lone = SelfEditSchema(Toolbox.load([tmp_path]), BOUNDS)
    assert {each.tools for each in many(lone, 40)} == {(), (ToolCall.of("plain", side=1),)}


def test_a_rule_that_no_schema_says_is_an_error(tmp_path: Path) -> None:
    arguments = "word: Annotated[str, Field(pattern='^[0-9]$')]"
    write_tool(tmp_path, "digits", TOOL.format(name="digits", arguments=arguments))
    with pytest.raises(InputError, match=r"tool digits: expected a valid call among 1000 random ones, found word: "):
        many(SelfEditSchema(Toolbox.load([tmp_path]), BOUNDS), 50)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([SCHEMA, PaperSchema(PaperBounds(max_examples=100))]))
def test_an_edit_of_any_form_is_one_of_its_schema(seed: int, schema: Schema) -> None:
    drawn = draw_edit(schema, Random(seed))
    assert schema.parse(schema.canonical(drawn)) == drawn
    assert draw_edit(schema, Random(seed)) == drawn


def test_every_field_of_the_paper_s_form_comes() -> None:
    bounds, rng = PaperBounds(max_examples=100), Random(0)
    schema = PaperSchema(bounds)
    drawn = [draw_edit(schema, rng) for _ in range(400)]
    seen = {leaf for each in drawn for leaf in leaves(json.loads(schema.canonical(each)))}
    for name in ("basic", "size", "chain", "repeat"):
        assert {(f"use_{name}_augmentations", True), (f"use_{name}_augmentations", False)} <= seen
    assert {value for name, value in seen if name == "strategy"} == set(get_args(Strategy))
    assert {value for name, value in seen if name == "num_train_epochs"} == set(range(1, 4))
    rates = [each.training.learning_rate for each in drawn]
    assert bounds.learning_rate.low <= min(rates) < 0.00003 and 0.0005 < max(rates) <= bounds.learning_rate.high
    assert {each.training.max_examples for each in drawn} == {100}


def many(schema: SelfEditSchema, count: int, **near: Any) -> list[SelfEdit]:
    rng = Random(0)
    return [draw_edit(schema, rng, **near) for _ in range(count)]


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every key with its value, at any depth; the type stands beside it, for True equals 1."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, key)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item, name)]
    return [(name, value)]


def choices(kind: dict[str, Any]) -> list[Any]:
    """The values of an argument that can be listed."""
    if kind.get("type") == "boolean":
        return [True, False]
    if kind.get("type") == "integer":
        return list(range(kind["minimum"], kind["maximum"] + 1))
    return kind.get("enum", [])
