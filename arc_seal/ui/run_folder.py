"""What a run leaves behind: `result.json`, which is everything and can be loaded again, and `submission.json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arc_seal.arc.task import read_json, rows_on_lines, write_json, write_submission
from arc_seal.errors import InputError
from arc_seal.inner_loop.job import pool_attempts
from arc_seal.outer_loop.rollout import grids
from arc_seal.outer_loop.solve import Solved
from arc_seal.settings import first_fault, shortened

RESULT, SUBMISSION, SUMMARY = "result.json", "submission.json", "summary.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One task under one configuration, as a sweep remembers it."""

    name: str  # the task as it was asked for, or its id once it is known
    seed: int
    folder: Path
    solved: Solved | None  # None when the input was bad
    error: InputError | None = None  # what was bad about it


def write_run(folder: Path, solved: Solved, configuration: Mapping[str, Any]) -> None:
    """Write `result.json`, with the plain values of the configuration, and `submission.json`, each whole or not at all.

    InputError where a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {**solved.model_dump(mode="json"), "configuration": dict(configuration)}
    write_json(folder / RESULT, rows_on_lines(record))
    write_submission(folder / SUBMISSION, {solved.task_id: grids(solved.attempts)})


def load_result(path: Path) -> Solved:
    """Load a run again from its `result.json`, or from the folder that holds it; InputError where it is no result."""
    path = path / RESULT if path.is_dir() else path
    members = read_json(path)
    if not isinstance(members, dict):
        raise InputError(str(path), "", "an object", shortened(members))
    members.pop("configuration", None)
    try:
        return Solved.model_validate(members)
    except ValidationError as error:
        place, expected, found = first_fault(error)
        raise InputError(str(path), place, f"a result of arc-seal, here {expected}", found) from None


def write_sweep(folder: Path, runs: Sequence[Run]) -> None:
    """Write a sweep's `summary.json`, a line a run, and one `submission.json` of all its tasks, as `write_run` does."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SUMMARY, json.dumps([_line(run, folder) for run in runs], indent=2) + "\n")
    by_task: dict[str, list[Solved]] = {}
    for run in runs:
        if run.solved is not None:
            by_task.setdefault(run.solved.task_id, []).append(run.solved)
    answers = {name: grids(pool_attempts([each.attempts for each in made])) for name, made in by_task.items()}
    write_submission(folder / SUBMISSION, answers)


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
        "message": str(run.error or ""),
    }
