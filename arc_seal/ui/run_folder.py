"""What a run leaves behind: `result.json`, which is everything and can be loaded again, and `submission.json`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import MAX_ATTEMPTS, read_json, rows_on_lines, submission, write_json, write_submission
from arc_seal.errors import InputError
from arc_seal.inner_loop.job import Attempt
from arc_seal.inner_loop.vote import standing
from arc_seal.outer_loop.solve import Solved

RESULT, SUBMISSION, SUMMARY = "result.json", "submission.json", "summary.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One task under one configuration, as a sweep remembers it.

    Attributes:
        name: The task as it was asked for, or its id once it is known.
        seed: The seed.
        folder: Where the run is kept.
        solved: What came of it; None when the input was bad.
        error: What was bad about the input, else empty.
    """

    name: str
    seed: int
    folder: Path
    solved: Solved | None
    error: str = ""


def write_run(folder: Path, solved: Solved, configuration: Mapping[str, Any]) -> None:
    """Write a run's `result.json` and `submission.json`, each whole or not at all.

    Args:
        folder: The run's folder; made if it is not there.
        solved: What came of the run.
        configuration: The configuration that it ran under, plain values only.

    Raises:
        InputError: When a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {**_adapter().dump_python(solved, mode="json"), "configuration": dict(configuration)}
    write_json(folder / RESULT, rows_on_lines(record))
    write_submission(folder / SUBMISSION, submission({solved.task_id: _grids(solved.attempts)}))


def load_result(path: Path) -> Solved:
    """Load a run again from its `result.json`, or from the folder that holds it.

    Raises:
        InputError: When the file cannot be read or is no result.
    """
    path = path / RESULT if path.is_dir() else path
    members = read_json(path).members()
    members.pop("configuration", None)
    try:
        return _adapter().validate_python({name: node.value for name, node in members.items()})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(str(path), place, "a result of arc-seal", first["msg"].lower()) from None


def without_times(solved: Solved) -> Solved:
    """The result without its times, which alone differ between two runs with one seed."""
    rollouts = tuple(
        dataclasses.replace(rollout, result=rollout.result and dataclasses.replace(rollout.result, seconds={}))
        for rollout in solved.rollouts
    )
    return dataclasses.replace(solved, rollouts=rollouts, seconds={})


def write_sweep(folder: Path, runs: Sequence[Run]) -> None:
    """Write a sweep's `summary.json`, a line a run, and one `submission.json` of all its tasks.

    Raises:
        InputError: When a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SUMMARY, json.dumps([_line(run, folder) for run in runs], indent=2) + "\n")
    solved = [run.solved for run in runs if run.solved is not None]
    ids = list(dict.fromkeys(one.task_id for one in solved))
    answers = {name: _grids(best_supported([one.attempts for one in solved if one.task_id == name])) for name in ids}
    write_submission(folder / SUBMISSION, submission(answers))


def best_supported(runs: Sequence[Sequence[Sequence[Attempt]]]) -> tuple[tuple[Attempt, ...], ...]:
    """The two best attempts at each query over several runs of one task.

    Equal grids add their votes' weights; between equal weights, the higher log-probability goes first.

    Args:
        runs: For each run, for each query, its attempts. All runs have as many queries.
    """
    return tuple(_pooled([attempt for attempts in made for attempt in attempts]) for made in zip(*runs, strict=True))


@cache
def _adapter() -> TypeAdapter[Solved]:
    return TypeAdapter(Solved)


def _grids(attempts: Sequence[Sequence[Attempt]]) -> list[list[Grid]]:
    return [[attempt.grid for attempt in query] for query in attempts]


def _pooled(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    by_grid: dict[Grid, list[Attempt]] = {}
    for attempt in attempts:
        by_grid.setdefault(attempt.grid, []).append(attempt)
    pooled = [_joined(grid, equal) for grid, equal in by_grid.items()]
    return tuple(sorted(pooled, key=standing)[:MAX_ATTEMPTS])


def _joined(grid: Grid, equal: Sequence[Attempt]) -> Attempt:
    """Votes and weights added, log-probabilities averaged over the votes."""
    votes = sum(attempt.votes for attempt in equal)
    mean = sum(attempt.votes * attempt.log_probability for attempt in equal) / max(votes, 1)
    return Attempt(grid, votes, mean, sum(attempt.weight for attempt in equal))


def _line(run: Run, folder: Path) -> dict[str, Any]:
    solved = run.solved
    return {
        "task": run.name,
        "seed": run.seed,
        "folder": str(run.folder.relative_to(folder)),
        "status": [str(rollout.status) for rollout in solved.rollouts] if solved else "bad_input",
        "reward": solved.reward if solved else None,
        "score": solved.score if solved else None,
        "seconds": solved.seconds if solved else {},
        "message": run.error,
    }
