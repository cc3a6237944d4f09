"""The pool of synthetic pairs: made once by worker processes, kept in the cache, and read from there ever after.

Each generator's pairs are kept in a file of their own as soon as they are made, so a run that was stopped goes on where
it was, and a run with other tasks makes only those that are new.
"""

import hashlib
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from pebble import ProcessExpired, ProcessPool

from arc_seal.arc.task import Demonstration
from arc_seal.errors import InputError
from arc_seal.models.weights import STALE_S, cache_root
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.interrupts import leave_interrupts
from arc_seal.pretraining.pool import Pool
from arc_seal.pretraining.re_arc import Fault, Limits, NoPair

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
