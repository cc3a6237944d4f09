"""A run's state on disk: there whole or not at all, so that a run killed at any moment goes on."""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from arc_seal.arc.task import Entry
from arc_seal.errors import Diverged, InputError
from arc_seal.files import UNFINISHED, write_whole
from arc_seal.models.grid_codec import PAD
from arc_seal.models.grid_network import GridForCausalLM
from arc_seal.models.model import Batch, collate
from arc_seal.models.prompt import Encoded
from arc_seal.pretraining.optim import OptimizerSettings, decays, make_optimizers, rate_factor, set_rates
from arc_seal.pretraining.pool import Pool, interrupts
from arc_seal.pretraining.stream import Chunks, Position, cut, encode, read_stream
from arc_seal.settings import Settings

LATEST = "checkpoint.pt"
"""Where a run goes on."""

STABLE = "stable.pt"
"""The state before the learning rate began to fall: where a run goes on that is to be longer than it was."""

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a run is.

    Attributes:
        step: Updates done.
        tokens: Tokens read, padding left out.
        seconds: Time spent on training, over all runs of the command.
        position: What of the stream comes next.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    position: Position = field(default_factory=Position)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have a run's folder for oneself, for two processes with one run would spoil each other's files.

    What a killed process has left half-written is removed.

    Raises:
        InputError: When another process has it, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
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


def save(
    path: Path, network: nn.Module, optimizers: tuple[Optimizer, ...], clock: Clock, identity: Mapping[str, Any]
) -> None:
    """Write a checkpoint.

    Args:
        path: The file.
        network: Its weights are kept, and
        optimizers: their states. Nothing in training draws random numbers but the stream, whose place `clock` has.
        clock: How far the run is.
        identity: The settings that make the run what it is; a run with others does not go on from here.
    """
    state = {
        "network": network.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "clock": asdict(clock),
        "identity": dict(identity),
    }
    write_whole(path, lambda file: torch.save(state, file))


def restore(
    path: Path, network: nn.Module, optimizers: tuple[Optimizer, ...], identity: Mapping[str, Any]
) -> Clock | None:
    """Take up what `save` wrote; None when there is no such file.

    Raises:
        InputError: When the file cannot be read, or is another run's.
    """
    if not path.exists():
        return None
    state = _read(path)
    before = state["identity"]
    changed = next((name for name in {**before, **identity} if before.get(name) != identity.get(name)), None)
    if changed is not None:
        expected = f"{json.dumps(before.get(changed))}, as the run has it that goes on here (or another folder)"
        raise InputError("configuration", changed, expected, json.dumps(identity.get(changed)))
    network.load_state_dict(state["network"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    return _clock(state)


def read_clock(path: Path) -> Clock | None:
    """How far a run was when `save` wrote the file; None when there is no such file.

    Raises:
        InputError: When the file cannot be read.
    """
    return _clock(_read(path)) if path.exists() else None


class Log:
    """Rows of numbers as JSON lines, in the order of their steps.

    Args:
        path: The file.
        step: The last step that counts: rows of later ones, which a killed run has left, are taken out.

    Raises:
        InputError: When the file holds anything else.
    """

    def __init__(self, path: Path, step: int) -> None:
        rows = [line for number, line in enumerate(_whole_lines(path), 1) if _step(path, number, line) <= step]
        write_whole(path, lambda file: file.write("".join(rows).encode()))
        self._file = path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the file go."""
        self._file.close()

    def add(self, **row: Any) -> None:
        """Add a row; `step` is one of its values."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def _read(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU."""
    expected = "a checkpoint"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a torn or foreign file makes of unpickling
        raise InputError(str(path), "", expected, str(error).splitlines()[0] if str(error) else "none") from error
    if not isinstance(state, dict) or not {"network", "optimizers", "clock", "identity"} <= state.keys():
        raise InputError(str(path), "", expected, "something else")
    return state


def _clock(state: Mapping[str, Any]) -> Clock:
    clock = state["clock"]
    return Clock(clock["step"], clock["tokens"], clock["seconds"], Position(**clock["position"]))


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file, but for one that a killed process has not finished."""
    lines = path.read_text("utf-8", "replace").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _step(path: Path, number: int, line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(str(path), f"line {number}", "a row of a run's log", repr(line.strip()[:40])) from error


# How good the model is on what it is not trained on, measured while it is trained: one forward pass a context.


@dataclass(frozen=True, slots=True)
class Score:
    """What was measured over some contexts, on the last output of each.

    Attributes:
        contexts: How many.
        loss: Mean over targets, nats a token.
        accuracy: Share of tokens that are the likeliest given those before them.
        exact: Share of outputs all of whose tokens are, which greedy decoding would get right.
    """

    contexts: int
    loss: float
    accuracy: float
    exact: float


def task_contexts(entries: Sequence[Entry], max_tokens: int) -> list[Encoded]:
    """Contexts of real tasks: all demonstrations, then each test pair. Those longer than `max_tokens` are left out."""
    contexts = []
    for task, solution in entries:
        shown = [(demo.input.array, demo.output.array) for demo in task.demos]
        for query, output in zip(task.queries, solution.outputs if solution else (), strict=False):
            contexts.append(_last_only(encode([*shown, (query.array, output.array)])))
    return [context for context in contexts if len(context.ids) <= max_tokens]


def pool_contexts(pool: Pool, pairs: int, each: int, max_tokens: int, seed: int) -> list[Encoded]:
    """Contexts of a pool's tasks: `each` of every task, of so many pairs, fixed by the seed."""
    rng = np.random.default_rng(seed)
    contexts = []
    for task_id in pool.task_ids:
        numbers = pool.numbers(task_id)
        for _ in range(each if len(numbers) >= pairs else 0):
            chosen = [pool.pair(int(number)) for number in rng.choice(numbers, pairs, replace=False)]
            contexts.append(_last_only(encode(chosen)))
    return [context for context in contexts if len(context.ids) <= max_tokens]


@torch.inference_mode()
def score(network: GridForCausalLM, contexts: Sequence[Encoded], batch_tokens: int) -> Score:
    """Read every context and see how well the last output is predicted."""
    losses: list[Tensor] = []
    right: list[Tensor] = []
    exact = 0
    for group in cut(contexts, batch_tokens):
        batch = collate(group, PAD).to(network.device)
        hidden = network.model(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False
        ).last_hidden_state  # [batch, tokens, width]
        logits = network.lm_head(hidden[batch.where[0], batch.where[1]]).float()  # [targets, vocabulary]
        losses.append(cross_entropy(logits, batch.labels, reduction="none"))
        hits = logits.argmax(-1) == batch.labels
        right.append(hits)
        wrong = torch.zeros(len(group), device=hits.device).index_add_(0, batch.where[0], (~hits).float())
        exact += int((wrong == 0).sum())
    tokens = torch.cat(right).float()
    return Score(len(contexts), float(torch.cat(losses).mean()), float(tokens.mean()), exact / max(1, len(contexts)))


def _last_only(context: Encoded) -> Encoded:
    return replace(context, target=context.target & (context.positions[0] == context.positions[0, -1]))


# The pretraining loop: read a batch, update, write down; save now and then; measure on what is held out.


class RunSettings(Settings):
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
