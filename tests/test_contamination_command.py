"""The gate as a command: what is planted is found and named, clean data passes, bad input is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arc_seal.arc.datasets import load_task, load_tasks
from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Entry, Solution, Task, write_task
from arc_seal.contamination import main

UNSEEN = "arcagi1/evaluation/00576224"
CLEAN = "arcagi1/training/0d3d703e"


def put(folder: Path, entry: Entry, how: Callable[[Grid], Grid] = lambda grid: grid, task_id: str = "planted") -> None:
    """Write a task under another id, with `how` done to its grids."""
    task, solution = entry
    outputs = solution and Solution(task_id, tuple(map(how, solution.outputs)))
    moved = task.map_grids(how)
    write_task(folder, Task(task_id, moved.demos, moved.queries), outputs)


def turned(grid: Grid) -> Grid:
    return grid.mapped(lambda cells: np.rot90(cells))


def recoloured(grid: Grid) -> Grid:
    return grid.mapped(lambda cells: (cells + 3) % 10)


def said(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str]]:
    code = main(argv)
    out, err = capfd.readouterr()
    assert err == ""
    return code, out.splitlines()


@pytest.mark.parametrize("how", [turned, recoloured, lambda grid: turned(recoloured(grid))])
def test_a_task_in_disguise_is_found(
    how: Callable[[Grid], Grid], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, load_task(CLEAN), task_id="clean")
    put(tmp_path, load_task(UNSEEN), how)
    code, lines = said(capfd, str(tmp_path), "against=arcagi1/evaluation")
    places = "(train[0], train[1], test[0], ...)"
    assert lines == [
        f"planted: shares 3 pairs and 3 grids with {UNSEEN} {places}",
        f"{tmp_path}: 1 of 2 tasks shares something with arcagi1/evaluation: 1 a pair, 1 a grid",
    ]
    assert code == 1


def test_an_id_alone_and_a_grid_alone_are_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, load_task(CLEAN), task_id="00576224")
    dot, (_, solution) = Grid(1, 1, b"\0"), load_task(UNSEEN)
    assert solution is not None
    demos = (Demonstration(dot, dot), Demonstration(dot, turned(solution.outputs[0])))
    put(tmp_path, (Task("one_grid", demos, (dot,)), None), task_id="one_grid")
    assert said(capfd, str(tmp_path), "--against", "arcagi1/evaluation") == (
        1,
        [
            f"00576224: is {UNSEEN}",
            f"one_grid: shares 1 grid with {UNSEEN} (train[1].output)",
            f"{tmp_path}: 2 of 2 tasks share something with arcagi1/evaluation: 1 an id, 1 a grid",
        ],
    )


def test_json_has_every_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, load_task(UNSEEN), turned)
    code, lines = said(capfd, str(tmp_path), CLEAN, f"--against={UNSEEN}", "--json")
    found = json.loads("\n".join(lines))
    assert (code, found["against"]) == (1, [UNSEEN])
    assert found["shared"][CLEAN] == {"0d3d703e": []}
    shared = found["shared"][str(tmp_path)]["planted"]
    assert [(each["what"], each["place"]) for each in shared] == [
        *(("pair", place) for place in ("train[0]", "train[1]", "test[0]")),
        *(("grid", place) for place in ("train[0].output", "train[1].output", "test[0].output")),
    ]
    assert {each["name"] for each in shared} == {f"{UNSEEN}/00576224"}


def test_without_against_it_is_all_that_is_never_trained_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["arcagi1/dev"]) == 1
    assert "40 of 40 tasks share something" in capfd.readouterr().out
    code, lines = said(capfd, CLEAN)
    assert code == 0 and lines[0].startswith(f"{CLEAN}: none of 1 tasks shares an id, a pair or a grid with arcagi1/ev")


def test_several_sets_are_all_looked_at(capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = said(capfd, "arcagi1/dev/1bfc4729", "against=arcagi1/evaluation", "against=arcagi1/dev")
    assert code == 1 and lines[0].startswith("1bfc4729: is arcagi1/dev/1bfc4729 and shares 3 pairs")
    assert main(["arcagi1/dev/1bfc4729", "against=arcagi1/evaluation"]) == 0


def test_arc_agi_2s_training_set_has_most_of_arc_agi_1s_evaluation_set(capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = said(capfd, "arcagi2/training", "against=arcagi1/evaluation")
    ids = {task.id for task, _ in load_tasks("arcagi1/evaluation")} & {t.id for t, _ in load_tasks("arcagi2/training")}
    assert (code, len(ids)) == (1, 376)
    assert sum(f": is arcagi1/evaluation/{line[:8]}" in line for line in lines) == 376
    assert ": 376 an id, 377 a pair, 400 a grid" in lines[-1]


def test_json_lines_and_lists_of_pairs_are_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pairs = [{"input": demo.input.rows, "output": demo.output.rows} for demo in load_task(UNSEEN)[0].demos]
    (tmp_path / "list.json").write_text(json.dumps(pairs))
    (tmp_path / "lines.jsonl").write_text(json.dumps({"id": "x", "train": pairs[:1], "test": pairs[1:]}) + "\n")
    for name in ("list.json", "lines.jsonl"):
        code, lines = said(capfd, str(tmp_path / name), f"against={UNSEEN}")
        assert code == 1 and "shares 2 pairs and 2 grids" in lines[0]


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        ([], "arguments: expected tasks: a file, a folder or a set (or --help), found none"),
        (["nowhere"], "nowhere: expected a JSON file, a folder, arcagi1/ID or arcagi2/ID, found no file or folder of"),
        ([CLEAN, "against=nowhere"], "nowhere: expected a JSON file"),
        ([CLEAN, "--agianst", "x"], "--agianst: expected a flag that --help lists (did you mean '--against'?), found"),
        ([CLEAN, "--against"], "--against: expected a set after it, found nothing"),
    ],
)
def test_bad_input_is_one_line(argv: list[str], fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"error: {fault}") and err.count("\n") == 1


def test_a_broken_task_is_an_error_and_another_file_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, load_task(CLEAN))
    (tmp_path / "notes.json").write_text('{"author": "x"}')
    assert main([str(tmp_path)]) == 0
    assert capfd.readouterr().err.count("(left out)") == 1
    (tmp_path / "broken.json").write_text('{"train": [{"input": [[1]], "output": [[12]]}], "test": []}')
    assert main([str(tmp_path)]) == 2
    assert "broken.json" in capfd.readouterr().err


def test_an_id_that_comes_twice_hides_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, spec in (("one.json", UNSEEN), ("two.json", CLEAN)):
        put(tmp_path, load_task(spec))
        (tmp_path / name).write_text(json.dumps({"same": json.loads((tmp_path / "planted.json").read_text())}))
    (tmp_path / "planted.json").unlink()
    assert main([str(tmp_path)]) == 2
    assert capfd.readouterr().err == f"error: {tmp_path}: expected the task id same once, found it twice\n"


def test_help_says_what_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capfd.readouterr().out.startswith("Say which tasks share an id, a pair or a grid")
