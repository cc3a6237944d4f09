"""Sampling under a grammar: which tokens may come next so that the text stays valid JSON for a schema."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from arc_seal.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
