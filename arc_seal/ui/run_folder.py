"""What a run leaves behind: `result.json`, which is everything and can be loaded again, and its submissions.

`submission.json` is in Kaggle's form, `submission/` has a file a task for ARC Prize's own scorer.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import ValidationError

from arc_seal.arc.task import read_json, rows_on_lines, write_json, write_official_submission, write_submission
from arc_seal.errors import InputError
from arc_seal.inner_loop.job import pool_attempts
from arc_seal.outer_loop.ledger import differences
from arc_seal.outer_loop.rollout import grids
from arc_seal.outer_loop.solve import Solved
from arc_seal.settings import first_fault, shortened

RESULT, SUBMISSION, OFFICIAL, SUMMARY = "result.json", "submission.json", "submission", "summary.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One task under one configuration, as a sweep remembers it."""

    name: str  # the task as it was asked for, or its id once it is known
    seed: int
    folder: Path
    solved: Solved | None  # None when the input was bad
    error: InputError | None = None  # what was bad about it


def write_run(folder: Path, solved: Solved, configuration: Mapping[str, Any]) -> None:
    """Write the submissions, then `result.json` with the plain values of the configuration, each whole or not at all.

    A run that has its result is done. InputError where a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {**solved.model_dump(mode="json"), "configuration": dict(configuration)}
    answers = {solved.task_id: grids(solved.attempts)}
    write_submission(folder / SUBMISSION, answers)
    write_official_submission(folder / OFFICIAL, answers)
    write_json(folder / RESULT, rows_on_lines(record))


def claim(folder: Path) -> Path:
    """Make a run's folder for it alone: where another run has that one, one with a number behind its name.

    `runs/latest` leads to the last that was made in `runs/`.
    """
    for number in count(1):
        place = folder.with_name(f"{folder.name}-{number}") if number > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        try:
            (place / ".claimed").open("x").close()
        except FileExistsError:
            continue
        break
    if Path("runs").absolute() in place.parents:
        link = Path("runs", f"latest.{token_hex(4)}")
        link.symlink_to(place.relative_to(Path("runs").absolute()))
        link.replace(Path("runs", "latest"))
    return place


def load_result(path: Path, configuration: Mapping[str, Any] | None = None) -> Solved:
    """Load a run again from its `result.json`, or from the folder that holds it.

    InputError where it is no result, or was made under another configuration than the one given.
    """
    path = path / RESULT if path.is_dir() else path
    members = read_json(path)
    if not isinstance(members, dict):
        raise InputError(str(path), "", "an object", shortened(members))
    recorded = members.pop("configuration", {})
    if configuration is not None and (differing := differences(recorded, configuration)):
        raise InputError(str(path), "", "a result of the configuration that the run goes on under", differing[0])
    try:
        return Solved.model_validate(members)
    except ValidationError as error:
        place, expected, found = first_fault(error)
        raise InputError(str(path), place, f"a result of arc-seal, here {expected}", found) from None


def write_sweep(folder: Path, runs: Sequence[Run], new: Collection[str]) -> None:
    """Write the submissions of a sweep's tasks, then `summary.json`, a line a run, as `write_run` does.

    Of the files a task only those of the names in `new` are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    by_task: dict[str, list[Solved]] = {}
    for run in runs:
        solved = run.solved
        lines.append(
            {
                "task": run.name,
                "seed": run.seed,
                "folder": str(run.folder.relative_to(folder)),
                "status": [str(rollout.status) for rollout in solved.rollouts] if solved else "bad_input",
                "reward": solved.reward if solved else None,
                "score": solved.score if solved else None,
                "seconds": solved.seconds if solved else {},
                "message": str(run.error or ""),
            }
        )
        if solved is not None:
            by_task.setdefault(solved.task_id, []).append(solved)
    answers = {name: grids(pool_attempts([each.attempts for each in made])) for name, made in by_task.items()}
    write_submission(folder / SUBMISSION, answers)
    write_official_submission(folder / OFFICIAL, {name: each for name, each in answers.items() if name in new})
    write_json(folder / SUMMARY, json.dumps(lines, indent=2) + "\n")
