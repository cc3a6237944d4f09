"""The self-edit as a value: what a language model decided about its own training.

A value says nothing of bounds; those belong to the schema that parsed it. Everything here is immutable,
hashable and picklable, and its JSON is what a model writes and what `result.json` keeps.
"""

import json
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

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
