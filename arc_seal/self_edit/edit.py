"""The self-edit as a value: what a language model decided about its own training.

A value says nothing of bounds; those belong to the schema that parsed it. Everything here is immutable,
hashable and picklable, and its JSON is what a model writes and what `result.json` keeps.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NoReturn, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_serializer, model_validator
from pydantic_core import ErrorDetails

from arc_seal.errors import InvalidSelfEdit

RESERVED = ("tool", "arguments")
"""The attributes of a call, so no argument of a tool may be called so."""


class ToolCall(BaseModel):
    """One call of a tool. In JSON the arguments stand beside the name: `{"tool": "rotate", "quarter_turns": 1}`.

    Attributes:
        tool: Name of the tool.
        arguments: Names and values, sorted by name, so that equal calls are equal values and equal text. A value is a
            bool, int, float or str, another call, or a tuple of values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: str
    arguments: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, tool: str, **arguments: Any) -> Self:
        """The call as it would be written in Python: `ToolCall.of("rotate", quarter_turns=1)`."""
        return cls.model_validate({**arguments, "tool": tool})

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        spread = {name: argument for name, argument in value.items() if name not in RESERVED}
        arguments = {**spread, **dict(value.get("arguments", ()))}
        return {
            "tool": value.get("tool"),
            "arguments": tuple((name, _frozen(arguments[name])) for name in sorted(arguments)),
        }

    @model_serializer
    def _spread(self) -> dict[str, Any]:
        return {"tool": self.tool, **{name: _thawed(argument) for name, argument in self.arguments}}

    def __str__(self) -> str:
        """The call as people read it: `chain(steps=[rotate(quarter_turns=1), flip(direction=any)])`."""
        return f"{self.tool}({', '.join(f'{name}={_spoken(argument)}' for name, argument in self.arguments)})"


class Training(BaseModel):
    """How to train on the examples.

    Attributes:
        loss_on: `outputs`: loss on demonstration outputs only; `all`: on every token.
        learning_rate: Peak learning rate.
        epochs: Passes over the examples.
        batch_size: Examples an update.
        lora_rank: Rank of the low-rank adapter.
        max_examples: Most examples to make.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss_on: Literal["outputs", "all"]
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lora_rank: int = Field(ge=1)
    max_examples: int = Field(ge=1)


class SelfEdit(BaseModel):
    """Which tools make the training examples, and how to train on them.

    Attributes:
        tools: Calls that make examples, in order; none trains on the demonstrations as they are.
        training: How to train.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[ToolCall, ...]
    training: Training


def canonical(value: Any) -> str:
    """The one text of a value, as compact JSON: equal self-edits are equal text.

    Numbers are written positionally (0.00005, never 5e-05), as the grammar that samples self-edits writes them.

    Args:
        value: A pydantic model, or plain JSON values.
    """
    match value:
        case BaseModel():
            return canonical(value.model_dump())
        case dict():
            return "{" + ",".join(f"{canonical(name)}:{canonical(item)}" for name, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(canonical, value)) + "]"
        case float():
            return format(Decimal(repr(value)), "f")
        case _:
            return json.dumps(value, ensure_ascii=False)


def _frozen(value: Any) -> Any:
    match value:
        case dict():
            return ToolCall.model_validate(value)
        case list() | tuple():
            return tuple(map(_frozen, value))
        case float():
            return value + 0.0  # -0.0 equals 0.0 and so must be the same text
        case _:
            return value


def _thawed(value: Any) -> Any:
    if isinstance(value, ToolCall):
        return value.model_dump()
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value


def _spoken(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_spoken, value))}]"
    return str(value)


# JSON between pydantic and a language model: plain schemas for the grammar, strict reading of what was written.

M = TypeVar("M", bound=BaseModel)

_NOTES = ("title", "description", "default", "discriminator", "$defs")
"""Keywords that say nothing about which texts are valid."""


def plain_schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic type, self-contained and exact.

    No references, no notes, and every property required in its fixed order, so that one value has one text.
    """
    schema = TypeAdapter(kind).json_schema()
    plain: dict[str, Any] = _plain(schema, schema.get("$defs", {}))
    return plain


def read(written: str | Mapping[str, Any], model: type[M]) -> M:
    """Parse JSON, as text or as its values, into a model, strictly.

    Raises:
        InvalidSelfEdit: With the place, what was expected there and what was found. A key written twice, NaN and
            infinities are refused like everything else that JSON does not know.
    """
    text = written if isinstance(written, str) else _text(written)
    try:
        data = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except RecursionError:
        refuse("self-edit", "JSON", "brackets nested too deep")
    except json.JSONDecodeError as error:
        found = shortened(text[error.pos :], length=30) if error.pos < len(text) else "the end"
        refuse(f"character {error.pos + 1}", error.msg.removeprefix("Expecting "), found)
    except ValueError:
        refuse("self-edit", "numbers of fewer digits", "an integer of thousands")
    try:
        value = model.model_validate_json(text)
    except ValidationError as error:
        refuse(*explained(error.errors(include_url=False)[0], data))
    _check_untouched(data, value.model_dump(by_alias=True), ())
    return value


def refuse(place: str, expected: str, found: str) -> NoReturn:
    """Raise InvalidSelfEdit with its one line."""
    raise InvalidSelfEdit(f"{place}: expected {expected}, found {found}")


def explained(error: ErrorDetails, data: Any) -> tuple[str, str, str]:
    """Where pydantic's complaint about `data` stands, what was expected there, and what was found."""
    place = _place(error["loc"], data) or "self-edit"
    match error["type"]:
        case "missing":
            return place, "a value", "nothing"
        case "extra_forbidden":
            return place, "no such key", shortened(error["input"])
        case "union_tag_not_found":
            return f"{place}.tool", "the name of a tool", "nothing"
        case "union_tag_invalid":
            return f"{place}.tool", f"one of {error['ctx']['expected_tags']}", shortened(error["ctx"]["tag"])
        case "too_long" | "too_short" as bound:
            limit = error["ctx"].get("max_length", error["ctx"].get("min_length"))
            side = "most" if bound == "too_long" else "least"
            return place, f"at {side} {limit} items", str(len(error["input"]))
        case "json_invalid":
            return place, "JSON", str(error["ctx"]["error"])
        case _:
            return place, error["msg"].removeprefix("Input should be "), shortened(error["input"])


def shortened(value: Any, length: int = 60) -> str:
    """A value as JSON on one line, cut where it grows long."""
    line = canonical(value)
    return line if len(line) <= length else f"{line[: length - 3]}..."


def _text(values: Mapping[str, Any]) -> str:
    try:
        return json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        refuse("self-edit", "JSON values", str(error))


def _plain(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    plain: dict[str, Any] = {}
    for keyword, value in schema.items():
        match keyword:
            case _ if keyword in _NOTES:
                continue
            case "properties":
                plain[keyword] = {name: _plain(property_, definitions) for name, property_ in value.items()}
                plain["required"] = list(value)
            case "oneOf" | "anyOf":
                plain["anyOf"] = [_plain(branch, definitions) for branch in value]
            case "items":
                plain[keyword] = _plain(value, definitions)
            case "required":
                continue
            case _:
                plain[keyword] = value
    return plain


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        refuse(twice, "the key once", "it twice")
    return dict(pairs)


def _refuse_constant(name: str) -> NoReturn:
    refuse("self-edit", "finite numbers", name)


def _check_untouched(given: Any, understood: Any, location: tuple[int | str, ...]) -> None:
    """Refuse what pydantic reads generously even when strict: `true` or `1.0` where the literal 1 is allowed."""
    if isinstance(given, dict):
        for name in given:
            _check_untouched(given[name], understood[name], (*location, name))
    elif isinstance(given, list):
        for index, item in enumerate(given):
            _check_untouched(item, understood[index], (*location, index))
    elif type(given) is not type(understood) and not (type(given) is int and type(understood) is float):
        refuse(_joined(location), shortened(understood), shortened(given))


def _place(location: Sequence[int | str], data: Any) -> str:
    """A path such as `tools[1].quarter_turns`. Pydantic's own marks (which branch of a union) are left out."""
    steps: list[int | str] = []
    for depth, step in enumerate(location):
        held = step in data if isinstance(data, dict) else isinstance(data, list) and isinstance(step, int)
        if held or depth == len(location) - 1:
            steps.append(step)
            data = data[step] if held else None
    return _joined(steps)


def _joined(location: Sequence[int | str]) -> str:
    """Names and indices as one path: `tools[1].quarter_turns`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(".")
