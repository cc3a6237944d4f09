"""The codec of chat models: turns by the chat template, grids one token a cell even if `123` is one token in text."""

import logging
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from arc_seal.arc.grid import COLOURS, Grid
from arc_seal.errors import ModelError, one_line
from arc_seal.models.prompt import Encoded, Positions, Prompt, Role, Turn, grid_symbols

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TEMPLATE_DATE = "26 Jul 2024"
"""Llama 3's template writes today's date into every prompt unless it is given one; this is its own default."""


class ChatCodec:
    """Encodes prompts for one tokenizer; prompts without a system turn get `system`, None leaves it to the template.

    `ModelError` without a chat template that marks the end of a turn, or a single token for each colour and row end.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", system: str | None = None) -> None:
        self._tokenizer, self._system = tokenizer, system
        self._name = str(tokenizer.name_or_path)
        if not tokenizer.chat_template:
            raise ModelError(self._name, "tokenizer", "a chat template", "none")
        self._text = cache(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False)))
        self._template = cache(self._read_template)
        symbols = [self._single_token(text) for text in (*map(str, range(COLOURS)), "\n")]
        after_answer = self._template(("user", "assistant"), False)[-1]
        if not after_answer:
            raise ModelError(self._name, "chat template", "a mark that ends the assistant's turn", "none")
        self.symbols = (*symbols, after_answer[0])
        grid, self.note = Grid.from_rows([list(range(COLOURS))] * 2), ""
        if (own := self._text(str(grid))) != self._grid(grid):
            self.note = f"the tokenizer reads {len(grid.cells)} cells as {len(own)} tokens; cells are given to the "
            self.note += "model as single digits, which it has seldom seen side by side"
            logger.warning("%s: %s", self._name, self.note)

    def encode(self, prompt: Prompt, *, target_all: bool = False) -> Encoded:
        """Encode a prompt; see `Codec.encode`.

        The end marker after a target turn is a target too, and ends the prompt: what follows it in a template is not.
        """
        pieces, in_target = zip(*self._pieces(prompt), strict=True)
        ids = np.array([*chain(*pieces)], np.int64)
        positions = np.arange(len(ids))
        target = positions > 0 if target_all else np.repeat(in_target, [*map(len, pieces)])
        return Encoded(ids, positions[None], target)

    def next_positions(self, positions: Positions, ids: Positions) -> Positions:
        """One further along the only axis. [1, ...] -> [1, ...]."""
        return positions + 1

    def _pieces(self, prompt: Prompt) -> Iterator[tuple[tuple[int, ...], bool]]:
        """Runs of tokens with whether they are targets, in order."""
        turns = prompt.turns
        if self._system is not None and turns[0].role != "system":
            turns = (Turn("system", (self._system,)), *turns)
        before, *behind = self._template(tuple(turn.role for turn in turns), turns[-1].role == "user")
        yield before, False
        for turn, after in zip(turns, behind, strict=True):
            for part in turn.content:
                yield self._grid(part) if isinstance(part, Grid) else self._text(part), turn.target
            ends_here = turn.role == "assistant"
            yield after[:1], turn.target and ends_here
            if not (ends_here and turn is turns[-1]):
                yield after[1:], False

    def _read_template(self, roles: tuple[Role, ...], asks: bool) -> tuple[tuple[int, ...], ...]:
        """The chat template's own tokens: before the first turn's content, and after each turn's."""
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        try:
            rendered = self._tokenizer.apply_chat_template(
                [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)],
                tokenize=False,
                add_generation_prompt=asks,
                date_string=TEMPLATE_DATE,
                enable_thinking=False,  # Qwen 3's; it writes an empty thought before an answer that is given
            )
        except Exception as error:  # a template is a program, and may raise anything
            expected = f"one that takes turns {'/'.join(roles)}"
            raise ModelError(self._name, "chat template", expected, one_line(error)) from error
        pieces, text = [], str(rendered)
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found:
                raise ModelError(self._name, "chat template", f"turns {'/'.join(roles)} in order", "a turn left out")
            pieces.append(self._text(before))
        return *pieces, self._text(text)

    def _grid(self, grid: Grid) -> tuple[int, ...]:
        """Rows of cells with a row end between two rows; the template ends the turn."""
        return tuple(self.symbols[symbol] for symbol in grid_symbols(grid.array)[:-1].tolist())

    def _single_token(self, text: str) -> int:
        """The token that decodes to `text`; behind a row end, if there, no tokenizer adds a mark of a word's start."""
        behind = self._tokenizer.encode(f"\n{text}", add_special_tokens=False)[-1:]
        for token in (*behind, *self._tokenizer.encode(text, add_special_tokens=False)):
            if self._tokenizer.decode([token]) == text:
                return int(token)
        raise ModelError(self._name, "tokenizer", f"a single token for {text!r}", "none")
