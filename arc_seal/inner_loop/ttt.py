"""Test-time training: one adapter, a plain loop.

What is computed is what is needed: batches of like length, hidden states for every token, logits only where
a target stands and, unless they are asked for all, only of the symbols that a target can be.
"""

import math
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from arc_seal.errors import Diverged, OverBudget
from arc_seal.inner_loop.batches import make_batches
from arc_seal.inner_loop.job import Progress, Report, TrainingRecord, TrainingSettings
from arc_seal.models.base import Encoded
from arc_seal.models.batch import Batch, collate
from arc_seal.models.head import logits_of, states_before_targets
from arc_seal.self_edit.schema import Training

if TYPE_CHECKING:
    from arc_seal.models.base import Model


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
    optimizer = torch.optim.AdamW(weights, lr=training.learning_rate, weight_decay=settings.weight_decay, fused=True)
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
