"""Synthetic pairs of ARC's training tasks, made by RE-ARC's generators (arXiv 2404.07353).

A task's generator draws pairs by its rule, and its verifier, written apart, solves an input by it: about one pair in a
hundred fails that. The package reasoning-gym made them deterministic: all draws come from the `random.Random` given.
"""

import gc
import importlib
import importlib.metadata
import importlib.util
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Any

from arc_seal.arc.grid import Grid
from arc_seal.arc.splits import never_trained
from arc_seal.arc.task import Demonstration
from arc_seal.errors import GridError, InputError

PACKAGE, VERSION = "reasoning-gym", "0.1.25"
"""The version is the one that was looked at; another may draw other pairs."""

LICENCE = "Apache-2.0 AND MIT"  # reasoning-gym's, and RE-ARC's own
WHERE = f"PyPI {PACKAGE} {VERSION}, arc/rearc_utils: RE-ARC's generators, held by its verifiers"

FORMAT = 1
"""Raised when the same seed would make other pairs."""

FOREIGN_CPU_S = 0.5
"""Most processor seconds of a verifier on a grid that is not of its task; most need 4 ms, some would never end."""

SLOW = frozenset((
    "1b60fb0c", "1f0c79e5", "22eb0ac0", "29c11459", "36d67576", "36fdfd69", "3eda0437", "447fd412", "681b3aeb",
    "6aa20dc0", "7df24a62", "8d510a79", "8efcae92", "91413438", "97999447", "af902bf9", "bbc9ae5d", "c3e719e8",
    "c3f564a4", "caa06a1f", "d22278a0", "db3e9e38", "ddf7fa4f", "feca6190",
))  # fmt: skip
"""Tasks whose verifiers needed over 0.05 s, some over 3 s, on one of 40 generators' outputs."""

TOO_LARGE, UNCHANGED = "made grids too large", "changed nothing"
"""Why an attempt failed, where the next one is made easier or harder."""

Rule = tuple[Callable[[Random, float, float], dict[str, Any]], Callable[[tuple[tuple[int, ...], ...]], Any]]
"""A task's rule, twice: a generator makes a pair's rows, by the least and greatest difficulty, each 0 to 1; a verifier
the output of an input."""


@dataclass(frozen=True, slots=True)
class PairLimits:
    """What a pair of any source may be and cost. A change raises the FORMAT of every source."""

    max_cells: int = 450  # most cells of input and output together
    # Range of the greatest difficulty of a pair's first attempt: sizes, colours and so on vary from the least, 0, to 1.
    hardest: tuple[float, float] = (0.05, 1.0)
    # Difficulty is multiplied by this after too large grids, and divided by it where nothing was changed.
    easing: float = 0.75
    tries: int = 16  # most attempts at a pair
    # Most random draws of one attempt: some would draw for ever, hardly one draws 10,000 times.
    draws: int = 100_000
    cpu_s: float = 20.0  # most processor seconds of generator and verifier each, held in a main thread only


def groups(count: int = 0) -> list[str]:
    """The tasks whose generators may be trained on, sorted, whatever the count; an InputError as `rules` raises."""
    return sorted(rules().keys() - never_trained())


def make(group: str, seed: int, pairs: int, limits: PairLimits | None = None) -> dict[str, list[Demonstration]]:
    """Up to `pairs` distinct pairs of one generator, under its task's id; pair k depends on seed, task and k alone."""
    return {group: distinct(pairs, lambda number: generate(group, Random(f"{seed}/{group}/{number}"), limits))}


def distinct(pairs: int, attempt: Callable[[int], Demonstration | None]) -> list[Demonstration]:
    """Up to so many distinct pairs of those that numbered attempts give, in their order."""
    made: dict[Demonstration, None] = {}
    for number in range(2 * pairs):  # a generator with little to vary makes many twice
        if len(made) == pairs or (number == 25 and not made):  # its grids are all too large
            break
        pair = attempt(number)
        if pair is not None:
            made.setdefault(pair)
    return list(made)


def generate(task_id: str, rng: Random, limits: PairLimits | None = None) -> Demonstration | None:
    """Make one pair, by the state of `rng`, the task and the limits alone; None when every attempt failed."""
    rule, limits = rule_of(task_id), limits or PairLimits()
    hardest = rng.uniform(*limits.hardest)
    for _ in range(limits.tries):
        try:
            return _attempt(rule, rng.getrandbits(64), hardest, limits)
        except Failed as failed:
            if str(failed) == TOO_LARGE:
                hardest *= limits.easing
            elif str(failed) == UNCHANGED:
                hardest = min(hardest / limits.easing, 1.0)
    return None


def rule_of(task_id: str) -> Rule:
    """The rule of a task; an InputError for one that is not of arcagi1/training."""
    if task_id not in rules():
        raise InputError("RE-ARC", "", "a task of arcagi1/training", task_id or "nothing")
    return rules()[task_id]


@cache
def rules() -> dict[str, Rule]:
    """The rules of all tasks of arcagi1/training; an InputError when reasoning-gym is not installed."""
    # Loaded as a package of their own: the one they are part of would import a dozen libraries not needed here.
    folder, own = package_folder() / "arc" / "rearc_utils", "arc_seal_re_arc"
    spec = importlib.util.spec_from_file_location(own, folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None or not (folder / "generators").is_dir():
        expected = f"RE-ARC's generators in arc/rearc_utils, as {PACKAGE} {VERSION} has them"
        raise InputError(PACKAGE, "", expected, f"none in version {importlib.metadata.version(PACKAGE)}")
    sys.modules[own] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made, solved = (vars(importlib.import_module(f"{own}.{name}")) for name in ("generators", "verifiers"))
    ids = [name.removeprefix("generate_") for name in made if name.startswith("generate_")]
    return {task_id: (made[f"generate_{task_id}"], solved[f"verify_{task_id}"]) for task_id in ids}


def package_folder() -> Path:
    """Where reasoning-gym is installed; an InputError when it is not."""
    package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        expected = f"the package {PACKAGE} (pip install --no-deps {PACKAGE}=={VERSION})"
        raise InputError("RE-ARC's generators", "", expected, "it is not installed")
    return Path(package.submodule_search_locations[0])


def version() -> str:
    """The version of reasoning-gym, once its generators are loaded, see `rules`, and of what is made with it."""
    rules()
    return f"{importlib.metadata.version(PACKAGE)}, form {FORMAT}"


def solved_by(task_ids: Iterable[str], pairs: Sequence[Demonstration]) -> str | None:
    """The first of some tasks whose verifier gives the output of every pair, as they stand; None where none does."""
    known = (each for each in task_ids if all(_solved(each, pair.input) == pair.output for pair in pairs))
    return next(known, None)


@lru_cache(maxsize=10_000)
def _solved(task_id: str, shown: Grid) -> Grid | None:
    return solve(task_id, shown, FOREIGN_CPU_S)


def solve(task_id: str, shown: Grid, cpu_s: float) -> Grid | None:
    """The output that a task's verifier gives for an input; None where it fails, takes too long or gives no grid."""
    try:
        return Grid.from_rows(within(cpu_s, rule_of(task_id)[1], shown.rows))
    except (Failed, GridError, TypeError):
        return None


class Failed(Exception):
    """An attempt at a pair came to nothing; the message says why."""


def _attempt(rule: Rule, seed: int, hardest: float, limits: PairLimits) -> Demonstration:
    (generator, verifier), rng = rule, CountedRandom(seed, limits.draws)
    made = within(limits.cpu_s, generator, rng, 0.0, hardest)
    try:
        pair = Demonstration(Grid.from_rows(made["input"]), Grid.from_rows(made["output"]))
    except (GridError, TypeError) as error:
        raise Failed("made no grids") from error
    if len(pair.input.cells) + len(pair.output.cells) > limits.max_cells:
        raise Failed(TOO_LARGE)
    if pair.input == pair.output:
        raise Failed(UNCHANGED)
    if within(limits.cpu_s, verifier, pair.input.rows) != pair.output.rows:
        raise Failed("failed the task's verifier")
    return pair


def within(cpu_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives within so many processor seconds, held in a main thread only; else `Failed`."""

    def end(*_: object) -> None:
        raise Failed("took too long")

    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGVTALRM, end) if timed else None
    collects = gc.isenabled()
    gc.disable()  # what is raised in a collector's callback is lost, and with it the limit
    try:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s, cpu_s)  # again, where the first one was lost
        return function(*arguments)
    except Failed:
        raise
    except Exception as error:
        raise Failed("raised an error") from error
    finally:
        if collects:
            gc.enable()
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
            signal.signal(signal.SIGVTALRM, before)


class CountedRandom(Random):
    """A random generator that gives out after so many draws; all of `Random`'s methods draw through these two."""

    def __init__(self, seed: int, draws: int) -> None:
        super().__init__(seed)
        self._left = draws

    def random(self) -> float:
        """As `Random`'s, counted."""
        self._count()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        """As `Random`'s, counted."""
        self._count()
        return super().getrandbits(k)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Failed("drew too often")
