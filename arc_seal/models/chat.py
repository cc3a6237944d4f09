"""Any Hugging Face causal language model with a chat template."""

from typing import TYPE_CHECKING

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from arc_seal.errors import ModelError
from arc_seal.models.codec import ChatCodec
from arc_seal.models.loaded import LoadedModel
from arc_seal.models.loading import pick_device, pick_dtype, read_network, reading
from arc_seal.models.source import ChatSource
from arc_seal.models.weights import fingerprint, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
