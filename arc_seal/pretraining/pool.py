"""Pairs to pretrain on, real or made once by RE-ARC's generators, and what processes do about Ctrl-C. No torch."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.arc.task import Demonstration
from arc_seal.errors import InputError
from arc_seal.files import remove_stale, write_whole
from arc_seal.models.weights import cache_root
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.re_arc import PairLimits

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Input and output, each the colours of a grid as a read-only array [height, width]."""

FORMAT = 2
"""Raised when the same recipe would make other pairs, so that no old file passes for a new one."""


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM is only noted, to cut no update in two; yields what says whether one came.

    An error after one is a KeyboardInterrupt: a process that the work needed may have been ended, too. A signal that is
    ignored stays so (nohup, &).
    """
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    main = threading.current_thread() is threading.main_thread()  # which alone gets signals
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: noted
    except Exception as error:
        if noted:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@dataclass(frozen=True, eq=False)
class Pool:
    """Pairs of many tasks, numbered through all of them, those of one task in a row."""

    task_ids: tuple[str, ...]  # each once
    counts: NDArray[np.int64]  # number of each task's pairs, [tasks]
    shapes: NDArray[np.uint8]  # height and width of input and output, [pairs, 2, 2]
    cells: NDArray[np.uint8]  # the colours of all grids, row by row

    def __post_init__(self) -> None:
        for array in (self.counts, self.shapes, self.cells):
            array.flags.writeable = False

    @classmethod
    def from_pairs(cls, pairs: Mapping[str, Sequence[Demonstration]]) -> Self:
        """The pool of some tasks' pairs, in the order given."""
        grids = [grid for each in pairs.values() for pair in each for grid in (pair.input, pair.output)]
        counts = np.array([len(each) for each in pairs.values()], np.int64)
        shapes = np.array([(grid.height, grid.width) for grid in grids], np.uint8).reshape(-1, 2, 2)
        return cls(tuple(pairs), counts, shapes, np.frombuffer(b"".join(grid.cells for grid in grids), np.uint8))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; an InputError when the file cannot be read, or is no pool."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = [stored[name] for name in ("task_ids", "counts", "shapes", "cells")]
            found = _flaw(*arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            found = str(error).splitlines()[0] if str(error) else "none"
        if found:
            raise InputError(str(path), "", "a pool of pairs", found)
        task_ids, counts, shapes, cells = arrays
        return cls(tuple(task_ids.tolist()), counts, shapes.reshape(-1, 2, 2), cells)

    def save(self, path: Path) -> None:
        """Write the pool as one .npz file, which is there whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {"task_ids": np.array(self.task_ids, np.str_), "counts": self.counts}
        arrays |= {"shapes": self.shapes.reshape(-1, 2), "cells": self.cells}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))

    def __len__(self) -> int:
        """Number of pairs, of all tasks."""
        return len(self.shapes)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Number of each task's first pair, and at the end of all pairs, [tasks + 1]."""
        return np.append(0, np.cumsum(self.counts))

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """Where each grid begins in `cells`, an input before its output, and their end, [2 * pairs + 1]."""
        return np.append(0, np.cumsum(self.shapes.astype(np.int64).prod(axis=2)))

    def pair(self, number: int) -> Pair:
        """One pair by its number. Nothing is copied."""
        first, second, end = self.bounds[2 * number : 2 * number + 3]
        input_shape, output_shape = self.shapes[number].tolist()
        return self.cells[first:second].reshape(input_shape), self.cells[second:end].reshape(output_shape)

    def pairs(self, task_id: str) -> list[Demonstration]:
        """A task's pairs as grids, for where speed does not matter; a KeyError for a task that is not there."""
        first, last = dict(zip(self.task_ids, pairwise(self.starts.tolist()), strict=True))[task_id]
        return [Demonstration(*map(Grid.from_array, self.pair(number))) for number in range(first, last)]


def _flaw(task_ids: NDArray[Any], counts: NDArray[Any], shapes: NDArray[Any], cells: NDArray[Any]) -> str | None:
    """What keeps arrays from being a pool's, if anything does."""
    kinds = [(array.dtype.kind, array.ndim) for array in (task_ids, counts, shapes, cells)]
    if kinds != [("U", 1), ("i", 1), ("u", 2), ("u", 1)]:
        return "arrays of other kinds"
    if len(set(task_ids.tolist())) < len(task_ids) or len(task_ids) != len(counts):
        return "a task without pairs, or twice"
    if shapes.shape != (2 * counts.sum(), 2) or (counts < 0).any():
        return f"{len(shapes)} grids for {counts.sum()} pairs"
    if shapes.size and not (1 <= shapes.min() and shapes.max() <= MAX_SIDE):
        return f"sides from {shapes.min()} to {shapes.max()}"
    if cells.size != shapes.astype(np.int64).prod(axis=1).sum() or (cells.size and cells.max() >= COLOURS):
        return "cells that are not its grids'"
    return None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How synthetic pairs are made; pair k of a generator depends on seed, generator, k and limits alone."""

    seed: int = 0
    pairs: int = 200  # distinct ones wanted of each generator
    limits: PairLimits = field(default_factory=PairLimits)


@dataclass(frozen=True, slots=True)
class Made:
    """The pairs of one generator are there: how many, as the `done`th generator of `total`."""

    task_id: str
    done: int
    total: int
    pairs: int


def synthetic_pool(
    task_ids: Collection[str], recipe: Recipe, report: Callable[[Made], None], workers: int | None = None
) -> Pool:
    """The pairs of some tasks' generators, made where they are not in the cache yet; tasks sorted, some without pairs.

    A generator's pairs are kept as soon as they are made, by `workers` processes, None for one a processor. `report` is
    called for every generator; not at all when the cache has the whole pool. An InputError when there is no such
    generator, the cache cannot be written, or a process died making pairs.
    """
    folder = cache_root() / f"re-arc-{digest(re_arc.installed_version(), FORMAT, asdict(recipe))}"
    files = {task_id: folder / f"{task_id}.npz" for task_id in sorted(set(task_ids))}
    whole = folder / f"pool-{digest(list(files))}.npz"
    if not whole.is_file():
        for task_id in files:
            re_arc.rule_of(task_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale(folder, "*.npz.*")
            _make_files(files, recipe, report, workers or os.cpu_count() or 1)
            Pool.from_pairs({task_id: Pool.load(file).pairs(task_id) for task_id, file in files.items()}).save(whole)
        except OSError as error:
            found = error.strerror or str(error)
            raise InputError(str(folder), "", "a cache folder that can be written ($ARC_SEAL_CACHE)", found) from error
    return Pool.load(whole)


def make_pairs(task_id: str, recipe: Recipe) -> list[Demonstration]:
    """The pairs of one generator, all distinct."""
    return re_arc.make(task_id, recipe.seed, recipe.pairs, recipe.limits)[task_id]


def digest(*values: Any) -> str:
    """16 hex digits of the SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _make_files(files: dict[str, Path], recipe: Recipe, report: Callable[[Made], None], workers: int) -> None:
    """Make every generator's file that is not there; one that is there is whole."""
    there = [task_id for task_id, file in files.items() if file.is_file()]
    for done, task_id in enumerate(there, 1):
        report(Made(task_id, done, len(files), len(Pool.load(files[task_id]))))
    missing = [task_id for task_id in files if task_id not in there]
    if not missing:
        return
    # A fresh interpreter each: a fork would copy the locks of this process's threads.
    context = multiprocessing.get_context("spawn")
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is left to this process, which ends its workers
    pool = ProcessPool(min(workers, len(missing)), initializer=signal.signal, initargs=ignore, context=context)
    try:
        futures: dict[Future[list[Demonstration]], str] = {
            pool.schedule(make_pairs, args=(task_id, recipe)): task_id for task_id in missing
        }
        for done, future in enumerate(as_completed(futures), len(there) + 1):
            task_id = futures.pop(future)
            try:
                pairs = future.result()
            except (ProcessExpired, BrokenProcessPool) as error:  # it died at work, or between two files
                code = f" with exit code {error.exitcode}" if isinstance(error, ProcessExpired) else ""
                expected = "a process that makes its pairs to the end"
                found = f"one that died{code}; those made so far are kept"
                raise InputError(f"RE-ARC {task_id}", "", expected, found) from error
            Pool.from_pairs({task_id: pairs}).save(files[task_id])
            report(Made(task_id, done, len(files), len(pairs)))
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()
