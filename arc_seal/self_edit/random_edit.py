"""Random valid self-edits: what a policy writes that knows the schema and nothing else.

They teach the grid model the schema in pretraining, and are the measure that a trained policy must beat. Calls are
drawn from the tools' own JSON schemas, so a tool that is dropped into the toolbox is drawn too.
"""

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from random import Random
from string import ascii_lowercase
from typing import Any, TypeVar

from arc_seal.errors import InputError, InvalidSelfEdit
from arc_seal.self_edit.bounds import Rates, WholeNumbers
from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training, read
from arc_seal.self_edit.schema import HYPERPARAMETERS, ChoiceSchema, Schema, SelfEditSchema
from arc_seal.self_edit.toolbox import Tool

T = TypeVar("T")

TRIES = 1000
"""How often a self-edit is drawn, and a call that no other equals, before there is taken to be none."""

SPAN = 100
"""How far from its one bound, or from 0, an argument is drawn whose schema leaves a side open."""

OPEN_LENGTH = 4
"""How many items more than it must have a list or string has at most whose schema leaves its length open."""


def draw_edit(schema: Schema, rng: Random, prior: SelfEdit | None = None, near: float = 0.5) -> SelfEdit:
    """Draw one self-edit by the state of `rng` alone: every one that the schema allows can come.

    In the default form the number of calls is uniform, and each call is of any tool with any arguments, no two equal.
    Whole-number hyperparameters and choices are uniform, rates log-uniform on the multiples that are allowed; each
    field of the form of choices is uniform. With a prior, each hyperparameter of the default form is with probability
    `near` drawn log-uniformly within a factor of two of the prior's, and set to the nearest value that is allowed; a
    word is taken over.

    InputError where none of many was valid: the bounds contradict one another, or a tool's arguments are held to rules
    that are not drawn by, such as a pattern.
    """
    if isinstance(schema, SelfEditSchema):
        return _valid(lambda: _default_edit(schema, rng, prior, near), "self_edit.bounds", "self-edit")
    if isinstance(schema, ChoiceSchema):
        return schema.parse(_value(schema.json_schema(), rng))
    kinds = schema.json_schema()["properties"]
    groups = _value(kinds["data_generation"], rng)
    training = {
        "strategy": _value(kinds["training"]["properties"]["strategy"], rng),
        "learning_rate": _hyperparameter(schema.bounds.learning_rate, None, rng),
        "num_train_epochs": _hyperparameter(schema.bounds.num_train_epochs, None, rng),
    }
    return schema.parse({"data_generation": groups, "training": training})


def _default_edit(schema: SelfEditSchema, rng: Random, prior: SelfEdit | None, near: float) -> SelfEdit:
    wanted = rng.randint(0, schema.bounds.max_tools)
    calls: dict[ToolCall, None] = {}  # a set in order of drawing; fewer than wanted where there are not so many
    for _ in range(TRIES):
        if len(calls) == wanted:
            break
        calls.setdefault(_call(rng.choice(schema.toolbox.tools), rng))
    training = {}
    for name in HYPERPARAMETERS:
        centre = getattr(prior.training, name) if prior is not None and rng.random() < near else None
        training[name] = _hyperparameter(getattr(schema.bounds, name), centre, rng)
    drawn = SelfEdit(tools=tuple(calls), training=Training.model_validate(training))
    return schema.parse(schema.canonical(drawn))


def _call(tool: Tool, rng: Random) -> ToolCall:
    def drawn() -> ToolCall:
        return ToolCall.model_validate(read(_value(tool.schema, rng), tool.call).model_dump(by_alias=True))

    return _valid(drawn, f"tool {tool.name}", "call")


def _valid(draw: Callable[[], T], source: str, what: str) -> T:
    """The first valid draw: a JSON schema leaves out some rules, such as those across values or of a tool's own."""
    refused = ""
    for _ in range(TRIES):
        try:
            return draw()
        except InvalidSelfEdit as error:
            refused = str(error)
    raise InputError(source, "", f"a valid {what} among {TRIES} random ones", f"{refused} in the last")


def _hyperparameter(allowed: Rates | WholeNumbers | tuple[Any, ...], centre: Any, rng: Random) -> Any:
    """One that is allowed. Near a centre: the word itself, or what is nearest to the number times 1/2 to 2."""
    if isinstance(centre, str) and isinstance(allowed, tuple):
        return centre if centre in allowed else rng.choice(allowed)
    target = None if centre is None else centre * 2 ** rng.uniform(-1, 1)
    match allowed:
        case Rates(low=low, high=high, step=step):
            if target is None:
                # Half a step beyond each end, so that the ends stand for a whole step as the others do.
                target = math.exp(rng.uniform(math.log(low - step / 2), math.log(high + step / 2)))
            least, most, exact = (Decimal(repr(value)) for value in (low, high, step))  # keeps the number's text short
            return float(min(max(round(Decimal(repr(target)) / exact) * exact, least), most))
        case WholeNumbers(low=low, high=high):
            return rng.randint(low, high) if target is None else min(max(round(target), low), high)
        case _ if target is None:
            return rng.choice(allowed)
        case _:
            return min(allowed, key=lambda choice: abs(math.log(choice / target)))


def _value(schema: Mapping[str, Any], rng: Random) -> Any:
    """A JSON value of a plain schema, such as a tool's signature makes."""
    match schema:
        case {"anyOf": branches}:
            return _value(rng.choice(branches), rng)
        case {"enum": choices}:
            return rng.choice(choices)
        case {"const": choice}:
            return rng.choice([choice])  # recorded results depend on this draw
        case {"type": "object", "properties": arguments}:
            return {name: _value(kind, rng) for name, kind in arguments.items()}
        case {"type": "array", "items": items}:
            return [_value(items, rng) for _ in range(_length(schema, "Items", rng))]
        case {"type": "string"}:
            return "".join(rng.choice(ascii_lowercase) for _ in range(_length(schema, "Length", rng)))
        case {"type": "boolean"}:
            return rng.random() < 0.5
        case _:
            return _number(schema, rng)


def _length(schema: Mapping[str, Any], of: str, rng: Random) -> int:
    least = schema.get(f"min{of}", 0)
    return rng.randint(least, schema.get(f"max{of}", least + OPEN_LENGTH))


def _number(schema: Mapping[str, Any], rng: Random) -> int | float:
    """A number within the bounds, uniform over the multiples that are allowed, or over the range.

    A bound that is itself left out may come; reading the call then refuses it, and another is drawn.
    """
    whole = schema["type"] == "integer"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = -SPAN if high is None else min(0, high - SPAN)
    if high is None:
        high = max(0, low) + SPAN
    step = schema.get("multipleOf", 1 if whole else None)
    if step is None:
        return rng.uniform(low, high)
    exact = Decimal(repr(step))
    drawn = rng.randint(math.ceil(Decimal(repr(low)) / exact), math.floor(Decimal(repr(high)) / exact)) * exact
    return int(drawn) if whole else float(drawn)
