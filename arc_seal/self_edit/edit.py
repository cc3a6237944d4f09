"""The self-edit, what a language model decided about its own training, and the JSON in which the model writes it.

A value says nothing of bounds; those belong to the schema that parsed it. Everything here is immutable, hashable and
picklable, and its JSON is what a model writes and what `result.json` keeps.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NoReturn, Self, TypeVar

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from arc_seal.errors import InvalidSelfEdit
from arc_seal.settings import Settings, first_fault, joined, shortened

RESERVED = ("tool", "arguments")
"""The attributes of a call, so no argument of a tool may be called so."""


class ToolCall(Settings):
    """One call of a tool. In JSON the arguments stand beside the name: `{"tool": "rotate", "quarter_turns": 1}`."""

    tool: str  # name of the tool
    # Names and values, sorted by name, so that equal calls are equal values and equal text. A value is a bool, int,
    # float or str, another call, or a tuple of values.
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
        beside = {name: argument for name, argument in value.items() if name not in RESERVED}
        arguments = {**beside, **dict(value.get("arguments", ()))}
        frozen = tuple((name, _frozen(arguments[name])) for name in sorted(arguments))
        return {"tool": value.get("tool"), "arguments": frozen}

    @model_serializer
    def _spread(self) -> dict[str, Any]:
        return {"tool": self.tool, **dict(self.arguments)}

    def __str__(self) -> str:
        """The call as people read it: `chain(steps=[rotate(quarter_turns=1), flip(direction=any)])`."""
        return f"{self.tool}({', '.join(f'{name}={_readable(argument)}' for name, argument in self.arguments)})"


class Training(Settings):
    """How to train on the examples, of which there are at most `max_examples`."""

    loss_on: Literal["outputs", "all"]  # demonstration outputs only, or all tokens
    learning_rate: float = Field(gt=0)  # the peak
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lora_rank: int = Field(ge=1)
    max_examples: int = Field(ge=1)
    tokens: int | None = Field(default=None, ge=1)  # tokens to read at most, all epochs together; None: no limit
    demonstrations: int | None = Field(default=None, ge=2)  # of a context at most, the last ones; None: all

    @model_serializer(mode="wrap")
    def _spread(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what it leaves open, so that its text is the same as before there were such fields."""
        return {name: value for name, value in dump(self).items() if value is not None}


class SelfEdit(Settings):
    """Which tools make the training examples, in order (none: the demonstrations as they are), and how to train."""

    tools: tuple[ToolCall, ...]
    training: Training

    def of_tokens(self, tokens: int | None) -> "SelfEdit":
        """The same, trained on so many tokens at most; None for no limit."""
        return self.model_copy(update={"training": self.training.model_copy(update={"tokens": tokens})})


@dataclass(frozen=True, slots=True)
class Choice:
    """A place in a text at which the grammar left several tokens to choose from."""

    begin: int  # characters before it
    chances: Mapping[str, float]  # the likeliest tokens, with the probability that the model gives them there


class Strict(Settings, strict=True):
    """The base of what a model's JSON is held to: `1` is no boolean there, and `"1"` no number."""


M = TypeVar("M", bound=BaseModel)


def canonical(value: Any) -> str:
    """The one text of a pydantic model or plain JSON values, as compact JSON: equal self-edits are equal text.

    Numbers are written positionally (0.00005, never 5e-05), as the grammar that samples self-edits writes them.
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


def plain_schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic type without references and notes, every property required in its fixed order."""
    schema = TypeAdapter(kind).json_schema()
    definitions = schema.get("$defs", {})

    def plain(part: Mapping[str, Any]) -> dict[str, Any]:
        if "$ref" in part:
            return plain(definitions[part["$ref"].rpartition("/")[2]])
        made: dict[str, Any] = {}
        for keyword, value in part.items():
            match keyword:
                case "title" | "description" | "default" | "discriminator" | "$defs" | "required":
                    continue
                case "properties":
                    made |= {keyword: {name: plain(each) for name, each in value.items()}, "required": list(value)}
                case "oneOf" | "anyOf":
                    made["anyOf"] = [plain(branch) for branch in value]
                case "items":
                    made[keyword] = plain(value)
                case _:
                    made[keyword] = value
        return made

    return plain(schema)


def read(written: str | Mapping[str, Any], model: type[M]) -> M:
    """Parse JSON, as text or as its values, into a model, strictly.

    InvalidSelfEdit says the place, what was expected there and what was found. A key written twice, NaN and infinities
    are refused like everything else that JSON does not know.
    """
    try:
        text = written if isinstance(written, str) else json.dumps(written)
    except (TypeError, ValueError, RecursionError) as error:
        refuse("self-edit", "JSON values", str(error))
    constant = partial(refuse, "self-edit", "finite numbers")
    try:
        data = json.loads(text, object_pairs_hook=_distinct, parse_constant=constant)
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
        refuse(*_explained(error, data))
    _check_untouched(data, value.model_dump(by_alias=True), ())
    return value


def refuse(place: str, expected: str, found: str) -> NoReturn:
    """Raise InvalidSelfEdit with its one line."""
    raise InvalidSelfEdit(f"{place}: expected {expected}, found {found}")


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


def _readable(value: Any) -> str:
    return f"[{', '.join(map(_readable, value))}]" if isinstance(value, tuple) else str(value)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            refuse(name, "the key once", "it twice")
        values[name] = value
    return values


def _explained(error: ValidationError, data: Any) -> tuple[str, str, str]:
    """Where pydantic's first complaint about `data` stands, what was expected there, and what was found."""
    fault = error.errors(include_url=False)[0]
    place = _place(fault["loc"], data) or "self-edit"
    match fault["type"]:
        case "extra_forbidden":
            return place, "no such key", shortened(fault["input"])
        case "union_tag_not_found":
            return f"{place}.tool", "the name of a tool", "nothing"
        case "union_tag_invalid":
            return f"{place}.tool", f"one of {fault['ctx']['expected_tags']}", shortened(fault["ctx"]["tag"])
        case "json_invalid":
            return place, "JSON", str(fault["ctx"]["error"])
        case _:
            return place, *first_fault(error)[1:]


def _place(location: Sequence[int | str], data: Any) -> str:
    """A path such as `tools[1].quarter_turns`. Pydantic's own marks (which branch of a union) are left out."""
    steps: list[int | str] = []
    for depth, step in enumerate(location):
        held = step in data if isinstance(data, dict) else isinstance(data, list) and isinstance(step, int)
        if held or depth == len(location) - 1:
            steps.append(step)
            data = data[step] if held else None
    return joined(steps)


def _check_untouched(given: Any, understood: Any, location: tuple[int | str, ...]) -> None:
    """Refuse what pydantic reads generously even when strict: `true` or `1.0` where the literal 1 is allowed."""
    if isinstance(given, dict):
        for name in given:
            _check_untouched(given[name], understood[name], (*location, name))
    elif isinstance(given, list):
        for index, item in enumerate(given):
            _check_untouched(item, understood[index], (*location, index))
    elif type(given) is not type(understood) and not (type(given) is int and type(understood) is float):
        refuse(joined(location), shortened(understood), shortened(given))
