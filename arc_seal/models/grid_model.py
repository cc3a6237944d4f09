"""The grid model: our own compact transformer, one token a cell, a byte a token in its self-edits."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from arc_seal.arc.grid import COLOURS
from arc_seal.errors import ModelError
from arc_seal.models.grid_codec import GridCodec
from arc_seal.models.grid_transformer import GridConfig, GridForCausalLM
from arc_seal.models.grid_vocabulary import VOCABULARY
from arc_seal.models.loaded import LoadedModel
from arc_seal.models.loading import pick_device, pick_dtype, read_network, reading
from arc_seal.models.source import GridSource
from arc_seal.models.weights import fingerprint, resolve


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
