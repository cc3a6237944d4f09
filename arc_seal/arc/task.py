"""A task and its solution, kept apart on purpose.

A `Task` has no field where a test output would fit. Whatever prompts, trains or decodes is given a `Task`,
so a leak cannot be written by accident; only `reward.py` sees a task's attempts and its `Solution` together.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.errors import InputError
from arc_seal.files import write_whole


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One solved pair that a task shows."""

    input: Grid
    output: Grid


@dataclass(frozen=True, slots=True)
class Task:
    """An ARC task as a solver sees it: solved pairs, and inputs to solve.

    Attributes:
        id: The task's name, such as `0d3d703e`.
        demos: At least one demonstration.
        queries: At least one test input.
    """

    id: str
    demos: tuple[Demonstration, ...]
    queries: tuple[Grid, ...]

    def __post_init__(self) -> None:
        if not self.demos or not self.queries:
            raise ValueError(f"task {self.id} needs a demonstration and a query")

    def map_grids(self, change: Callable[[Grid], Grid]) -> "Task":
        """The task with `change` applied to every grid, inputs and outputs alike.

        Raises:
            GridError: When `change` makes something that is not a grid.
        """
        demos = tuple(Demonstration(change(demo.input), change(demo.output)) for demo in self.demos)
        return Task(self.id, demos, tuple(change(query) for query in self.queries))

    def with_demos(self, demos: tuple[Demonstration, ...]) -> "Task":
        """The task with other demonstrations and the same queries."""
        return Task(self.id, demos, self.queries)


@dataclass(frozen=True, slots=True)
class Solution:
    """The test outputs of a task, in the order of its queries."""

    task_id: str
    outputs: tuple[Grid, ...]


# The grid evaluator: how good a task's attempts are. The one place where attempts and solution meet.

MAX_ATTEMPTS = 2
"""How many attempts at a test input count (ARC Prize's rule since 2024; SEAL's too)."""


def binary_reward(attempts: Sequence[Sequence[Grid]], solution: Solution) -> int:
    """1 when every test output equals one of its attempts in every cell, else 0 (arXiv 2506.10943, section 4.2).

    Args:
        attempts: For each test input, in order, the attempts, best first; only the first two count.
        solution: The test outputs.

    Raises:
        ValueError: When there are not as many lists of attempts as test outputs.
    """
    return int(all(solved_outputs(attempts, solution)))


def mean_score(attempts: Sequence[Sequence[Grid]], solution: Solution) -> float:
    """The share of test outputs that equal one of their attempts, 0 to 1: ARC Prize's official score of a task.

    Args:
        attempts: For each test input, in order, the attempts, best first; only the first two count.
        solution: The test outputs.

    Raises:
        ValueError: When there are not as many lists of attempts as test outputs.
    """
    solved = solved_outputs(attempts, solution)
    return sum(solved) / len(solved)


def solved_outputs(attempts: Sequence[Sequence[Grid]], solution: Solution) -> tuple[bool, ...]:
    """For each test output, whether one of its first two attempts equals it in every cell.

    Raises:
        ValueError: When there are not as many lists of attempts as test outputs.
    """
    pairs = zip(attempts, solution.outputs, strict=True)
    return tuple(output in tuple(made[:MAX_ATTEMPTS]) for made, output in pairs)


# JSON files: read so that every fault names its place, written whole or not at all.

_LONGEST_FOUND = 40
"""Characters of a wrong value that an error shows."""

_LONGEST_INTEGER = 18
"""Digits up to which an integer is kept as one; Python itself refuses to convert one of more than 4300."""


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value, and where it stands.

    Attributes:
        source: The file it was read from.
        place: Where in it, such as `train[0].input[2][1]`; empty for the whole file.
        value: What `json` makes of it, but for objects that repeat a key.
    """

    source: str
    place: str
    value: Any

    def elements(self, expected: str = "a list") -> list["Node"]:
        """The elements of a list.

        Raises:
            InputError: When it is not a list; `expected` says what should have been here.
        """
        if type(self.value) is not list:
            raise self.fault(expected)
        return [Node(self.source, f"{self.place}[{index}]", value) for index, value in enumerate(self.value)]

    def members(self) -> dict[str, "Node"]:
        """The members of an object by key, in the file's order.

        Raises:
            InputError: When it is not an object, or has a key twice.
        """
        if isinstance(self.value, _RepeatingObject):
            raise self.fault("each key once", f"{describe(self.value.repeated)} twice")
        if type(self.value) is not dict:
            raise self.fault("an object")
        prefix = f"{self.place}." if self.place else ""
        return {key: Node(self.source, prefix + key, value) for key, value in self.value.items()}

    def member(self, key: str) -> "Node":
        """The member of an object with this key.

        Raises:
            InputError: When it is not an object, has a key twice or lacks this one.
        """
        members = self.members()
        if key not in members:
            found = f"only {_shortened(', '.join(map(describe, members)))}" if members else "{}"
            raise self.fault(f"an object with {describe(key)}", found)
        return members[key]

    def fault(self, expected: str, found: str | None = None) -> InputError:
        """The error that says what is wrong here; `found` describes the value itself unless given."""
        return InputError(self.source, self.place, expected, describe(self.value) if found is None else found)


def read_json(path: Path) -> Node:
    """Read a JSON file, UTF-8 with or without a byte order mark.

    Raises:
        InputError: When the file cannot be read, is not UTF-8 or is not JSON.
    """
    text = _read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise InputError(str(path), f"line {error.lineno}, column {error.colno}", "JSON", _unreadable(error)) from None
    except RecursionError:
        raise InputError(str(path), "", "JSON", "brackets nested too deeply to be read") from None
    return Node(str(path), "", value)


def write_json(path: Path, text: str) -> None:
    """Put a JSON text into a file, whole or not at all: a reader sees the old file or the new one.

    Raises:
        InputError: When the file cannot be written.
    """
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(str(path), "", "a file that can be written", _reason(error)) from None


def describe(value: Any) -> str:
    """A JSON value in a few words, on one line, for an error message."""
    match value:
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return "an object"
        case Decimal():
            return _shortened(str(value))
        case _:
            return _shortened(json.dumps(value))


class _RepeatingObject(dict[str, Any]):
    """An object with a key that stands in it twice; harmless where nobody looks, a fault where somebody does."""

    repeated: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    faulty = _RepeatingObject(value)
    faulty.repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return faulty


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else Decimal(digits)


def _unreadable(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos :]
    found = describe(rest.split("\n")[0]) if rest.strip() else "the end of the file"
    return f"{found} ({error.msg[0].lower()}{error.msg[1:].removesuffix(' at')})"


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(str(path), "", "a file that can be read", _reason(error)) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{content[error.start]:02x}"
        raise InputError(str(path), f"line {line}", "UTF-8 text", found) from None


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_FOUND else text[: _LONGEST_FOUND - 3] + "..."


# ARC's own JSON form of a task: `{"train": [{"input", "output"}, ...], "test": [{"input"}, ...]}`.

Entry = tuple[Task, Solution | None]
"""A task, and its solution where the file has one."""

_ROW = re.compile(r"\[\s*(\d(?:,\s*\d)*)\s*\]")
"""A row of colours that `json.dumps` has spread over lines."""


def parse_task(node: Node, task_id: str) -> Entry:
    """Read a task. Keys other than ARC's own are left alone.

    Raises:
        InputError: When it is not a task, or some of its test outputs are there and some are not.
    """
    demos = tuple(
        Demonstration(parse_grid(pair.member("input")), parse_grid(pair.member("output")))
        for pair in _pairs(node.member("train"), "at least one demonstration")
    )
    tests = _pairs(node.member("test"), "at least one test input")
    queries = tuple(parse_grid(test.member("input")) for test in tests)
    outputs = tuple(parse_grid(test.member("output")) for test in tests if "output" in test.members())
    if outputs and len(outputs) != len(tests):
        raise node.member("test").fault("an output for each test input, or for none", f"{len(outputs)} of {len(tests)}")
    return Task(task_id, demos, queries), Solution(task_id, outputs) if outputs else None


def parse_solution(node: Node, task: Task) -> Solution:
    """Read a task's test outputs as Kaggle has them: a list of grids, in the order of the test inputs.

    Raises:
        InputError: When it is not a list of grids, or not one for each test input.
    """
    outputs = tuple(parse_grid(output) for output in node.elements("a list of grids"))
    if len(outputs) != len(task.queries):
        raise node.fault(f"{len(task.queries)} grids, one for each test input", str(len(outputs)))
    return Solution(task.id, outputs)


def parse_grid(node: Node) -> Grid:
    """Read a grid from a list of rows.

    Raises:
        InputError: When it is not 1x1 to 30x30 equally long rows of integers 0 to 9.
    """
    rows = node.elements("a list of rows")
    if not 1 <= len(rows) <= MAX_SIDE:
        raise node.fault(f"1 to {MAX_SIDE} rows", str(len(rows)))
    return Grid.from_rows([_row(row, rows[0]) for row in rows])


def write_task(folder: Path, task: Task, solution: Solution | None = None) -> Path:
    """Write a task as `ID.json` into a folder, one grid row a line; without `solution` the test outputs are left out.

    Returns:
        The file written.

    Raises:
        InputError: When the file cannot be written.
        ValueError: When the solution is another task's.
    """
    if solution and (solution.task_id != task.id or len(solution.outputs) != len(task.queries)):
        raise ValueError(f"this is no solution of task {task.id}")
    path = folder / f"{task.id}.json"
    write_json(path, rows_on_lines(_to_json(task, solution)))
    return path


def rows_on_lines(value: Any) -> str:
    """JSON text for people: indented, but each row of a grid on one line."""
    spread = json.dumps(value, indent=2)
    return _ROW.sub(lambda row: f"[{', '.join(row[1].replace(',', ' ').split())}]", spread) + "\n"


def _pairs(node: Node, expected: str) -> list[Node]:
    pairs = node.elements()
    if not pairs:
        raise node.fault(expected, "none")
    return pairs


def _row(node: Node, first: Node) -> list[int]:
    cells = node.value
    if type(cells) is not list:
        raise node.fault("a row, a list of integers")
    if not 1 <= len(cells) <= MAX_SIDE:
        raise node.fault(f"1 to {MAX_SIDE} cells", str(len(cells)))
    if len(cells) != len(first.value):
        raise node.fault(f"{len(first.value)} cells, as in the first row", str(len(cells)))
    for index, cell in enumerate(cells):
        if type(cell) is not int or not 0 <= cell < COLOURS:
            raise node.elements()[index].fault(f"an integer 0 to {COLOURS - 1}")
    return cells


def _to_json(task: Task, solution: Solution | None) -> dict[str, list[dict[str, Any]]]:
    tests: list[dict[str, Any]] = [{"input": query.rows} for query in task.queries]
    for test, output in zip(tests, solution.outputs if solution else (), strict=False):
        test["output"] = output.rows
    return {"train": [{"input": demo.input.rows, "output": demo.output.rows} for demo in task.demos], "test": tests}


# Kaggle's `submission.json`: for each task and test input, in order, two attempts.

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
