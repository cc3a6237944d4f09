"""The forms in which a model may write self-edits; bounds make the menu, the decoding grammar and the validation alike.

The default form calls any tools of the toolbox and sets every training hyperparameter. The form of choices has six
fields, and all else is fixed. The paper's form is in `paper.py`. Both are compiled into calls of the toolbox.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import PydanticCustomError

from arc_seal.errors import InputError
from arc_seal.self_edit.bounds import Choices, Form, Rates, WholeNumbers
from arc_seal.self_edit.edit import Choice, SelfEdit, Strict, ToolCall, Training, canonical, read, refuse
from arc_seal.self_edit.paper import PaperBounds, PaperSchema
from arc_seal.self_edit.toolbox import Toolbox
from arc_seal.settings import Settings, first_fault


def make_schema(bounds: Mapping[str, Any], toolbox: Toolbox) -> "Schema":
    """The schema that `self_edit.bounds` of the configuration asks for; only the default form needs the toolbox.

    InputError where a bound is unknown or makes no sense.
    """
    try:
        kind = Annotated[Bounds | ChoiceBounds | PaperBounds, Field(discriminator="form")]
        checked: Bounds | ChoiceBounds | PaperBounds = TypeAdapter(kind).validate_python(bounds)
    except ValidationError as error:
        place, expected, found = first_fault(error)  # the place begins with the form
        place = ".".join(("self_edit.bounds", *place.split(".")[1:]))
        raise InputError("configuration", place, expected, found) from None
    match checked:
        case Bounds():
            return SelfEditSchema(toolbox, checked)
        case ChoiceBounds():
            return ChoiceSchema(checked)
        case PaperBounds():
            return PaperSchema(checked)


class Bounds(Settings):
    """What a self-edit may ask for; the values in use, with their reasons, are in conf/self_edit/default.yaml."""

    form: Literal["default"] = "default"
    max_tools: int = Field(default=6, ge=0)
    loss_on: Annotated[tuple[Literal["outputs", "all"], ...], Field(min_length=1)] = ("outputs", "all")
    learning_rate: Rates = Rates(low=0.00002, high=0.01, step=0.00001)
    epochs: WholeNumbers = WholeNumbers(low=1, high=4)
    batch_size: Choices = (1, 2, 4, 8)
    lora_rank: Choices = (8, 16, 32, 64, 128, 256)
    max_examples: Choices = (16, 32, 64, 96, 128, 192, 256, 384, 512)


HYPERPARAMETERS = tuple(name for name in Training.model_fields if name in Bounds.model_fields)
"""What the default form says of training, in its order."""


def _check_most(value: int | str) -> int | str:
    if value != "all" and (isinstance(value, str) or value < 2):
        raise PydanticCustomError("bounds", "Input should be 2 or more, or all")
    return value


class ChoiceBounds(Settings):
    """What may be chosen in the form of choices; the values in use are in conf/self_edit/choices.yaml."""

    form: Literal["choices"] = "choices"
    tokens: Choices = (8000, 30000, 120000)
    # Within bounds in which the grammar writes a number as `canonical` does.
    learning_rate: Annotated[tuple[Annotated[float, Field(ge=0.00001, lt=1)], ...], Field(min_length=1)] = (0.002,)
    rank: Choices = (64,)
    demonstrations: Annotated[tuple[Annotated[int | str, AfterValidator(_check_most)], ...], Field(min_length=1)] = (
        "all",
    )
    symmetries: Annotated[tuple[bool, ...], Field(min_length=1)] = (True,)
    colours: Annotated[tuple[bool, ...], Field(min_length=1)] = (True,)
    max_examples: int = Field(default=256, ge=4)


class SelfEditSchema(Form):
    """The default form: any calls of the toolbox, and every training hyperparameter."""

    def __init__(self, toolbox: Toolbox, bounds: Bounds) -> None:
        self.toolbox, self.bounds = toolbox, bounds
        self._allowed = {name: getattr(bounds, name) for name in HYPERPARAMETERS}
        kinds: dict[str, Any] = {
            name: Literal[allowed] if isinstance(allowed, tuple) else allowed.kind
            for name, allowed in self._allowed.items()
        }
        tools = Annotated[list[toolbox.call], Field(max_length=bounds.max_tools)]  # type: ignore[name-defined]
        training = create_model("Training", __base__=Strict, **kinds)
        self._model = create_model("SelfEdit", __base__=Strict, tools=tools, training=training)

    def menu(self) -> str:
        """What may be written, for the prompt: one line a tool, one line a hyperparameter."""
        tools = (f"- {tool.menu_line}" for tool in self.toolbox.tools)
        lines = [f"tools (up to {self.bounds.max_tools}, no two equal):", *tools, "training:"]
        for name, allowed in self._allowed.items():
            lines.append(f"- {name}: {'|'.join(map(str, allowed)) if isinstance(allowed, tuple) else allowed}")
        return "\n".join(lines)

    def parse(self, written: str | Mapping[str, Any]) -> SelfEdit:
        """Read a self-edit, as text or as its JSON values; InvalidSelfEdit with place, expected and found.

        Arguments of a tool may be left out where it has defaults.
        """
        self_edit = SelfEdit.model_validate(read(written, self._model).model_dump(by_alias=True))
        calls, training = self_edit.tools, self_edit.training
        for index, call in enumerate(calls):
            if call in calls[:index]:
                refuse(f"tools[{index}]", "a call unlike the others", f"{call} as in tools[{calls.index(call)}]")
        if training.batch_size > training.max_examples:
            refuse("training.batch_size", f"at most max_examples, {training.max_examples}", str(training.batch_size))
        return self_edit

    def canonical(self, self_edit: SelfEdit) -> str:
        """The one text of a self-edit, as compact JSON."""
        return canonical(self_edit)


class ChoiceEdit(Strict):
    """A self-edit as the form of choices has it: few fields, each with few values."""

    tokens: int  # to train on
    learning_rate: float  # the peak
    rank: int  # of the adapter
    demonstrations: int | Literal["all"]  # of a training context at most, the last ones
    symmetries: bool  # whether contexts are turned and flipped
    colours: bool  # whether their colours are changed


SHORT_CONTEXT = 100
"""Tokens of a short training context: two demonstrations of grids of 5 by 5."""

_SYMMETRIES = (ToolCall.of("rotate", quarter_turns="any"), ToolCall.of("flip", direction="any"))
_COLOURS, _ORDER = ToolCall.of("permute_colors", keep_background=True), ToolCall.of("shuffle_demos")


def compiled_choices(edit: ChoiceEdit, max_examples: int = 256) -> SelfEdit:
    """The choices as one call of the toolbox and hyperparameters.

    There are as many examples as short contexts need to have the tokens, if that is more than `max_examples`.
    """
    steps = (*(_SYMMETRIES if edit.symmetries else ()), *((_COLOURS,) if edit.colours else ()), _ORDER)
    training = Training(
        loss_on="outputs",
        learning_rate=edit.learning_rate,
        epochs=1,
        batch_size=4,
        lora_rank=edit.rank,
        max_examples=max(max_examples, edit.tokens // SHORT_CONTEXT),
        tokens=edit.tokens,
        demonstrations=None if edit.demonstrations == "all" else edit.demonstrations,
    )
    return SelfEdit(tools=(_ORDER if len(steps) == 1 else ToolCall.of("chain", steps=steps),), training=training)


class ChoiceSchema(Form):
    """The form of choices: six fields, each with few values."""

    def __init__(self, bounds: ChoiceBounds) -> None:
        self.bounds = bounds
        self._allowed = {name: getattr(bounds, name) for name in ChoiceEdit.model_fields}
        kinds: dict[str, Any] = {
            name: bool if allowed == (False, True) else Literal[allowed] for name, allowed in self._allowed.items()
        }
        self._model = create_model("Choices", __base__=Strict, **kinds)

    def menu(self) -> str:
        """What may be written, for the prompt: one line a field."""
        return "\n".join(
            f"- {name}: {'|'.join(each if isinstance(each, str) else canonical(each) for each in allowed)}"
            for name, allowed in self._allowed.items()
        )

    def parse(self, written: str | Mapping[str, Any]) -> SelfEdit:
        """Read the choices and compile them."""
        chosen = ChoiceEdit.model_validate(read(written, self._model).model_dump())
        return compiled_choices(chosen, self.bounds.max_examples)

    def canonical(self, self_edit: SelfEdit) -> str:
        """The choices' text of a self-edit that was compiled from them; ValueError where it has none."""
        training = self_edit.training
        for symmetries, colours in product((False, True), repeat=2):
            edit = ChoiceEdit(
                tokens=training.tokens or 0,
                learning_rate=training.learning_rate,
                rank=training.lora_rank,
                demonstrations=training.demonstrations or "all",
                symmetries=symmetries,
                colours=colours,
            )
            if training.tokens and compiled_choices(edit, self.bounds.max_examples) == self_edit:
                return canonical(edit)
        raise ValueError("this self-edit has no text in the form of choices")

    def alternatives(self, text: str, choices: Sequence[Choice]) -> dict[str, dict[str, float]]:
        """How probable each value of a field was after the fields before it; fields without a choice are left out.

        Values that no token told from one another are left out.
        """
        found = {}
        for name, allowed in self._allowed.items():
            begin = text.find(f'"{name}":') + len(name) + 3
            values = [canonical(each) for each in allowed]
            written = next((each for each in values if text.startswith(each, begin)), "")
            within = [(choice.begin - begin, choice.chances) for choice in choices]
            found[name] = _chances(written, values, [each for each in within if 0 <= each[0] < len(written)])
        return {name: chances for name, chances in found.items() if chances}


def _chances(
    written: str, values: Sequence[str], choices: Sequence[tuple[int, Mapping[str, float]]]
) -> dict[str, float]:
    """How probable each value was, of those that a token told from the others, where one of them was written.

    `choices` are the characters of the value before each choice, and the probabilities of the tokens there.
    """
    found, so_far = dict[str, float](), 1.0  # the probability of what is written up to a choice
    for place, chances in choices:
        for token, chance in chances.items():
            alike = [each for each in values if each.startswith(written[:place] + token)]
            if len(alike) == 1:
                found[alike[0]] = so_far * chance
        so_far *= next((chance for token, chance in chances.items() if written.startswith(token, place)), 0.0)
    return found


Schema = SelfEditSchema | ChoiceSchema | PaperSchema
"""A form in which a model may write self-edits."""
