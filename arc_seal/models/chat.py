"""The codec of chat models: turns into tokens by the tokenizer's own chat template, grids one token a cell.

Text and grids are tokenised apart from one another, so a grid's tokens never depend on what stands beside
it: a row of digits is one token a cell even for tokenizers that would read `123` as one number.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from arc_seal.arc.grid import COLOURS, Grid
from arc_seal.errors import ModelError
from arc_seal.models.prompt import Encoded, GridSymbols, Prompt, Role, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TEMPLATE_DATE = "26 Jul 2024"
"""Llama 3's template writes today's date into every prompt unless it is given one; this is its own default."""


class ChatCodec:
    """Encodes prompts for one tokenizer.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        system: What the system says in prompts that have no system turn; None leaves it to the template.

    Raises:
        ModelError: When there is no chat template or it marks no end of a turn, or a colour or the row end is not a
            single token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._system = system
        self._name = str(tokenizer.name_or_path)
        if not tokenizer.chat_template:
            raise ModelError(self._name, "tokenizer", "a chat template", "none")
        self._skeletons: dict[tuple[tuple[Role, ...], bool], tuple[tuple[int, ...], ...]] = {}
        self._texts: dict[str, tuple[int, ...]] = {}
        cells = tuple(self._single_token(str(colour)) for colour in range(COLOURS))
        after_answer = self._skeleton(("user", "assistant"), False)[-1]
        if not after_answer:
            raise ModelError(self._name, "chat template", "a mark that ends the assistant's turn", "none")
        self.symbols = GridSymbols(cells, self._single_token("\n"), after_answer[0])
        self.note = self._spelling_note()
        if self.note:
            logger.warning("%s: %s", self._name, self.note)

    def encode(self, prompt: Prompt, *, target_all: bool = False) -> Encoded:
        """Encode a prompt; see `Codec.encode`.

        The end marker after a target turn is a target too. A prompt ends right there, without what a
        template puts between two turns.
        """
        ids: list[int] = []
        target: list[bool] = []
        for tokens, is_target in self._pieces(prompt):
            ids.extend(tokens)
            target.extend([is_target] * len(tokens))
        if target_all:
            target = [False] + [True] * (len(ids) - 1)
        return Encoded(np.array(ids, np.int64), np.arange(len(ids), dtype=np.int64)[None], np.array(target, np.bool_))

    def next_position(self, position: NDArray[np.int64], token: int) -> NDArray[np.int64]:
        """One further along the only axis. [1] -> [1]."""
        return position + 1

    def _pieces(self, prompt: Prompt) -> Iterator[tuple[tuple[int, ...], bool]]:
        """Runs of tokens with whether they are targets, in order."""
        turns = prompt.turns
        if self._system is not None and turns[0].role != "system":
            turns = (Turn("system", (self._system,)), *turns)
        asks = turns[-1].role == "user"
        skeleton = self._skeleton(tuple(turn.role for turn in turns), asks)
        yield skeleton[0], False
        for turn, after in zip(turns, skeleton[1:], strict=True):
            for part in turn.content:
                yield self._grid(part) if isinstance(part, Grid) else self._text(part), turn.target
            ends_here = turn.role == "assistant"
            yield after[:1], turn.target and ends_here
            if not (ends_here and turn is turns[-1]):
                yield after[1:], False

    def _skeleton(self, roles: tuple[Role, ...], asks: bool) -> tuple[tuple[int, ...], ...]:
        """The template's own tokens: before the first turn's content, and after each turn's."""
        if (roles, asks) not in self._skeletons:
            marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
            messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
            text = self._render(messages, asks)
            pieces = []
            for mark in marks:
                before, found, text = text.partition(mark)
                if not found:
                    order = "/".join(roles)
                    raise ModelError(self._name, "chat template", f"turns {order} in order", "a turn left out")
                pieces.append(self._text(before))
            self._skeletons[roles, asks] = (*pieces, self._text(text))
        return self._skeletons[roles, asks]

    def _render(self, messages: list[dict[str, str]], asks: bool) -> str:
        """The conversation as the template writes it: always the same date, and no thinking before an answer."""
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=asks,
                date_string=TEMPLATE_DATE,
                enable_thinking=False,  # Qwen 3's; it writes an empty thought before an answer that is given
            )
        except (TemplateError, TypeError, ValueError) as error:
            order = "/".join(message["role"] for message in messages)
            found = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelError(self._name, "chat template", f"one that takes turns {order}", found) from error
        return str(text)

    def _grid(self, grid: Grid) -> tuple[int, ...]:
        """Rows of cells with a row end between two rows."""
        tokens: list[int] = []
        for row in grid.rows:
            tokens.extend(self.symbols.cells[colour] for colour in row)
            tokens.append(self.symbols.row_end)
        return tuple(tokens[:-1])

    def _text(self, text: str) -> tuple[int, ...]:
        if text not in self._texts:
            self._texts[text] = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        return self._texts[text]

    def _single_token(self, text: str) -> int:
        """The token that decodes to exactly `text`.

        Looked for behind a row end first, where tokenizers that mark the start of a word do not add their mark.
        """
        behind = self._tokenizer.encode(f"\n{text}", add_special_tokens=False)[-1:]
        for token in (*behind, *self._tokenizer.encode(text, add_special_tokens=False)):
            if self._tokenizer.decode([token]) == text:
                return int(token)
        raise ModelError(self._name, "tokenizer", f"a single token for {text!r}", "none")

    def _spelling_note(self) -> str:
        """What to say when the tokenizer itself would not read a grid one token a cell."""
        grid = Grid.from_rows([list(range(COLOURS)), list(range(COLOURS))])
        own = self._tokenizer.encode(str(grid), add_special_tokens=False)
        if tuple(own) == self._grid(grid):
            return ""
        return (
            f"the tokenizer reads {len(grid.cells)} cells as {len(own)} tokens; cells are given to the model as "
            "single digits, which it has seldom seen side by side"
        )
