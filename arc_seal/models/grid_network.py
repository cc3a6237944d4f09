"""Where the tokens of a grid model stand and ask, and how its attention is turned by that.

Shapes: batch B, tokens T, heads H, width D, head width D / H; places are [AXES, B, T], (segment, row, column).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from arc_seal.models.grid_codec import ASK, AXES, END, INPUT, OUTPUT, PAD, ROW_END, VOCABULARY


class Rotation:
    """Turns pairs of a head's dimensions by angles that grow with the place (RoPE, arXiv 2104.09864).

    Args:
        places: [AXES, B, T].
        frequencies: Radians a step of each pair on each axis, [AXES, D / H / 2].
        dtype: Of what is turned.
    """

    def __init__(self, places: Tensor, frequencies: Tensor, dtype: torch.dtype) -> None:
        angles = torch.einsum("abt,af->btf", places.float(), frequencies)[:, None]  # [B, 1, T, D / H / 2]
        self.cos = torch.cat([angles.cos(), angles.cos()], dim=-1).to(dtype)  # [B, 1, T, D / H]
        self.sin = torch.cat([-angles.sin(), angles.sin()], dim=-1).to(dtype)  # [B, 1, T, D / H]

    def turn(self, heads: Tensor) -> Tensor:
        """[B, H, T, D / H] -> [B, H, T, D / H]. Dimension i and the one half a head further are a pair."""
        half = heads.shape[-1] // 2
        return heads * self.cos + heads.roll(half, dims=-1) * self.sin


def rotary_frequencies(head: int, base: float) -> Tensor:
    """Radians a step of each pair of dimensions on each axis, [AXES, head / 2]; zero where another axis turns the pair.

    A quarter of the pairs tells segments apart, the others are halved between rows and columns.
    """
    pairs = head // 2
    segment = pairs // 4
    row = (pairs - segment) // 2
    frequencies = torch.zeros(AXES, pairs)
    begin = 0
    for axis, count in enumerate((segment, row, pairs - segment - row)):
        frequencies[axis, begin : begin + count] = base ** -(torch.arange(count) / max(1, count))
        begin += count
    return frequencies


def next_places(places: Tensor, ids: Tensor) -> Tensor:
    """Where the token after each would stand. [AXES, B, T], [B, T] -> [AXES, B, T]; see grid_vocabulary.next_place."""
    segment, row, column = places
    row_ends = ids == ROW_END
    return torch.stack([segment, row + row_ends, torch.where(row_ends, 1, column + 1)])


def places_of(ids: Tensor) -> Tensor:
    """Places of whole sequences, worked out from their tokens. [B, T] -> [AXES, B, T]. Padding on the left has none."""
    opens = (ids == INPUT) | (ids == OUTPUT) | (ids == ASK)
    row_ends = ids == ROW_END
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    segment = opens.long().cumsum(1)
    rows = row_ends.long().cumsum(1) - row_ends.long()  # row ends before each token
    opened = torch.where(opens, index, 0).cummax(1).values  # where its segment opened
    row = rows - rows.gather(1, opened)
    ended = torch.where(row_ends, index, 0).cummax(1).values.roll(1, 1)  # the last row end before it, or 0
    ended[:, 0] = 0
    column = index - torch.maximum(opened, ended)
    return torch.stack([segment - 1, row, column]) * (segment > 0)


# The grid model's network: a decoder-only transformer that knows where in a grid each token stands.
#
# It is a plain transformer of today (RMSNorm before each block, QK-norm, SwiGLU, no biases, rotary positions) with
# three
# changes made for grids:
#
# - Positions have three axes, (segment, row, column), and each axis turns its own share of a head's dimensions, as in
#   Qwen2-VL's M-RoPE (arXiv 2409.12191, section 2.1).
# - A key is turned by where its token stands, a query by where the *next* token will stand, which follows from the
#   token
#   itself. So "what stands at this very cell in the input?", the question that most of ARC begins with, is one at
#   offset
#   zero, also at the start of a row.
# - From revision 2 on a token is told where it is: whether in an input or in an output, and in which row and column
#   the
#   next token will stand. Rotary positions alone tell offsets, and an edge would have to be inferred.
#
# Revision 2 also learns how sharply each head looks, begins with blocks that add nothing, and mixes the embeddings
# into
# every layer's input (as modded-nanogpt, github.com/KellerJordan/modded-nanogpt, does). What each is worth is in
# benchmarks/pretraining/README.md. Revision 1 is there for the weights that were made with it.
#
# Shapes: batch B, tokens T, keys K (those of the cache and T more), heads H, width D, head width D / H.

REVISIONS = (1, 2)
"""What `GridConfig.revision` can be."""

SHARPNESS = 1.5
"""How many times sharper than with plain QK-norm a head looks at first. There a score is at most the square root of its
width, 8 in a head of 64, and one token among 900 others of score 0 gets at most three quarters of the attention."""

PLACES = 32
"""Rows and columns with an embedding of their own: a grid's row ends stand at column 31 at most."""

LEAST_HEAD = 8
"""Width of the narrowest head of whose pairs of dimensions every axis turns one; see `rotary_frequencies`."""


class GridConfig(PreTrainedConfig):
    """Sizes of a grid model; those in use are in conf/network/.

    Attributes:
        vocab_size: Tokens of grid_vocabulary.
        hidden_size: Width D.
        intermediate_size: Width inside the feed-forward blocks.
        num_hidden_layers: Layers.
        num_attention_heads: Heads H; D / H is even, and at least `LEAST_HEAD`.
        rope_base: The slowest rotary frequency of an axis is about 1 / rope_base radians a step, the fastest 1.
        rms_norm_eps: Keeps norms from dividing by zero.
        initializer_range: Spread of the first weights, in units of 1 / sqrt(number of inputs).
        revision: Which form of the network it is, one of `REVISIONS`; see the module.
    """

    model_type = "arc_seal_grid"

    vocab_size: int = VOCABULARY
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    rope_base: float = 100.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 1.0
    revision: int = 1
    use_cache: bool = True
    pad_token_id: int | None = PAD
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = END
    tie_word_embeddings: bool = False

    def __post_init__(self, **others: Any) -> None:
        """Take in what Hugging Face adds.

        Raises:
            ValueError: When heads of that number cannot have a fitting width, or there is no such revision.
        """
        super().__post_init__(**others)  # type: ignore[no-untyped-call]
        if self.revision not in REVISIONS:
            raise ValueError(f"revision is to be one of {REVISIONS}, not {self.revision}")
        width, left = divmod(self.hidden_size, self.num_attention_heads)
        if left or width % 2 or width < LEAST_HEAD:
            heads = f"hidden_size={self.hidden_size} for num_attention_heads={self.num_attention_heads}"
            raise ValueError(f"a head is to have an even width of {LEAST_HEAD} or more, not {heads}")


class Addition(nn.Linear):
    """The last projection of a block, whose result is added to the residual stream: it starts smaller than others."""


class Attention(nn.Module):
    """Causal attention whose queries look from where the next token will stand."""

    def __init__(self, config: GridConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.layer, self.heads, self.eps = layer, config.num_attention_heads, config.rms_norm_eps
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = Addition(width, width, bias=False)
        sharpness = torch.full((self.heads,), math.log(SHARPNESS))  # its logarithm is learnt, so that it stays positive
        self.log_sharpness = nn.Parameter(sharpness) if config.revision > 1 else None

    def forward(
        self,
        hidden: Tensor,
        asks: Rotation,
        stands: Rotation,
        mask: Tensor | None,
        cache: Cache | None,
        wanted: Tensor | None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; mask [B, 1, T, K], None for plain causal attention. For `wanted` see Layer."""
        query = asks.turn(self._normed(self._split(self.q_proj(hidden))))  # [B, H, T, D / H]
        if self.log_sharpness is not None:
            query = query * self.log_sharpness.exp()[:, None, None]
        key = stands.turn(self._normed(self._split(self.k_proj(hidden))))  # [B, H, T, D / H]
        value = self._split(self.v_proj(hidden))  # [B, H, T, D / H]
        if cache is not None:
            key, value = cache.update(key, value, self.layer)  # [B, H, K, D / H]
        mixed = scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)  # [B, H, T, D / H]
        output: Tensor = self.o_proj(_picked(mixed.transpose(1, 2).flatten(2), wanted))
        return output

    def _split(self, projected: Tensor) -> Tensor:
        """[B, T, D] -> [B, H, T, D / H]."""
        heads: Tensor = projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads

    def _normed(self, heads: Tensor) -> Tensor:
        """QK-norm (arXiv 2010.04245), without a gain: no score can grow beyond the square root of a head's width."""
        normed: Tensor = rms_norm(heads, heads.shape[-1:], eps=self.eps)
        return normed


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: GridConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Addition(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        output: Tensor = self.down_proj(silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Layer(nn.Module):
    """Attention, then feed-forward, each added to what comes in."""

    def __init__(self, config: GridConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        hidden: Tensor,
        asks: Rotation,
        stands: Rotation,
        mask: Tensor | None,
        cache: Cache | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D], or of the N tokens at the rows and columns `wanted`, [2, N] -> [N, D]."""
        attended = self.attention(self.attention_norm(hidden), asks, stands, mask, cache, wanted)
        hidden = _picked(hidden, wanted) + attended
        output: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return output


def _picked(hidden: Tensor, wanted: Tensor | None) -> Tensor:
    """[B, T, D], [2, N] -> [N, D]; everything where nothing else is wanted."""
    return hidden if wanted is None else hidden[wanted[0], wanted[1]]


class Whereabouts(nn.Module):
    """Tells a token where it is: in an input or an output, and at which row and column the next one will stand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = nn.Embedding(2, width)
        self.row = nn.Embedding(PLACES, width)
        self.column = nn.Embedding(PLACES, width)

    def forward(self, following: Tensor) -> Tensor:
        """Places of the next tokens [AXES, B, T] -> [B, T, D]. Inputs are the even segments, outputs the odd ones."""
        segment, row, column = following
        last = PLACES - 1  # only a text is longer
        told: Tensor = self.part(segment % 2) + self.row(row.clamp(max=last)) + self.column(column.clamp(max=last))
        return told


class GridPreTrainedModel(PreTrainedModel):
    """What Hugging Face needs to know of both classes below."""

    config: GridConfig
    config_class = GridConfig
    base_model_prefix = "model"
    _no_split_modules = ["Layer"]  # noqa: RUF012, as Hugging Face has it
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        """First weights: a residual stream of unit size, and blocks that add little to it at first."""
        spread = self.config.initializer_range
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=spread)
        elif isinstance(module, nn.Linear):
            adds = self._first_addition() if isinstance(module, Addition) else 1.0
            init.normal_(module.weight, mean=0.0, std=spread * adds * module.in_features**-0.5)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)

    def _first_addition(self) -> float:
        """How much a block adds at first, in units of what another projection gives."""
        return 0.0 if self.config.revision > 1 else (2 * self.config.num_hidden_layers) ** -0.5


class GridTransformer(GridPreTrainedModel):
    """The network without its output head: tokens and places in, hidden states out."""

    def __init__(self, config: GridConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.whereabouts = Whereabouts(config.hidden_size) if config.revision > 1 else None
        # How much of what comes in, and of the embeddings, a layer is given, [layers, 2].
        first = torch.tensor([[1.0, 0.0]] * config.num_hidden_layers)
        self.mixing = nn.Parameter(first) if config.revision > 1 else None
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool = False,
        wanted: Tensor | None = None,
        **ignored: Any,
    ) -> BaseModelOutputWithPast:
        """Read tokens.

        Args:
            input_ids: [B, T].
            attention_mask: 0 for padding, [B, K]; None when there is none to the left of a token.
            position_ids: Places, [AXES, B, T]; None works them out from the tokens, which must then be whole.
            past_key_values: Keys and values of the tokens before.
            use_cache: Whether to hand back keys and values.
            output_hidden_states: Whether to hand back what every layer was given, [B, T, D] each.
            wanted: Row and column of the tokens whose last hidden states are wanted, [2, N]; None for all. For the
                others the last layer does nothing but attend.
            ignored: What Hugging Face passes to every model.

        Returns:
            Last hidden states, [B, T, D] or [N, D], and the cache.
        """
        if input_ids is None:
            raise ValueError("a grid model reads input_ids: a query's place follows from its token")
        if position_ids is None:
            if past_key_values is not None and past_key_values.get_seq_length():
                raise ValueError("tokens that follow others need position_ids, [3, batch, tokens]")
            position_ids = places_of(input_ids)
        cache = past_key_values
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=self.config)
        hidden = self.embed_tokens(input_ids)  # [B, T, D]
        head = self.config.hidden_size // self.config.num_attention_heads
        frequencies = rotary_frequencies(head, self.config.rope_base).to(hidden.device)
        following = next_places(position_ids, input_ids)
        if self.whereabouts is not None:
            hidden = hidden + self.whereabouts(following)
        stands = Rotation(position_ids, frequencies, hidden.dtype)
        asks = Rotation(following, frequencies, hidden.dtype)
        before = cache.get_seq_length() if cache is not None else 0
        mask = causal_mask(input_ids.shape[1], before, attention_mask, hidden.device)
        states = []
        embedded, last = hidden, len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            states.append(hidden)
            if self.mixing is not None:
                hidden = self.mixing[number, 0] * hidden + self.mixing[number, 1] * embedded
            hidden = layer(hidden, asks, stands, mask, cache, wanted if number == last else None)
        hidden = self.norm(hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*states, hidden) if output_hidden_states else None,
        )


class GridForCausalLM(GridPreTrainedModel, GenerationMixin):
    """The network with its output head: tokens and places in, logits of the next token out."""

    def __init__(self, config: GridConfig) -> None:
        super().__init__(config)
        self.model = GridTransformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **reading: Any,
    ) -> CausalLMOutputWithPast:
        """Read tokens; see `GridTransformer.forward`.

        Args:
            input_ids: [B, T].
            labels: Tokens to predict, [B, T], -100 where there is no loss; each is predicted from those before it.
            logits_to_keep: Logits of that many last tokens only; 0 for all.
            reading: What `GridTransformer.forward` takes.

        Returns:
            Logits [B, T, vocabulary], the loss when there are labels, and the cache.
        """
        output = self.model(input_ids=input_ids, **reading)
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, past_key_values: Cache | None = None, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """What `generate` reads next: the tokens that the cache does not hold, at their places."""
        read = past_key_values.get_seq_length() if past_key_values is not None else 0
        return {
            "input_ids": input_ids[:, read:],
            "position_ids": places_of(input_ids)[..., read:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": True,
        }


def causal_mask(tokens: int, before: int, attention_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Which keys each token may look at, [B or 1, 1, T, K]; None for plain causal attention, which is faster.

    Args:
        tokens: T.
        before: Tokens in the cache.
        attention_mask: 0 for padding, [B, K], or None.
        device: Where the mask is to be.
    """
    if attention_mask is None and before == 0:
        return None
    index = torch.arange(before + tokens, device=device)
    mask = (index[None, :] <= index[before:, None])[None, None]  # [1, 1, T, K]
    if attention_mask is None:
        return mask
    # Padding looks at itself, for attention to nothing at all is not a number.
    itself = index[None, :] == index[before:, None]
    return mask & (attention_mask[:, None, None, :].bool() | itself)


AutoConfig.register(GridConfig.model_type, GridConfig)
AutoModel.register(GridConfig, GridTransformer)
AutoModelForCausalLM.register(GridConfig, GridForCausalLM)
