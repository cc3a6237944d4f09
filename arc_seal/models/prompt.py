"""A prompt, its tokens, and what is written behind it: what chat models and grid models have in common. No torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.grid import COLOURS, Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.self_edit.edit import Choice

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["system", "user", "assistant"]

ROW_END, END = COLOURS, COLOURS + 1
"""Symbols of a grid beside its colours: `ROW_END` stands between two rows, `END` after the last."""

SYMBOLS = COLOURS + 2

Positions = TypeVar("Positions", NDArray[np.int64], "Tensor")


@dataclass(frozen=True, slots=True)
class Turn:
    """Text and grids in order; a user's grid is an input, an assistant's an output. Training puts loss on targets."""

    role: Role
    content: tuple[str | Grid, ...]
    target: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """Turns in order. One that ends with a user's turn asks the assistant to go on."""

    turns: tuple[Turn, ...]


def demonstrations_prompt(demos: tuple[Demonstration, ...], targets: Literal["all", "last"] = "all") -> Prompt:
    """Demonstrations, at least one, as a conversation: each input is asked, each output answered.

    Targets are `all` outputs after the first, in one pass, or the `last` alone (SEAL's leave-one-out). A single output
    is one either way.
    """
    turns: list[Turn] = []
    for index, demo in enumerate(demos):
        target = index == len(demos) - 1 or (targets == "all" and index > 0)
        turns += Turn("user", (demo.input,)), Turn("assistant", (demo.output,), target)
    return Prompt(tuple(turns))


def query_prompt(task: Task, query: Grid) -> Prompt:
    """The task's demonstrations, then `query` for the model to answer."""
    return Prompt((*demonstrations_prompt(task.demos).turns, Turn("user", (query,))))


def grid_symbols(cells: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The symbols of a grid, `END` included. [height, width] -> [height * (width + 1)]."""
    symbols = np.full((cells.shape[0], cells.shape[1] + 1), ROW_END, np.int64)
    symbols[:, :-1], symbols[-1, -1] = cells, END
    return symbols.ravel()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as a model reads it."""

    ids: NDArray[np.int64]  # token ids, [tokens]
    positions: NDArray[np.int64]  # position of each token on each axis the model knows, [axes, tokens]
    target: NDArray[np.bool_]  # whether training puts loss on predicting the token, [tokens]
    # Which tokens each target is chosen from, rows of [targets, vocabulary] as `np.packbits` packs them; None for all.
    allowed: NDArray[np.uint8] | None = None
    weight: float = 1.0  # what the loss of its targets is multiplied by


class Codec(Protocol):
    """Turns prompts into tokens."""

    symbols: tuple[int, ...]  # the token of each of a grid's `SYMBOLS`; `END`'s also ends what a model writes

    def encode(self, prompt: Prompt, *, target_all: bool = False) -> Encoded:
        """Encode a prompt; a trailing user turn is followed by the tokens that make the assistant answer.

        With `target_all` every token but the first is a target, whatever the turns say.
        """

    def next_positions(self, positions: Positions, ids: Positions) -> Positions:
        """The position that follows each token's. [axes, ...], [...] -> [axes, ...]."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How `count` completions are drawn: temperature 0 takes the likeliest token each time; sample i has seed + i."""

    count: int
    temperature: float
    seed: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote."""

    text: str  # without its end marker
    tokens: int
    finished: bool  # False when it ran out of tokens
    # In order; their probabilities differ in the last digits with what is written beside it.
    choices: tuple[Choice, ...] = field(default=(), compare=False)
    difficulty: int | None = None  # what the prompt said of the task, 0 to 9; None where it said nothing
