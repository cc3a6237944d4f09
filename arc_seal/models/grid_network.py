"""The grid model's network: a decoder-only transformer that knows where in a grid each token stands.

It is a plain transformer of today (RMSNorm before each block, QK-norm, SwiGLU, no biases, rotary positions) with three
changes made for grids:

- Positions have three axes, (segment, row, column), and each axis turns its own share of an attention head's
  dimensions, as in Qwen2-VL's M-RoPE (arXiv 2409.12191, section 2.1).
- A key is turned by where its token stands, a query by where the *next* token will stand, which follows from the token
  itself: what stands at this very cell in the input is at offset zero, also at the start of a row.
- From revision 2 on a token is told whether it is in an input or in an output, and in which row and column the next
  token will stand. Rotary positions alone tell offsets, and an edge would have to be inferred.

Revision 2 also learns how sharply each attention head looks, begins with blocks that add nothing, and mixes the
embeddings into every layer's input (as modded-nanogpt, github.com/KellerJordan/modded-nanogpt, does); what each is
worth is in benchmarks/README.md. Revision 1 is there for the weights that were made with it.

Shapes: batch B, tokens T, keys K (those of the cache and T more), attention heads H, width D, head width D / H;
positions are [AXES, B, T].
"""

import math
from copy import copy
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from arc_seal.models.attention import GrowingLayer, attend, lowered
from arc_seal.models.grid_codec import ASK, INPUT, OUTPUT, PAD, VOCABULARY, next_positions
from arc_seal.models.prompt import END, ROW_END

REVISIONS = (1, 2)

SHARPNESS = 1.5
"""How many times sharper than with plain QK-norm a head looks at first. There, one token among 900 others of score 0
gets at most three quarters of the attention of a head of width 64."""

EMBEDDED = 32
"""Rows and columns with an embedding of their own: a grid's row ends stand at column 31 at most."""

MIN_HEAD_WIDTH = 8
"""Width of the narrowest head of whose pairs of dimensions every axis turns one; see `rotary_frequencies`."""


class GridConfig(PreTrainedConfig):
    """Sizes of a grid model; those in use are in conf/network/."""

    model_type = "arc_seal_grid"

    vocab_size: int = VOCABULARY
    hidden_size: int = 256  # width D
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 4  # heads H; D / H is even, and at least `MIN_HEAD_WIDTH`
    # The slowest rotary frequency of an axis is about 1 / rope_base radians a step, the fastest 1.
    rope_base: float = 100.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 1.0  # spread of the first weights, in units of 1 / sqrt(number of inputs)
    revision: int = 1  # which form of the network it is, one of `REVISIONS`; see the module
    use_cache: bool = True
    pad_token_id: int | None = PAD
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = END
    tie_word_embeddings: bool = False

    def __post_init__(self, **others: Any) -> None:
        """Take in what Hugging Face adds; `ValueError` for a wrong width of heads, or an unknown revision."""
        super().__post_init__(**others)  # type: ignore[no-untyped-call]
        if self.revision not in REVISIONS:
            raise ValueError(f"revision is to be one of {REVISIONS}, not {self.revision}")
        width, left = divmod(self.hidden_size, self.num_attention_heads or 1)
        if self.num_attention_heads < 1 or left or width % 2 or width < MIN_HEAD_WIDTH:
            heads = f"hidden_size={self.hidden_size} for num_attention_heads={self.num_attention_heads}"
            raise ValueError(f"a head is to have an even width of {MIN_HEAD_WIDTH} or more, not {heads}")


def positions_of(ids: Tensor) -> Tensor:
    """Positions of whole sequences, worked out from their tokens. [B, T] -> [AXES, B, T]; 0 for padding on the left."""
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


def rotary_frequencies(head: int, base: float) -> Tensor:
    """Radians a step of each pair of dimensions on each axis, [AXES, head / 2]; zero where another axis turns it."""
    pairs = head // 2
    segment = pairs // 4
    row = (pairs - segment) // 2
    shares = [base ** -(torch.arange(count) / max(1, count)) for count in (segment, row, pairs - segment - row)]
    frequencies: Tensor = torch.block_diag(*shares)
    return frequencies


class Rotation:
    """Turns pairs of a head's dimensions by angles that grow with the position (RoPE, arXiv 2104.09864)."""

    def __init__(self, positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> None:
        angles = torch.einsum("abt,af->btf", positions.float(), frequencies)[:, None]  # [B, 1, T, D / H / 2]
        self.cos = torch.cat([angles.cos(), angles.cos()], dim=-1).to(dtype)  # [B, 1, T, D / H]
        self.sin = torch.cat([-angles.sin(), angles.sin()], dim=-1).to(dtype)  # [B, 1, T, D / H]

    def turn(self, heads: Tensor) -> Tensor:
        """[B, H, T, D / H] -> [B, H, T, D / H]. Dimension i and the one half a head further are a pair."""
        half = heads.shape[-1] // 2
        return heads * self.cos + heads.roll(half, dims=-1) * self.sin

    def of_last(self) -> Self:
        """That of the last token alone."""
        last = copy(self)
        last.cos, last.sin = self.cos[:, :, -1:], self.sin[:, :, -1:]
        return last


class Shared(NamedTuple):
    """What all layers of one forward pass are given; the mask is [B, 1, T, K], None for plain causal attention."""

    asking: int  # how many tokens, the last, have queries and a result; 0 for all
    queries: Rotation
    keys: Rotation
    mask: Tensor | None
    cache: Cache | None


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

    def forward(self, hidden: Tensor, shared: Shared, wanted: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, T, D]; for `wanted` see Layer."""
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D / H]
            for projected in (self.q_proj(hidden[:, -shared.asking :]), self.k_proj(hidden), self.v_proj(hidden))
        )
        # QK-norm (arXiv 2010.04245), without a gain: no score can grow beyond the square root of a head's width.
        query = shared.queries.turn(rms_norm(query, query.shape[-1:], eps=self.eps))
        key = shared.keys.turn(rms_norm(key, key.shape[-1:], eps=self.eps))
        if self.log_sharpness is not None:
            query = query * self.log_sharpness.exp()[:, None, None].to(query.dtype)
        if shared.cache is not None:
            key, value = shared.cache.update(key, value, self.layer)  # [B, H, K, D / H]
        mixed = attend(query, key, value, shared.mask)  # [B, H, T, D / H]
        output: Tensor = self.o_proj(_picked(mixed.transpose(1, 2).flatten(2), wanted))
        return output


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

    def forward(self, hidden: Tensor, shared: Shared, wanted: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, T, D], or of the N tokens at the rows and columns `wanted`, [2, N] -> [N, D].

        Of the last `shared.asking` tokens, where that is not 0: [B, asking, D].
        """
        attended = self.attention(lowered(self.attention_norm(hidden), self.attention.q_proj.weight), shared, wanted)
        hidden = _picked(hidden[:, -shared.asking :], wanted) + attended
        normed = lowered(self.feed_forward_norm(hidden), self.feed_forward.gate_proj.weight)
        output: Tensor = hidden + self.feed_forward(normed)
        return output


def _picked(hidden: Tensor, wanted: Tensor | None) -> Tensor:
    """[B, T, D], [2, N] -> [N, D]; everything where nothing else is wanted."""
    return hidden if wanted is None else hidden[wanted[0], wanted[1]]


class PositionEmbedding(nn.Module):
    """Tells a token where it is: in an input or an output, and at which row and column the next one will stand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = nn.Embedding(2, width)
        self.row = nn.Embedding(EMBEDDED, width)
        self.column = nn.Embedding(EMBEDDED, width)

    def forward(self, following: Tensor) -> Tensor:
        """Positions of the next tokens [AXES, B, T] -> [B, T, D]. Inputs are the even segments, outputs the odd."""
        row, column = following[1:].clamp(max=EMBEDDED - 1)  # only a text is longer
        embedded: Tensor = self.part(following[0] % 2) + self.row(row) + self.column(column)
        return embedded


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
        adds = 0.0 if self.config.revision > 1 else (2 * self.config.num_hidden_layers) ** -0.5
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=spread)
        elif isinstance(module, nn.Linear):
            share = adds if isinstance(module, Addition) else 1.0
            init.normal_(module.weight, mean=0.0, std=spread * share * module.in_features**-0.5)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)


class GridTransformer(GridPreTrainedModel):
    """The network without its output layer: tokens and positions in, hidden states out."""

    def __init__(self, config: GridConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.whereabouts = PositionEmbedding(config.hidden_size) if config.revision > 1 else None
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
        only_last: bool = False,
        **ignored: Any,
    ) -> BaseModelOutputWithPast:
        """Read tokens, [B, T]; returns the last hidden states, [B, T, D], [N, D] or [B, 1, D], and the cache.

        The arguments are Hugging Face's, but for `position_ids`, [AXES, B, T], which whole sequences need not have,
        `wanted`, [2, N], rows and columns of the tokens whose last hidden states are wanted, and `only_last`, for those
        of each row's last token; not both. `attention_mask`, [B, K], is for padding to the left of a token.
        """
        cache = past_key_values
        before = cache.get_seq_length() if cache is not None else 0
        if input_ids is None:
            raise ValueError("a grid model reads input_ids: a query's position follows from its token")
        if position_ids is None:
            if before:
                raise ValueError("tokens that follow others need position_ids, [3, batch, tokens]")
            position_ids = positions_of(input_ids)
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = Cache(layer_class_to_replicate=GrowingLayer)
        hidden = self.embed_tokens(input_ids)  # [B, T, D]
        head = self.config.hidden_size // self.config.num_attention_heads
        frequencies = rotary_frequencies(head, self.config.rope_base).to(hidden.device)
        following = next_positions(position_ids, input_ids)
        if self.whereabouts is not None:
            hidden = hidden + self.whereabouts(following)
        dtype = lowered(hidden[:0], cast(Layer, self.layers[0]).attention.q_proj.weight).dtype
        queries, keys = (Rotation(each, frequencies, dtype) for each in (following, position_ids))
        mask = causal_mask(input_ids.shape[1], before, attention_mask, hidden.device)
        shared = Shared(0, queries, keys, mask, cache)
        states, embedded, last = [], hidden, len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            states.append(hidden)
            if self.mixing is not None:
                hidden = self.mixing[number, 0] * hidden + self.mixing[number, 1] * embedded
            if only_last and number == last:  # of the other tokens nothing but keys and values is needed
                one = None if mask is None else mask[:, :, -1:]
                shared = Shared(1, queries.of_last(), keys, one, cache)
            hidden = layer(hidden, shared, wanted if number == last else None)
        hidden = self.norm(hidden)
        return BaseModelOutputWithPast(hidden, cache, (*states, hidden) if output_hidden_states else None)


class GridForCausalLM(GridPreTrainedModel, GenerationMixin):
    """The network with its output layer: tokens and positions in, logits of the next token out."""

    def __init__(self, config: GridConfig) -> None:
        super().__init__(config)
        self.model = GridTransformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Tensor | None = None, labels: Tensor | None = None, logits_to_keep: int = 0, **reading: Any
    ) -> CausalLMOutputWithPast:
        """Read tokens, [B, T], as `GridTransformer.forward` does; returns logits [B, T, vocabulary] and the cache.

        Labels, [B, T], give a loss, -100 none. Only the `logits_to_keep` last tokens have logits, 0 for all.
        """
        output = self.model(input_ids=input_ids, **reading)
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss, logits, output.past_key_values, output.hidden_states)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, past_key_values: Cache | None = None, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """What `generate` reads next: the tokens that the cache does not hold, at their positions."""
        read = past_key_values.get_seq_length() if past_key_values is not None else 0
        unread = {"input_ids": input_ids[:, read:], "position_ids": positions_of(input_ids)[..., read:]}
        return {**unread, "past_key_values": past_key_values, "attention_mask": attention_mask, "use_cache": True}


def causal_mask(tokens: int, before: int, attention_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Which keys each of T tokens may look at, [B or 1, 1, T, K]; None where `attend` needs no mask, and is faster.

    `before` tokens are in the cache; `attention_mask` is 0 for padding, [B, K].
    """
    if attention_mask is None and (before == 0 or tokens == 1):  # the only token may look at every key
        return None
    index = torch.arange(before + tokens, device=device)
    mask = (index <= index[before:, None])[None, None]  # [1, 1, T, K]
    if attention_mask is None:
        return mask
    # Padding looks at itself, for attention to nothing at all is not a number.
    return mask & (attention_mask[:, None, None, :].bool() | (index == index[before:, None]))


AutoConfig.register(GridConfig.model_type, GridConfig)
AutoModel.register(GridConfig, GridTransformer)
AutoModelForCausalLM.register(GridConfig, GridForCausalLM)
