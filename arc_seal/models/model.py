"""Contexts side by side, as networks read them in training."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils import logging

from arc_seal.arc.grid import COLOURS
from arc_seal.errors import ModelError
from arc_seal.models.chat import ChatCodec
from arc_seal.models.generate import Cursors, Draft, Matcher, TokenGrammar, model_positions
from arc_seal.models.grid_codec import VOCABULARY, GridCodec
from arc_seal.models.grid_network import GridConfig, GridForCausalLM, GridTransformer
from arc_seal.models.prompt import Codec, Completion, Encoded, Model, Prompt, Sampling
from arc_seal.models.weights import ChatSource, GridSource, ModelSource, fingerprint, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Batch:
    """Contexts side by side, padded on the right.

    Attributes:
        ids: Token ids, [batch, tokens].
        positions: Position of each token on each axis, [axes, batch, tokens].
        where: Row and column of each hidden state that predicts a target, [2, targets].
        labels: Token id of each target, [targets].
        tokens: Tokens that are not padding.
        allowed: What could stand in the place of each target, [targets, vocabulary filled up to whole bytes]; None
            where that is not limited.
    """

    ids: Tensor
    positions: Tensor
    where: Tensor
    labels: Tensor
    tokens: int
    allowed: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        ids, positions, where, labels = (
            tensor.to(device) for tensor in (self.ids, self.positions, self.where, self.labels)
        )
        allowed = None if self.allowed is None else self.allowed.to(device)
        return Batch(ids, positions, where, labels, self.tokens, allowed)

    def limited(self, logits: Tensor) -> Tensor:
        """Logits of the whole vocabulary for each target, without what could not stand in its place.

        Args:
            logits: [targets, vocabulary].

        Returns:
            The same shape.
        """
        if self.allowed is None:
            return logits
        return logits.masked_fill(~self.allowed[:, : logits.shape[-1]], float("-inf"))


def collate(contexts: Sequence[Encoded], pad: int = 0) -> Batch:
    """Contexts as one batch, on the CPU.

    Args:
        contexts: At least one; the first token of each is no target. All of them limit what a target could be, or none.
        pad: Token id that fills what is shorter than the longest; it stands at position 0 of every axis.
    """
    longest = max(len(context.ids) for context in contexts)
    axes = contexts[0].positions.shape[0]
    ids = np.full((len(contexts), longest), pad, np.int64)
    positions = np.zeros((axes, len(contexts), longest), np.int64)
    target = np.zeros((len(contexts), longest), np.bool_)
    for row, context in enumerate(contexts):
        length = len(context.ids)
        ids[row, :length], target[row, :length] = context.ids, context.target
        positions[:, row, :length] = context.positions
    rows, columns = np.nonzero(target)
    where = np.stack([rows, columns - 1])  # the state before a token is what predicts it
    tokens = sum(len(context.ids) for context in contexts)
    shown, stand, predict, labels = map(torch.from_numpy, (ids, positions, where, ids[rows, columns]))
    limits = [context.allowed for context in contexts if context.allowed is not None]
    allowed = torch.from_numpy(np.unpackbits(np.concatenate(limits), axis=1)).bool() if limits else None
    return Batch(shown, stand, predict, labels, tokens, allowed)


# The end of a network, for some tokens only: hidden states where a target stands, logits of what a target can be.
#
# A grid has twelve symbols and a language model tens of thousands: computing the logits of the others would
# cost a 135M-parameter model more than a quarter of its forward pass and tell nothing.


def states_before_targets(network: "PreTrainedModel", batch: Batch) -> Tensor:
    """Last hidden states of the tokens that predict a target; the grid model computes no others.

    Attention is causal and padding stands on the right, so no real token ever sees it: no mask is needed.

    Args:
        network: A causal language model.
        batch: Contexts side by side, padded on the right.

    Returns:
        [targets, width].
    """
    decoder = network.get_decoder()
    reading = {"input_ids": batch.ids, "position_ids": model_positions(batch.positions), "use_cache": False}
    if isinstance(decoder, GridTransformer):
        states: Tensor = decoder(**reading, wanted=batch.where).last_hidden_state
        return states
    everything: Tensor = decoder(**reading).last_hidden_state  # [batch, tokens, width]
    return everything[batch.where[0], batch.where[1]]


def logits_of(network: "PreTrainedModel", hidden: Tensor, tokens: Tensor | None) -> Tensor:
    """Logits of some tokens, in float32.

    Args:
        network: A causal language model.
        hidden: Last hidden states, [..., width].
        tokens: Ids, [symbols]; None for the whole vocabulary in order, which copies no weight.

    Returns:
        [..., symbols].
    """
    head = network.get_output_embeddings()
    weight, bias = head.weight, getattr(head, "bias", None)
    if tokens is not None:
        weight, bias = weight[tokens], None if bias is None else bias[tokens]
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    config = network.config.get_text_config()
    # Cohere multiplies, Granite divides, Gemma 2 bounds; no other rule is in wide use.
    logits = logits * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    bound = getattr(config, "final_logit_softcapping", None)
    return bound * torch.tanh(logits / bound) if bound else logits


@torch.no_grad()
def check_head(network: "PreTrainedModel", tokens: Tensor) -> None:
    """Make sure that `logits_of` agrees with the network's own logits.

    Args:
        network: A causal language model.
        tokens: Ids to try it on, [symbols].

    Raises:
        ModelError: When it does not: this architecture computes its logits in a way not known here.
    """
    output = network(input_ids=tokens[None], use_cache=False, output_hidden_states=True)
    ours, own = logits_of(network, output.hidden_states[-1], tokens), output.logits[..., tokens].float()
    difference = (ours - own).abs().max().item()
    if not difference <= 0.05 * own.abs().max().item():  # nor when either is not a number
        raise ModelError(
            network.config.model_type,
            "output head",
            "logits that are hidden states times embeddings",
            f"a difference of {difference:.3g}",
        )


# Networks read from files, or refused in one line.


@contextmanager
def reading(location: str) -> Iterator[None]:
    """Read files of a model without progress bars; what goes wrong with them is said in one line.

    Raises:
        ModelError: When the files cannot be found or read.
    """
    logging.disable_progress_bar()
    leave_no_semaphore()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        found = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ModelError(location, "", "a causal language model that transformers can read", found) from error


def leave_no_semaphore() -> None:
    """Have tqdm, which peft uses, lock threads alone: its own lock a worker that is killed would leave behind."""
    tqdm.set_lock(threading.RLock())


def read_network(location: str, folder: str, dtype: torch.dtype) -> "PreTrainedModel":
    """Read a causal language model, every weight of it, onto the CPU.

    Args:
        location: What the user calls it.
        folder: The same as `from_pretrained` takes it.
        dtype: Of the weights.

    Raises:
        ModelError: When it cannot be read, or weights are missing.
    """
    with reading(location):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
    network: PreTrainedModel
    network, report = loaded  # not in its type
    if missing := sorted(report["missing_keys"]):  # transformers has filled them with random numbers
        found = f"none for {len(missing)} tensors, such as {missing[0]}"
        raise ModelError(location, "", "weights for the whole network", found)
    return network


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


# What every model in memory is, chat model and grid model alike: a frozen network that writes under a grammar.


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


# Any Hugging Face causal language model with a chat template.


def load(source: ModelSource) -> Model:
    """Load a model.

    Raises:
        ModelError: When it cannot be found, read or used.
    """
    match source:
        case ChatSource():
            return load_chat_model(source)
        case GridSource():
            return load_grid_model(source)
        case _:
            return source.load()


def load_chat_model(source: ChatSource) -> "ChatModel":
    """Load tokenizer and weights of a chat model.

    Raises:
        ModelError: When they cannot be found, read or used.
    """
    device = pick_device(source.device)
    dtype = pick_dtype(source.dtype, device)
    with reading(source.location):
        folder = resolve(source.location)
        tokenizer = _read_tokenizer(folder)
    network = read_network(source.location, folder, dtype)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(source.location, "tokenizer", "a fast one (tokenizer.json)", type(tokenizer).__name__)
    network = torch.nn.Module.to(network, device)
    return ChatModel(source.name, network, tokenizer, source.system, fingerprint(source.location))


def _read_tokenizer(folder: str) -> object:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        if type(error) is Exception:  # the library of fast tokenizers has no errors of its own
            raise ValueError(str(error)) from error
        raise


class ChatModel(LoadedModel):
    """A chat model in memory; see `LoadedModel`.

    Args:
        name: What results call it.
        network: A causal language model, on its device.
        tokenizer: Its tokenizer, with a chat template.
        system: What the system says; None leaves it to the chat template.
        weights: What tells its weights from others, if that is known.

    Raises:
        ModelError: When the tokenizer or the output head cannot be used.
    """

    def __init__(
        self,
        name: str,
        network: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerFast",
        system: str | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__(name, network, ChatCodec(tokenizer, system), tokenizer, weights)


# The grid model: our own compact transformer, one token a cell, a byte a token in its self-edits.


def load_grid_model(source: GridSource) -> "GridModel":
    """Load the weights of a grid model.

    Raises:
        ModelError: When they cannot be found, read or used.
    """
    device = pick_device(source.device)
    dtype = pick_dtype(source.dtype, device)
    with reading(source.location):
        folder = resolve(source.location)
    network = read_network(source.location, folder, dtype)
    if not isinstance(network, GridForCausalLM):
        expected, found = f"model_type {GridConfig.model_type}", str(network.config.model_type)
        raise ModelError(source.location, "config.json", expected, found)
    if network.config.vocab_size != VOCABULARY:
        expected, found = f"vocab_size {VOCABULARY}", str(network.config.vocab_size)
        raise ModelError(source.location, "config.json", expected, found)
    return GridModel(source.name, torch.nn.Module.to(network, device), fingerprint(source.location))


class GridModel(LoadedModel):
    """A grid model in memory; see `LoadedModel`.

    Args:
        name: What results call it.
        network: The network, on its device.
        weights: What tells its weights from others, if that is known.

    Raises:
        ModelError: When its outputs are not numbers.
    """

    network: GridForCausalLM

    def __init__(self, name: str, network: GridForCausalLM, weights: str | None = None) -> None:
        super().__init__(name, network, GridCodec(), grid_tokenizer(), weights)


def grid_tokenizer() -> PreTrainedTokenizerFast:
    """Reads and writes text as `grid_vocabulary` has it, a token a byte. Colours and marks are special tokens."""
    marks = [*map(str, range(COLOURS)), "row end", "end", "input", "output", "ask", "pad"]
    special = [f"<|{mark}|>" for mark in marks]
    letters = bytes_to_unicode()  # tokenizers cannot spell every byte, so each has a letter
    names = [*special, *(letters[byte] for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({name: token for token, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
        name_or_path="grid",
    )
