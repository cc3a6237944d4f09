"""The training stream: batches of contexts, each a function of the seed and its position in the stream alone.

A context is a few pairs of one task, seen through one symmetry and in other colours, as tokens.
"""

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

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
from arc_seal.pretraining.pool import Pair, Pool
from arc_seal.pretraining.sources import SourceSettings


class DataSettings(SourceSettings):
    """What is trained on; each setting is described in conf/pretrain.yaml, data."""

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


@dataclass(frozen=True, slots=True)
class Position:
    """What of the stream comes next: which chunk, and which of its batches."""

    chunk: int = 0
    batch: int = 0


@dataclass(frozen=True, eq=False)
class Chunks(Dataset[list[Batch]]):
    """Chunks of the stream by number: batches from pools that each give a share of it, fixed by the seed.

    The contexts of about `chunk_batches` batches of at most `batch_tokens`, padding included, are sorted by length
    together: with 32, 3 % is padding, with 8 it would be 8 %.
    """

    pools: Sequence[tuple[Pool, float]]
    settings: DataSettings
    batch_tokens: int
    seed: int
    write: Callable[[np.random.Generator], str]  # the canonical text of a random valid self-edit
    chunk_batches: int = 32

    def __getitem__(self, number: int) -> list[Batch]:
        """The batches of one chunk, in random order."""
        rng = np.random.default_rng([self.seed, number])
        shares = np.array([share for _, share in self.pools])
        contexts: list[Encoded] = []
        left = self.chunk_batches * self.batch_tokens
        while left > 0:
            pool, _ = self.pools[int(rng.choice(len(self.pools), p=shares / shares.sum()))]
            context = draw_context(pool, self.settings, self.write, rng)
            if context is not None:
                contexts.append(context)
                left -= len(context.ids)
        batches = [collate(each, PAD) for each in cut(contexts, self.batch_tokens)]
        return [batches[int(index)] for index in rng.permutation(len(batches))]


def read_stream(chunks: Chunks, begin: Position, workers: int) -> Generator[tuple[Batch, Position]]:
    """The endless stream from a position on, each batch with the position after it; closing it ends its workers."""
    loader: DataLoader[list[Batch]] = DataLoader(
        chunks, batch_size=None, sampler=count(begin.chunk), num_workers=workers, worker_init_fn=_start_worker
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


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the main process, which ends its workers
    # Tensors are shared by name: by open file, they would be more than the 1,024 files that a process may usually open.
    torch.multiprocessing.set_sharing_strategy("file_system")


def draw_context(
    pool: Pool, settings: DataSettings, write: Callable[[np.random.Generator], str], rng: np.random.Generator
) -> Encoded | None:
    """Draw one context, with `self_edit_share` one that ends with a self-edit; None when too few of its pairs fit."""
    writes = rng.random() < settings.self_edit_share
    pairs = draw_pairs(pool, settings, settings.self_edit_max_tokens if writes else settings.max_tokens, rng)
    if len(pairs) < settings.fewest_pairs:
        return None
    text = write(rng) if writes else None
    return encode(augmented(pairs, settings, rng), text)


def is_drawable(pool: Pool, settings: DataSettings) -> bool:
    """Whether some task has enough pairs that are short enough together; without one, drawing would never end."""
    longest = settings.max_tokens if settings.self_edit_share < 1 else settings.self_edit_max_tokens
    tokens = grid_tokens(*np.moveaxis(pool.shapes.astype(np.int64), 2, 0)).sum(axis=1)  # [pairs]
    tasks = (np.sort(tokens[first:last]) for first, last in pairwise(pool.starts.tolist()))
    return any(len(task) >= settings.fewest_pairs and task[: settings.fewest_pairs].sum() <= longest for task in tasks)


def draw_pairs(pool: Pool, settings: DataSettings, max_tokens: int, rng: np.random.Generator) -> list[Pair]:
    """Different pairs of one task, in random order; each that no longer fits is left out.

    They are counted as they stand in the pool: a symmetry that swaps height and width may add some tokens later.
    """
    task = int(rng.integers(len(pool.task_ids)))
    first, last = int(pool.starts[task]), int(pool.starts[task + 1])
    wanted = min(last - first, int(rng.integers(settings.fewest_pairs, settings.most_pairs + 1)))
    pairs: list[Pair] = []
    left = max_tokens
    for number in rng.choice(last - first, wanted, replace=False) if wanted else ():
        pair = pool.pair(first + int(number))
        tokens = sum(grid_tokens(*cells.shape) for cells in pair)
        if tokens <= left:
            pairs.append(pair)
            left -= tokens
    return pairs


def augmented(pairs: Sequence[Pair], settings: DataSettings, rng: np.random.Generator) -> list[Pair]:
    """The pairs under one random symmetry and one random relabelling of colours, all alike.

    With `new_rule_share` the outputs go through others: a rule that no task has must be read from the context.
    """
    inputs = draw_change(settings, rng)
    outputs = draw_change(settings, rng) if rng.random() < settings.new_rule_share else inputs
    return [(inputs(cells), outputs(answer)) for cells, answer in pairs]


def draw_change(settings: DataSettings, rng: np.random.Generator) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """One of the eight symmetries and a relabelling of colours; colour 0 stays with `keep_background_share`."""
    symmetry = int(rng.choice(SYMMETRIES))
    fixed = int(rng.random() < settings.keep_background_share)
    colours = np.arange(COLOURS, dtype=np.uint8)
    colours[fixed:] = rng.permutation(colours[fixed:])
    return lambda cells: colours[apply(cells, symmetry)]


def encode(pairs: Sequence[Pair], self_edit: str | None = None) -> Encoded:
    """A context; targets are the self-edit behind the pairs, else all outputs after the first, or the only one."""
    segments = [segment for pair in pairs for segment in map(grid_segment, pair, (INPUT, OUTPUT))]
    ids, positions = join(segments if self_edit is None else [*segments, text_segment(self_edit)])
    target = positions[0] == len(segments)
    if self_edit is None:
        target = (positions[0] % 2 == 1) & (positions[0] > (1 if len(pairs) > 1 else 0))
    return Encoded(ids, positions, target & positions[1:].any(axis=0))  # the opening mark is given
