"""Any Hugging Face causal language model with a chat template."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from arc_seal.errors import ModelError
from arc_seal.models.base import Completion
from arc_seal.models.codec import ChatCodec
from arc_seal.models.grammar import Matcher, TokenGrammar
from arc_seal.models.head import check_head
from arc_seal.models.prompt import Prompt
from arc_seal.models.weights import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class ChatSource:
    """Where a chat model comes from; documented in conf/model/.

    Attributes:
        name: What results call it.
        location: Hub id, local folder, `.gguf` file, or `package:NAME/FILE.gguf`.
        device: `auto` (cuda, then mps, then cpu) or a torch device.
        dtype: `auto` (bfloat16 on cuda, else float32) or a torch dtype's name.
        system: What the system says; None leaves it to the chat template.
        threads: CPU threads of torch; None leaves it to torch.
    """

    name: str
    location: str
    device: str = "auto"
    dtype: str = "auto"
    system: str | None = None
    threads: int | None = None

    def load(self) -> "ChatModel":
        """Load tokenizer and weights.

        Raises:
            ModelError: When they cannot be found, read or used.
        """
        # The import is slow and prints to whoever loads it; a source is also made where nothing is loaded.
        from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
        from transformers.utils import logging

        logging.disable_progress_bar()
        if self.threads:
            torch.set_num_threads(self.threads)
        device = pick_device(self.device)
        dtype = pick_dtype(self.dtype, device)
        try:
            folder = resolve(self.location)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            found = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ModelError(self.location, "", "a causal language model that transformers can read", found) from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError(self.location, "tokenizer", "a fast one (tokenizer.json)", type(tokenizer).__name__)
        return ChatModel(self.name, torch.nn.Module.to(network, device), tokenizer, self.system)


def pick_device(name: str) -> torch.device:
    """The torch device for `auto` or a device's name.

    Raises:
        ModelError: When the name is not a device or the device is not there.
    """
    if name == "auto":
        has_mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError("model.device", "", "auto, cpu, or an accelerator of this machine", repr(name)) from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype for `auto` or a dtype's name.

    Raises:
        ModelError: When it is not the name of a floating-point type.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError("model.dtype", "", "auto, float32, bfloat16 or float16", repr(name))
    return dtype


class ChatModel:
    """A chat model in memory. Its weights are frozen: only an adapter is ever trained.

    Args:
        name: What results call it.
        network: A causal language model, on its device.
        tokenizer: Its tokenizer, with a chat template.
        system: What the system says; None leaves it to the chat template.

    Raises:
        ModelError: When the tokenizer or the output head cannot be used.
    """

    def __init__(
        self, name: str, network: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", system: str | None = None
    ) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.codec = ChatCodec(tokenizer, system)
        self._tokenizer = tokenizer
        self._grammar: TokenGrammar | None = None
        check_head(network, torch.tensor(self.codec.symbols.all, device=network.device))

    @torch.inference_mode()
    def write(
        self,
        prompt: Prompt,
        schema: Mapping[str, Any],
        *,
        count: int,
        temperature: float,
        seed: int,
        max_tokens: int,
        on_token: Callable[[int], None],
    ) -> tuple[Completion, ...]:
        """Write completions under a JSON schema, all of them side by side; see `Model.write`."""
        matchers = [self._matcher(schema) for _ in range(count)]
        generators = [torch.Generator().manual_seed(seed + sample) for sample in range(count)]
        written: list[list[int]] = [[] for _ in range(count)]
        ids = torch.from_numpy(self.codec.encode(prompt).ids).to(self.network.device)[None]
        output = self.network(input_ids=ids, use_cache=True, logits_to_keep=1)
        output.past_key_values.batch_repeat_interleave(count)
        logits = output.logits[:, -1].expand(count, -1)  # [count, vocabulary]
        for step in range(max_tokens):
            chosen = self._choose(logits, matchers, temperature, generators)
            for row, token in enumerate(chosen):
                if not matchers[row].finished:
                    matchers[row].take(token)
                    written[row].append(token)
            on_token(step + 1)
            if all(matcher.finished for matcher in matchers):
                break
            after = torch.tensor(chosen, device=self.network.device)[:, None]  # [count, 1]
            output = self.network(input_ids=after, past_key_values=output.past_key_values, use_cache=True)
            logits = output.logits[:, -1]
        return tuple(self._completion(row, matcher) for row, matcher in zip(written, matchers, strict=True))

    def _matcher(self, schema: Mapping[str, Any]) -> Matcher:
        """A matcher for one completion; the tokenizer is read into the grammar once."""
        if self._grammar is None:
            vocabulary = self.network.get_output_embeddings().weight.shape[0]
            self._grammar = TokenGrammar(self._tokenizer, vocabulary, self.codec.symbols.end)
        return self._grammar.matcher(schema)

    def _choose(
        self, logits: Tensor, matchers: list[Matcher], temperature: float, generators: list[torch.Generator]
    ) -> list[int]:
        """One allowed token for each completion; the end token for those that are finished."""
        logits = logits.float().cpu()
        chosen = []
        for row, matcher in enumerate(matchers):
            if matcher.finished:
                chosen.append(self.codec.symbols.end)
                continue
            allowed = logits[row].masked_fill(~torch.from_numpy(matcher.allowed()), float("-inf"))
            if temperature == 0:
                chosen.append(int(allowed.argmax()))
            else:
                weights = torch.softmax(allowed / temperature, dim=-1)
                chosen.append(int(torch.multinomial(weights, 1, generator=generators[row])))
        return chosen

    def _completion(self, tokens: list[int], matcher: Matcher) -> Completion:
        text = tokens[:-1] if matcher.finished and tokens[-1] == self.codec.symbols.end else tokens
        return Completion(str(self._tokenizer.decode(text)), len(tokens), matcher.finished)
