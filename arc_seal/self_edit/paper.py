"""The form of SEAL's few-shot experiment on ARC (arXiv 2506.10943, section 3.2), so that its figures can be compared.

Its seven fields are compiled into calls of the toolbox. Known faults of the paper's code are not copied: input and
output are translated by one shift, and a self-edit that cannot be read is a failure, not zero epochs.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any, Literal, get_args

from pydantic import Field, create_model

from arc_seal.self_edit.bounds import Form, Rates, WholeNumbers
from arc_seal.self_edit.edit import SelfEdit, Strict, ToolCall, Training, canonical, read
from arc_seal.settings import Settings


class PaperBounds(Settings):
    """What may be asked for in the paper's form; the values in use, with reasons, are in conf/self_edit/paper.yaml."""

    form: Literal["paper"] = "paper"
    learning_rate: Rates = Rates(low=0.00001, high=0.001, step=0.00001)
    num_train_epochs: WholeNumbers = WholeNumbers(low=1, high=3)
    max_examples: int = Field(default=250, ge=1)


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


class PaperSchema(Form):
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
