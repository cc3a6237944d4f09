"""Tasks and solutions, how attempts are scored, and the JSON files of both.

A `Task` has no field where a test output would fit. Whatever prompts, trains or decodes is given a `Task`, so a leak
cannot be written by accident; attempts and a task's `Solution` meet in `binary_reward` and `mean_score` only.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from arc_seal.arc.grid import Grid
from arc_seal.arc.html import figure, section, side_by_side
from arc_seal.errors import InputError
from arc_seal.files import file_name, write_whole
from arc_seal.settings import joined

MAX_ATTEMPTS = 2
"""How many attempts at a test input count (ARC Prize's rule since 2024; SEAL's too)."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One solved pair that a task shows."""

    input: Grid
    output: Grid


@dataclass(frozen=True, slots=True)
class Task:
    """An ARC task as a solver sees it, named such as `0d3d703e`: at least one solved pair, and one input to solve."""

    id: str
    demos: tuple[Demonstration, ...]
    queries: tuple[Grid, ...]

    def __post_init__(self) -> None:
        if not self.demos or not self.queries:
            raise ValueError(f"task {self.id} needs a demonstration and a query")

    @property
    def cells(self) -> int:
        """Cells of all demonstrations together: the more, the longer its contexts."""
        return sum(len(grid.cells) for demo in self.demos for grid in (demo.input, demo.output))

    def map_grids(self, change: Callable[[Grid], Grid]) -> "Task":
        """The task with `change` applied to every grid, inputs and outputs alike."""
        demos = tuple(Demonstration(change(demo.input), change(demo.output)) for demo in self.demos)
        return Task(self.id, demos, tuple(change(query) for query in self.queries))

    def with_demos(self, demos: tuple[Demonstration, ...]) -> "Task":
        """The task with other demonstrations and the same queries."""
        return Task(self.id, demos, self.queries)

    def _repr_html_(self) -> str:
        """What a notebook shows: each demonstration, then the inputs to solve."""
        pairs = [
            side_by_side([figure(demo.input, f"demo {number} input"), figure(demo.output, f"demo {number} output")])
            for number, demo in enumerate(self.demos, start=1)
        ]
        queries = [figure(query, f"test {number} input") for number, query in enumerate(self.queries, start=1)]
        return section(f"Task {self.id}", side_by_side(pairs), side_by_side(queries))


@dataclass(frozen=True, slots=True)
class Solution:
    """The test outputs of a task, in the order of its queries."""

    task_id: str
    outputs: tuple[Grid, ...]


Entry = tuple[Task, Solution | None]
"""A task, and its solution where the file has one."""


class NotATask(InputError):
    """What was found is plainly no task, not a task with a fault: a folder's file of this kind is left out."""

    def left_out(self) -> "NotATask":
        """The same, saying so."""
        return NotATask(self.source, self.place, self.expected, f"{self.found} (left out)")


def binary_reward(attempts: Sequence[Sequence[Grid]], solution: Solution) -> int:
    """1 when every output in `solved_outputs` is solved, else 0 (arXiv 2506.10943, section 4.2)."""
    return int(all(solved_outputs(attempts, solution)))


def mean_score(attempts: Sequence[Sequence[Grid]], solution: Solution) -> float:
    """The share of solved outputs in `solved_outputs`, 0 to 1: ARC Prize's official score of a task."""
    return sum(solved_outputs(attempts, solution)) / len(solution.outputs)


def solved_outputs(attempts: Sequence[Sequence[Grid]], solution: Solution) -> tuple[bool, ...]:
    """For each test output, whether one of its first two attempts, best first, equals it in every cell.

    ValueError where there are not as many lists of attempts as test outputs.
    """
    pairs = zip(attempts, solution.outputs, strict=True)
    return tuple(output in tuple(made[:MAX_ATTEMPTS]) for made, output in pairs)


class _Test(BaseModel):
    input: Grid
    output: Grid | None = None


class _TaskFile(BaseModel):
    """ARC's own JSON form of a task; keys other than these are left alone."""

    train: tuple[Demonstration, ...] = Field(min_length=1)
    test: tuple[_Test, ...] = Field(min_length=1)


_GRIDS = TypeAdapter(tuple[Grid, ...])

Form = TypeVar("Form")
Place = Sequence[int | str]
"""Keys and indices that lead to a value in a file."""

_EXPECTED = {
    **dict.fromkeys(("dataclass_type", "dict_type", "model_type"), "an object"),
    "tuple_type": "a list",
    "too_short": "at least one pair",
}
"""What is expected where pydantic finds a fault of this type."""


def parse_task(value: Any, task_id: str, source: str, place: Place = ()) -> Entry:
    """The task that a JSON value is, in ARC's form or RE-ARC's, a list of pairs of which the last is the test.

    InputError where it has a fault or some test outputs but not all, `NotATask` where it is plainly no task.
    """
    kind = InputError if is_meant_as_task(value) else NotATask
    if isinstance(value, list) and kind is InputError:
        value = {"train": value[:-1], "test": value[-1:]}
    form = parse(_TaskFile.model_validate, value, source, place, kind)
    outputs = tuple(test.output for test in form.test if test.output is not None)
    if outputs and len(outputs) != len(form.test):
        found = f"{len(outputs)} of {len(form.test)}"
        raise InputError(source, joined([*place, "test"]), "an output for each test input, or for none", found)
    task = Task(task_id, form.train, tuple(test.input for test in form.test))
    return task, Solution(task_id, outputs) if outputs else None


def is_meant_as_task(value: Any) -> bool:
    """Whether a JSON value is a task, be it a broken one."""
    if isinstance(value, list):
        return any(isinstance(pair, dict) and "input" in pair for pair in value)
    return isinstance(value, dict) and not value.keys().isdisjoint(("train", "test"))


def parse_solution(value: Any, task: Task, source: str) -> Solution:
    """The solution that a JSON value of Kaggle's is; InputError where it is no list of one grid for each test input."""
    outputs = parse(_GRIDS.validate_python, value, source, [task.id])
    if len(outputs) != len(task.queries):
        raise InputError(source, task.id, f"{len(task.queries)} grids, one for each test input", str(len(outputs)))
    return Solution(task.id, outputs)


def parse(
    validate: Callable[[Any], Form], value: Any, source: str, place: Place = (), kind: type[InputError] = InputError
) -> Form:
    """What pydantic's `validate` makes of a JSON value at a place in a file; `kind` with the first fault found."""
    try:
        return validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
    where, found = [*place, *fault["loc"]], describe(fault["input"])
    expected = _EXPECTED.get(fault["type"], fault["msg"].removeprefix("Input should be "))
    if fault["type"] == "missing":
        expected = f"an object with {describe(where.pop())}"
        keys = ", ".join(map(json.dumps, fault["input"]))
        found = f"only {shorten(keys, 40, placeholder=' ...')}" if keys else "{}"
    raise kind(source, joined(where), expected, found)


def describe(value: Any) -> str:
    """A JSON value for an error message: one line of at most 40 characters, all of them ASCII."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    line = str(value) if isinstance(value, Decimal) else json.dumps(value)
    return line if len(line) <= 40 else f"{line[:37]}..."


def read_json(path: Path) -> Any:
    """The value in a JSON file, or the list of those in JSON lines, `.jsonl`. Very long integers become `Decimal`.

    InputError where it is no regular file of at most 64 MB that can be read, is not UTF-8 (with or without a byte
    order mark) or not JSON, or an object in it has a key twice.
    """
    repeating: dict[int, tuple[dict[str, Any], str]] = {}

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            repeating[id(value)] = value, next(key for key in keys if keys.count(key) > 1)
        return value

    def make_integer(digits: str) -> int | Decimal:
        return int(digits) if len(digits) <= 640 else Decimal(digits)  # Python may refuse to convert more than 640

    source = str(path)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError("a pipe or a device")  # they may not end
        if path.stat().st_size > 64_000_000:  # ARC-AGI-2's 1120 tasks take 4 MB, and 8 times as much when read
            raise InputError(source, "", "a file of at most 64 MB", "a larger one")
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix.lower() == ".jsonl":  # commas are put before the line breaks, so that faults keep their lines
            text = "[" + re.sub(r"\s*\n\s*", r",\g<0>", text.strip()) + "]"
        value = json.loads(text, object_pairs_hook=make_object, parse_int=make_integer)
        for place, part in _parts(value) if repeating else ():
            if id(part) in repeating:
                where, twice = json.dumps(joined(place))[1:-1], describe(repeating[id(part)][1])  # on one line
                raise InputError(source, where, "each key once", f"{twice} twice")
        return value
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(source, f"line {line}", "UTF-8 text", f"the byte 0x{error.object[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :]
        found = describe(rest.split("\n")[0]) if rest.strip() else "the end of the file"
        reason = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
        raise InputError(source, f"line {error.lineno}, column {error.colno}", "JSON", f"{found} ({reason})") from None
    except RecursionError:
        raise InputError(source, "", "JSON", "brackets nested too deeply to be read") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(source, "", "a file that can be read", _reason(error)) from None


def _parts(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """A JSON value and every value in it, each behind its place."""
    yield place, value
    for step, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _parts(part, [*place, step])


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def write_json(path: Path, text: str) -> None:
    """Put a text into a file, whole or not at all (`files.write_whole`); InputError where it cannot be written."""
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(str(path), "", "a file that can be written", _reason(error)) from None


def write_task(folder: Path, task: Task, solution: Solution | None = None) -> Path:
    """Write a task as `ID.json` into a folder, one grid row a line; without `solution` the test outputs are left out.

    InputError where the file cannot be written, ValueError where the solution is another task's.
    """
    path = folder / f"{task.id}.json"
    write_json(path, rows_on_lines(task_form(task, solution)))
    return path


def task_form(task: Task, solution: Solution | None = None) -> dict[str, list[dict[str, Any]]]:
    """ARC's own JSON form of a task, which `parse_task` reads; without `solution` the test outputs are left out.

    ValueError where the solution is another task's.
    """
    if solution and (solution.task_id != task.id or len(solution.outputs) != len(task.queries)):
        raise ValueError(f"this is no solution of task {task.id}")
    train = [{"input": demo.input.rows, "output": demo.output.rows} for demo in task.demos]
    outputs = [{"output": output.rows} for output in solution.outputs] if solution else [{}] * len(task.queries)
    test = [{"input": query.rows, **output} for query, output in zip(task.queries, outputs, strict=True)]
    return {"train": train, "test": test}


def rows_on_lines(value: Any) -> str:
    """JSON text for people: indented, but each row of a grid on one line."""
    row_over_lines = r"\[\s*\d(,\s*\d)*\s*\]"
    return re.sub(row_over_lines, lambda row: json.dumps(json.loads(row[0])), json.dumps(value, indent=2)) + "\n"


def submission(answers: Mapping[str, Sequence[Sequence[Grid]]]) -> dict[str, list[dict[str, list[list[int]]]]]:
    """Kaggle's `submission.json`: by task id, for each test input in order, `attempt_1` and `attempt_2` as rows.

    A missing second attempt repeats the first; `[[0]]` stands where there is none.
    """

    def two(attempts: Sequence[Grid]) -> dict[str, list[list[int]]]:
        rows = [[list(row) for row in grid.rows] for grid in attempts[:MAX_ATTEMPTS]] or [[[0]]]
        return {"attempt_1": rows[0], "attempt_2": rows[-1]}

    return {task_id: [two(attempts) for attempts in queries] for task_id, queries in answers.items()}


def write_submission(path: Path, answers: Mapping[str, Sequence[Sequence[Grid]]]) -> None:
    """Write the submission of attempts, best first, whole or not at all; InputError where that cannot be written."""
    write_json(path, json.dumps(submission(answers)) + "\n")


_DETAILS = dict.fromkeys(("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"), 0)
_METADATA = {
    **dict.fromkeys(("model", "provider"), "arc-seal"),
    **dict.fromkeys(("start_timestamp", "end_timestamp"), "1970-01-01T00:00:00Z"),
    "choices": [],
    "kwargs": {},
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "completion_tokens_details": _DETAILS},
    "cost": {"prompt_cost": 0, "completion_cost": 0, "total_cost": 0},
}
"""What ARC Prize's scorer requires with each answer: the times, tokens and cost of a model service, here none."""


def write_official_submission(folder: Path, answers: Mapping[str, Sequence[Sequence[Grid]]]) -> None:
    """Write `ID.json` a task as ARC Prize's scorer (arcprize/arc-agi-benchmarking) reads it; InputError as above.

    The scorer takes every file of the folder for a task of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for task_id, queries in submission(answers).items():
        tests = []
        for index, attempts in enumerate(queries):
            metadata = {**_METADATA, "task_id": task_id, "pair_index": index}
            tests.append({name: {"answer": rows, "metadata": metadata} for name, rows in attempts.items()})
        write_json(folder / f"{file_name(task_id)}.json", json.dumps(tests) + "\n")
