"""The pretraining loop. What it keeps on disk is whole at any moment: a killed run goes on as if it had not been."""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from arc_seal.arc.splits import solved_pairs
from arc_seal.arc.task import Entry
from arc_seal.errors import Diverged, InputError
from arc_seal.files import UNFINISHED, write_whole
from arc_seal.models.grid_codec import PAD
from arc_seal.models.grid_network import GridForCausalLM
from arc_seal.models.model import Batch, collate, lower_precision
from arc_seal.models.prompt import Encoded
from arc_seal.pretraining.optim import OptimizerSettings, decays, make_optimizers, rate_factor, set_rates
from arc_seal.pretraining.pool import Pair, Pool, interrupts
from arc_seal.pretraining.stream import Chunks, Position, cut, encode, read_stream
from arc_seal.settings import Settings

LATEST, STABLE = "checkpoint.pt", "stable.pt"
"""Where a run goes on; the state before its learning rate began to fall, where one goes on that is to be longer."""


class RunSettings(Settings):
    """How long to train, and what is kept of it; each setting is described in conf/pretrain.yaml, run."""

    tokens: int = Field(ge=1)
    batch_tokens: int = Field(8192, ge=64)
    workers: int = Field(1, ge=0)
    save_every_s: float = Field(60.0, ge=0)
    measure_every_tokens: int = Field(2_000_000, ge=1)
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a run is."""

    step: int = 0  # updates done
    tokens: int = 0  # read, padding left out
    seconds: float = 0.0  # of training, over all runs of the command
    position: Position = field(default_factory=Position)  # what of the stream comes next


@dataclass(frozen=True, slots=True)
class Score:
    """What was measured over some contexts, on the last output of each."""

    contexts: int
    loss: float  # mean over targets, nats a token
    accuracy: float  # share of tokens that are the likeliest given those before them
    exact: float  # share of outputs all of whose tokens are, which greedy decoding would get right


@dataclass(frozen=True, slots=True)
class PretrainingProgress:
    """How far a run is after an update."""

    clock: Clock
    total: int  # tokens there will be
    loss: float  # mean over the last batch, nats a target token
    accuracy: float  # share of its targets that were the likeliest token
    tokens_per_s: float  # of this run of the command
    scores: Mapping[str, Score]  # what was measured on unseen contexts just now, by name


def pretrain(
    network: GridForCausalLM,
    chunks: Chunks,
    run: RunSettings,
    optimization: OptimizerSettings,
    unseen: Mapping[str, Sequence[Encoded]],
    folder: Path,
    identity: Mapping[str, Any],
    watch: Callable[[PretrainingProgress], None],
) -> Clock:
    """Train until `run.tokens` are read; a run that was stopped goes on where its folder, which is `claimed`, says.

    The network is on its device; `identity` is what makes this run the one that it is. Raises InputError when the
    folder holds another run, Diverged when a loss or gradient is not finite, and KeyboardInterrupt after Ctrl-C or
    SIGTERM, when the update is done and saved.
    """
    optimizers = make_optimizers(network, optimization)
    latest, stable = (Checkpoint(folder / name, network, optimizers, identity) for name in (LATEST, STABLE))
    kept = read_checkpoint(stable.path)
    if kept and not decays(kept["clock"].tokens, run.tokens, optimization):  # the run is to be longer now
        stable.restore()  # refuses another run's, before anything is lost
        os.replace(stable.path, latest.path)
    clock = before = latest.restore() or Clock()
    model = torch.compile(network.model, dynamic=True) if run.compile else network.model
    began = saved = time.monotonic()
    with (
        opened_log(folder / "losses.jsonl", clock.step) as log_loss,
        opened_log(folder / "unseen.jsonl", clock.step) as log_score,
        closing(read_stream(chunks, clock.position, run.workers)) as stream,
        interrupts() as interrupted,
    ):
        while clock.tokens < run.tokens and not interrupted():
            batch, following = next(stream)
            if decays(clock.tokens, run.tokens, optimization) and not stable.path.exists():
                stable.save(clock)
            set_rates(optimizers, optimization, rate_factor(clock.tokens, run.tokens, optimization))
            loss, accuracy = update(network, model, batch, optimizers, optimization.max_gradient_norm)
            seconds = before.seconds + time.monotonic() - began
            last, clock = clock, Clock(clock.step + 1, clock.tokens + batch.tokens, seconds, following)
            log_loss(step=clock.step, tokens=clock.tokens, loss=round(loss, 5), accuracy=round(accuracy, 5))
            every = run.measure_every_tokens
            due = clock.tokens >= run.tokens or clock.tokens // every > last.tokens // every
            scores = {name: measure(network, unseen[name], run.batch_tokens) for name in unseen} if due else {}
            for name, score in scores.items():
                row = {"step": clock.step, "tokens": clock.tokens, "seconds": round(seconds, 1), "set": name}
                log_score(**row, **asdict(score))
            speed = (clock.tokens - before.tokens) / max(1e-9, seconds - before.seconds)
            watch(PretrainingProgress(clock, run.tokens, loss, accuracy, speed, scores))
            if time.monotonic() - saved >= run.save_every_s:
                latest.save(clock)
                saved = time.monotonic()
        latest.save(clock)
    if clock.tokens < run.tokens:
        raise KeyboardInterrupt
    return clock


def update(
    network: GridForCausalLM, model: Callable[..., Any], batch: Batch, optimizers: Sequence[Optimizer], max_norm: float
) -> tuple[float, float]:
    """One step; returns the loss before it, and the share of targets that were the likeliest.

    `model` is `network.model`, or that compiled; `max_norm` bounds the norm of the gradient.
    """
    batch = batch.to(network.device)
    with lower_precision(network):
        logits = _target_logits(network, model, batch)
    loss = cross_entropy(logits, batch.labels)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise Diverged(f"the loss became {value}")
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm))
    if not math.isfinite(norm):
        raise Diverged(f"the gradient's norm became {norm}")
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return value, float((logits.detach().argmax(-1) == batch.labels).float().mean())


@torch.inference_mode()
def measure(network: GridForCausalLM, contexts: Sequence[Encoded], batch_tokens: int) -> Score:
    """Read every context in one forward pass and see how well the last output is predicted."""
    losses, hits = list[Tensor](), list[Tensor]()
    exact = 0
    for group in cut(contexts, batch_tokens):
        batch = collate(group, PAD).to(network.device)
        logits = _target_logits(network, network.model, batch)
        losses.append(cross_entropy(logits, batch.labels, reduction="none"))
        hits.append(logits.argmax(-1) == batch.labels)
        exact += len(group) - len(batch.where[0][~hits[-1]].unique())  # rows with a wrong token are not exact
    accuracy = float(torch.cat(hits).float().mean())
    return Score(len(contexts), float(torch.cat(losses).mean()), accuracy, exact / len(contexts))


def _target_logits(network: GridForCausalLM, model: Callable[..., Any], batch: Batch) -> Tensor:
    """Logits that predict each target, [targets, vocabulary], in float32; padding on the right needs no mask."""
    output = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
    logits: Tensor = network.lm_head(output.last_hidden_state[batch.where[0], batch.where[1]])
    return logits.float()


def task_contexts(entries: Sequence[Entry], max_tokens: int) -> list[Encoded]:
    """Contexts of real tasks: all demonstrations, then each test pair. Those longer than `max_tokens` are left out."""
    contexts = []
    for entry in entries:
        pairs = [(pair.input.array, pair.output.array) for pair in solved_pairs(entry)]
        shown = len(entry[0].demos)
        contexts += [[*pairs[:shown], tested] for tested in pairs[shown:]]
    return last_outputs(contexts, max_tokens)


def pool_contexts(pool: Pool, pairs: int, each: int, max_tokens: int, seed: int) -> list[Encoded]:
    """Contexts of a pool's tasks: `each` of every task, of so many pairs, fixed by the seed."""
    rng = np.random.default_rng(seed)
    contexts = []
    for first, last in pairwise(pool.starts.tolist()):
        for _ in range(each if last - first >= pairs else 0):
            numbers = rng.choice(range(first, last), pairs, replace=False)
            contexts.append([pool.pair(int(number)) for number in numbers])
    return last_outputs(contexts, max_tokens)


def last_outputs(contexts: Sequence[Sequence[Pair]], max_tokens: int) -> list[Encoded]:
    """Contexts whose last output alone is target; those that are too long are left out."""
    encoded = [each for each in map(encode, contexts) if len(each.ids) <= max_tokens]
    return [replace(each, target=each.target & (each.positions[0] == each.positions[0, -1])) for each in encoded]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have a run's folder for oneself, without half-written files; an InputError when another process has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(str(folder), "", "a folder that can be written to", error.strerror or str(error)) from error
    with lock:
        try:
            # A lock of this process alone: worker processes, which may outlive it by seconds, do not share it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(str(folder), "", "a run that nobody else works on", "a process that does") from error
        for left in folder.glob(f"*{UNFINISHED}"):
            left.unlink()
        yield


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file with all that a run goes on from: only the stream draws random numbers, and the clock has its position."""

    path: Path
    network: nn.Module
    optimizers: tuple[Optimizer, ...]
    identity: Mapping[str, Any]

    def save(self, clock: Clock) -> None:
        """Write the file."""
        state = {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "clock": asdict(clock),
            "identity": dict(self.identity),
        }
        write_whole(self.path, lambda file: torch.save(state, file))

    def restore(self) -> Clock | None:
        """Take up what `save` wrote; None when there is no file, an InputError for a torn one or another run's."""
        if (state := read_checkpoint(self.path)) is None:
            return None
        before, now = state["identity"], self.identity
        changed = next((name for name in {**before, **now} if before.get(name) != now.get(name)), None)
        if changed is not None:
            expected = f"{json.dumps(before.get(changed))}, as the run has it that goes on here (or another folder)"
            raise InputError("configuration", changed, expected, json.dumps(now.get(changed)))
        self.network.load_state_dict(state["network"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        clock: Clock = state["clock"]
        return clock


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, on the CPU, with its `Clock`; None when there is no file, an InputError for a torn one."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a torn or foreign file makes of unpickling
        found = str(error).splitlines()[0] if str(error) else "none"
        raise InputError(str(path), "", "a checkpoint", found) from error
    if not isinstance(state, dict) or not {"network", "optimizers", "clock", "identity"} <= state.keys():
        raise InputError(str(path), "", "a checkpoint", "something else")
    return {**state, "clock": Clock(**{**state["clock"], "position": Position(**state["clock"]["position"])})}


@contextmanager
def opened_log(path: Path, step: int) -> Iterator[Callable[..., object]]:
    """A log as JSON lines; yields what adds a row at once. What a killed run has left after `step` is taken out.

    Anything in the file but rows, and an unfinished last line, is an InputError.
    """
    rows = []
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            if int(json.loads(line)["step"]) <= step:
                rows.append(f"{line}\n")
        except (ValueError, TypeError, KeyError) as error:
            expected, found = "a row of a run's log", repr(line.strip()[:40])
            raise InputError(str(path), f"line {number}", expected, found) from error
    write_whole(path, lambda file: file.write("".join(rows).encode()))
    with path.open("a", buffering=1) as log:
        yield lambda **row: log.write(json.dumps(row) + "\n")
