"""What the forms of self-edits share: numbers within bounds, and the JSON schema of a form's text."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from arc_seal.self_edit.edit import Choice, Strict, canonical, plain_schema
from arc_seal.settings import Settings

COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
"""llguidance's options for JSON without spaces, which is how canonical text is written. A compiler that is given
options of its own must be given these: `JsonCompiler(separators=(",", ":"), whitespace_flexible=False)`."""


class WholeNumbers(Settings):
    """Whole numbers from `low` to `high`, both allowed."""

    low: int = Field(ge=1)
    high: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_order(self.low, self.high)
        return self

    @property
    def kind(self) -> Any:
        """The pydantic type of one of the numbers."""
        return Annotated[int, Field(ge=self.low, le=self.high)]

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


class Rates(Settings):
    """Multiples of `step` from `low` to `high`, both allowed."""

    low: float = Field(gt=0)
    high: float
    step: float = Field(gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in (("low", self.low), ("high", self.high)):
            if not self._is_multiple(value):
                expected = f"multiples of {canonical(self.step)}, which {name} = {canonical(value)} is not"
                raise PydanticCustomError("rates", "Input should be {expected}", {"expected": expected})
        _check_order(self.low, self.high)
        return self

    @property
    def kind(self) -> Any:
        """The pydantic type of one of the numbers."""
        json = {"type": "number", "minimum": self.low, "maximum": self.high, "multipleOf": self.step}
        return Annotated[float, Field(allow_inf_nan=True), AfterValidator(self._one_of), WithJsonSchema(json)]

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


def _check_order(low: float, high: float) -> None:
    if low > high:
        raise PydanticCustomError("bounds", "Input should be low <= high, so that there is something to choose")


Choices = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


class Form:
    """One form in which a model may write self-edits."""

    _model: type[Strict]  # what the text is held to

    def json_schema(self) -> dict[str, Any]:
        """JSON schema of the text, for the decoding grammar: each self-edit has one text, without spaces."""
        return {**plain_schema(self._model), "x-guidance": COMPACT}

    def alternatives(self, text: str, choices: Sequence[Choice]) -> dict[str, dict[str, float]]:
        """How probable each value of a field was, where the form has few for each; else nothing."""
        return {}
