"""What every section of conf/pretrain.yaml is when it has been read."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.arc.splits import solved_pairs
from arc_seal.arc.task import Demonstration, Entry
from arc_seal.errors import InputError
from arc_seal.files import write_whole
from arc_seal.models.weights import STALE_S, cache_root
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.re_arc import Fault, Limits, NoPair

# Ctrl-C that waits for a good moment, so that no update is cut in two.

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C or SIGTERM is only noted; the second does not wait.

    Outside the main thread, where Python takes no signals, none is noted. One that is ignored stays so (nohup, &).

    Yields:
        Says whether one came.

    Raises:
        KeyboardInterrupt: When an error came after a signal: what it ended may be a process that the work needed.
    """
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    before = {number: signal.getsignal(number) for number in SIGNALS} if _is_main_thread() else {}
    taken = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, note)
    try:
        yield lambda: noted
    except Exception as error:
        if noted:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler or signal.SIG_DFL)


def leave_interrupts(worker: int = 0) -> None:
    """Leave Ctrl-C to the main process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


# A pool: the pairs of many tasks as a few arrays, made or read once and then drawn from millions of times.

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


# The pool of synthetic pairs: made once by worker processes, kept in the cache, and read from there ever after.
#
# Each generator's pairs are kept in a file of their own as soon as they are made, so a run that was stopped goes on
# where
# it was, and a run with other tasks makes only those that are new.

SPARE = 2
"""So many times the pairs wanted are tried at most; a generator with little to vary makes many twice."""

PATIENCE = 25
"""A generator is given up when its first so many tries at a pair have made none: its grids are all too large."""

FORMAT = 2
"""Raised when the same recipe would make other pairs, so that no old file passes for a new one."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How synthetic pairs are made.

    Attributes:
        seed: Pair k of a generator depends on the seed, the generator, k and the limits alone.
        pairs: Distinct pairs wanted of each generator.
        limits: What a pair may be and cost.
    """

    seed: int = 0
    pairs: int = 200
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Made:
    """The pairs of one generator are there.

    Attributes:
        task_id: Whose.
        done: How many generators' are.
        total: Of how many.
        pairs: How many there are.
        faults: Why others came to nothing, how often each.
    """

    task_id: str
    done: int
    total: int
    pairs: int
    faults: dict[Fault, int]


def synthetic_pool(
    task_ids: Collection[str],
    recipe: Recipe | None = None,
    *,
    workers: int | None = None,
    report: Callable[[Made], None] = lambda made: None,
    cache: Path | None = None,
) -> Pool:
    """The pairs of some tasks' generators, made where they are not in the cache yet.

    Args:
        task_ids: Tasks of arcagi1/training. Leaving out what must not be trained on is the caller's business.
        recipe: How pairs are made; None for the defaults.
        workers: Processes; None for one a processor.
        report: Called in this thread for every generator, in the order in which they are done; not at all when the
            cache has the whole pool.
        cache: Where pools are kept; None for `cache_root()`.

    Returns:
        The pool, its tasks sorted; one whose generator made no pair has none.

    Raises:
        InputError: When there is no such generator, reasoning-gym is not installed, the cache cannot be written, or a
            process was killed while it made pairs.
    """
    recipe, wanted = recipe or Recipe(), tuple(sorted(set(task_ids)))
    folder = (cache or cache_root()) / f"re-arc-{_digest(re_arc.installed_version(), FORMAT, asdict(recipe))}"
    whole = folder / f"pool-{_digest(wanted)}.npz"
    if not whole.is_file():
        stranger = next((task_id for task_id in wanted if task_id not in re_arc.task_ids()), None)
        if stranger is not None:
            raise InputError("RE-ARC", "", "a task of arcagi1/training", stranger or "nothing")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            _make_parts(wanted, recipe, folder, workers or os.cpu_count() or 1, report)
            Pool.merged([Pool.load(_part(folder, task_id)) for task_id in wanted]).save(whole)
        except OSError as error:
            found = error.strerror or str(error)
            raise InputError(str(folder), "", "a cache folder that can be written ($ARC_SEAL_CACHE)", found) from error
    return Pool.load(whole)


def make_pairs(task_id: str, recipe: Recipe) -> tuple[list[Demonstration], dict[Fault, int]]:
    """The pairs of one generator, all distinct, and why others came to nothing.

    Raises:
        InputError: When there is no such generator, or reasoning-gym is not installed.
    """
    pairs: dict[Demonstration, None] = {}  # a set in order of making
    faults: Counter[Fault] = Counter()
    for number in range(SPARE * recipe.pairs):
        if len(pairs) == recipe.pairs or (number == PATIENCE and not pairs):
            break
        try:
            pair = re_arc.generate(task_id, Random(f"{recipe.seed}/{task_id}/{number}"), recipe.limits)
        except NoPair as failed:
            faults += failed.faults
            continue
        faults[Fault.REPEATED] += pair in pairs
        pairs.setdefault(pair)
    return list(pairs), dict(+faults)


def _make_parts(
    task_ids: tuple[str, ...], recipe: Recipe, folder: Path, workers: int, report: Callable[[Made], None]
) -> None:
    """Make every part that is not there. What a stopped run leaves in the folder is whole parts only."""
    missing = [task_id for task_id in task_ids if not _part(folder, task_id).is_file()]
    done = 0
    for task_id in task_ids:
        if task_id not in missing:
            done += 1
            report(Made(task_id, done, len(task_ids), *_read_counts(folder, task_id)))
    if not missing:
        return
    # A fresh interpreter each: a fork would copy the locks of this process's threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(min(workers, len(missing)), initializer=leave_interrupts, context=context)
    try:
        futures: dict[Future[None], str] = {
            pool.schedule(_make_part, args=(task_id, recipe, folder)): task_id for task_id in missing
        }
        for future in as_completed(futures):
            _await_part(future, futures[future])
            done += 1
            report(Made(futures[future], done, len(task_ids), *_read_counts(folder, futures[future])))
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _await_part(future: "Future[None]", task_id: str) -> None:
    """Wait for a part. A process that died says nothing about the cache, though pebble's error is an OSError.

    Raises:
        InputError: When the process that made the part died.
    """
    try:
        future.result()
    except (ProcessExpired, BrokenProcessPool) as error:  # it died at work, or between two parts
        code = f" with exit code {error.exitcode}" if isinstance(error, ProcessExpired) else ""
        found = f"one that died{code}; those made so far are kept"
        raise InputError(f"RE-ARC {task_id}", "", "a process that makes its pairs to the end", found) from error


def _make_part(task_id: str, recipe: Recipe, folder: Path) -> None:
    """Make one generator's pairs and keep them. The file of pairs comes last: where it is, all is done."""
    pairs, faults = make_pairs(task_id, recipe)
    _faults_file(folder, task_id).write_text(json.dumps(faults))
    Pool.from_pairs({task_id: pairs}).save(_part(folder, task_id))


def _read_counts(folder: Path, task_id: str) -> tuple[int, dict[Fault, int]]:
    faults: dict[str, int] = json.loads(_faults_file(folder, task_id).read_text())
    return len(Pool.load(_part(folder, task_id))), {Fault(fault): count for fault, count in faults.items()}


def _part(folder: Path, task_id: str) -> Path:
    return folder / f"{task_id}.npz"


def _faults_file(folder: Path, task_id: str) -> Path:
    return folder / f"{task_id}.faults.json"


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written; see `Pool.save`."""
    for left in folder.glob("*.npz.*"):
        try:
            if time.time() - left.stat().st_mtime > STALE_S:
                left.unlink()
        except FileNotFoundError:  # another process has just moved or removed it
            continue


def _digest(*settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
