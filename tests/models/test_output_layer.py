"""Logits of some tokens against the network's own, for each rule by which logits are made."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.models.cohere import CohereConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.granite import GraniteConfig
from transformers.models.phi import PhiConfig

from arc_seal.errors import ModelError
from arc_seal.models.model import check_output_layer, logits_of
from arc_seal.models.scripted import tiny_network

TOKENS = torch.tensor([3, 60, 7, 11])
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def from_config(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    network: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return network


def phi_with_bias() -> PreTrainedModel:
    network = from_config(PhiConfig(**SHAPE))
    torch.nn.init.normal_(network.get_output_embeddings().bias)
    return network


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: tiny_network(64, seed=0),
    "gemma2": lambda: from_config(Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=2.0)),
    "granite": lambda: from_config(GraniteConfig(**SHAPE, logits_scaling=8.0)),
    "cohere": lambda: from_config(CohereConfig(**SHAPE, logit_scale=0.25)),
    "phi": phi_with_bias,
}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_networks_own(family: str) -> None:
    network = FAMILIES[family]()
    ids = torch.arange(12)[None]
    own = network(input_ids=ids).logits
    hidden = network.get_decoder()(input_ids=ids).last_hidden_state
    ours = logits_of(network, hidden, TOKENS)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, own[..., TOKENS], atol=1e-5)
    plain = hidden @ network.get_output_embeddings().weight[TOKENS].T
    assert torch.allclose(ours, plain, atol=1e-5) == (family == "llama")  # the others have a rule of their own
    check_output_layer(network, TOKENS)


class Tripled(LlamaForCausalLM):
    """A Llama whose logits follow a rule of its own."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = 3 * output.logits
        return output


def test_network_with_an_unknown_rule_is_refused() -> None:
    plain = tiny_network(64, seed=0)
    assert isinstance(plain.config, LlamaConfig)
    network = Tripled(plain.config)
    network.load_state_dict(plain.state_dict())
    with pytest.raises(ModelError, match=r"^llama: output layer: expected logits that are hidden states times embedd"):
        check_output_layer(network, TOKENS)


def test_network_without_numbers_is_refused() -> None:
    network = tiny_network(64, seed=0)
    torch.nn.init.constant_(network.get_decoder().norm.weight, float("nan"))
    with pytest.raises(ModelError, match=r"found a difference of nan$"):
        check_output_layer(network, TOKENS)
