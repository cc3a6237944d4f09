"""A model for tests: it writes what it is told to; its tiny random Llama is trained for real, in milliseconds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from arc_seal.models.chat import ChatCodec
from arc_seal.models.model import Model, byte_tokenizer
from arc_seal.models.prompt import Completion, Prompt, Sampling

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class ScriptedSource:
    """A `ScriptedModel`; the seed fixes its network's weights."""

    completions: tuple[str, ...] = ()
    seed: int = 0

    def load(self) -> "ScriptedModel":
        """Make the model."""
        return ScriptedModel(self.completions, self.seed)


class ScriptedModel(Model):
    """Writes `completions` in turn and repeats the last; without any it really samples. `prompts` were asked of it."""

    def __init__(self, completions: Sequence[str] = (), seed: int = 0) -> None:
        tokenizer = tiny_tokenizer()
        super().__init__("scripted", tiny_network(len(tokenizer), seed), ChatCodec(tokenizer), tokenizer)
        self._completions = chain(completions, repeat(completions[-1])) if completions else None
        self.prompts: list[Prompt] = []

    def write(
        self, prompt: Prompt, schema: Mapping[str, Any], sampling: Sampling, on_token: Callable[[int], None]
    ) -> tuple[Completion, ...]:
        """The next completions of the list, or real samples where the list is empty."""
        self.prompts.append(prompt)
        if self._completions is None:
            return super().write(prompt, schema, sampling, on_token)
        on_token(1)
        return tuple(Completion(text, len(text), True) for text in islice(self._completions, sampling.count))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, one token a byte, with a chat template."""
    marks = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return byte_tokenizer(letters, marks, chat_template=CHAT_TEMPLATE, name_or_path="scripted")


def tiny_network(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A Llama of two layers, width 32, with random weights."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8192, tie_word_embeddings=True,
        initializer_range=0.2,  # with the usual 0.02 it could never be sure of a token
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
