"""Rules on a single row: reasoning-gym's generators of 1D-ARC (arXiv 2305.18354), such as moving a block or sorting.

They come from Rust code of Ilya Sheprut's (github optozorax/arc_1d).
"""

import importlib.util
from functools import cache, partial
from random import Random
from typing import Any

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration
from arc_seal.errors import GridError, InputError
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.re_arc import CountedRandom, Failed, PairLimits, within

LICENCE = "Apache-2.0"
WHERE = f"PyPI {re_arc.PACKAGE} {re_arc.VERSION}, arc/arc_1d_tasks.py"

FORMAT = 1
"""Raised when the same seed would make other pairs."""

SIDES = (10, 30)
"""Least and greatest length of a row, as reasoning-gym's data set has them; a pair has its own."""

CPU_S = 1.0
"""Most processor seconds of a try; most need 0.1 ms."""

TRIES = 32
"""How often a pair is tried: most rules need one, but some give nothing nine times in ten."""


def version() -> str:
    """That of reasoning-gym; an InputError when it is not there."""
    _generators()
    return f"{re_arc.version()}, form {FORMAT}"


def groups(count: int) -> list[str]:
    """One group of all rules, whatever the count."""
    return ["arc_1d"]


def make(group: str, seed: int, pairs: int) -> dict[str, list[Demonstration]]:
    """Up to `pairs` distinct pairs of each rule, under reasoning-gym's name of it, such as `move_2pix_solid_left`."""
    return {name: re_arc.distinct(pairs, partial(_pair, name, seed)) for name in _generators()}


def _pair(name: str, seed: int, number: int) -> Demonstration | None:
    """A rule's pair of this number; None where every try failed or changed nothing."""
    (function, arguments), rng = _generators()[name], Random(f"{seed}/{name}/{number}")
    for _ in range(TRIES):
        counted, side = CountedRandom(rng.getrandbits(64), PairLimits().draws), rng.randint(*SIDES)
        try:
            made = within(CPU_S, partial(function, counted, side, **arguments))
            pair = made and Demonstration(Grid.from_rows([made["input"]]), Grid.from_rows([made["output"]]))
        except (Failed, GridError):
            return None
        if pair and pair.input != pair.output:
            return pair
    return None


@cache
def _generators() -> dict[str, tuple[Any, dict[str, Any]]]:
    """By a rule's name, a function of a random generator and a length, and its other arguments."""
    path = re_arc.package_folder() / "arc" / "arc_1d_tasks.py"
    spec = importlib.util.spec_from_file_location("arc_seal_arc_1d", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(re_arc.PACKAGE, "", f"arc/arc_1d_tasks.py, as version {re_arc.VERSION} has it", "no such file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generators: dict[str, tuple[Any, dict[str, Any]]] = module.ARC_1D_TASKS
    return generators
