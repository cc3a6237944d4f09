"""Writing tasks and reading them back."""

import json
from pathlib import Path

import pytest
from hypothesis import given

from arc_seal.arc.datasets import load_task
from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution, Task, rows_on_lines, write_task
from arc_seal.errors import InputError
from tests.arc.strategies import solved_tasks


@given(solved_tasks())
def test_a_task_written_is_the_task_read(
    tmp_path_factory: pytest.TempPathFactory, entry: tuple[Task, Solution]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert load_task(str(write_task(folder, *entry))) == entry


@given(solved_tasks())
def test_a_task_written_without_solution_holds_no_test_output(
    tmp_path_factory: pytest.TempPathFactory, entry: tuple[Task, Solution]
) -> None:
    path = write_task(tmp_path_factory.getbasetemp(), entry[0])
    assert load_task(str(path)) == (entry[0], None)
    assert all(test.keys() == {"input"} for test in json.loads(path.read_text())["test"])


def test_each_row_of_a_grid_is_one_line() -> None:
    text = rows_on_lines({"train": [{"input": [[1, 2], [3, 4]]}]})
    assert "        [1, 2],\n        [3, 4]\n" in text and json.loads(text) == {"train": [{"input": [[1, 2], [3, 4]]}]}


def test_another_tasks_solution_is_a_programming_error(tmp_path: Path) -> None:
    task, solution = load_task("arcagi1/0d3d703e")
    assert solution
    for wrong in (Solution("other", solution.outputs), Solution(task.id, solution.outputs * 2)):
        with pytest.raises(ValueError, match="no solution of task"):
            write_task(tmp_path, task, wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    task, _ = load_task("arcagi1/0d3d703e")
    with pytest.raises(InputError, match=r"expected a file that can be written, found no such file or directory$"):
        write_task(tmp_path / "missing", task)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "0d3d703e.json").mkdir()
    with pytest.raises(InputError, match="expected a file that can be written"):
        write_task(tmp_path, load_task("arcagi1/0d3d703e")[0])
    assert [path.name for path in tmp_path.iterdir()] == ["0d3d703e.json"]


def test_the_largest_grid_survives(tmp_path: Path) -> None:
    largest = Grid(30, 30, bytes(range(10)) * 90)
    task = load_task("arcagi1/0d3d703e")[0]
    assert load_task(str(write_task(tmp_path, Task("big", task.demos, (largest,)))))[0].queries == (largest,)
