"""Models in memory: loaded from files or refused in one line, trained on batches, writing under a grammar."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import llguidance.hf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils import logging

from arc_seal.arc.grid import COLOURS
from arc_seal.errors import ArcSealError, ModelError, one_line
from arc_seal.models.chat import ChatCodec
from arc_seal.models.generate import CachedContext, PartialCompletion, allowed_tokens, matcher, model_positions
from arc_seal.models.grid_codec import VOCABULARY, GridCodec
from arc_seal.models.grid_network import GridConfig, GridForCausalLM, GridTransformer
from arc_seal.models.prompt import END, Codec, Completion, Encoded, Prompt, Sampling
from arc_seal.models.weights import ChatSource, GridSource, ModelSource, fingerprint, resolve
from arc_seal.self_edit.edit import Choice

tqdm.set_lock(threading.RLock())  # locks threads alone; its own lock would be left behind by a worker that is killed


ALIGNED = 64
"""Bytes that torch aligns memory to."""


class Model:
    """A language model in memory, chat model or grid model. Its weights are frozen: only an adapter is ever trained.

    Its network is a causal one, on its device, that passes `check_output_layer`; `name` is what results call it, and
    `weights` the `models.weights.fingerprint` of its files, if it has any.
    """

    def __init__(
        self, name: str, network: PreTrainedModel, codec: Codec, tokenizer: PreTrainedTokenizerFast,
        weights: str | None = None,
    ) -> None:  # fmt: skip
        self.name, self.network, self.codec, self.tokenizer, self.weights = name, network, codec, tokenizer, weights
        self._vocabulary = int(network.get_output_embeddings().weight.shape[0])  # number of logits that it has
        torch.nn.Module.eval(network).requires_grad_(False)
        check_output_layer(network, torch.tensor(codec.symbols, device=network.device))

    @torch.inference_mode()
    def write(
        self, prompt: Prompt, schema: Mapping[str, Any], sampling: Sampling, on_token: Callable[[int], None]
    ) -> tuple[Completion, ...]:
        """Write completions side by side, each valid JSON under a JSON schema; the prompt ends with a user's turn.

        `on_token` is told the tokens of the longest so far. `ModelError` when the schema compiles to no grammar.
        """
        end = self.codec.symbols[END]
        matchers = [matcher(self._token_trie, schema) for _ in range(sampling.count)]
        texts = [PartialCompletion(each, sampling, sample) for sample, each in enumerate(matchers)]
        context = CachedContext(self, [self.codec.encode(prompt)])
        logits = logits_of(self.network, context.read_prompts(), None).expand(sampling.count, -1)  # [count, vocabulary]
        context.repeat(sampling.count)
        while True:
            for text, row in zip(texts, logits.cpu(), strict=True):
                if text.open and not text.unread:
                    text.decide(row)
            on_token(max(len(text.tokens) for text in texts))
            unfinished = [text for text in texts if text.open]
            if not unfinished:
                break
            # As many as all of these have to read: none is sampled before all that it has decided is read.
            chunk = min(len(text.unread) for text in unfinished)
            logits = logits_of(self.network, context.read([text.read(chunk, end) for text in texts]), None)
        completions = []
        for text in texts:
            ended = text.finished and text.tokens[-1:] == [end]
            content = self._text(text.tokens[:-1] if ended else text.tokens)
            choices = tuple(
                Choice(
                    len(self._text(text.tokens[:place])),
                    {self._text([token]): chance for token, chance in shown.items()},
                )
                for place, shown in text.choices
            )
            completions.append(Completion(content, len(text.tokens), text.finished, choices))
        return tuple(completions)

    def bound(self, encoded: Encoded, schema: Mapping[str, Any]) -> Encoded:
        """The same with its targets held to a JSON schema, as `write` holds what it writes.

        Where the schema leaves no choice there is no target. The targets are to be one text that the schema allows,
        with or without an end marker, or `ValueError` is raised.
        """
        grammar = matcher(self._token_trie, schema)
        target = np.zeros_like(encoded.target)
        allowed = [np.zeros((0, self._vocabulary), np.bool_)]
        for index in np.flatnonzero(encoded.target):
            if grammar.is_stopped():  # what is left is the end marker, which nobody chooses
                break
            if not grammar.compute_ff_tokens():
                target[index] = True
                allowed.append(allowed_tokens(grammar, self._vocabulary)[None])
            token = int(encoded.ids[index])
            if grammar.validate_tokens([token]) != 1:
                raise ValueError(f"expected targets that the schema allows, found token {token} at {index}")
            grammar.consume_token(token)
        return replace(encoded, target=target, allowed=np.packbits(np.concatenate(allowed), axis=1))

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens))

    @cached_property
    def _token_trie(self) -> llguidance.LLTokenizer:
        """The vocabulary as grammars read it; making it is slow."""
        end = self.codec.symbols[END]
        return llguidance.hf.from_tokenizer(self.tokenizer, n_vocab=self._vocabulary, eos_token=end)


def load(source: ModelSource) -> Model:
    """Load a model; `ModelError` when it cannot be found, read or used."""
    if not isinstance(source, ChatSource | GridSource):
        return source.load()
    device = pick_device(source.device)
    dtype = pick_dtype(source.dtype, device)
    with reading(source.location):
        folder = resolve(source.location)
        own = isinstance(source, GridSource)
        tokenizer = grid_tokenizer() if own else AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    network = read_network(source.location, folder, dtype)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(source.location, "tokenizer", "a fast one (tokenizer.json)", type(tokenizer).__name__)
    if isinstance(source, GridSource):
        for key, expected in (("model_type", GridConfig.model_type), ("vocab_size", VOCABULARY)):
            if (found := getattr(network.config, key)) != expected:
                raise ModelError(source.location, "config.json", f"{key} {expected}", str(found))
    align(torch.nn.Module.to(network, device))
    with reading(source.location):  # a file that can be read may still make no model
        codec: Codec = ChatCodec(tokenizer, source.system) if isinstance(source, ChatSource) else GridCodec()
        return Model(source.name, network, codec, tokenizer, fingerprint(source.location))


def grid_tokenizer() -> PreTrainedTokenizerFast:
    """Reads and writes text as `grid_codec` has it, a token a byte. Colours and marks are special tokens."""
    marks = "row end", "end", "input", "output", "ask", "pad"
    special = [f"<|{mark}|>" for mark in (*range(COLOURS), *marks)]
    letters = bytes_to_unicode()  # tokenizers cannot hold every byte, so each has a letter
    names = [*special, *(letters[byte] for byte in range(256))]
    return byte_tokenizer(names, special, pad_token="<|pad|>", clean_up_tokenization_spaces=False, name_or_path="grid")


def byte_tokenizer(names: Sequence[str], special: Sequence[str], **settings: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with a token a byte, named as byte-level tokenizers do, and special tokens with `<|end|>` in them."""
    tokenizer = Tokenizer(models.BPE({name: token for token, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", **settings)


@contextmanager
def reading(location: str) -> Iterator[None]:
    """Read files of a model without progress bars; what goes wrong with them becomes a `ModelError` of one line."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its reports have names out of the files in them
    try:
        yield
    except (ArcSealError, MemoryError):
        raise
    except Exception as error:  # for a file that is not as it should be, transformers raises just about anything
        raise ModelError(location, "", "a causal language model that transformers can read", one_line(error)) from error


def read_network(location: str, folder: str, dtype: torch.dtype) -> PreTrainedModel:
    """Read a causal language model onto the CPU; a `ModelError` about `location` when it, or a weight, is not there."""
    read: Any = AutoModelForCausalLM.from_pretrained
    safe = {"use_safetensors": True, "trust_remote_code": False}  # no pickle, no code but transformers'
    network: PreTrainedModel
    with reading(location):
        network, report = read(folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, **safe)
    if missing := sorted(report["missing_keys"]):  # transformers has filled them with random numbers
        found = f"none for {len(missing)} tensors, such as {missing[0]}"
        raise ModelError(location, "", "weights for the whole network", found)
    if isinstance(network, GridForCausalLM) and (more := sorted(report["unexpected_keys"])):
        raise ModelError(location, "", "weights of config.json's network alone", f"{len(more)} more, such as {more[0]}")
    return network


def align(network: torch.nn.Module) -> None:
    """Have every weight on the CPU begin where torch's own do, at a multiple of `ALIGNED` bytes.

    One that is mapped from a file begins anywhere, and products with few rows are rounded by where it does: the same
    weights would give other numbers by the length of a file's header.
    """
    for weight in network.parameters():
        if weight.device.type == "cpu" and weight.data_ptr() % ALIGNED:
            weight.data = weight.data.clone()


def pick_device(name: str) -> torch.device:
    """The torch device for a name or `auto` (cuda, then mps, then cpu); `ModelError` when there is none such here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError("model.device", "", "auto, cpu, or an accelerator of this machine", repr(name)) from error
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether matrices are multiplied faster in bfloat16 than in float32: on a GPU, and by AVX512-BF16 or AMX."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda"


def lower_precision(network: PreTrainedModel) -> torch.autocast:
    """Where that is faster, multiply in bfloat16 for as long as the context lasts; weights stay in float32."""
    return torch.autocast(network.device.type, torch.bfloat16, multiplies_bfloat16(network.device))


@contextmanager
def lowered_weights(network: PreTrainedModel) -> Iterator[None]:
    """A grid network of float32 predicts in bfloat16, where the CPU is faster at it, for as long as the context lasts.

    Its layers' weights are rounded once, which autocast does for every token. The residual stream and the logits stay
    in float32, and afterwards all weights are bit for bit what they were. Other networks attend by torch's kernel,
    which is slower in bfloat16.
    """
    decoder, device = network.get_decoder(), network.device
    lowers = isinstance(decoder, GridTransformer) and device.type == "cpu" and multiplies_bfloat16(device)
    layers = [each for each in decoder.modules() if isinstance(each, nn.Linear)] if lowers else []
    layers = [layer for layer in layers if layer.weight.dtype == torch.float32]
    before = [layer.weight.data for layer in layers]
    try:
        for layer in layers:
            layer.weight.data = layer.weight.data.bfloat16()
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data = weight


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype for a name or `auto` (bfloat16 on cuda, else float32); `ModelError` when it is no float."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError("model.dtype", "", "auto, float32, bfloat16 or float16", repr(name))
    return dtype


@dataclass(frozen=True)
class Batch:
    """Contexts side by side, padded on the right."""

    ids: Tensor  # token ids, [batch, tokens]
    positions: Tensor  # position of each token on each axis, [axes, batch, tokens]
    where: Tensor  # row and column of each hidden state that predicts a target, [2, targets]
    labels: Tensor  # token id of each target, [targets]
    tokens: int  # tokens that are not padding
    # Which tokens each target is chosen from, [targets, vocabulary filled up to whole bytes]; None for all.
    allowed: Tensor | None = None
    weights: Tensor | None = None  # what the loss of each target is multiplied by, [targets]; None for 1

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        moved: dict[str, Any] = {name: each.to(device) for name, each in vars(self).items() if isinstance(each, Tensor)}
        return replace(self, **moved)

    def limited(self, logits: Tensor) -> Tensor:
        """Logits of the whole vocabulary for each target, [targets, vocabulary], -inf where a token is not allowed."""
        if self.allowed is None:
            return logits
        return logits.masked_fill(~self.allowed[:, : logits.shape[-1]], float("-inf"))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the targets of what each loses, in nats, times its weight; [targets, symbols], [targets] -> []."""
        if self.weights is None:
            return torch.nn.functional.cross_entropy(self.limited(logits), labels)
        each = torch.nn.functional.cross_entropy(self.limited(logits), labels, reduction="none")
        return (each * self.weights).mean()


def collate(contexts: Sequence[Encoded], pad: int = 0, multiple: int = 1) -> Batch:
    """Contexts, at least one, as one batch on the CPU, the shorter filled with `pad` at position 0 of every axis.

    The batch is as long as the longest, or longer: a multiple of `multiple`.

    The first token of each is no target. All of them limit what a target could be, or none.
    """
    longest = -(-max(len(context.ids) for context in contexts) // multiple) * multiple
    ids = np.full((len(contexts), longest), pad, np.int64)
    positions = np.zeros((len(contexts[0].positions), *ids.shape), np.int64)
    target = np.zeros(ids.shape, np.bool_)
    for row, context in enumerate(contexts):
        length = len(context.ids)
        ids[row, :length], target[row, :length] = context.ids, context.target
        positions[:, row, :length] = context.positions
    rows, columns = np.nonzero(target)
    where = np.stack([rows, columns - 1])  # the state before a token is what predicts it
    shown, stand, predict, labels = map(torch.from_numpy, (ids, positions, where, ids[rows, columns]))
    limits = [context.allowed for context in contexts if context.allowed is not None]
    allowed = torch.from_numpy(np.unpackbits(np.concatenate(limits), axis=1)).bool() if limits else None
    own = torch.tensor([context.weight for context in contexts])
    weights = None if bool((own == 1).all()) else own[predict[0]]
    return Batch(shown, stand, predict, labels, sum(len(context.ids) for context in contexts), allowed, weights)


def states_before_targets(network: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states of the tokens that predict a target, [targets, width]; the grid model computes no others.

    Attention is causal and padding stands on the right, so no real token ever sees it: no mask is needed.
    """
    decoder = network.get_decoder()
    given = {"input_ids": batch.ids, "position_ids": model_positions(batch.positions), "use_cache": False}
    wanted = {"wanted": batch.where} if isinstance(decoder, GridTransformer) else {}
    states: Tensor = decoder(**given, **wanted).last_hidden_state  # [targets, width], or [batch, tokens, width] of all
    return states if wanted else states[batch.where[0], batch.where[1]]


def logits_of(network: PreTrainedModel, hidden: Tensor, tokens: Tensor | None) -> Tensor:
    """Logits of some tokens by their ids, [symbols], or of all, in float32. [..., width] -> [..., symbols].

    Tokens [groups, symbols] are other ones for each group of states, [groups, ..., width].

    A grid has twelve symbols: the logits of a whole vocabulary would cost a model of 135M parameters over a quarter of
    its forward pass.
    """
    layer = network.get_output_embeddings()
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if tokens is not None:  # the whole layer is not copied
        weight, bias = weight[tokens], None if bias is None else bias[tokens]
    if weight.dim() == 2:
        logits = torch.nn.functional.linear(hidden, weight, bias).float()
    else:
        logits = hidden.flatten(1, -2) @ weight.mT  # [groups, states, symbols]
        logits = (logits if bias is None else logits + bias[:, None]).float().view(*hidden.shape[:-1], -1)
    config = network.config.get_text_config()
    # Cohere multiplies, Granite divides, Gemma 2 bounds; no other rule is in wide use.
    logits = logits * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    bound = getattr(config, "final_logit_softcapping", None)
    return bound * torch.tanh(logits / bound) if bound else logits


@torch.no_grad()
def check_output_layer(network: PreTrainedModel, tokens: Tensor) -> None:
    """Raise `ModelError` unless `logits_of` agrees with the network's own logits on some tokens, [symbols]."""
    output = network(input_ids=tokens[None], use_cache=False, output_hidden_states=True)
    ours, own = logits_of(network, output.hidden_states[-1], tokens), output.logits[..., tokens].float()
    difference = (ours - own).abs().max().item()
    if not difference <= 0.05 * own.abs().max().item():  # nor when either is not a number
        expected, found = "logits that are hidden states times embeddings", f"a difference of {difference:.3g}"
        raise ModelError(network.config.model_type, "output layer", expected, found)
