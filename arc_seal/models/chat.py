"""Any Hugging Face causal language model with a chat template."""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from arc_seal.errors import ModelError
from arc_seal.models.base import Completion, Sampling
from arc_seal.models.codec import ChatCodec
from arc_seal.models.draft import Draft
from arc_seal.models.grammar import Matcher, TokenGrammar
from arc_seal.models.head import check_head
from arc_seal.models.prompt import Prompt
from arc_seal.models.source import ChatSource
from arc_seal.models.weights import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_chat_model(source: ChatSource) -> "ChatModel":
    """Load tokenizer and weights of a chat model.

    Raises:
        ModelError: When they cannot be found, read or used.
    """
    logging.disable_progress_bar()
    # tqdm's own lock is a semaphore between processes, which a worker that is killed would leave behind.
    tqdm.set_lock(threading.RLock())
    device = pick_device(source.device)
    dtype = pick_dtype(source.dtype, device)
    try:
        folder = resolve(source.location)
        tokenizer = _read_tokenizer(folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
        network, report = loaded  # not in its type
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        found = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ModelError(source.location, "", "a causal language model that transformers can read", found) from error
    if missing := sorted(report["missing_keys"]):  # transformers has filled them with random numbers
        found = f"none for {len(missing)} tensors, such as {missing[0]}"
        raise ModelError(source.location, "", "weights for the whole network", found)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(source.location, "tokenizer", "a fast one (tokenizer.json)", type(tokenizer).__name__)
    return ChatModel(source.name, torch.nn.Module.to(network, device), tokenizer, source.system)


def _read_tokenizer(folder: str) -> object:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        if type(error) is Exception:  # the library of fast tokenizers has no errors of its own
            raise ValueError(str(error)) from error
        raise


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
        sampling: Sampling,
        on_token: Callable[[int], None],
    ) -> tuple[Completion, ...]:
        """Write completions under a JSON schema, all of them side by side; see `Model.write`."""
        drafts = [Draft(self._matcher(schema), sampling, sample) for sample in range(sampling.count)]
        ids = torch.from_numpy(self.codec.encode(prompt).ids).to(self.network.device)[None]
        output = self.network(input_ids=ids, use_cache=True, logits_to_keep=1)
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
            after = torch.tensor([draft.read(chunk, self.codec.symbols.end) for draft in drafts])  # [count, chunk]
            output = self.network(
                input_ids=after.to(self.network.device),
                past_key_values=output.past_key_values,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1]

    def _matcher(self, schema: Mapping[str, Any]) -> Matcher:
        """A matcher for one completion; the tokenizer is read into the grammar once."""
        if self._grammar is None:
            vocabulary = self.network.get_output_embeddings().weight.shape[0]
            self._grammar = TokenGrammar(self._tokenizer, vocabulary, self.codec.symbols.end)
        return self._grammar.matcher(schema)

    def _completion(self, draft: Draft) -> Completion:
        ended = draft.finished and draft.tokens[-1:] == [self.codec.symbols.end]
        text = draft.tokens[:-1] if ended else draft.tokens
        return Completion(str(self._tokenizer.decode(text)), len(draft.tokens), draft.finished)
