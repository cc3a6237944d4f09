"""Contexts to pretrain on: a few pairs of one task, seen through one symmetry and in other colours, as tokens.

Everything is drawn from the generator that is handed in.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from torch.utils.data import DataLoader, Dataset

from arc_seal.arc.grid import COLOURS, SYMMETRIES, apply, grid_tokens
from arc_seal.models.grid_codec import INPUT, OUTPUT, PAD, grid_segment, join, text_segment
from arc_seal.models.model import Batch, collate
from arc_seal.models.prompt import Encoded
from arc_seal.pretraining.pool import Pair, Pool, leave_interrupts
from arc_seal.settings import Settings

WriteSelfEdit = Callable[[np.random.Generator], str]
"""Writes the canonical text of a random valid self-edit."""

Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""What is done to a grid, [height, width] to [height, width] or [width, height]."""


class ContextSettings(Settings):
    """What contexts are like; each setting is described in conf/pretrain.yaml, data."""

    max_tokens: int = Field(900, ge=32)
    fewest_pairs: int = Field(2, ge=1)
    most_pairs: int = Field(6, ge=1)
    self_edit_share: float = Field(0.03, ge=0, le=1)
    self_edit_max_tokens: int = Field(400, ge=32)
    new_rule_share: float = Field(0.15, ge=0, le=1)
    keep_background_share: float = Field(0.5, ge=0, le=1)

    @field_validator("most_pairs")
    @classmethod
    def _no_fewer_than_fewest(cls, most: int, others: ValidationInfo) -> int:
        fewest = others.data.get("fewest_pairs", 1)
        if most < fewest:
            raise PydanticCustomError("most_pairs", "at least data.fewest_pairs, {fewest}", {"fewest": fewest})
        return most


def draw_context(
    pool: Pool, settings: ContextSettings, write: WriteSelfEdit, rng: np.random.Generator
) -> Encoded | None:
    """Draw one context; None when the pairs drawn are too long together.

    With `self_edit_share` it is one to learn self-edits from: pairs, then a random valid self-edit, which alone is
    target. Otherwise every output after the first is.
    """
    writes = rng.random() < settings.self_edit_share
    pairs = draw_pairs(pool, settings, settings.self_edit_max_tokens if writes else settings.max_tokens, rng)
    if len(pairs) < settings.fewest_pairs:
        return None
    text = write(rng) if writes else None
    return encode(augmented(pairs, settings, rng), text)


def is_drawable(pool: Pool, settings: ContextSettings) -> bool:
    """Whether some task has enough pairs that are short enough together; without one, drawing would never end."""
    longest = settings.max_tokens if settings.self_edit_share < 1 else settings.self_edit_max_tokens
    sides = pool.shapes.astype(np.int64)
    tokens = grid_tokens(sides[..., 0], sides[..., 1]).sum(axis=1)  # [pairs]
    tasks = (np.sort(tokens[first:last]) for first, last in pairwise(pool.starts.tolist()))
    return any(len(task) >= settings.fewest_pairs and task[: settings.fewest_pairs].sum() <= longest for task in tasks)


def draw_pairs(pool: Pool, settings: ContextSettings, max_tokens: int, rng: np.random.Generator) -> list[Pair]:
    """Different pairs of one task, each task as likely as any, in random order, as many as fit into `max_tokens`.

    They are counted as they stand in the pool: a symmetry that swaps height and width may add some tokens later.
    """
    task = int(rng.integers(len(pool.task_ids)))
    first, last = int(pool.starts[task]), int(pool.starts[task + 1])
    wanted = min(last - first, int(rng.integers(settings.fewest_pairs, settings.most_pairs + 1)))
    pairs: list[Pair] = []
    tokens = 0
    for number in rng.choice(last - first, wanted, replace=False) if wanted else ():
        pair = pool.pair(first + int(number))
        tokens += sum(grid_tokens(*cells.shape) for cells in pair)
        if tokens <= max_tokens:
            pairs.append(pair)
    return pairs


def augmented(pairs: Sequence[Pair], settings: ContextSettings, rng: np.random.Generator) -> list[Pair]:
    """The pairs under one random symmetry and one random relabelling of colours, all alike.

    With `new_rule_share` the outputs alone go through another of either, which makes a rule that no task has: what is
    not in the weights must be read from the context.
    """
    shown = draw_change(settings, rng)
    said = draw_change(settings, rng) if rng.random() < settings.new_rule_share else shown
    return [(shown(cells), said(answer)) for cells, answer in pairs]


def draw_change(settings: ContextSettings, rng: np.random.Generator) -> Change:
    """One of the eight symmetries and a relabelling of colours; colour 0 stays with `keep_background_share`."""
    symmetry = int(rng.choice(SYMMETRIES))
    fixed = int(rng.random() < settings.keep_background_share)
    colours = np.arange(COLOURS, dtype=np.uint8)
    colours[fixed:] = rng.permutation(colours[fixed:])
    return lambda cells: colours[apply(cells, symmetry)]


def encode(pairs: Sequence[Pair], self_edit: str | None = None) -> Encoded:
    """A context as the grid model reads it, with its targets.

    Args:
        pairs: Inputs and outputs.
        self_edit: What is written after them; then it alone is target. None: all outputs after the first are, or the
            only one.
    """
    segments = [segment for pair in pairs for segment in map(grid_segment, pair, (INPUT, OUTPUT))]
    if self_edit is not None:
        segments.append(text_segment(self_edit))
    ids, positions = join(segments)
    if self_edit is not None:
        said = positions[0] == len(segments) - 1
    else:
        said = (positions[0] % 2 == 1) & (positions[0] > 1 if len(pairs) > 1 else True)
    return Encoded(ids, positions, said & positions[1:].any(axis=0))  # the opening mark is given


# The training stream: batch after batch of contexts, each a function of the seed and its place in the stream alone.
#
# So a run that was stopped goes on anywhere in it, and worker processes can make it in any order.

CHUNK_BATCHES = 32
"""Contexts of about so many batches are drawn together and sorted by length: 3 % is padding, with 8 it would be 8 %."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the stream: what comes next.

    Attributes:
        chunk: Which chunk.
        batch: Which of its batches.
    """

    chunk: int = 0
    batch: int = 0


class Chunks(Dataset[list[Batch]]):
    """Chunks by number.

    Args:
        pools: Where pairs come from, and how much of the stream each gives.
        settings: What contexts are like.
        batch_tokens: Most tokens of a batch, padding included.
        seed: Fixes the stream.
        write: Writes random self-edits.
        chunk_batches: Contexts of about so many batches are sorted by length together.
    """

    def __init__(
        self,
        pools: Sequence[tuple[Pool, float]],
        settings: ContextSettings,
        batch_tokens: int,
        seed: int,
        write: WriteSelfEdit,
        chunk_batches: int = CHUNK_BATCHES,
    ) -> None:
        self._pools = [pool for pool, _ in pools]
        shares = np.array([share for _, share in pools])
        self._shares = shares / shares.sum()
        self._settings, self._seed, self._write = settings, seed, write
        self._batch_tokens, self._chunk_tokens = batch_tokens, chunk_batches * batch_tokens

    def __getitem__(self, number: int) -> list[Batch]:
        """The batches of one chunk, in random order."""
        rng = np.random.default_rng([self._seed, number])
        contexts: list[Encoded] = []
        tokens = 0
        while tokens < self._chunk_tokens:
            pool = self._pools[int(rng.choice(len(self._pools), p=self._shares))]
            context = draw_context(pool, self._settings, self._write, rng)
            if context is not None:
                contexts.append(context)
                tokens += len(context.ids)
        batches = [collate(each, PAD) for each in cut(contexts, self._batch_tokens)]
        return [batches[int(index)] for index in rng.permutation(len(batches))]


def read_stream(chunks: Chunks, begin: Position, workers: int) -> Generator[tuple[Batch, Position]]:
    """The stream from a place on, without end, each batch with the place that follows it. Closing it ends its workers.

    Args:
        chunks: What it is made of.
        begin: The first batch.
        workers: Processes that make chunks ahead of time; 0 makes them here, when they are needed.
    """
    loader: DataLoader[list[Batch]] = DataLoader(
        chunks,
        batch_size=None,
        sampler=_Onward(begin.chunk),
        num_workers=workers,
        collate_fn=_as_is,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_prepare,
    )
    for number, batches in enumerate(loader, start=begin.chunk):
        for index, batch in enumerate(batches):
            if (number, index) >= (begin.chunk, begin.batch):
                yield batch, Position(number, index + 1) if index + 1 < len(batches) else Position(number + 1)


def cut(contexts: Sequence[Encoded], batch_tokens: int) -> Iterator[list[Encoded]]:
    """Contexts sorted by length and cut into batches of at most `batch_tokens`, padding included, or of one context."""
    batch: list[Encoded] = []
    for context in sorted(contexts, key=lambda each: len(each.ids)):
        if batch and (len(batch) + 1) * len(context.ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(context)
    if batch:
        yield batch


class _Onward(torch.utils.data.Sampler[int]):
    """The whole numbers from a first one on."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        number = self._first
        while True:
            yield number
            number += 1


def _prepare(worker: int) -> None:
    """Set a worker process up."""
    leave_interrupts(worker)
    # Tensors are shared by name: by open file, the chunks of many workers, or large ones, would be more than the 1,024
    # files that a process may usually open.
    torch.multiprocessing.set_sharing_strategy("file_system")


def _as_is(batches: list[Batch]) -> list[Batch]:
    return batches
