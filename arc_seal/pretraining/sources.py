"""What is pretrained on: the training sets' own pairs, and those of each source of rules with a share. No torch."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from arc_seal.arc.splits import pretraining_tasks, solved_pairs
from arc_seal.errors import InputError
from arc_seal.pretraining.pool import Made, Pool, Source, source_pool
from arc_seal.settings import Settings

SOURCES = ("re_arc", "arc_gen", "arc_1d", "mini_arc", "compositions", "rules")
"""The sources: what `find_source` imports has LICENCE, WHERE, `version`, `groups` and `make`."""


class Shares(Settings):
    """Shares of the stream, of any sum; each is described in conf/pretrain.yaml, data.shares."""

    tasks: float = Field(default=0.2, ge=0)
    re_arc: float = Field(default=0.3, ge=0)
    arc_gen: float = Field(default=0.0, ge=0)
    arc_1d: float = Field(default=0.0, ge=0)
    mini_arc: float = Field(default=0.0, ge=0)
    compositions: float = Field(default=0.25, ge=0)
    rules: float = Field(default=0.25, ge=0)


class SourceSettings(Settings):
    """What the sources make; each setting is described in conf/pretrain.yaml, data."""

    shares: Shares = Shares()
    pairs_per_generator: int = Field(200, ge=4)
    rules: int = Field(10_000, ge=1)
    pairs_per_rule: int = Field(10, ge=4)
    arc_gen: str | None = None

    @field_validator("shares")
    @classmethod
    def _some(cls, shares: Shares) -> Shares:
        if not any(shares.model_dump().values()):
            raise PydanticCustomError("shares", "one share above 0 at least")
        return shares

    @property
    def with_share(self) -> dict[str, float]:
        """The shares above 0, which are in the order of `Shares`, by their names."""
        return {name: share for name, share in self.shares.model_dump().items() if share}


def training_pools(settings: SourceSettings, report: Callable[[Made], None]) -> dict[str, Pool]:
    """What is trained on, by the names of `Shares`; what has no share is left out."""
    return {name: training_pool(name, settings, report) for name in settings.with_share}


def training_pool(name: str, settings: SourceSettings, report: Callable[[Made], None]) -> Pool:
    """The training sets' own tasks, or what a source makes."""
    if name == "tasks":
        return Pool.from_pairs({entry[0].id: [*solved_pairs(entry)] for entry in pretraining_tasks()})
    many = name in ("compositions", "rules")
    pairs = settings.pairs_per_rule if many else settings.pairs_per_generator
    return source_pool(find_source(name, settings), 0, pairs, report)


def find_source(name: str, settings: SourceSettings) -> Source:
    """A source by its name in `SOURCES`; an InputError when what it draws from is not there."""
    source: Any = import_module(f"arc_seal.pretraining.{'rules.make' if name == 'rules' else name}")
    if name == "arc_gen":
        if settings.arc_gen is None:
            raise InputError("configuration", "data.arc_gen", f"a clone of {source.ArcGen.WHERE}", "null")
        source = source.ArcGen(Path(settings.arc_gen).expanduser())
    groups = tuple(source.groups(settings.rules))
    return Source(name, source.LICENCE, source.WHERE, source.version(), groups, source.make)
