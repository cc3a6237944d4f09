"""What every model in memory is, chat model and grid model alike: a frozen network that writes under a grammar."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from arc_seal.models.base import Codec, Completion, Encoded, Sampling
from arc_seal.models.draft import Draft
from arc_seal.models.grammar import Matcher, TokenGrammar
from arc_seal.models.head import check_head
from arc_seal.models.positions import Cursors, model_positions
from arc_seal.models.prompt import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class LoadedModel:
    """A model in memory. Its weights are frozen: only an adapter is ever trained.

    Args:
        name: What results call it.
        network: A causal language model, on its device.
        codec: Turns prompts into its tokens.
        tokenizer: Turns its tokens into text, and back.
        weights: What tells its weights from others, if that is known.

    Raises:
        ModelError: When the output head cannot be used.
    """

    def __init__(
        self,
        name: str,
        network: "PreTrainedModel",
        codec: Codec,
        tokenizer: "PreTrainedTokenizerFast",
        weights: str | None = None,
    ) -> None:
        self.name = name
        self.weights = weights
        self.network = network
        self.codec = codec
        self._tokenizer = tokenizer
        self._grammar: TokenGrammar | None = None
        torch.nn.Module.eval(network).requires_grad_(False)
        check_head(network, torch.tensor(codec.symbols.all, device=network.device))

    @torch.inference_mode()
    def write(
        self,
        prompt: Prompt,
        schema: Mapping[str, Any],
        sampling: Sampling,
        on_token: Callable[[int], None],
    ) -> tuple[Completion, ...]:
        """Write completions under a JSON schema, all of them side by side; see `Model.write`."""
        drafts = [Draft(self._matcher(schema), sampling, sample) for sample in range(sampling.count)]
        encoded = self.codec.encode(prompt)
        cursors = Cursors(self.codec, [encoded] * sampling.count)
        output = self._read(encoded.ids[None], encoded.positions[:, None])
        output.past_key_values.batch_repeat_interleave(sampling.count)
        logits = output.logits[:, -1].expand(sampling.count, -1)  # [count, vocabulary]
        while True:
            for draft, row in zip(drafts, logits.float().cpu(), strict=True):
                if draft.open and not draft.unread:
                    draft.decide(row)
            on_token(max(len(draft.tokens) for draft in drafts))
            going_on = [draft for draft in drafts if draft.open]
            if not going_on:
                return tuple(self._completion(draft) for draft in drafts)
            # As many as every draft has to read: none is sampled before all that it has decided is read.
            chunk = min(len(draft.unread) for draft in going_on)
            after = np.array([draft.read(chunk, self.codec.symbols.end) for draft in drafts])  # [count, chunk]
            output = self._read(after, cursors.advance(after), output.past_key_values)
            logits = output.logits[:, -1]

    def bound(self, encoded: Encoded, schema: Mapping[str, Any]) -> Encoded:
        """Hold targets to a JSON schema; see `Model.bound`."""
        matcher = self._matcher(schema)
        target = np.zeros_like(encoded.target)
        allowed = [np.zeros((0, self._vocabulary), np.bool_)]
        for place in np.flatnonzero(encoded.target):
            if matcher.finished:  # what is left is the end marker, which nobody chooses
                break
            if not matcher.forced():
                target[place] = True
                allowed.append(matcher.allowed()[None])
            if not matcher.fits(token := int(encoded.ids[place])):
                raise ValueError(f"expected targets that the schema allows, found token {token} at {place}")
            matcher.take(token)
        return replace(encoded, target=target, allowed=np.packbits(np.concatenate(allowed), axis=1))

    def _read(self, ids: NDArray[np.int64], positions: NDArray[np.int64], cache: object = None) -> Any:
        """ids [rows, tokens], positions [axes, rows, tokens] -> logits of the last token, and the cache."""
        device = self.network.device
        return self.network(
            input_ids=torch.from_numpy(ids).to(device),
            position_ids=model_positions(torch.from_numpy(positions).to(device)),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def _matcher(self, schema: Mapping[str, Any]) -> Matcher:
        """A matcher for one completion; the tokenizer is read into the grammar once."""
        if self._grammar is None:
            self._grammar = TokenGrammar(self._tokenizer, self._vocabulary, self.codec.symbols.end)
        return self._grammar.matcher(schema)

    @property
    def _vocabulary(self) -> int:
        """Number of logits that the network has."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    def _completion(self, draft: Draft) -> Completion:
        ended = draft.finished and draft.tokens[-1:] == [self.codec.symbols.end]
        text = draft.tokens[:-1] if ended else draft.tokens
        return Completion(str(self._tokenizer.decode(text)), len(draft.tokens), draft.finished)
