"""Tokenizers, model folders and a GGUF file for the tests of models: all tiny, all real."""

from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.models.grid_codec import GridCodec
from arc_seal.models.grid_network import Addition, GridConfig, GridForCausalLM
from arc_seal.models.model import Model, grid_tokenizer
from arc_seal.models.scripted import CHAT_TEMPLATE, ScriptedModel, tiny_network, tiny_tokenizer

MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

CHATML = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""With white space around what is said, as most templates have it."""

DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|system|>Today Date: ' + date_string + '<|end|>' }}" + CHAT_TEMPLATE
)
"""Writes a date, as Llama 3 does."""

THINKING = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
"""Thinks before an answer unless told not to, as Qwen 3 does."""

STRICT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Refuses a system turn, as Gemma does."""

SMALL = Task(
    "small",
    (
        Demonstration(Grid.from_rows([[1, 2], [3, 4]]), Grid.from_rows([[4, 3]])),
        Demonstration(Grid.from_rows([[5]]), Grid.from_rows([[6, 7, 8], [9, 0, 1]])),
        Demonstration(Grid.from_rows([[1, 2, 1, 2]]), Grid.from_rows([[1], [2]])),
    ),
    (Grid.from_rows([[0, 1, 2]]),),
)


def grid_network(seed: int = 0, layers: int = 2, revision: int = 1) -> GridForCausalLM:
    """A grid transformer of width 32 with random weights; also those that training begins with at zero are random."""
    config = GridConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2, revision=revision
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GridForCausalLM(config)
        for module in network.modules():
            if isinstance(module, Addition) and not module.weight.any():
                torch.nn.init.normal_(module.weight, std=0.1)
        if network.model.mixing is not None:
            torch.nn.init.normal_(network.model.mixing, mean=0.5, std=0.2)
        return network


def grid_model(seed: int = 0) -> Model:
    """A grid model with that network."""
    return Model("grid", grid_network(seed), GridCodec(), grid_tokenizer())


def scripted_model(seed: int = 0) -> ScriptedModel:
    """A chat model with a network as small."""
    return ScriptedModel(seed=seed)


MakeModel = Callable[[int], Model]

MODELS: tuple[MakeModel, ...] = (scripted_model, grid_model)
"""One model of each kind, made from a seed: what every model keeps is tested on all of them."""


def byte_tokenizer(
    template: str | None = CHAT_TEMPLATE, merges: Sequence[tuple[str, str]] = (), without: str = ""
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with some merges, or without some bytes."""
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(without))
    tokens = [*letters, *map("".join, merges)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_marks(tokenizer, template)


def word_start_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that marks the start of a text: its token of a first `1` is not that of the next one."""
    letters = [chr(code) for code in range(32, 127)] + ["\n", "▁", "\ue000", "\ue001"]
    tokens = [*letters, *(f"▁{digit}" for digit in range(10))]
    merges = [("▁", str(digit)) for digit in range(10)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return _with_marks(tokenizer, CHAT_TEMPLATE)


def save_model(folder: Path) -> Path:
    """A folder with a tiny network and its tokenizer."""
    tokenizer = tiny_tokenizer()
    tiny_network(len(tokenizer), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_gguf(path: Path) -> dict[str, torch.Tensor]:
    """Write a tiny Llama as a GGUF file; returns the weights that are in it."""
    tokenizer = tiny_tokenizer()
    letters = [*tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))), "th"]
    network = tiny_network(len(letters), seed=0)
    config, writer = network.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(letters)
    writer.add_token_types([gguf.TokenType.CONTROL if token in MARKS else gguf.TokenType.NORMAL for token in letters])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(letters.index("<|end|>"))
    writer.add_eos_token_id(letters.index("<|end|>"))
    writer.add_chat_template(CHAT_TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    weights = dict(network.state_dict())
    for name, weight in weights.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if name != "lm_head.weight":  # tied
            writer.add_tensor(names.get_name(name, (".weight",)) or "", _as_llama_cpp(weight, heads).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _as_llama_cpp(weight: torch.Tensor, heads: int | None) -> torch.Tensor:
    """llama.cpp turns neighbouring pairs of a head's coordinates, transformers turns its two halves."""
    if heads is None:
        return weight
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _with_marks(tokenizer: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, eos_token="<|end|>", name_or_path="test"
    )
