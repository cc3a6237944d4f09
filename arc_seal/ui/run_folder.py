"""What a run leaves behind, as docs/results.md describes it: written, loaded again, and compared with another run.

`result.json` is everything of one task; `submission.json` is in Kaggle's form, `submission/` has a file a task for ARC
Prize's own scorer.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from pydantic import ValidationError

from arc_seal.arc.task import (
    Entry,
    parse_task,
    read_json,
    rows_on_lines,
    task_form,
    write_json,
    write_official_submission,
    write_submission,
)
from arc_seal.errors import InputError
from arc_seal.inner_loop.job import pool_attempts
from arc_seal.outer_loop.ledger import Ledger, Policy, differences, differing
from arc_seal.outer_loop.restem import LEDGER, RUN
from arc_seal.outer_loop.rollout import Rollout, grids
from arc_seal.outer_loop.solve import Solved
from arc_seal.outer_loop.statistics import paired_difference
from arc_seal.outer_loop.table import Table, to_markdown
from arc_seal.self_edit.edit import canonical
from arc_seal.settings import first_fault, shortened

RESULT, SUBMISSION, OFFICIAL, SUMMARY = "result.json", "submission.json", "submission", "summary.json"

TABLE = "table.json"
"""The table of an evaluation."""

Marks = dict[str, dict[str, list[float]]]
"""By name, such as a round or a row of a table, and by task: the reward of each roll-out or seed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One task under one configuration, as a sweep remembers it."""

    name: str  # the task as it was asked for, or its id once it is known
    seed: int
    folder: Path
    solved: Solved | None  # None when the input was bad
    error: InputError | None = None  # what was bad about it


@dataclass(frozen=True, slots=True)
class Kept:
    """A `result.json`, read."""

    solved: Solved
    entry: Entry | None  # the task, and its solution where there is one; None in results written before 0.2
    configuration: dict[str, Any]  # plain values, JSON texts in it as what they say


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What is in the folder of a command's run; what a kind of run does not have is empty."""

    place: Path
    kind: Literal["solve", "sweep", "training", "evaluation"]
    configuration: Mapping[str, Any]  # of a sweep, what all its results share
    kept: tuple[Kept, ...] = ()  # solve and sweep: the results
    failed: tuple[Mapping[str, Any], ...] = ()  # sweep: the lines of `summary.json` on bad input
    entries: tuple[Entry, ...] = ()  # training: the tasks that it learns from
    rollouts: tuple[Rollout, ...] = ()  # training: what is finished, evaluations of the run included
    policies: tuple[Policy, ...] = ()  # training
    table: Table | None = None  # evaluation


def write_run(folder: Path, solved: Solved, entry: Entry, configuration: Mapping[str, Any]) -> None:
    """Write the submissions, then `result.json` with the task and the plain values of the configuration.

    Each file is there whole or not at all, and a run that has its result is done. InputError where one cannot be
    written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        **solved.model_dump(mode="json"),
        "task": task_form(*entry),
        "configuration": _nested(configuration),
    }
    for rollout in record["rollouts"]:
        if rollout["self_edit"] is not None and rollout["completion"] is not None:  # it is valid JSON
            rollout["completion"] = _value(rollout["completion"])
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
    kept = read_result(path)
    if configuration is not None and (changes := differences(kept.configuration, _nested(configuration))):
        expected = "a result of the configuration that the run goes on under"
        raise InputError(str(path / RESULT if path.is_dir() else path), "", expected, changes[0])
    return kept.solved


def read_result(path: Path) -> Kept:
    """All that a `result.json` holds, of this version or an earlier one; InputError where it is no result."""
    path = path / RESULT if path.is_dir() else path
    members = read_json(path)
    if not isinstance(members, dict):
        raise InputError(str(path), "", "an object", shortened(members))
    configuration, task = members.pop("configuration", {}), members.pop("task", None)
    rollouts = members.get("rollouts")
    for rollout in rollouts if isinstance(rollouts, list) else ():
        if isinstance(rollout, dict) and isinstance(rollout.get("completion"), dict):
            rollout["completion"] = canonical(rollout["completion"])
    try:
        solved = Solved.model_validate(members)
    except ValidationError as error:
        place, expected, found = first_fault(error)
        raise InputError(str(path), place, f"a result of arc-seal, here {expected}", found) from None
    entry = None if task is None else parse_task(task, solved.task_id, str(path), ["task"])
    if entry is not None and len(entry[0].queries) != len(solved.attempts):
        raise InputError(str(path), "task.test", f"{len(solved.attempts)} tests", str(len(entry[0].queries)))
    return Kept(solved, entry, _nested(configuration))


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


def read_folder(path: Path) -> RunFolder:
    """What a run of `solve`, `train` or `evaluate` has left in its folder; InputError where it is no such folder."""
    for name, read in _READERS.items():
        if (path / name).is_file():
            return read(path)
    found = "no such folder" if not path.exists() else "none of these in it" if path.is_dir() else "a file"
    raise InputError(str(path), "", f"the folder of a run, with {', '.join(_READERS)}", found)


def run_folders(path: Path) -> list[Path]:
    """The folders of runs in a folder and below it, the last changed first; the parts of a sweep are not told apart."""
    found: list[Path] = []
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        if any((folder / name).is_file() for name in _READERS):
            found.append(folder)
        elif folder.is_dir():
            with suppress(OSError):  # what cannot be looked into, or is gone by now
                waiting += [each for each in folder.iterdir() if each.is_dir() and not each.is_symlink()]
    return sorted(found, key=last_change, reverse=True)


def last_change(folder: Path) -> float:
    """When a run's own files last changed, in seconds since 1970; looking at a ledger leaves files beside it, too."""
    files = [folder / name for name in _READERS if (folder / name).is_file()]
    logs = [log for file in files if (log := file.with_name(f"{file.name}-wal")).is_file() and log.stat().st_size]
    return max(each.stat().st_mtime for each in (*files, *logs))


def marks(run: RunFolder) -> Marks:
    """What the roll-outs of a run were worth, those without a reward left out."""
    found: Marks = {}
    for kept in run.kept:
        if kept.solved.reward is not None:
            found.setdefault("solved", {}).setdefault(kept.solved.task_id, []).append(kept.solved.reward)
    for rollout in run.rollouts:
        if rollout.run == RUN and rollout.reward is not None:
            found.setdefault(f"round {rollout.round + 1}", {}).setdefault(rollout.task, []).append(rollout.reward)
    for row in run.table["rows"] if run.table else ():
        counts = {task: (it["correct"], it["total"]) for task, it in row["tasks"].items() if it["total"]}
        found[row["name"]] = {task: [1.0] * good + [0.0] * (all_ - good) for task, (good, all_) in counts.items()}
    return found


def compare(one: RunFolder, other: RunFolder, names: tuple[str, str]) -> list[dict[str, Any]]:
    """By how much the other run is better, in everything that both measured on tasks they share.

    They are differences as `table.difference_text` reads them, each with the `name` of what was measured.
    """
    before, after = marks(one), marks(other)
    found = []
    for name in (each for each in after if each in before):
        tasks = before[name].keys() & after[name].keys()
        if not tasks:
            continue
        new, old = ({task: side[name][task] for task in tasks} for side in (after, before))
        interval = paired_difference(new, old)
        left_out = len(before[name].keys() ^ after[name].keys())
        sides = {"name": name, "first": names[1], "second": names[0]}
        found.append({**sides, **asdict(interval), "tasks": len(tasks), "left_out": left_out})
    return found


def changed(one: RunFolder, other: RunFolder) -> list[tuple[str, str, str]]:
    """What differs in the configuration of two runs: the setting, and what it is in each."""
    return differing(one.configuration, other.configuration)


def _read_solve(path: Path) -> RunFolder:
    kept = read_result(path)
    return RunFolder(path, "solve", kept.configuration, (kept,))


def _read_sweep(path: Path) -> RunFolder:
    lines = read_json(path / SUMMARY)
    needed = {"task", "folder", "status", "message"}
    if not isinstance(lines, list) or not all(isinstance(line, dict) and needed <= line.keys() for line in lines):
        expected = f"a list of runs, each with {', '.join(sorted(needed))}"
        raise InputError(str(path / SUMMARY), "", expected, shortened(lines))
    failed = tuple(line for line in lines if line.get("status") == "bad_input")
    # A sweep with a deadline names its tasks from the beginning; those that have not begun have no result yet.
    folders = [path / str(line["folder"]) for line in lines if line not in failed]
    begun = [bool(line["status"]) for line in lines if line not in failed]
    kept = tuple(read_result(each) for each, it in zip(folders, begun, strict=True) if it or (each / RESULT).is_file())
    return RunFolder(path, "sweep", _shared([each.configuration for each in kept]), kept, failed)


def _read_training(path: Path) -> RunFolder:
    with Ledger.read_only(path / LEDGER) as ledger:
        return RunFolder(
            path,
            "training",
            _nested(ledger.configuration(RUN)),
            entries=tuple(ledger.entries(RUN)),
            rollouts=tuple(ledger.rollouts()),
            policies=tuple(ledger.policies(RUN)),
        )


def _read_evaluation(path: Path) -> RunFolder:
    table = read_json(path / TABLE)
    try:
        to_markdown(table)  # which needs all that anybody reads
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(str(path / TABLE), "", "the table of an evaluation", shortened(table)) from None
    return RunFolder(path, "evaluation", table["run"], table=table)


_READERS: Mapping[str, Callable[[Path], RunFolder]] = {
    RESULT: _read_solve,
    SUMMARY: _read_sweep,
    LEDGER: _read_training,
    TABLE: _read_evaluation,
}
"""The file that tells each kind of run, and how it is read."""


def _shared(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that several configurations share, and `several values` where they do not."""
    if not values:
        return {}
    found: dict[str, Any] = {}
    for key, first in values[0].items():
        sides: list[Any] = [each.get(key) for each in values]
        if all(side == first for side in sides):
            found[key] = first
        else:
            found[key] = _shared(sides) if all(isinstance(side, dict) for side in sides) else "several values"
    return found


def _nested(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which self-edits given as JSON texts are what the texts say."""
    given = configuration.get("self_edit")
    if not isinstance(given, Mapping):
        return dict(configuration)
    return {**configuration, "self_edit": {name: _value(each) for name, each in given.items()}}


def _value(text: Any) -> Any:
    """What a JSON text of an object says, in lists too; everything else as it is."""
    if isinstance(text, list | tuple):
        return [_value(each) for each in text]
    if isinstance(text, str):
        with suppress(ValueError, RecursionError):
            read = json.loads(text)
            return read if isinstance(read, dict) else text
    return text
