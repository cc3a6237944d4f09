"""The paper's own self-edit: seven fields, compiled into calls of the toolbox (SEAL, arXiv 2506.10943, section 3.2).

The fields and what each stands for are those of its few-shot experiment on ARC, so that its figures can be compared.
Known faults of its code are not copied: input and output are translated by one shift, and a self-edit that cannot be
read is a failure, not zero epochs.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training, canonical
from arc_seal.self_edit.schema import COMPACT, Interval, Rates
from arc_seal.self_edit.strict_json import plain_schema, read

LORA_RANK = 128
"""Rank of the adapter (arXiv 2506.10943, appendix on few-shot training)."""

BATCH_SIZE = 2
"""Examples an update, ibid."""

MAX_EXAMPLES = 250
"""Most training examples, ibid."""

Strategy = Literal["train_using_all_tokens", "train_using_output_tokens"]

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)
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

    model_config = _STRICT

    use_basic_augmentations: bool
    use_size_augmentations: bool
    use_chain_augmentations: bool
    use_repeat_augmentations: bool


class PaperTraining(BaseModel):
    """How to train on them."""

    model_config = _STRICT

    strategy: Strategy
    learning_rate: float
    num_train_epochs: int


class PaperEdit(BaseModel):
    """A self-edit as the paper's model writes it."""

    model_config = _STRICT

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
