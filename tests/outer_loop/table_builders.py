"""A small evaluation: three tasks, and some ways to solve them."""

from typing import Any

from arc_seal.errors import Status
from arc_seal.outer_loop.table import Mark, Table, TableRow, best_of, make_table

RUN = {
    "model": "grid",
    "data": "seal/held_out",
    "seeds": [0, 1],
    "versions": {"arc-seal": "0.2.0", "torch": "2.13.0"},
}


def mark(task: str, value: int | Status, sample: int = 0, seed: int = 0, seconds: float = 10.0) -> Mark:
    """A roll-out that solved the task (1: by its first attempt, 2: by its second), did not (0), or failed."""
    if isinstance(value, Status):
        return Mark(task, sample, seed, False, None, False, seconds, value)
    return Mark(task, sample, seed, value > 0, 1.0 if value else 0.5, value == 1, seconds, Status.OK)


def row(name: str, seconds: float, **values: tuple[int | Status, ...]) -> TableRow:
    """A row by what came of each task's samples; every sample takes a second more than the one before it."""
    return TableRow(
        name,
        tuple(
            mark(task, value, sample, seconds=seconds + sample)
            for task, each in values.items()
            for sample, value in enumerate(each)
        ),
    )


IN_CONTEXT = row("in context", 0.5, c7d4e6ad=(0,), b1fc8b8e=(1,), bc4146bd=(0,))
UNTRAINED = row(
    "TTT, untrained policy", 61.0,
    c7d4e6ad=(0, Status.TIMEOUT, 0), b1fc8b8e=(1, 2, 0), bc4146bd=(Status.TIMEOUT, 0, Status.DIVERGED),
)  # fmt: skip
SEAL = row("SEAL", 104.0, c7d4e6ad=(1, 1, 2), b1fc8b8e=(1, 1, 1), bc4146bd=(0, 2, 0))


def counts(row: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """By task how many roll-outs of a row solved it, of how many."""
    return {task: (count["correct"], count["total"]) for task, count in row["tasks"].items()}


def evaluation() -> Table:
    """The table of them all."""
    rows = [IN_CONTEXT, UNTRAINED, SEAL, best_of([SEAL])]
    return make_table(rows, RUN, difference=("SEAL", "TTT, untrained policy"), further=[("SEAL", "in context")])
