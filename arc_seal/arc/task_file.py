"""ARC's own JSON form of a task: `{"train": [{"input", "output"}, ...], "test": [{"input"}, ...]}`."""

import json
import re
from pathlib import Path
from typing import Any

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.arc.json_file import Node, write_json
from arc_seal.arc.task import Demonstration, Solution, Task

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
