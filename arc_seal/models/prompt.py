"""A prompt: turns of text and grids, some of them marked as what the model is to say.

A prompt knows no tokens. A model's codec turns it into ids, so training, decoding and the policy are each
written once for every kind of model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the conversation.

    Attributes:
        role: Who speaks. A grid spoken by the user is an input, one spoken by the assistant an output.
        content: Text and grids, in order.
        target: Whether training puts loss on what is said here.
    """

    role: Role
    content: tuple[str | Grid, ...]
    target: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """Turns in order. One that ends with a user's turn asks the assistant to speak next."""

    turns: tuple[Turn, ...]


def demonstrations_prompt(demos: tuple[Demonstration, ...], targets: Literal["all", "last"] = "all") -> Prompt:
    """Demonstrations as a conversation: each input is asked, each output answered.

    One pass over it trains on every output that has a demonstration before it.

    Args:
        demos: At least one; where there is no other, its output is the target.
        targets: `all`: every output after the first; `last`: the last output only (SEAL's leave-one-out).
    """
    last = len(demos) - 1
    turns = []
    for index, demo in enumerate(demos):
        turns.append(Turn("user", (demo.input,)))
        turns.append(Turn("assistant", (demo.output,), target=index == last or (targets == "all" and index > 0)))
    return Prompt(tuple(turns))


def query_prompt(task: Task, query: Grid) -> Prompt:
    """The task's demonstrations, then `query` for the model to answer."""
    return Prompt((*demonstrations_prompt(task.demos).turns, Turn("user", (query,))))


# The protocol that every language model of arc-seal keeps, chat LLM and grid model alike.


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as a model reads it.

    Attributes:
        ids: Token ids, [tokens].
        positions: Position of each token on each axis the model knows, [axes, tokens].
        target: Whether training puts loss on predicting the token, [tokens].
        allowed: What could stand in the place of each target, as `np.packbits` packs the rows of [targets, vocabulary],
            for vocabularies are large; None where that is not limited.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    target: NDArray[np.bool_]
    allowed: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class GridSymbols:
    """The tokens that spell a grid.

    Attributes:
        cells: Token of each colour 0 to 9.
        row_end: Token between two rows.
        end: Token after the last row.
    """

    cells: tuple[int, ...]
    row_end: int
    end: int

    @property
    def all(self) -> tuple[int, ...]:
        """Every symbol: the ten colours, the row end, the end."""
        return (*self.cells, self.row_end, self.end)


class Codec(Protocol):
    """Turns prompts into tokens."""

    symbols: GridSymbols

    def encode(self, prompt: Prompt, *, target_all: bool = False) -> Encoded:
        """Encode a prompt.

        Args:
            prompt: A trailing user turn is followed by what makes the assistant speak.
            target_all: Mark every token but the first as target, whatever the turns say.
        """
        ...

    def next_position(self, position: NDArray[np.int64], token: int) -> NDArray[np.int64]:
        """Where the token after `token` stands. [axes] -> [axes]."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        count: How many.
        temperature: 0 takes the likeliest token each time.
        seed: Fixes the samples; each draws on its own.
        max_tokens: The longest completion.
    """

    count: int
    temperature: float
    seed: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: The text, end marker left out.
        tokens: Tokens written.
        finished: False when the allowed number of tokens was used up first.
    """

    text: str
    tokens: int
    finished: bool


class Model(Protocol):
    """A language model in memory: its network, its codec, and free text under a grammar."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    @property
    def weights(self) -> str | None:
        """What tells its weights from others; see `models.weights.fingerprint`. None when it is not known."""
        ...

    @property
    def codec(self) -> Codec:
        """Turns prompts into its tokens."""
        ...

    @property
    def network(self) -> "PreTrainedModel":
        """Its weights, frozen."""
        ...

    def write(
        self,
        prompt: Prompt,
        schema: Mapping[str, Any],
        sampling: Sampling,
        on_token: Callable[[int], None],
    ) -> tuple[Completion, ...]:
        """Write completions, each valid JSON under a JSON schema.

        Args:
            prompt: Ends with a user's turn.
            schema: JSON schema that every completion is held to.
            sampling: How many, and how.
            on_token: Called after each step with the tokens written so far in each completion.
        """
        ...

    def bound(self, encoded: Encoded, schema: Mapping[str, Any]) -> Encoded:
        """The same with its targets held to a JSON schema, as `write` holds what it writes.

        Where the schema leaves no choice there is no target, and elsewhere only what it allows is a choice.

        Args:
            encoded: Its targets spell one text that the schema allows, with or without an end marker.
            schema: As `write` is given it.

        Raises:
            ValueError: When the targets spell something else.
        """
        ...
