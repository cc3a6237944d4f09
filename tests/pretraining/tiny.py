"""A tiny pool, a tiny stream, and runs of a tiny network on them, also in processes of their own."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from arc_seal.arc.splits import solved_pairs
from arc_seal.arc.task import Demonstration, Entry
from arc_seal.models.grid_network import GridForCausalLM
from arc_seal.pretraining.loop import (
    LATEST,
    Clock,
    PretrainingProgress,
    RunSettings,
    claimed,
    pool_contexts,
    pretrain,
    read_checkpoint,
)
from arc_seal.pretraining.optim import OptimizerSettings
from arc_seal.pretraining.pool import Pool
from arc_seal.pretraining.stream import Chunks, DataSettings
from tests.models.builders import grid_network
from tests.self_edit.builders import random_grid

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["arc_seal.pretraining.loop"])
"""Processes that begin without this one's threads, and quickly: torch is loaded once for all of them."""

SETTINGS = DataSettings(max_tokens=100, most_pairs=4, self_edit_share=0.2, self_edit_max_tokens=80)
BATCH_TOKENS = 256
STEPS = 8
TOKENS = 1600
"""With the settings here these are read in 8 updates; a test holds this."""

OPTIMIZATION = OptimizerSettings(warmup_tokens=400, decay_share=0.4)


def tiny_pool(tasks: int = 4, pairs: int = 6, sides: tuple[int, ...] = (2, 3), seed: int = 0) -> Pool:
    """Pairs of small grids; each output is its input mirrored."""
    rng = Random(seed)

    def pair() -> Demonstration:
        grid = random_grid(rng, rng.choice(sides), rng.choice(sides))
        return Demonstration(grid, grid.mapped(np.fliplr))

    return Pool.from_pairs({f"task{number}": [pair() for _ in range(pairs)] for number in range(tasks)})


def pool_of(entries: Iterable[Entry]) -> Pool:
    """The pool of some tasks, their test pairs included."""
    return Pool.from_pairs({entry[0].id: [*solved_pairs(entry)] for entry in entries})


def write_number(rng: np.random.Generator) -> str:
    """A self-edit's place-holder."""
    return f'{{"number":{rng.integers(100)}}}'


def tiny_chunks(
    settings: DataSettings = SETTINGS, seed: int = 0, pool: Pool | None = None, chunk_batches: int = 8
) -> Chunks:
    """A stream of two pools."""
    pools = [(pool or tiny_pool(), 0.75), (tiny_pool(tasks=2, seed=1), 0.25)]
    return Chunks(pools, settings, BATCH_TOKENS, seed, write_number, chunk_batches)


def train(
    folder: Path,
    tokens: int = TOKENS,
    watch: Callable[[PretrainingProgress], None] = lambda progress: None,
    network: GridForCausalLM | None = None,
    chunks: Chunks | None = None,
    optimization: OptimizerSettings = OPTIMIZATION,
    **settings: Any,
) -> Clock:
    """A run of the tiny network; it measures on a few contexts and saves at its end alone."""
    run = RunSettings(
        **{
            "tokens": tokens,
            "batch_tokens": BATCH_TOKENS,
            "workers": 0,
            "save_every_s": 1e9,
            "measure_every_tokens": 600,
            **settings,
        }
    )
    unseen = {"unseen": pool_contexts(tiny_pool(tasks=2, seed=2), pairs=3, each=2, max_tokens=100, seed=0)}
    with claimed(folder):
        return pretrain(
            network or grid_network(layers=1).train(), chunks or tiny_chunks(), run, optimization, unseen, folder,
            {"seed": 0, "network.hidden_size": 32}, watch,
        )  # fmt: skip


def train_apart(folder: Path, **how: Any) -> int:
    """A run that saves after every update, in a process of its own; see `_train_and_die`. Returns its exit code."""
    process = PROCESSES.Process(target=_train_and_die, args=(folder,), kwargs=how)
    process.start()
    process.join(240)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _train_and_die(folder: Path, moment: str = "", number: int = 0, workers: int = 0) -> None:
    """Train, and be killed at a moment, the number-th of its kind in this process.

    Args:
        folder: Of the run.
        moment: `update`, after one and before it is saved; `open`, when a checkpoint is to be written; `os.rename`,
            when one is written and about to be put in place; empty for no such moment.
        number: Which of them; of updates, which of the run.
        workers: Processes that make the stream.
    """
    torch.set_num_threads(1)
    seen = 0

    def audit(event: str, values: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == moment and LATEST in str(values[0]) and (event != "open" or "x" in str(values[1])):
            seen += 1
            if seen == number:
                die()

    def watch(progress: PretrainingProgress) -> None:
        if moment == "update" and progress.clock.step == number:
            die()

    sys.addaudithook(audit)
    train(folder, watch=watch, save_every_s=0, workers=workers)


def die() -> None:
    """End this process at once, as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, Ctrl-C interrupts, also where the tests themselves run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def read_clock(file: Path) -> Clock | None:
    """How far a run was when the checkpoint was written; None when there is no file."""
    state = read_checkpoint(file)
    return state["clock"] if state else None


def state_of(file: Path) -> dict[str, Any]:
    """A checkpoint without its times."""
    state: dict[str, Any] = torch.load(file, weights_only=True)
    del state["clock"]["seconds"]
    return state


def is_same(one: Any, other: Any) -> bool:
    """Whether two checkpoints, or parts of them, are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)
