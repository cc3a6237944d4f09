"""A prompt: turns of text and grids, some of them marked as what the model is to say.

A prompt knows no tokens. A model's codec turns it into ids, so training, decoding and the policy are each
written once for every kind of model.
"""

from dataclasses import dataclass
from typing import Literal

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task

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
