"""A completion in the making, held to a grammar."""

from collections import deque

import torch
from torch import Tensor

from arc_seal.models.base import Sampling
from arc_seal.models.grammar import Matcher


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
