"""Training an adapter, or all weights, on encoded contexts: batches of like length and a plain loop.

Logits are computed only where a target stands and, unless all are asked for, only of the symbols that a target can be.
"""

import math
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from arc_seal.errors import Diverged, OverBudget
from arc_seal.inner_loop.job import FinetuneSettings, Precision, Progress, Report, TrainingRecord, TrainingSettings
from arc_seal.models.model import Batch, Model, collate, logits_of, lower_precision, states_before_targets
from arc_seal.models.prompt import Encoded
from arc_seal.self_edit.edit import Training

MAX_PADDING = 0.1
"""The share of a batch's tokens that padding stays below."""


def train(
    model: Model,
    examples: Sequence[Encoded],
    training: Training | FinetuneSettings,
    settings: TrainingSettings | FinetuneSettings,
    seed: int,
    report: Report,
    *,
    skipped: int = 0,
    max_tokens: int | None = None,
    symbols: Literal["seen", "vocabulary"] = "seen",
    precision: Precision = "float32",
) -> TrainingRecord:
    """Train whatever of `model.network` is trainable; `seed` fixes the order of the examples (at least one).

    AdamW, linear warm-up, cosine decay to zero, gradients clipped by their norm. The loss is the mean over a batch's
    targets, each times its example's weight; padding is no target. OverBudget, before anything is trained, where all
    epochs together would read more than `max_tokens`; Diverged as soon as a loss is not finite. `skipped` examples,
    left out before, are only recorded.

    The softmax runs over `symbols`. `seen`: the grid's symbols and the tokens that are targets somewhere, enough for
    grids, as decoding allows grid symbols alone. `vocabulary`: every token, or of them what an example allows, for
    text: a token that is never a target must become unlikely too.

    `precision` is what a network in float32 is multiplied in: `auto` takes bfloat16 where the CPU is faster at it. The
    weights and the optimiser stay in float32.
    """
    plan = make_plan(model, examples, training, settings.warmup_share, seed, max_tokens)
    network, alphabet = model.network, plan.alphabet.to(model.network.device) if symbols == "seen" else None
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.learning_rate, weight_decay=0.0, fused=True)
    losses: list[float] = []
    tokens = targets = computed = 0
    start = time.monotonic()
    for update, contexts in enumerate(plan.batches):
        batch = collate(contexts).to(network.device)
        optimizer.param_groups[0]["lr"] = plan.rates[update]
        logits = logits_of(network, target_states(network, batch, precision), alphabet)  # [targets, symbols]
        labels = batch.labels if alphabet is None else torch.searchsorted(alphabet, batch.labels)
        loss = batch.loss(logits, labels)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise Diverged(f"the loss became {losses[-1]}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens, targets, computed = tokens + batch.tokens, targets + len(labels), computed + batch.ids.numel()
        report(
            Progress("train", update + 1, len(plan.batches), losses[-1], tokens / max(time.monotonic() - start, 1e-9))
        )
    padding = 1 - tokens / computed
    return TrainingRecord(len(examples), skipped, len(losses), tokens, targets, padding, tuple(losses))


def target_states(network: PreTrainedModel, batch: Batch, precision: Precision) -> Tensor:
    """Last hidden states of the tokens that predict a target, [targets, width], multiplied in a precision."""
    # On a GPU the model's own dtype says it, and a model of float32 is to stay what was asked for.
    lowers = precision == "auto" and network.device.type == "cpu"
    with lower_precision(network) if lowers else nullcontext():
        states = states_before_targets(network, batch)
    return states.to(network.dtype)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the updates of one training read, in order, and how far each goes."""

    batches: tuple[tuple[Encoded, ...], ...]  # the contexts of each update
    rates: tuple[float, ...]  # the learning rate of each update
    alphabet: Tensor  # ids of the grid's symbols and of every token that is a target somewhere, rising, [symbols]


def make_plan(
    model: Model,
    examples: Sequence[Encoded],
    training: Training | FinetuneSettings,
    warmup_share: float,
    seed: int,
    max_tokens: int | None,
) -> Plan:
    """Plan a training on examples, at least one; `seed` fixes their order. OverBudget as `train` says."""
    lengths = [len(example.ids) for example in examples]
    planned = training.epochs * sum(lengths)
    if max_tokens is not None and planned > max_tokens:
        raise OverBudget(f"{planned} training tokens planned, {max_tokens} allowed")
    rng = random.Random(seed)
    batches = [batch for _ in range(training.epochs) for batch in make_batches(lengths, training.batch_size, rng)]
    factors = (_schedule(update, len(batches), warmup_share) for update in range(len(batches)))
    seen = np.concatenate([model.codec.symbols, *(example.ids[example.target] for example in examples)])
    return Plan(
        tuple(tuple(examples[index] for index in batch) for batch in batches),
        tuple(training.learning_rate * factor for factor in factors),
        torch.from_numpy(np.unique(seen)),
    )


def make_batches(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """One epoch's batches of examples of some lengths, as indices into `lengths`, each once, in random order.

    Like lengths stand together, and a batch is closed early where one more example would bring padding to 10 %.
    """
    order = list(range(len(lengths)))
    rng.shuffle(order)
    order.sort(key=lambda index: lengths[index])
    batches: list[list[int]] = []
    for index in order:
        batch = [*batches[-1], index] if batches else [index]
        padding = 1 - sum(lengths[each] for each in batch) / (lengths[index] * len(batch))  # the last is the longest
        if batches and len(batch) <= batch_size and padding < MAX_PADDING:
            batches[-1] = batch
        else:
            batches.append([index])
    rng.shuffle(batches)
    return batches


def _schedule(update: int, updates: int, warmup_share: float) -> float:
    """Factor on the learning rate: linear from near 0 to 1, then half a cosine down to near 0."""
    warmup = max(1, round(warmup_share * updates))
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))
