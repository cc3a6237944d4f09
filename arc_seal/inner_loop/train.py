"""Batches by length: contexts of like length stand together, so that little is computed for padding."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from arc_seal.errors import Diverged, OverBudget
from arc_seal.inner_loop.job import Progress, Report, TrainingRecord, TrainingSettings
from arc_seal.models.model import Batch, collate, logits_of, states_before_targets
from arc_seal.models.prompt import Encoded
from arc_seal.self_edit.schema import Training

if TYPE_CHECKING:
    from arc_seal.models.prompt import Model

MAX_PADDING = 0.1
"""The largest share of a batch's tokens that may be padding."""


def make_batches(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """One epoch's batches, as indices into `lengths`, in random order.

    Every index comes once. A batch is closed early where one more would bring padding to 10 %.

    Args:
        lengths: Tokens of each example.
        batch_size: Examples in a batch at most.
        rng: Decides among equal lengths, and the order of the batches.
    """
    order = list(range(len(lengths)))
    rng.shuffle(order)
    order.sort(key=lambda index: lengths[index])
    batches = list(_cut(order, lengths, batch_size))
    rng.shuffle(batches)
    return batches


def padding_share(batch: Sequence[int], lengths: Sequence[int]) -> float:
    """Share of a batch's tokens that is padding, 0 to 1."""
    longest = max(lengths[index] for index in batch)
    return 1 - sum(lengths[index] for index in batch) / (longest * len(batch))


def _cut(order: Sequence[int], lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) == batch_size or padding_share([*batch, index], lengths) >= MAX_PADDING):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


# Test-time training: one adapter, a plain loop.
#
# What is computed is what is needed: batches of like length, hidden states for every token, logits only where
# a target stands and, unless they are asked for all, only of the symbols that a target can be.


def train(
    model: "Model",
    examples: Sequence[Encoded],
    training: Training,
    settings: TrainingSettings,
    *,
    skipped: int,
    max_tokens: int,
    seed: int,
    report: Report,
    symbols: Literal["seen", "vocabulary"] = "seen",
) -> TrainingRecord:
    """Train whatever of `model.network` is trainable (an attached adapter) on encoded examples.

    AdamW, linear warm-up, cosine decay to zero, gradients clipped by their norm. The loss is the mean over
    a batch's targets; padding is no target.

    Args:
        model: With an adapter attached.
        examples: At least one.
        training: The self-edit's hyperparameters.
        settings: What the self-edit does not decide.
        skipped: Examples left out before, for the record.
        max_tokens: Most tokens that may be read in all epochs together.
        seed: Fixes the order.
        report: Told after every update.
        symbols: What the softmax runs over. `seen`: the grid's symbols and the tokens that are targets somewhere,
            enough for grids, which decoding binds to their symbols. `vocabulary`: every token, or of them what an
            example allows, for text: a token that is never a target must become unlikely too.

    Raises:
        OverBudget: Before anything is trained, when the epochs together read more than `max_tokens`.
        Diverged: As soon as a loss is not finite.
    """
    lengths = [len(example.ids) for example in examples]
    planned = training.epochs * sum(lengths)
    if planned > max_tokens:
        raise OverBudget(f"{planned} training tokens planned, {max_tokens} allowed")
    rng = random.Random(seed)
    batches = [batch for _ in range(training.epochs) for batch in make_batches(lengths, training.batch_size, rng)]
    alphabet = _alphabet(model, examples) if symbols == "seen" else None
    weights = [weight for weight in model.network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.learning_rate, weight_decay=0.0, fused=True)
    losses: list[float] = []
    tokens = targets = computed = 0
    start = time.monotonic()
    for update, indices in enumerate(batches):
        batch = collate([examples[index] for index in indices]).to(model.network.device)
        optimizer.param_groups[0]["lr"] = training.learning_rate * _schedule(
            update, len(batches), settings.warmup_share
        )
        losses.append(_update(model, batch, alphabet, weights, optimizer, settings.max_gradient_norm))
        tokens, targets, computed = tokens + batch.tokens, targets + len(batch.labels), computed + batch.ids.numel()
        report(Progress("train", update + 1, len(batches), losses[-1], tokens / max(time.monotonic() - start, 1e-9)))
    return TrainingRecord(
        examples=len(examples),
        skipped=skipped,
        updates=len(batches),
        tokens=tokens,
        targets=targets,
        padding=1 - tokens / computed,
        losses=tuple(losses),
    )


def _alphabet(model: "Model", examples: Sequence[Encoded]) -> Tensor:
    """The tokens that a target of these examples can be: the grid's symbols and the targets themselves, [symbols].

    The softmax runs over these alone. Decoding is bound to the grid's symbols, so what training would
    teach about the others is never asked.
    """
    seen = [example.ids[example.target] for example in examples]
    return torch.from_numpy(np.unique(np.concatenate([np.array(model.codec.symbols.all), *seen]))).to(
        model.network.device
    )


def _update(
    model: "Model",
    batch: Batch,
    alphabet: Tensor | None,
    weights: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    max_gradient_norm: float,
) -> float:
    """One step of the optimiser; returns the loss before it."""
    states = states_before_targets(model.network, batch)  # [targets, width]
    logits = logits_of(model.network, states, alphabet)  # [targets, symbols]
    labels = batch.labels if alphabet is None else torch.searchsorted(alphabet, batch.labels)
    loss = cross_entropy(batch.limited(logits), labels)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise Diverged(f"the loss became {value}")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, max_gradient_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def _schedule(update: int, updates: int, warmup_share: float) -> float:
    """Factor on the learning rate: linear from near 0 to 1, then half a cosine down to near 0."""
    warmup = max(1, round(warmup_share * updates))
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))
