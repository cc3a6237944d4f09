"""A model for tests: it says what it is told to, and is trained for real.

Its network is a real Llama of a few thousand parameters with random weights and its tokenizer a real
byte-level one, so everything that touches tensors runs as with a large model, in milliseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from arc_seal.models.model import ChatModel, leave_no_semaphore
from arc_seal.models.prompt import Completion, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class ScriptedSource:
    """A `ScriptedModel`, for tests.

    Attributes:
        completions: What it writes, in turn; the last is repeated. Empty: it really samples.
        seed: Fixes the network's weights.
    """

    completions: tuple[str, ...] = ()
    seed: int = 0

    def load(self) -> "ScriptedModel":
        """Make the model."""
        return ScriptedModel(self.completions, self.seed)


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class ScriptedModel(ChatModel):
    """Writes from a list; its network is tiny and real.

    Attributes:
        prompts: Every prompt it was asked, for a test to look at.
    """

    def __init__(self, completions: Sequence[str] = (), seed: int = 0) -> None:
        leave_no_semaphore()
        tokenizer = tiny_tokenizer()
        super().__init__("scripted", tiny_network(len(tokenizer), seed), tokenizer)
        self._completions = list(completions)
        self.prompts: list[Prompt] = []

    def write(
        self,
        prompt: Prompt,
        schema: Mapping[str, Any],
        sampling: Sampling,
        on_token: Callable[[int], None],
    ) -> tuple[Completion, ...]:
        """The next completions of the list, or real samples where the list is empty."""
        self.prompts.append(prompt)
        if not self._completions:
            return super().write(prompt, schema, sampling, on_token)
        on_token(1)
        return tuple(self._next() for _ in range(sampling.count))

    def _next(self) -> Completion:
        text = self._completions.pop(0) if len(self._completions) > 1 else self._completions[0]
        return Completion(text, len(text), True)


def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """A byte-level tokenizer, one token a byte, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, eos_token="<|end|>", name_or_path="scripted"
    )


def tiny_network(vocabulary: int, seed: int) -> "PreTrainedModel":
    """A Llama of two layers, width 32, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        initializer_range=0.2,  # with the usual 0.02 so small a network could never be sure of a token
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
