"""The end of a network, for some tokens only: hidden states where a target stands, logits of what a target can be.

A grid has twelve symbols and a language model tens of thousands: computing the logits of the others would
cost a 135M-parameter model more than a quarter of its forward pass and tell nothing.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from arc_seal.errors import ModelError
from arc_seal.models.batch import Batch
from arc_seal.models.grid_transformer import GridTransformer
from arc_seal.models.positions import model_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
