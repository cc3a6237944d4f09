"""What weights were made of: written beside them as `data.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, NonNegativeInt

from arc_seal import __version__
from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import UNTRAINED
from arc_seal.settings import Settings

FILE = "data.json"


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
