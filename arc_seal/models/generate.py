"""Writing behind prompts: every token is read once, and a grammar says which tokens may come next."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from arc_seal.errors import ModelError
from arc_seal.models.grid_network import GridTransformer
from arc_seal.models.prompt import Encoded, Sampling

if TYPE_CHECKING:
    from arc_seal.models.model import Model


def model_positions(positions: Tensor) -> Tensor:
    """Positions as networks take them: [1, batch, tokens] -> [batch, tokens]; more axes stay as they are."""
    return positions[0] if positions.shape[0] == 1 else positions


class CachedContext:
    """Several prompts, padded on the left, and what is written behind them, a row each; keys and values are kept."""

    first: Tensor  # last hidden states of the prompts, [rows, width], once they have been read

    def __init__(self, model: "Model", prompts: Sequence[Encoded]) -> None:
        self.model, self.prompts = model, prompts
        lengths = np.array([len(prompt.ids) for prompt in prompts])
        self._longest = int(lengths.max())
        real = torch.from_numpy(np.arange(self._longest) >= (self._longest - lengths)[:, None])
        # [rows, longest]; without padding there is nothing to mask, and attention is faster for it.
        self._mask = None if real.all() else real.long().to(model.network.device)
        last = np.stack([prompt.positions[:, -1] for prompt in prompts], axis=-1)  # [axes, rows]
        behind = model.codec.next_positions(last, np.array([prompt.ids[-1] for prompt in prompts]))
        # Positions of the tokens that were read behind the prompts, and of the next one, [axes, rows] each.
        self._places = [behind]
        self._cache: Any = None

    def read_prompts(self) -> Tensor:
        """Read all prompts; returns their last hidden states, [rows, width]."""
        ids = np.zeros((len(self.prompts), self._longest), np.int64)
        positions = np.zeros((len(self._places[0]), *ids.shape), np.int64)
        for row, prompt in enumerate(self.prompts):
            begin = self._longest - len(prompt.ids)
            ids[row, begin:], positions[:, row, begin:] = prompt.ids, prompt.positions
        self.first = self._forward(ids, positions, only_last=True)[:, -1]
        return self.first

    def part(self, rows: Sequence[int]) -> "CachedContext":
        """Some of the rows by themselves, to read on in; this context stays as it is."""
        chosen, index = copy(self), torch.tensor(rows, device=self.first.device)
        chosen.prompts, chosen.first = [self.prompts[row] for row in rows], self.first[index]
        chosen._mask = None if self._mask is None else self._mask[index]
        chosen._places = [places[:, rows] for places in self._places]
        chosen._cache = copy(self._cache)
        chosen._cache.layers = [copy(layer) for layer in self._cache.layers]  # which are given other tensors, no more
        chosen._cache.batch_select_indices(index)
        return chosen

    def repeat(self, count: int) -> None:
        """Have each row `count` times, one behind the other: samples of one prompt share its reading."""
        self.prompts = [prompt for prompt in self.prompts for _ in range(count)]
        self._mask = None if self._mask is None else self._mask.repeat_interleave(count, dim=0)
        self._places = [places.repeat(count, axis=1) for places in self._places]
        self.first = self.first.repeat_interleave(count, dim=0)
        self._cache.batch_repeat_interleave(count)

    def read(self, tokens: ArrayLike) -> Tensor:
        """Read on in every row, [rows, tokens] or one token each, [rows]; returns the last states, [rows, width]."""
        return self._forward(np.asarray(tokens, np.int64).reshape(len(self.prompts), -1), only_last=True)[:, -1]

    def read_instead(self, tokens: NDArray[np.int64], keep: int = 0) -> Tensor:
        """Read tokens, perhaps none, in place of all but the first `keep` of those read behind the prompts.

        [rows, tokens] -> hidden states, [rows, tokens, width]. Padding may stand on the right; its states mean nothing.
        """
        if beyond := len(self._places) - 1 - keep:
            self._cache.crop(-beyond)
            del self._places[keep + 1 :]
        return self._forward(tokens) if tokens.size else self.first[:, None][:, :0]

    def _forward(
        self, ids: NDArray[np.int64], positions: NDArray[np.int64] | None = None, *, only_last: bool = False
    ) -> Tensor:
        """ids [rows, tokens], positions [axes, rows, tokens] -> [rows, tokens or 1, width]."""
        if positions is None:
            for written in ids.T:
                self._places.append(self.model.codec.next_positions(self._places[-1], written))
            positions = np.stack(self._places[-1 - ids.shape[1] : -1], axis=-1)
        device = self.model.network.device
        behind = (0, len(self._places) - 1)
        mask = None if self._mask is None else torch.nn.functional.pad(self._mask, behind, value=1)
        tokens, where = torch.from_numpy(ids).to(device), model_positions(torch.from_numpy(positions).to(device))
        read = {"input_ids": tokens, "position_ids": where, "attention_mask": mask, "past_key_values": self._cache}
        decoder = self.model.network.get_decoder()
        if only_last and isinstance(decoder, GridTransformer):
            read["only_last"] = True
        output = decoder(**read, use_cache=True)
        self._cache = output.past_key_values
        hidden: Tensor = output.last_hidden_state
        return hidden


def matcher(tokenizer: llguidance.LLTokenizer, schema: Mapping[str, Any]) -> llguidance.LLMatcher:
    """Where one text stands in the grammar of a JSON schema; `ModelError` when that cannot be compiled to one."""
    made = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    if made.is_error():
        raise ModelError("self-edit schema", "", "a schema that compiles to a grammar", made.get_error())
    return made


def allowed_tokens(matcher: llguidance.LLMatcher, vocabulary: int) -> NDArray[np.bool_]:
    """Which tokens may come next, [vocabulary]."""
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(bits, count=vocabulary, bitorder="little").astype(np.bool_)


MOST_SHOWN = 8
"""Of how many tokens a choice's probabilities are kept."""


class PartialCompletion:
    """The tokens of one completion that are decided, and those of them that the network has yet to read.

    Where the grammar leaves no choice (most of a self-edit's punctuation and keys) nothing is sampled, and the tokens
    are read at once. A matcher and a generator of its own make it independent of what is written beside it.
    """

    def __init__(self, matcher: llguidance.LLMatcher, sampling: Sampling, sample: int) -> None:
        self.tokens: list[int] = []
        self.unread: deque[int] = deque()
        # Before which token there was a choice, and the probabilities of the likeliest, by their ids.
        self.choices: list[tuple[int, dict[int, float]]] = []
        self._matcher, self._sampling = matcher, sampling
        self._generator = torch.Generator().manual_seed(sampling.seed + sample)

    @property
    def finished(self) -> bool:
        """Whether the text is complete: nothing can follow, or the end token has been taken."""
        return bool(self._matcher.is_stopped())

    @property
    def open(self) -> bool:
        """Whether more is to be written."""
        return not self.finished and len(self.tokens) < self._sampling.max_tokens

    def decide(self, logits: Tensor) -> None:
        """Sample the next token from float32 logits on the CPU, [vocabulary], and add those that must follow it."""
        allowed = torch.from_numpy(allowed_tokens(self._matcher, len(logits)))
        logits = logits.masked_fill(~allowed, float("-inf"))
        chances, likeliest = torch.softmax(logits, dim=-1).topk(min(MOST_SHOWN, int(allowed.sum())))
        if len(likeliest) > 1:
            shown = dict(zip(likeliest.tolist(), chances.tolist(), strict=True))
            self.choices.append((len(self.tokens), shown))
        if self._sampling.temperature == 0:
            self._take(int(logits.argmax()))
        else:
            weights = torch.softmax(logits / self._sampling.temperature, dim=-1)
            self._take(int(torch.multinomial(weights, 1, generator=self._generator)))
        for token in self._matcher.compute_ff_tokens():
            if self.open:
                self._take(token)

    def _take(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"token {token} is not allowed here: {self._matcher.get_error()}")
        self.tokens.append(token)
        self.unread.append(token)

    def read(self, count: int, filler: int) -> list[int]:
        """The next `count` unread tokens, then `filler`."""
        return [self.unread.popleft() if self.unread else filler for _ in range(count)]
