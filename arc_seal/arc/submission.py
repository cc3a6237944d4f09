"""Kaggle's `submission.json`: for each task and test input, in order, two attempts."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from arc_seal.arc.grid import Grid
from arc_seal.arc.json_file import Node, read_json, write_json
from arc_seal.arc.task_file import parse_grid

Rows = list[list[int]]
AttemptKey = Literal["attempt_1", "attempt_2"]
Submission = dict[str, list[dict[AttemptKey, Rows]]]
"""By task id: one entry a test input, in order, with both attempts as rows of colours."""

Answers = Mapping[str, Sequence[Sequence[Grid]]]
"""By task id: for each test input, in order, the attempts, best first; as many as there are."""

_KEYS: tuple[AttemptKey, AttemptKey] = ("attempt_1", "attempt_2")

_NO_ANSWER = Grid.from_rows([[0]])
"""Stands in where there is no attempt, since the form wants one."""


def submission(answers: Answers) -> Submission:
    """Answers in Kaggle's form: a missing second attempt repeats the first; `[[0]]` stands where there is none."""
    return {task_id: [_entry(attempts) for attempts in queries] for task_id, queries in answers.items()}


def merge_submissions(submissions: Sequence[Submission]) -> Submission:
    """One submission of several. Where a task is in more than one, the attempts that most of them made are kept.

    Among attempts that equally many made, first attempts go before second ones, earlier submissions before later
    ones, and `[[0]]`, which stands for no answer, last.

    Raises:
        ValueError: When submissions differ in how many test inputs a task has.
    """
    by_task: dict[str, list[list[tuple[Grid, Grid]]]] = {}
    for one in submissions:
        for task_id, entries in one.items():
            by_task.setdefault(task_id, []).append([_attempts(entry) for entry in entries])
    return submission(
        {task_id: [_pooled(pairs) for pairs in zip(*made, strict=True)] for task_id, made in by_task.items()}
    )


def write_submission(path: Path, entries: Submission) -> None:
    """Write a submission, whole or not at all.

    Raises:
        InputError: When the file cannot be written.
    """
    write_json(path, json.dumps(entries) + "\n")


def read_submission(path: Path) -> Submission:
    """Read a submission.

    Raises:
        InputError: When the file is not one.
    """
    members = read_json(path).members()
    return {task_id: [_parse_entry(entry) for entry in entries.elements()] for task_id, entries in members.items()}


def _entry(attempts: Sequence[Grid]) -> dict[AttemptKey, Rows]:
    first = attempts[0] if attempts else _NO_ANSWER
    second = attempts[1] if len(attempts) > 1 else first
    return {key: [list(row) for row in grid.rows] for key, grid in zip(_KEYS, (first, second), strict=True)}


def _attempts(entry: dict[AttemptKey, Rows]) -> tuple[Grid, Grid]:
    return Grid.from_rows(entry["attempt_1"]), Grid.from_rows(entry["attempt_2"])


def _pooled(pairs: Sequence[tuple[Grid, Grid]]) -> list[Grid]:
    """The two grids that most pairs have; a pair that says one grid twice counts once."""
    order = [first for first, _ in pairs] + [second for first, second in pairs if second != first]
    votes = Counter(grid for grid in order if grid != _NO_ANSWER)
    return [grid for grid, _ in votes.most_common(2)]


def _parse_entry(node: Node) -> dict[AttemptKey, Rows]:
    return {key: [list(row) for row in parse_grid(node.member(key)).rows] for key in _KEYS}
