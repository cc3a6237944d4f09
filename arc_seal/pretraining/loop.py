"""The pretraining loop: read a batch, update, write down; save now and then; measure on what is held out."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from arc_seal.errors import Diverged
from arc_seal.models.base import Encoded
from arc_seal.models.batch import Batch
from arc_seal.models.grid_transformer import GridForCausalLM
from arc_seal.pretraining.checkpoint import LATEST, STABLE, Clock, Log, claimed, read_clock, restore, save
from arc_seal.pretraining.held_out import Score, score
from arc_seal.pretraining.interrupts import interrupts
from arc_seal.pretraining.optimizer import OptimizerSettings, decays, make_optimizers, rate_factor, set_rates
from arc_seal.pretraining.section import Section
from arc_seal.pretraining.stream import Chunks, read_stream


class RunSettings(Section):
    """How long to train, and what is kept of it; each setting is described in conf/pretrain.yaml, run."""

    tokens: int = Field(ge=1)
    batch_tokens: int = Field(8192, ge=64)
    workers: int = Field(1, ge=0)
    save_every_s: float = Field(60.0, ge=0)
    measure_every_tokens: int = Field(2_000_000, ge=1)
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign of life from a run.

    Attributes:
        clock: How far it is.
        total: Tokens there will be.
        loss: Mean loss of the last batch, nats a target token.
        accuracy: Share of its targets that were the likeliest token.
        tokens_per_s: Of this run of the command.
        scores: What was measured on held-out contexts just now, by name.
    """

    clock: Clock
    total: int
    loss: float
    accuracy: float
    tokens_per_s: float
    scores: Mapping[str, Score]


def pretrain(
    network: GridForCausalLM,
    chunks: Chunks,
    run: RunSettings,
    optimization: OptimizerSettings,
    held_out: Mapping[str, Sequence[Encoded]],
    folder: Path,
    identity: Mapping[str, Any],
    watch: Callable[[Sign], None],
) -> Clock:
    """Train until `run.tokens` are read; a run that was stopped goes on where its folder says.

    Args:
        network: On its device, with the weights to begin with.
        chunks: The training stream.
        run: How long.
        optimization: How.
        held_out: Contexts to measure on, by name.
        folder: Where checkpoints and logs are kept.
        identity: What makes this run the one that it is.
        watch: Told after every update.

    Raises:
        InputError: When the folder holds another run, or another process works on it.
        Diverged: When a loss or gradient is not finite.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when the update is done and saved.
    """
    with claimed(folder):
        optimizers = make_optimizers(network, optimization)
        clock = before = begin(network, optimizers, run, optimization, folder, identity)
        reader = torch.compile(network.model, dynamic=True) if run.compile else network.model
        began = saved = time.monotonic()
        with (
            Log(folder / "losses.jsonl", clock.step) as losses,
            Log(folder / "held_out.jsonl", clock.step) as measures,
            closing(read_stream(chunks, clock.position, run.workers)) as stream,
            interrupts() as interrupted,
        ):
            while clock.tokens < run.tokens and not interrupted():
                batch, following = next(stream)
                if decays(clock.tokens, run.tokens, optimization) and not (folder / STABLE).exists():
                    save(folder / STABLE, network, optimizers, clock, identity)
                set_rates(optimizers, optimization, rate_factor(clock.tokens, run.tokens, optimization))
                loss, accuracy = update(network, reader, batch, optimizers, optimization.max_gradient_norm)
                seconds = before.seconds + time.monotonic() - began
                last, clock = clock, Clock(clock.step + 1, clock.tokens + batch.tokens, seconds, following)
                losses.add(step=clock.step, tokens=clock.tokens, loss=round(loss, 5), accuracy=round(accuracy, 5))
                due = clock.tokens >= run.tokens or _passed(run.measure_every_tokens, last.tokens, clock.tokens)
                scores = _measure(network, held_out, run.batch_tokens, clock, measures) if due else {}
                speed = (clock.tokens - before.tokens) / max(1e-9, seconds - before.seconds)
                watch(Sign(clock, run.tokens, loss, accuracy, speed, scores))
                if time.monotonic() - saved >= run.save_every_s:
                    save(folder / LATEST, network, optimizers, clock, identity)
                    saved = time.monotonic()
            save(folder / LATEST, network, optimizers, clock, identity)
    if clock.tokens < run.tokens:
        raise KeyboardInterrupt
    return clock


def begin(
    network: GridForCausalLM,
    optimizers: tuple[Optimizer, ...],
    run: RunSettings,
    optimization: OptimizerSettings,
    folder: Path,
    identity: Mapping[str, Any],
) -> Clock:
    """Take up a run where it stopped, or from before its learning rate fell if it is to be longer now; else begin."""
    stable = read_clock(folder / STABLE)
    if stable is not None and not decays(stable.tokens, run.tokens, optimization):
        restore(folder / STABLE, network, optimizers, identity)  # refuses another run's, before anything is lost
        os.replace(folder / STABLE, folder / LATEST)
    return restore(folder / LATEST, network, optimizers, identity) or Clock()


def _measure(
    network: GridForCausalLM, held_out: Mapping[str, Sequence[Encoded]], batch_tokens: int, clock: Clock, log: Log
) -> dict[str, Score]:
    """Score everything that is held out, and write it down."""
    scores = {name: score(network, contexts, batch_tokens) for name, contexts in held_out.items()}
    for name, each in scores.items():
        row = {"step": clock.step, "tokens": clock.tokens, "seconds": round(clock.seconds, 1), "set": name}
        log.add(**row, **asdict(each))
    return scores


def _passed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in between."""
    return after // every > before // every


def update(
    network: GridForCausalLM,
    reader: Callable[..., Any],
    batch: Batch,
    optimizers: tuple[Optimizer, ...],
    max_gradient_norm: float,
) -> tuple[float, float]:
    """One step of every optimiser. Returns the loss before it, and the share of targets that were the likeliest."""
    device = network.device
    batch = batch.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        # Attention is causal and padding stands on the right, so no real token ever sees it: no mask is needed.
        hidden = reader(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False
        ).last_hidden_state  # [batch, tokens, width]
        logits = network.lm_head(hidden[batch.where[0], batch.where[1]]).float()  # [targets, vocabulary]
    loss = cross_entropy(logits, batch.labels)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise Diverged(f"the loss became {value}")
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), max_gradient_norm))
    if not math.isfinite(norm):
        raise Diverged(f"the gradient's norm became {norm}")
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return value, float((logits.detach().argmax(-1) == batch.labels).float().mean())
