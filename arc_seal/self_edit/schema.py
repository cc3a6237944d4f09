"""The schema of a self-edit: toolbox and bounds make the menu, the decoding grammar and the validation alike."""

from collections.abc import Mapping
from decimal import Decimal
from itertools import product
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from arc_seal.errors import InputError
from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training, canonical, plain_schema, read, refuse
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


# The paper's own self-edit: seven fields, compiled into calls of the toolbox (SEAL, arXiv 2506.10943, section 3.2).
#
# The fields and what each stands for are those of its few-shot experiment on ARC, so that its figures can be
# compared.
# Known faults of its code are not copied: input and output are translated by one shift, and a self-edit that cannot
# be
# read is a failure, not zero epochs.

LORA_RANK = 128
"""Rank of the adapter (arXiv 2506.10943, appendix on few-shot training)."""

BATCH_SIZE = 2
"""Examples an update, ibid."""

MAX_EXAMPLES = 250
"""Most training examples, ibid."""

Strategy = Literal["train_using_all_tokens", "train_using_output_tokens"]

_STRICTPaper = ConfigDict(frozen=True, extra="forbid", strict=True)
_LOSS_ON: dict[Strategy, Literal["outputs", "all"]] = {
    "train_using_all_tokens": "all",
    "train_using_output_tokens": "outputs",
}

_TURNS = tuple(ToolCall.of("rotate", quarter_turns=turns) for turns in (1, 2, 3))
_FLIPS = tuple(ToolCall.of("flip", direction=direction) for direction in ("left_right", "up_down"))
_TRANSPOSE = ToolCall.of("transpose")
_REFLECTIONS = tuple(ToolCall.of("reflect", side=side) for side in ("above", "below", "left", "right"))
_SHIFT = ToolCall.of("translate", max_shift=4)
_ENLARGED = ToolCall.of("enlarge", sides="both")
_COLOURS = ToolCall.of("permute_colors", keep_background=True)
_ORDER = ToolCall.of("shuffle_demos")

# Each group as ways to change a task, each way as the steps of it.
_BASIC = tuple((call,) for call in (*_TURNS, *_FLIPS, *_REFLECTIONS, _SHIFT, _TRANSPOSE))
_SIZE = tuple((ToolCall.of("enlarge", sides=sides),) for sides in ("both", "height", "width"))
_CHAINS = tuple((call, _ENLARGED) for call in (*_TURNS, *_FLIPS, _TRANSPOSE))
_REPEAT = tuple((ToolCall.of("tile", along=along),) for along in ("rows", "columns", "both"))


class DataGeneration(BaseModel):
    """Which groups of tools make training examples."""

    model_config = _STRICTPaper

    use_basic_augmentations: bool
    use_size_augmentations: bool
    use_chain_augmentations: bool
    use_repeat_augmentations: bool


class PaperTraining(BaseModel):
    """How to train on them."""

    model_config = _STRICTPaper

    strategy: Strategy
    learning_rate: float
    num_train_epochs: int


class PaperEdit(BaseModel):
    """A self-edit as the paper's model writes it."""

    model_config = _STRICTPaper

    data_generation: DataGeneration
    training: PaperTraining


class PaperBounds(BaseModel):
    """What may be asked for; the values in use, with their reasons, are in conf/self_edit/paper.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal["paper"] = "paper"
    learning_rate: Rates = Rates(low=0.00001, high=0.001, step=0.00001)
    num_train_epochs: Interval = Interval(low=1, high=3)
    max_examples: int = Field(default=MAX_EXAMPLES, ge=1)


ORACLE = PaperEdit(
    data_generation=DataGeneration(
        use_basic_augmentations=True,
        use_size_augmentations=True,
        use_chain_augmentations=True,
        use_repeat_augmentations=True,
    ),
    training=PaperTraining(strategy="train_using_output_tokens", learning_rate=0.0001, num_train_epochs=2),
)
"""The settings that solve all eight held-out tasks in the paper (its "oracle TTT")."""


class PaperSchema:
    """The paper's form: four booleans, a strategy, a learning rate and epochs.

    Args:
        bounds: What may be asked for.
    """

    def __init__(self, bounds: PaperBounds) -> None:
        self.bounds = bounds
        training = create_model(
            "BoundedTraining",
            __base__=PaperTraining,
            learning_rate=(bounds.learning_rate.kind, ...),
            num_train_epochs=(bounds.num_train_epochs.kind, ...),
        )
        self._model = create_model("BoundedEdit", __base__=PaperEdit, training=(training, ...))

    def menu(self) -> str:
        """What may be written, one line a field."""
        return "\n".join(
            [
                "data_generation (each true or false):",
                "- use_basic_augmentations: rotations, flips, reflections, a shift, transpose",
                "- use_size_augmentations: grids enlarged twofold",
                "- use_chain_augmentations: a rotation, flip or transpose, then enlarged",
                "- use_repeat_augmentations: grids repeated side by side",
                "training:",
                "- strategy: train_using_all_tokens|train_using_output_tokens",
                f"- learning_rate: {self.bounds.learning_rate}",
                f"- num_train_epochs: {self.bounds.num_train_epochs}",
            ]
        )

    def json_schema(self) -> dict[str, Any]:
        """JSON schema of the paper's form, with `x-guidance` for JSON without spaces."""
        return {**plain_schema(self._model), "x-guidance": COMPACT}

    def parse(self, written: str | Mapping[str, Any]) -> SelfEdit:
        """Read a self-edit in the paper's form and compile it.

        Raises:
            InvalidSelfEdit: With one line: place, expected, found.
        """
        return compiled(read(written, self._model), self.bounds.max_examples)

    def canonical(self, self_edit: SelfEdit) -> str:
        """The paper's text of a self-edit that was compiled from it.

        Raises:
            ValueError: When it is not one that the paper's form can say.
        """
        return canonical(_decompiled(self_edit, self.bounds.max_examples))


def compiled(edit: PaperEdit, max_examples: int = MAX_EXAMPLES) -> SelfEdit:
    """The paper's self-edit as tool calls and hyperparameters."""
    training = Training(
        loss_on=_LOSS_ON[edit.training.strategy],
        learning_rate=edit.training.learning_rate,
        epochs=edit.training.num_train_epochs,
        batch_size=BATCH_SIZE,
        lora_rank=LORA_RANK,
        max_examples=max_examples,
    )
    return SelfEdit(tools=_calls(edit.data_generation), training=training)


def _calls(wanted: DataGeneration) -> tuple[ToolCall, ...]:
    """The calls of the wanted groups; when there are any, each once more with other colours and order."""
    groups = (
        (wanted.use_basic_augmentations, _BASIC),
        (wanted.use_size_augmentations, _SIZE),
        (wanted.use_chain_augmentations, _CHAINS),
        (wanted.use_repeat_augmentations, _REPEAT),
    )
    ways = tuple(steps for use, group in groups if use for steps in group)
    if not ways:
        return ()
    return tuple(map(_call, ways)) + tuple(_call((*steps, _COLOURS, _ORDER)) for steps in ((), *ways))


def _call(steps: tuple[ToolCall, ...]) -> ToolCall:
    return steps[0] if len(steps) == 1 else ToolCall.of("chain", steps=steps)


def _decompiled(self_edit: SelfEdit, max_examples: int) -> PaperEdit:
    training = self_edit.training
    strategy = next(name for name, loss_on in _LOSS_ON.items() if loss_on == training.loss_on)
    for uses in product((False, True), repeat=4):
        names = DataGeneration.model_fields
        edit = PaperEdit(
            data_generation=DataGeneration(**dict(zip(names, uses, strict=True))),
            training=PaperTraining(
                strategy=strategy, learning_rate=training.learning_rate, num_train_epochs=training.epochs
            ),
        )
        if compiled(edit, max_examples) == self_edit:
            return edit
    raise ValueError("this self-edit has no text in the paper's form")


# The forms in which a model may write self-edits, chosen by `self_edit=NAME` in the configuration.

_BOUNDS: TypeAdapter[Bounds | PaperBounds] = TypeAdapter(Annotated[Bounds | PaperBounds, Field(discriminator="form")])


def make_schema(bounds: Mapping[str, Any], toolbox: Toolbox) -> Schema:
    """The schema that `self_edit.bounds` of the configuration asks for.

    Args:
        bounds: As in conf/self_edit/; `form` says which form.
        toolbox: The tools that may be called; the paper's form names its own.

    Raises:
        InputError: On a bound that is unknown or makes no sense.
    """
    try:
        read = _BOUNDS.validate_python(bounds)
    except ValidationError as error:
        raise _explained(error) from None
    return SelfEditSchema(toolbox, read) if isinstance(read, Bounds) else PaperSchema(read)


def _explained(error: ValidationError) -> InputError:
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, ("self_edit", "bounds", *fault["loc"][1:])))
    if fault["type"] == "extra_forbidden":
        return InputError("configuration", place, "a setting that there is", "an unknown one")
    return InputError("configuration", place, fault["msg"].removeprefix("Input should be "), repr(fault["input"]))
