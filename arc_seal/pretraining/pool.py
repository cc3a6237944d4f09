"""A pool: the pairs of many tasks as a few arrays, made or read once and then drawn from millions of times."""

import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.contamination import solved_pairs
from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.arc.task import Demonstration
from arc_seal.arc.task_file import Entry
from arc_seal.errors import InputError
from arc_seal.whole_file import write_whole

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Input and output, each the colours of a grid as a read-only array [height, width]."""

_STORED = ("task_ids", "counts", "shapes", "cells")


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Pairs of many tasks. Pairs are numbered through all tasks, those of one task in a row.

    Attributes:
        task_ids: The tasks, each once.
        starts: Number of each task's first pair, and at the end of all pairs, int64 [tasks + 1].
        shapes: Height and width of input and output, uint8 [pairs, 2, 2].
        sizes: Cells of input and output together, int64 [pairs].
        offsets: Where each input and output begins in `cells`, int64 [pairs, 2].
        cells: The colours of all grids, row by row, uint8.
    """

    task_ids: tuple[str, ...]
    starts: NDArray[np.int64]
    shapes: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    cells: NDArray[np.uint8]

    @classmethod
    def from_pairs(cls, pairs: Mapping[str, Sequence[Demonstration]]) -> Self:
        """The pool of some tasks' pairs, in the order given."""
        grids = [grid for each in pairs.values() for pair in each for grid in (pair.input, pair.output)]
        shapes = np.array([(grid.height, grid.width) for grid in grids], np.uint8)
        cells = np.frombuffer(b"".join(grid.cells for grid in grids), np.uint8)
        return cls._of(tuple(pairs), np.array([len(each) for each in pairs.values()], np.int64), shapes, cells)

    @classmethod
    def from_entries(cls, entries: Iterable[Entry]) -> Self:
        """The pool of real tasks: a task's demonstrations, and its test pairs where it has a solution.

        A solution may be trained on in pretraining alone, and only of tasks that nothing is measured on; which those
        are is the caller's business.

        Raises:
            ValueError: When a task comes twice.
        """
        pairs: dict[str, tuple[Demonstration, ...]] = {}
        for entry in entries:
            task_id = entry[0].id
            if task_id in pairs:
                raise ValueError(f"task {task_id} comes twice")
            pairs[task_id] = tuple(solved_pairs(entry))
        return cls.from_pairs(pairs)

    @classmethod
    def merged(cls, pools: Sequence["Pool"]) -> Self:
        """Pools of different tasks as one.

        Raises:
            ValueError: When a task is in two of them.
        """
        task_ids = tuple(task_id for pool in pools for task_id in pool.task_ids)
        if len(set(task_ids)) < len(task_ids):
            raise ValueError(f"task {next(each for each in task_ids if task_ids.count(each) > 1)} is in two pools")
        counts = np.concatenate([np.zeros(0, np.int64), *(np.diff(pool.starts) for pool in pools)])
        shapes = np.concatenate([np.zeros((0, 2), np.uint8), *(pool.shapes.reshape(-1, 2) for pool in pools)])
        cells = np.concatenate([np.zeros(0, np.uint8), *(pool.cells for pool in pools)])
        return cls._of(task_ids, counts, shapes, cells)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: When the file cannot be read, or is no pool.
        """
        expected = "a pool of pairs"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                task_ids, counts, shapes, cells = (stored[name] for name in _STORED)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(str(path), "", expected, str(error).splitlines()[0] if str(error) else "none") from error
        found = _flaw(task_ids, counts, shapes, cells)
        if found:
            raise InputError(str(path), "", expected, found)
        return cls._of(tuple(task_ids.tolist()), counts, shapes, cells)

    def save(self, path: Path) -> None:
        """Write the pool as one .npz file, which is there whole or not at all."""
        stored = (np.array(self.task_ids, np.str_), np.diff(self.starts), self.shapes.reshape(-1, 2), self.cells)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.savez(file, allow_pickle=False, **dict(zip(_STORED, stored, strict=True))))

    def __len__(self) -> int:
        """Number of pairs, of all tasks."""
        return len(self.shapes)

    def pair(self, number: int) -> Pair:
        """One pair by its number. Nothing is copied."""
        (input_start, output_start), (input_shape, output_shape) = self.offsets[number], self.shapes[number]
        return self._grid(input_start, input_shape), self._grid(output_start, output_shape)

    def numbers(self, task_id: str) -> range:
        """The numbers of a task's pairs.

        Raises:
            KeyError: When the pool does not have the task.
        """
        if task_id not in self.task_ids:
            raise KeyError(task_id)
        task = self.task_ids.index(task_id)
        return range(int(self.starts[task]), int(self.starts[task + 1]))

    def pairs(self, task_id: str) -> list[Demonstration]:
        """A task's pairs as grids, for where speed does not matter.

        Raises:
            KeyError: When the pool does not have the task.
        """
        return [Demonstration(*map(Grid.from_array, self.pair(number))) for number in self.numbers(task_id)]

    def only(self, task_ids: Collection[str]) -> "Pool":
        """The pool of those of its tasks that are named, in its own order; other names are left alone."""
        named, counts = set(task_ids), np.diff(self.starts)
        tasks = np.array([task_id in named for task_id in self.task_ids], np.bool_)
        pairs = np.repeat(tasks, counts)
        kept = tuple(task_id for task_id in self.task_ids if task_id in named)
        return Pool._of(kept, counts[tasks], self.shapes[pairs], self.cells[np.repeat(pairs, self.sizes)])

    def where(self, keep: NDArray[np.bool_]) -> "Pool":
        """The pool of those of its pairs that are marked, [pairs], with all of its tasks."""
        tasks = np.repeat(np.arange(len(self.task_ids)), np.diff(self.starts))
        counts = np.bincount(tasks[keep], minlength=len(self.task_ids)).astype(np.int64)
        return Pool._of(self.task_ids, counts, self.shapes[keep], self.cells[np.repeat(keep, self.sizes)])

    def _grid(self, start: np.int64, shape: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = int(shape[0]), int(shape[1])
        return self.cells[start : start + height * width].reshape(height, width)

    @classmethod
    def _of(
        cls,
        task_ids: tuple[str, ...],
        counts: NDArray[np.int64],
        shapes: NDArray[np.uint8],
        cells: NDArray[np.uint8],
    ) -> Self:
        """A pool from what is stored: pairs of each task, height and width of each grid, and the cells."""
        shapes = shapes.reshape(-1, 2, 2)
        areas = shapes.astype(np.int64).prod(axis=2)  # [pairs, 2]
        offsets = (np.cumsum(areas) - areas.ravel()).reshape(-1, 2)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        pool = cls(task_ids, starts, shapes, areas.sum(axis=1), offsets, cells)
        for array in (pool.starts, pool.shapes, pool.sizes, pool.offsets, pool.cells):
            array.flags.writeable = False
        return pool


def _flaw(
    task_ids: NDArray[np.generic],
    counts: NDArray[np.generic],
    shapes: NDArray[np.generic],
    cells: NDArray[np.generic],
) -> str | None:
    """What keeps arrays from being a pool's, if anything does."""
    kinds = [(array.dtype.kind, array.ndim) for array in (task_ids, counts, shapes, cells)]
    if kinds != [("U", 1), ("i", 1), ("u", 2), ("u", 1)]:
        return "arrays of other kinds"
    if len(set(task_ids.tolist())) < len(task_ids) or len(task_ids) != len(counts):
        return "a task without pairs, or twice"
    if shapes.shape != (2 * counts.sum(), 2) or (counts < 0).any():  # type: ignore[operator]
        return f"{len(shapes)} grids for {counts.sum()} pairs"
    if shapes.size and not (1 <= shapes.min() and shapes.max() <= MAX_SIDE):
        return f"sides from {shapes.min()} to {shapes.max()}"
    if cells.size != shapes.astype(np.int64).prod(axis=1).sum() or (cells.size and cells.max() >= COLOURS):
        return "cells that are not its grids'"
    return None
