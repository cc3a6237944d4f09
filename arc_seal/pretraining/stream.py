"""The training stream: batch after batch of contexts, each a function of the seed and its place in the stream alone.

So a run that was stopped goes on anywhere in it, and worker processes can make it in any order.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from arc_seal.models.base import Encoded
from arc_seal.models.batch import Batch, collate
from arc_seal.models.grid_vocabulary import PAD
from arc_seal.pretraining.contexts import ContextSettings, WriteSelfEdit, draw_context
from arc_seal.pretraining.interrupts import leave_interrupts
from arc_seal.pretraining.pool import Pool

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
