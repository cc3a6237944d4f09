"""The weights that a pretraining run begins with: random ones, or those of a folder, also of an earlier revision."""

from pathlib import Path

import torch

from arc_seal.errors import InputError
from arc_seal.models.grid_transformer import GridConfig, GridForCausalLM
from arc_seal.models.loading import read_network
from arc_seal.places import weights_dir

SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rope_base",
)  # fmt: skip
"""What weights to begin with must have in common with the network."""


def first_weights(weights: str | None, network: GridConfig) -> GridForCausalLM:
    """The network to begin with, in float32: random weights, or those of a folder.

    Raises:
        InputError: When the folder has no weights of this network.
    """
    if weights is None:
        return GridForCausalLM(network)
    folder = weights_dir() / "grid" if weights == "shipped" else Path(weights).expanduser()
    if not folder.is_dir():
        raise InputError("configuration", "weights", "shipped, or a folder with weights of a grid model", repr(weights))
    model = read_network(weights, str(folder), torch.float32)
    if not isinstance(model, GridForCausalLM):
        raise InputError("configuration", "weights", "weights of a grid model", f"of {model.config.model_type}")
    for name in SIZES:
        found, expected = getattr(network, name), getattr(model.config, name)
        if found != expected:
            raise InputError("configuration", f"network.{name}", f"{expected}, as {folder} has it", str(found))
    if network.revision < model.config.revision:
        expected = f"{model.config.revision} or later, as {folder} has it"
        raise InputError("configuration", "network.revision", expected, str(network.revision))
    return model if network.revision == model.config.revision else brought_up(model, network)


@torch.no_grad()
def brought_up(model: GridForCausalLM, network: GridConfig) -> GridForCausalLM:
    """The same function in a later revision: what that one has more of begins where it changes nothing."""
    later = GridForCausalLM(network)
    more = later.load_state_dict(model.state_dict(), strict=False).missing_keys
    for name in more:
        if name != "model.mixing":  # it begins with what comes in alone, as an earlier revision has it
            later.get_parameter(name).zero_()
    return later
