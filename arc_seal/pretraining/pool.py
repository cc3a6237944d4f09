"""Pairs to pretrain on, real or made once by a source of rules, and what processes do about Ctrl-C. No torch."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.arc.splits import untrained
from arc_seal.arc.task import Demonstration
from arc_seal.errors import InputError
from arc_seal.files import remove_stale, write_whole
from arc_seal.models.weights import cache_root

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Input and output, each the colours of a grid as a read-only array [height, width]."""

FORMAT = 3
"""Raised when the same source would leave other pairs, so that no old file passes for a new one."""

FEWEST_PAIRS = 4
"""A rule with fewer pairs is left out: a context is to show it more than once."""


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
    left_out: Mapping[str, int] = field(default_factory=dict)  # how many pairs and rules are not in it, by reason

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
    def joined(cls, pools: Sequence[Self]) -> Self:
        """The pool of the tasks of several pools, which have none in common."""
        left_out = sum((Counter(pool.left_out) for pool in pools), Counter[str]())
        return cls(
            tuple(task_id for pool in pools for task_id in pool.task_ids),
            np.concatenate([np.zeros(0, np.int64), *(pool.counts for pool in pools)]),
            np.concatenate([np.zeros((0, 2, 2), np.uint8), *(pool.shapes for pool in pools)]),
            np.concatenate([np.zeros(0, np.uint8), *(pool.cells for pool in pools)]),
            left_out,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; an InputError when the file cannot be read, or is no pool."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = [stored[name] for name in ("task_ids", "counts", "shapes", "cells")]
                left_out = dict(zip(stored["reasons"].tolist(), stored["numbers"].tolist(), strict=True))
            found = _flaw(*arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            found = str(error).splitlines()[0] if str(error) else "none"
        if found:
            raise InputError(str(path), "", "a pool of pairs", found)
        task_ids, counts, shapes, cells = arrays
        return cls(tuple(task_ids.tolist()), counts, shapes.reshape(-1, 2, 2), cells, left_out)

    def save(self, path: Path) -> None:
        """Write the pool as one .npz file, which is there whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {"task_ids": np.array(self.task_ids, np.str_), "counts": self.counts}
        arrays |= {"shapes": self.shapes.reshape(-1, 2), "cells": self.cells}
        arrays |= {"reasons": np.array([*self.left_out], np.str_), "numbers": np.array([*self.left_out.values()], int)}
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
class Source:
    """Where rules come from, each shown by pairs; what `make` gives depends on its arguments and the version alone."""

    name: str
    licence: str  # of the code or data that it draws from, by SPDX
    where: str  # in a line
    version: str
    groups: tuple[str, ...]  # names of what is made at one go, by one process
    # The pairs of each rule of a group, by the rule's name: of a group, a seed and how many pairs a rule is to have.
    # It can be pickled.
    make: Callable[[str, int, int], Mapping[str, Sequence[Demonstration]]]


@dataclass(frozen=True, slots=True)
class Made:
    """The pairs of one group are there: how many, as the `done`th group of `total`."""

    source: str
    group: str
    done: int
    total: int
    pairs: int


def source_pool(
    source: Source,
    seed: int,
    pairs: int,
    report: Callable[[Made], None],
    *,
    gated: bool = True,
    workers: int | None = None,
) -> Pool:
    """The rules of a source, each with at most so many pairs, made where they are not in the cache yet.

    With `gated` they are fit to be trained on, see `gate`. A group's pairs are kept as soon as they are made, by
    `workers` processes, None for one a processor. `report` is called for every group; not at all when the cache has the
    whole pool. An InputError when the cache cannot be written, or a process died making pairs.
    """
    made_by = digest(source.version, gate_version() if gated else FORMAT, seed, pairs)
    folder = cache_root() / f"{source.name}-{made_by}"
    files = {group: folder / f"{group}.npz" for group in sorted(set(source.groups))}
    whole = folder / f"pool-{digest(list(files))}.npz"
    if not whole.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale(folder, "*.npz.*")
            make = partial(_made, source.make, seed, pairs, gated)
            _make_files(source.name, files, make, report, workers or os.cpu_count() or 1)
            Pool.joined([Pool.load(file) for file in files.values()]).save(whole)
        except OSError as error:
            found = error.strerror or str(error)
            raise InputError(str(folder), "", "a cache folder that can be written ($ARC_SEAL_CACHE)", found) from error
    return Pool.load(whole)


def gate_version() -> str:
    """What changes when the gate would let other pairs through."""
    return digest(FORMAT, FEWEST_PAIRS, sorted(untrained().ids))


def gate(rules: Mapping[str, Sequence[Demonstration]]) -> Pool:
    """The rules without pairs that share one, or a grid, with what must stay unseen; a rule with few left is left out.

    Generators can hit on such pairs too.
    """
    kept, left_out = dict[str, list[Demonstration]](), Counter[str]()
    for rule, pairs in rules.items():
        reasons = [untrained().reason_of_pair(pair) for pair in pairs]
        left_out.update(f"pairs: {reason.rsplit('/', 1)[0]}" for reason in reasons if reason)
        fit = [pair for pair, reason in zip(pairs, reasons, strict=True) if not reason]
        if len(fit) >= FEWEST_PAIRS:
            kept[rule] = fit
        else:
            left_out[f"rules: fewer than {FEWEST_PAIRS} pairs"] += 1
    return replace(Pool.from_pairs(kept), left_out=left_out)


def _made(
    make: Callable[[str, int, int], Mapping[str, Sequence[Demonstration]]],
    seed: int,
    pairs: int,
    gated: bool,
    group: str,
) -> Pool:
    rules = make(group, seed, pairs)
    return gate(rules) if gated else Pool.from_pairs(rules)


def digest(*values: Any) -> str:
    """16 hex digits of the SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _make_files(
    source: str,
    files: Mapping[str, Path],
    make: Callable[[str], Pool],
    report: Callable[[Made], None],
    workers: int,
) -> None:
    """Make every group's file that is not there; one that is there is whole."""
    there = [group for group, file in files.items() if file.is_file()]
    for done, group in enumerate(there, 1):
        report(Made(source, group, done, len(files), len(Pool.load(files[group]))))
    missing = [group for group in files if group not in there]
    if not missing:
        return
    # A fresh interpreter each: a fork would copy the locks of this process's threads.
    context = multiprocessing.get_context("spawn")
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is left to this process, which ends its workers
    processes = ProcessPool(min(workers, len(missing)), initializer=signal.signal, initargs=ignore, context=context)
    try:
        futures: dict[Future[Pool], str] = {processes.schedule(make, args=(group,)): group for group in missing}
        for done, future in enumerate(as_completed(futures), len(there) + 1):
            group = futures.pop(future)
            try:
                pool = future.result()
            except (ProcessExpired, BrokenProcessPool) as error:  # it died at work, or between two files
                code = f" with exit code {error.exitcode}" if isinstance(error, ProcessExpired) else ""
                expected = "a process that makes its pairs to the end"
                found = f"one that died{code}; those made so far are kept"
                raise InputError(f"{source} {group}", "", expected, found) from error
            pool.save(files[group])
            report(Made(source, group, done, len(files), len(pool)))
    finally:
        processes.stop()  # type: ignore[no-untyped-call]
        processes.join()
