"""The forms in which a model may write self-edits; bounds make the menu, the decoding grammar and the validation alike.

The default form calls any tools of the toolbox and sets every training hyperparameter. The form of choices has six
fields, and all else is fixed. The paper's form has the seven fields of SEAL's few-shot experiment on ARC (arXiv
2506.10943, section 3.2), so that its figures can be compared. Both are compiled into calls of the toolbox. Known faults
of the paper's code are not copied: input and output are translated by one shift, and a self-edit that cannot be read is
a failure, not zero epochs.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, WithJsonSchema, create_model, model_validator
from pydantic_core import PydanticCustomError

from arc_seal.errors import InputError
from arc_seal.self_edit.edit import Choice, SelfEdit, Strict, ToolCall, Training, canonical, plain_schema, read, refuse
from arc_seal.self_edit.toolbox import Toolbox
from arc_seal.settings import Settings, first_fault

COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
"""llguidance's options for JSON without spaces, which is how canonical text is written. A compiler that is given
options of its own must be given these: `JsonCompiler(separators=(",", ":"), whitespace_flexible=False)`."""


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


class PaperBounds(Settings):
    """What may be asked for in the paper's form; the values in use, with reasons, are in conf/self_edit/paper.yaml."""

    form: Literal["paper"] = "paper"
    learning_rate: Rates = Rates(low=0.00001, high=0.001, step=0.00001)
    num_train_epochs: WholeNumbers = WholeNumbers(low=1, high=3)
    max_examples: int = Field(default=250, ge=1)


class _Form:
    """One form in which a model may write self-edits."""

    _model: type[Strict]  # what the text is held to

    def json_schema(self) -> dict[str, Any]:
        """JSON schema of the text, for the decoding grammar: each self-edit has one text, without spaces."""
        return {**plain_schema(self._model), "x-guidance": COMPACT}

    def alternatives(self, text: str, choices: Sequence[Choice]) -> dict[str, dict[str, float]]:
        """How probable each value of a field was, where the form has few for each; else nothing."""
        return {}


class SelfEditSchema(_Form):
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


class ChoiceSchema(_Form):
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


Strategy = Literal["train_using_all_tokens", "train_using_output_tokens"]


class DataGeneration(Strict):
    """Which groups of tools make training examples."""

    use_basic_augmentations: bool
    use_size_augmentations: bool
    use_chain_augmentations: bool
    use_repeat_augmentations: bool


class PaperTraining(Strict):
    """How to train on them."""

    strategy: Strategy
    learning_rate: float
    num_train_epochs: int


class PaperEdit(Strict):
    """A self-edit as the paper's model writes it."""

    data_generation: DataGeneration
    training: PaperTraining


ORACLE = PaperEdit(
    data_generation=DataGeneration(**dict.fromkeys(DataGeneration.model_fields, True)),
    training=PaperTraining(strategy="train_using_output_tokens", learning_rate=0.0001, num_train_epochs=2),
)
"""The settings that solve all eight held-out tasks in the paper (its "oracle TTT")."""

_TURNS_AND_FLIPS = (
    *(ToolCall.of("rotate", quarter_turns=turns) for turns in (1, 2, 3)),
    *(ToolCall.of("flip", direction=direction) for direction in ("left_right", "up_down")),
)
_REFLECTIONS = tuple(ToolCall.of("reflect", side=side) for side in ("above", "below", "left", "right"))
_TRANSPOSE, _SHIFT = ToolCall.of("transpose"), ToolCall.of("translate", max_shift=4)
_ENLARGED = ToolCall.of("enlarge", sides="both")
_RECOLOURED = (ToolCall.of("permute_colors", keep_background=True), ToolCall.of("shuffle_demos"))

_GROUPS: dict[str, list[tuple[ToolCall, ...]]] = {
    "use_basic_augmentations": [(call,) for call in (*_TURNS_AND_FLIPS, *_REFLECTIONS, _SHIFT, _TRANSPOSE)],
    "use_size_augmentations": [(ToolCall.of("enlarge", sides=sides),) for sides in ("both", "height", "width")],
    "use_chain_augmentations": [(call, _ENLARGED) for call in (*_TURNS_AND_FLIPS, _TRANSPOSE)],
    "use_repeat_augmentations": [(ToolCall.of("tile", along=along),) for along in ("rows", "columns", "both")],
}
"""Each group of `DataGeneration` as ways to change a task, each way as the steps of it."""


def compiled(edit: PaperEdit, max_examples: int = 250) -> SelfEdit:
    """The paper's self-edit as tool calls and hyperparameters.

    The calls are those of the wanted groups and, when there are any, each once more with other colours and order. What
    the paper fixes is in its appendix on few-shot training: rank 128, 2 examples an update, at most 250 examples.
    """
    ways = [way for name, group in _GROUPS.items() if getattr(edit.data_generation, name) for way in group]
    ways += [(*way, *_RECOLOURED) for way in ((), *ways)] if ways else []
    tools = (way[0] if len(way) == 1 else ToolCall.of("chain", steps=way) for way in ways)
    training = Training(
        loss_on="all" if edit.training.strategy == "train_using_all_tokens" else "outputs",
        learning_rate=edit.training.learning_rate,
        epochs=edit.training.num_train_epochs,
        batch_size=2,
        lora_rank=128,
        max_examples=max_examples,
    )
    return SelfEdit(tools=tuple(tools), training=training)


class PaperSchema(_Form):
    """The paper's form: four booleans, a strategy, a learning rate and epochs."""

    _model: type[PaperEdit]

    def __init__(self, bounds: PaperBounds) -> None:
        self.bounds = bounds
        kinds = {name: getattr(bounds, name).kind for name in ("learning_rate", "num_train_epochs")}
        training = create_model("Training", __base__=PaperTraining, **kinds)
        self._model = create_model("Edit", __base__=PaperEdit, training=training)

    def menu(self) -> str:
        """What may be written, for the prompt: one line a field."""
        return f"""\
data_generation (each true or false):
- use_basic_augmentations: rotations, flips, reflections, a shift, transpose
- use_size_augmentations: grids enlarged twofold
- use_chain_augmentations: a rotation, flip or transpose, then enlarged
- use_repeat_augmentations: grids repeated side by side
training:
- strategy: train_using_all_tokens|train_using_output_tokens
- learning_rate: {self.bounds.learning_rate}
- num_train_epochs: {self.bounds.num_train_epochs}"""

    def parse(self, written: str | Mapping[str, Any]) -> SelfEdit:
        """Read a self-edit in the paper's form and compile it."""
        return compiled(read(written, self._model), self.bounds.max_examples)

    def canonical(self, self_edit: SelfEdit) -> str:
        """The paper's text of a self-edit that was compiled from it; ValueError where it has none."""
        rate, epochs = self_edit.training.learning_rate, self_edit.training.epochs
        for strategy, uses in product(get_args(Strategy), product((False, True), repeat=len(_GROUPS))):
            training = PaperTraining(strategy=strategy, learning_rate=rate, num_train_epochs=epochs)
            groups = DataGeneration(**dict(zip(_GROUPS, uses, strict=True)))
            edit = PaperEdit(data_generation=groups, training=training)
            if compiled(edit, self.bounds.max_examples) == self_edit:
                return canonical(edit)
        raise ValueError("this self-edit has no text in the paper's form")


Schema = SelfEditSchema | ChoiceSchema | PaperSchema
"""A form in which a model may write self-edits."""
