"""Random valid self-edits: what a policy writes that knows the schema and nothing else.

They teach the grid model the schema in pretraining, and are the measure that a trained policy must beat. Calls are
drawn from the tools' own JSON schemas, so a tool that is dropped into the toolbox is drawn too.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from random import Random
from string import ascii_lowercase
from typing import Any, get_args

from arc_seal.errors import InputError, InvalidSelfEdit
from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training, read
from arc_seal.self_edit.schema import (
    Bounds,
    DataGeneration,
    Interval,
    PaperBounds,
    PaperEdit,
    PaperSchema,
    PaperTraining,
    Rates,
    Schema,
    SelfEditSchema,
    Strategy,
    compiled,
)
from arc_seal.self_edit.toolbox import Tool, Toolbox

TRIES = 1000
"""How often a self-edit is drawn, and a call that no other equals, before there is taken to be none."""

SPAN = 100
"""How far from its one bound, or from 0, an argument is drawn whose schema leaves a side open."""

OPEN_LENGTH = 4
"""How many items more than it must have a list or string has at most whose schema leaves its length open."""

Hyperparameter = Any
"""A value of one of `Training`'s fields: a number, or a word such as `outputs`."""


def draw_edit(schema: Schema, rng: Random) -> SelfEdit:
    """Draw one self-edit of any form.

    Raises:
        TypeError: On a form that nobody has said how to draw.
        InputError: When the bounds leave nothing to draw.
    """
    match schema:
        case SelfEditSchema():
            return RandomEdits(schema.toolbox, schema.bounds).draw(rng)
        case PaperSchema():
            return compiled(_paper_edit(schema.bounds, rng), schema.bounds.max_examples)
        case _:
            raise TypeError(f"{type(schema).__name__} has no random self-edits")


def random_edit(
    toolbox: Toolbox, bounds: Bounds, rng: Random, *, prior: SelfEdit | None = None, near: float = 0.5
) -> SelfEdit:
    """Draw one self-edit; see `RandomEdits`, which draws many faster."""
    return RandomEdits(toolbox, bounds, prior=prior, near=near).draw(rng)


class RandomEdits:
    """Draws valid self-edits of the default form: every one that the schema allows can come.

    The number of calls is uniform, and each call is of any tool with any arguments, no two equal. Whole-number
    hyperparameters and choices are uniform, rates log-uniform on the multiples that are allowed.

    Args:
        toolbox: The tools that may be called.
        bounds: What else may be asked for.
        prior: A self-edit whose hyperparameters are worth staying near; its tools are not looked at.
        near: With this probability, each on its own, a hyperparameter is drawn within a factor of two of the prior's,
            log-uniformly, and set to the nearest value that is allowed; a word is taken over.
    """

    def __init__(self, toolbox: Toolbox, bounds: Bounds, *, prior: SelfEdit | None = None, near: float = 0.5) -> None:
        self._schema, self._bounds = SelfEditSchema(toolbox, bounds), bounds
        self._tools = [(tool, tool.schema) for tool in toolbox.tools]
        self._prior, self._near = prior, near

    def draw(self, rng: Random) -> SelfEdit:
        """Draw one self-edit; it depends on the state of `rng` alone.

        Raises:
            InputError: When none of many was valid: the bounds contradict one another, or a tool's arguments are held
                to rules that are not drawn by, such as a pattern.
        """
        refused = ""
        for _ in range(TRIES):
            drawn = SelfEdit(tools=self._calls(rng), training=self._training(rng))
            try:
                return self._schema.parse(self._schema.canonical(drawn))
            except InvalidSelfEdit as error:  # a rule across values, such as no batch larger than the training set
                refused = str(error)
        raise InputError(
            "self_edit.bounds", "", f"a valid self-edit among {TRIES} random ones", f"{refused} in the last"
        )

    def _calls(self, rng: Random) -> tuple[ToolCall, ...]:
        """Distinct calls; fewer than were drawn to be made where there are not so many."""
        wanted = rng.randint(0, self._bounds.max_tools)
        calls: dict[ToolCall, None] = {}  # a set in order of drawing
        for _ in range(TRIES):
            if len(calls) == wanted:
                break
            calls.setdefault(_call(*rng.choice(self._tools), rng))
        return tuple(calls)

    def _training(self, rng: Random) -> Training:
        return Training.model_validate({name: self._hyperparameter(name, rng) for name in Training.model_fields})

    def _hyperparameter(self, name: str, rng: Random) -> Hyperparameter:
        allowed = getattr(self._bounds, name)
        if self._prior is not None and rng.random() < self._near:
            return _near(allowed, getattr(self._prior.training, name), rng)
        return _anywhere(allowed, rng)


def _paper_edit(bounds: PaperBounds, rng: Random) -> PaperEdit:
    return PaperEdit(
        data_generation=DataGeneration(**{name: rng.random() < 0.5 for name in DataGeneration.model_fields}),
        training=PaperTraining(
            strategy=rng.choice(get_args(Strategy)),
            learning_rate=_anywhere(bounds.learning_rate, rng),
            num_train_epochs=_anywhere(bounds.num_train_epochs, rng),
        ),
    )


def _call(tool: Tool, schema: Mapping[str, Any], rng: Random) -> ToolCall:
    refused = ""
    for _ in range(TRIES):
        try:
            return ToolCall.model_validate(read(_value(schema, rng), tool.call).model_dump(by_alias=True))
        except InvalidSelfEdit as error:  # a bound that is left out, or a rule of the tool's own
            refused = str(error)
    raise InputError(f"tool {tool.name}", "", f"a valid call among {TRIES} random ones", f"{refused} in the last")


def _anywhere(allowed: Rates | Interval | tuple[Hyperparameter, ...], rng: Random) -> Hyperparameter:
    match allowed:
        case Rates(low=low, high=high, step=step):
            # Half a step beyond each end, so that the ends stand for a whole step as the others do.
            return _rate(allowed, math.exp(rng.uniform(math.log(low - step / 2), math.log(high + step / 2))))
        case Interval(low=low, high=high):
            return rng.randint(low, high)
        case _:
            return rng.choice(allowed)


def _near(
    allowed: Rates | Interval | tuple[Hyperparameter, ...], centre: Hyperparameter, rng: Random
) -> Hyperparameter:
    """What is allowed nearest to the centre times a random factor of 1/2 to 2."""
    if isinstance(centre, str):
        return centre if isinstance(allowed, tuple) and centre in allowed else _anywhere(allowed, rng)
    target = centre * 2 ** rng.uniform(-1, 1)
    match allowed:
        case Rates():
            return _rate(allowed, target)
        case Interval(low=low, high=high):
            return min(max(round(target), low), high)
        case _:
            return min(allowed, key=lambda choice: abs(math.log(choice / target)))


def _rate(rates: Rates, target: float) -> float:
    """The allowed rate nearest to a number."""
    step = Decimal(repr(rates.step))  # in decimal, so that the text of the product is short
    multiple = round(Decimal(repr(target)) / step)
    return float(min(max(multiple * step, Decimal(repr(rates.low))), Decimal(repr(rates.high))))


def _value(schema: Mapping[str, Any], rng: Random) -> Any:
    """A JSON value of a plain schema, such as a tool's signature makes."""
    if "anyOf" in schema:
        return _value(rng.choice(schema["anyOf"]), rng)
    if "enum" in schema or "const" in schema:
        return rng.choice(schema.get("enum", [schema.get("const")]))
    match schema["type"]:
        case "object":
            return {name: _value(kind, rng) for name, kind in schema["properties"].items()}
        case "array":
            return [_value(schema["items"], rng) for _ in range(_length(schema, "Items", rng))]
        case "boolean":
            return rng.random() < 0.5
        case "string":
            return "".join(rng.choice(ascii_lowercase) for _ in range(_length(schema, "Length", rng)))
        case kind:
            return _number(schema, whole=kind == "integer", rng=rng)


def _length(schema: Mapping[str, Any], of: str, rng: Random) -> int:
    least = schema.get(f"min{of}", 0)
    return rng.randint(least, schema.get(f"max{of}", least + OPEN_LENGTH))


def _number(schema: Mapping[str, Any], *, whole: bool, rng: Random) -> int | float:
    """A number within the bounds, uniform over the multiples that are allowed, or over the range.

    A bound that is itself left out may come; reading the call then refuses it, and another is drawn.
    """
    low, high = _range(schema)
    step = schema.get("multipleOf", 1 if whole else None)
    if step is None:
        return rng.uniform(low, high)
    exact = Decimal(repr(step))
    drawn = rng.randint(math.ceil(Decimal(repr(low)) / exact), math.floor(Decimal(repr(high)) / exact)) * exact
    return int(drawn) if whole else float(drawn)


def _range(schema: Mapping[str, Any]) -> tuple[float, float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = min(0, high - SPAN) if high is not None else -SPAN
    return low, high if high is not None else max(0, low) + SPAN
