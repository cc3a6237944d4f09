"""What weights were made of: written beside them as `data.json`, and the gate that each source's pairs go through."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field, NonNegativeInt

from arc_seal import __version__
from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import UNTRAINED, untrained
from arc_seal.arc.task import Demonstration
from arc_seal.settings import Settings

FILE = "data.json"

FEWEST_PAIRS = 4
"""A rule with fewer pairs left is left out: it says too little of what it is."""


class SourceReport(Settings):
    """What one source gave to the stream, and what the gate kept out of it."""

    name: str
    version: str  # package version, commit or form: another may make other pairs
    licence: str  # SPDX
    where: str  # where it comes from, in a line
    share: float = Field(ge=0, le=1)  # of the stream's contexts
    rules: NonNegativeInt  # in the stream
    pairs: NonNegativeInt
    left_out: dict[str, NonNegativeInt]  # how many pairs or rules, by what and why


class Provenance(Settings):
    """`data.json`: everything that decided what a run's weights have seen."""

    arc_seal: str
    command: str
    seed: int
    tokens: NonNegativeInt  # read by the network, padding apart
    network: dict[str, Any]
    sources: tuple[SourceReport, ...]
    never_trained_on: dict[str, NonNegativeInt]  # tasks of each split: their ids, pairs and grids were kept out


def provenance(
    sources: Sequence[SourceReport], command: str, seed: int, tokens: int, network: Mapping[str, Any]
) -> Provenance:
    """What a run's weights were made of, by these values alone; `model_dump_json(indent=2)` is what `FILE` holds."""
    return Provenance(
        arc_seal=__version__,
        command=command,
        seed=seed,
        tokens=tokens,
        network=dict(network),
        sources=tuple(sources),
        never_trained_on={spec: len(load_tasks(spec)) for spec in UNTRAINED},
    )


def gated(
    made: Mapping[str, Sequence[Demonstration]], reason: Callable[[Demonstration], str | None] | None = None
) -> tuple[dict[str, list[Demonstration]], dict[str, int]]:
    """The rules and pairs that may be trained on, and how many pairs and rules were left out, by why.

    Args:
        made: A source's pairs, by rule.
        reason: Why a pair must not be trained on, None if nothing speaks against it; by default `untrained`'s.
    """
    reason = reason or untrained().reason_of_pair
    kept: dict[str, list[Demonstration]] = {}
    left_out: Counter[str] = Counter()
    for rule, pairs in made.items():
        reasons = [reason(pair) for pair in pairs]
        left_out.update(f"pairs: {why.rpartition('/')[0]}" for why in reasons if why)  # without the unseen task's id
        left = [pair for pair, why in zip(pairs, reasons, strict=True) if not why]
        if len(left) >= FEWEST_PAIRS:
            kept[rule] = left
        else:
            left_out[f"rules: fewer than {FEWEST_PAIRS} pairs"] += 1
    return kept, dict(left_out)
