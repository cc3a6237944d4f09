"""Where tokens stand, as networks are told."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arc_seal.errors import ModelError
from arc_seal.models.prompt import Codec, Encoded, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from arc_seal.models.prompt import Model


def model_positions(positions: Tensor) -> Tensor:
    """Positions as networks take them: [1, batch, tokens] -> [batch, tokens]; more axes stay as they are."""
    return positions[0] if positions.shape[0] == 1 else positions


class Cursors:
    """Where texts or grids that are written side by side have got to.

    Args:
        codec: Knows where the next token stands.
        prompts: What each is written behind.
    """

    def __init__(self, codec: Codec, prompts: Sequence[Encoded]) -> None:
        self._codec = codec
        self._places = [prompt.positions[:, -1] for prompt in prompts]
        self._tokens = [int(prompt.ids[-1]) for prompt in prompts]

    def advance(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Go on by some tokens in each; returns where these stand. [prompts, tokens] -> [axes, prompts, tokens]."""
        return np.stack([self._step(column.tolist()) for column in tokens.T], axis=-1)

    def _step(self, tokens: list[int]) -> NDArray[np.int64]:
        """One token in each. [prompts] -> [axes, prompts]."""
        before = zip(self._places, self._tokens, strict=True)
        self._places = [self._codec.next_position(place, token) for place, token in before]
        self._tokens = tokens
        return np.stack(self._places, axis=-1)


# Reading prompts and what is written behind them, several side by side.


class Reader:
    """Reads tokens of several prompts side by side, keeping keys and values.

    Prompts are padded on the left, so that the next token of every row stands in the same column.

    Args:
        model: Any model.
        prompts: Encoded; as many rows are read.
    """

    def __init__(self, model: "Model", prompts: Sequence[Encoded]) -> None:
        self.model, self.prompts = model, prompts
        self._decoder = model.network.get_decoder()
        self._device = model.network.device
        longest = max(len(prompt.ids) for prompt in prompts)
        self._mask = torch.zeros((len(prompts), longest), dtype=torch.long, device=self._device)
        for row, prompt in enumerate(prompts):
            self._mask[row, longest - len(prompt.ids) :] = 1
        self._cursors = Cursors(model.codec, prompts)
        self._cache: Any = None

    def read_prompts(self) -> Tensor:
        """Read all prompts; returns the last hidden states, [views, width]. They are kept as `first`."""
        views, longest = self._mask.shape
        ids = np.zeros((views, longest), np.int64)
        positions = np.zeros((self.prompts[0].positions.shape[0], views, longest), np.int64)
        for row, prompt in enumerate(self.prompts):
            begin = longest - len(prompt.ids)
            ids[row, begin:], positions[:, row, begin:] = prompt.ids, prompt.positions
        self.first = self._forward(ids, positions)[:, -1]
        return self.first

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token in every row; returns the last hidden states, [views, width]."""
        ids = np.array(tokens, np.int64)[:, None]
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        return self._forward(ids, self._cursors.advance(ids))[:, -1]

    def read_instead(self, tokens: NDArray[np.int64]) -> Tensor:
        """Read tokens right behind the prompts, in place of whatever was read there.

        [views, tokens] -> last hidden states, [views, tokens, width].
        Padding may stand on the right; what is computed there means nothing.
        """
        longest = max(len(prompt.ids) for prompt in self.prompts)
        if beyond := self._cache.get_seq_length() - longest:
            self._cache.crop(-beyond)
        self._mask = torch.nn.functional.pad(self._mask[:, :longest], (0, tokens.shape[1]), value=1)
        return self._forward(tokens, Cursors(self.model.codec, self.prompts).advance(tokens))

    def _forward(self, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        """ids [views, tokens], positions [axes, views, tokens] -> [views, tokens, width]."""
        # Without padding there is nothing to mask, and attention is faster for it.
        output = self._decoder(
            input_ids=torch.from_numpy(ids).to(self._device),
            position_ids=model_positions(torch.from_numpy(positions).to(self._device)),
            attention_mask=None if bool(self._mask.all()) else self._mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        hidden: Tensor = output.last_hidden_state
        return hidden


# Sampling under a grammar: which tokens may come next so that the text stays valid JSON for a schema.


class TokenGrammar:
    """Compiles JSON schemas to grammars over one tokenizer's vocabulary.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        vocabulary: Number of logits that the network has.
        end: Token that ends a completion.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", vocabulary: int, end: int) -> None:
        self._vocabulary = vocabulary
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=end)

    def matcher(self, schema: Mapping[str, Any]) -> "Matcher":
        """A fresh matcher for one completion.

        White space is as the schema's own `x-guidance` says; a self-edit's allows none.

        Raises:
            ModelError: When the schema cannot be compiled.
        """
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise ModelError("self-edit schema", "", "a schema that compiles to a grammar", matcher.get_error())
        return Matcher(matcher, self._vocabulary)


class Matcher:
    """Where one completion stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary)

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, [vocabulary]."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits)
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocabulary].astype(np.bool_)

    def fits(self, token: int) -> bool:
        """Whether a token may come next."""
        return bool(self._matcher.validate_tokens([token]) == 1)

    def take(self, token: int) -> None:
        """Go on with a token that is allowed."""
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"token {token} is not allowed here: {self._matcher.get_error()}")

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as the grammar leaves no choice; none of them is taken yet."""
        return list(self._matcher.compute_ff_tokens())

    @property
    def finished(self) -> bool:
        """Whether the text is complete: nothing can follow, or the end token has been taken."""
        return bool(self._matcher.is_stopped())


# A completion in the making, held to a grammar.


class Draft:
    """One completion: what is decided of it, and what of that the network has yet to read.

    Where the grammar leaves no choice (most of a self-edit's punctuation and keys) nothing is sampled, and the tokens
    are read in one go: a chunk costs a network that waits for memory little more than a single token.

    Args:
        matcher: Where the completion stands in its grammar.
        sampling: How it is drawn.
        sample: Which of the samples it is: each draws on its own, whatever is written beside it.

    Attributes:
        tokens: What is decided so far.
        unread: The last of them, which the network has not read yet.
    """

    def __init__(self, matcher: Matcher, sampling: Sampling, sample: int) -> None:
        self.tokens: list[int] = []
        self.unread: deque[int] = deque()
        self._matcher, self._sampling = matcher, sampling
        self._generator = torch.Generator().manual_seed(sampling.seed + sample)

    @property
    def finished(self) -> bool:
        """Whether the text is complete."""
        return self._matcher.finished

    @property
    def open(self) -> bool:
        """Whether more is to be written."""
        return not self.finished and len(self.tokens) < self._sampling.max_tokens

    def decide(self, logits: Tensor) -> None:
        """Sample the next token, and go on as far as the grammar leaves no choice.

        Args:
            logits: [vocabulary], on the CPU, in float32.
        """
        self._take(self._sample(logits))
        for token in self._matcher.forced():
            if self.open:
                self._take(token)

    def read(self, count: int, filler: int) -> list[int]:
        """The next `count` tokens for the network to read; `filler` where this one has no more."""
        return [self.unread.popleft() if self.unread else filler for _ in range(count)]

    def _take(self, token: int) -> None:
        self._matcher.take(token)
        self.tokens.append(token)
        self.unread.append(token)

    def _sample(self, logits: Tensor) -> int:
        allowed = logits.masked_fill(~torch.from_numpy(self._matcher.allowed()), float("-inf"))
        if self._sampling.temperature == 0:
            return int(allowed.argmax())
        weights = torch.softmax(allowed / self._sampling.temperature, dim=-1)
        return int(torch.multinomial(weights, 1, generator=self._generator))
