"""The schema of a self-edit: toolbox and bounds make the menu, the decoding grammar and the validation alike."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator
from pydantic_core import PydanticCustomError

from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training, canonical
from arc_seal.self_edit.strict_json import plain_schema, read, refuse
from arc_seal.self_edit.toolbox import Toolbox

__all__ = ["Bounds", "Interval", "Rates", "Schema", "SelfEdit", "SelfEditSchema", "ToolCall", "Training", "canonical"]

COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
"""llguidance's options for JSON without spaces, which is how canonical text is written. A compiler that is given
options of its own must be given these: `JsonCompiler(separators=(",", ":"), whitespace_flexible=False)`."""

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)
_SETTINGS = ConfigDict(frozen=True, extra="forbid")
_NOTHING_BETWEEN = "Input should be low <= high, so that there is something to choose"


class Schema(Protocol):
    """One form in which a model may write self-edits."""

    def menu(self) -> str:
        """What may be written, for the prompt."""
        ...

    def json_schema(self) -> dict[str, Any]:
        """JSON schema of the text, for the decoding grammar: each self-edit has one text."""
        ...

    def parse(self, written: str | Mapping[str, Any]) -> SelfEdit:
        """Read what was written, as text or as its JSON values.

        Raises:
            InvalidSelfEdit: With one line: place, expected, found.
        """
        ...

    def canonical(self, self_edit: SelfEdit) -> str:
        """The one text of a self-edit in this form."""
        ...


class Interval(BaseModel):
    """Whole numbers from `low` to `high`, both allowed."""

    model_config = _SETTINGS

    low: int = Field(ge=1)
    high: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise PydanticCustomError("interval", _NOTHING_BETWEEN)
        return self

    @property
    def kind(self) -> Any:
        """The pydantic type of a number in the interval."""
        return Annotated[int, Field(ge=self.low, le=self.high)]

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


class Rates(BaseModel):
    """Multiples of `step` from `low` to `high`, both allowed."""

    model_config = _SETTINGS

    low: float = Field(gt=0, allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    step: float = Field(gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in (("low", self.low), ("high", self.high)):
            if not self._is_multiple(value):
                message = "Input should be multiples of {step}, which {name} = {value} is not"
                said = {"step": canonical(self.step), "name": name, "value": canonical(value)}
                raise PydanticCustomError("rates", message, said)
        if self.low > self.high:
            raise PydanticCustomError("interval", _NOTHING_BETWEEN)
        return self

    @property
    def kind(self) -> Any:
        """The pydantic type of one of the numbers."""
        limits = {"minimum": self.low, "maximum": self.high, "multipleOf": self.step}
        return Annotated[float, AfterValidator(self._one_of), WithJsonSchema({"type": "number", **limits})]

    def _one_of(self, value: float) -> float:
        if not (self.low <= value <= self.high and self._is_multiple(value)):
            expected = f"a multiple of {canonical(self.step)} from {canonical(self.low)} to {canonical(self.high)}"
            raise PydanticCustomError("rates", "Input should be {expected}", {"expected": expected})
        return value

    def _is_multiple(self, value: float) -> bool:
        """In decimal, for in binary 0.0003 is no multiple of 0.00001."""
        return Decimal(repr(value)) % Decimal(repr(self.step)) == 0

    def __str__(self) -> str:
        return f"{canonical(self.low)} to {canonical(self.high)} by {canonical(self.step)}"


Choices = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


class Bounds(BaseModel):
    """What a self-edit may ask for; the values in use, with their reasons, are in conf/self_edit/default.yaml."""

    model_config = _SETTINGS

    form: Literal["default"] = "default"
    max_tools: int = Field(default=6, ge=0)
    loss_on: Annotated[tuple[Literal["outputs", "all"], ...], Field(min_length=1)] = ("outputs", "all")
    learning_rate: Rates = Rates(low=0.00002, high=0.01, step=0.00001)
    epochs: Interval = Interval(low=1, high=4)
    batch_size: Choices = (1, 2, 4, 8)
    lora_rank: Choices = (8, 16, 32, 64, 128, 256)
    max_examples: Choices = (16, 32, 64, 96, 128, 192, 256, 384, 512)


class SelfEditSchema:
    """The default form: any calls of the toolbox, and every training hyperparameter.

    Args:
        toolbox: The tools that may be called.
        bounds: What else may be asked for.
    """

    def __init__(self, toolbox: Toolbox, bounds: Bounds) -> None:
        self.toolbox, self.bounds = toolbox, bounds
        self._model = _model(toolbox, bounds)

    def menu(self) -> str:
        """What may be written: one line a tool, one line a hyperparameter."""
        bounds = self.bounds
        return "\n".join(
            [
                f"tools (up to {bounds.max_tools}, no two equal):",
                *(f"- {line}" for line in self.toolbox.menu().splitlines()),
                "training:",
                f"- loss_on: {'|'.join(bounds.loss_on)}",
                f"- learning_rate: {bounds.learning_rate}",
                f"- epochs: {bounds.epochs}",
                *(
                    f"- {name}: {'|'.join(map(str, choices))}"
                    for name, choices in (
                        ("batch_size", bounds.batch_size),
                        ("lora_rank", bounds.lora_rank),
                        ("max_examples", bounds.max_examples),
                    )
                ),
            ]
        )

    def json_schema(self) -> dict[str, Any]:
        """JSON schema of the text, with `x-guidance` for JSON without spaces."""
        return {**plain_schema(self._model), "x-guidance": COMPACT}

    def parse(self, written: str | Mapping[str, Any]) -> SelfEdit:
        """Read a self-edit. Arguments of a tool may be left out where it has defaults.

        Raises:
            InvalidSelfEdit: With one line: place, expected, found.
        """
        model = read(written, self._model)
        self_edit = SelfEdit.model_validate(model.model_dump(by_alias=True))
        _check_across(self_edit)
        return self_edit

    def canonical(self, self_edit: SelfEdit) -> str:
        """The one text of a self-edit: compact JSON, every argument written."""
        return canonical(self_edit)


def _model(toolbox: Toolbox, bounds: Bounds) -> type[BaseModel]:
    """The pydantic model that the text is held to."""
    training = create_model(
        "Training",
        __config__=_STRICT,
        loss_on=(_one_of(bounds.loss_on), ...),
        learning_rate=(bounds.learning_rate.kind, ...),
        epochs=(bounds.epochs.kind, ...),
        batch_size=(_one_of(bounds.batch_size), ...),
        lora_rank=(_one_of(bounds.lora_rank), ...),
        max_examples=(_one_of(bounds.max_examples), ...),
    )
    tools = Annotated[list[toolbox.call], Field(max_length=bounds.max_tools)]  # type: ignore[name-defined]
    return create_model("SelfEdit", __config__=_STRICT, tools=(tools, ...), training=(training, ...))


def _one_of(choices: tuple[Any, ...]) -> Any:
    return Literal[choices]


def _check_across(self_edit: SelfEdit) -> None:
    """The rules that a grammar cannot hold."""
    calls = self_edit.tools
    for index, call in enumerate(calls):
        if call in calls[:index]:
            refuse(f"tools[{index}]", "a call unlike the others", f"{call} as in tools[{calls.index(call)}]")
    training = self_edit.training
    if training.batch_size > training.max_examples:
        refuse("training.batch_size", f"at most max_examples, {training.max_examples}", str(training.batch_size))
