"""A file of tasks solved in a given time, by processes that may die, hang or find nothing."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal import competition
from arc_seal.competition import LEAST_TASK_S, deal, machine, solve_competition, task_seconds
from arc_seal.errors import InputError
from tests.ui.builders import RIGHT, WRONG, solved

BLANK = {"attempt_1": [[0]], "attempt_2": [[0]]}
RIGHT_ROWS, WRONG_ROWS = ([list(row) for row in each.grid.rows] for each in (RIGHT, WRONG))
FOUND = {"attempt_1": RIGHT_ROWS, "attempt_2": RIGHT_ROWS}
PAIR = {"input": [[1]], "output": [[2]]}

SOLVER = """\
#!{python}
import json, os, pathlib, signal, sys, time
module, file, to = sys.argv[2:5]
how, folder = to.split("=", 1)
folder, resumed = pathlib.Path(folder.strip("'")), how == "resume"
assert module == "arc_seal.solve" and resumed == folder.is_dir()
place, results = folder.parent.name, json.loads(pathlib.Path({results!r}).read_text())
submission = json.loads(pathlib.Path({submission!r}).read_text())  # it is there before anything is solved
assert submission.keys() == {{"long", "short", "two", "broken"}}
tasks = json.loads(pathlib.Path(file).read_text())

def answer(task, kind="right"):
    (folder / task).mkdir(parents=True, exist_ok=True)
    made = results[kind].replace("5582e5ca", task)
    (folder / task / "fresh").write_text(made)
    (folder / task / "fresh").replace(folder / task / "result.json")

names = [each for each in tasks if each in ("long", "short")]
{body}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Solve a file of four tasks by processes that do what `body` says; the submission that is left."""
    tasks = {
        "short": {"train": [PAIR], "test": [{"input": [[1]]}]},
        "long": {"train": [PAIR] * 9, "test": [{"input": [[1]]}]},
        "two": {"train": [PAIR], "test": [{"input": [[1]]}, {"input": [[2]]}]},
        "broken": {"train": [PAIR]},
    }
    challenges, submission, results = (tmp_path / f"{name}.json" for name in ("x_challenges", "submission", "results"))
    challenges.write_text(json.dumps(tasks))
    kinds = {"right": solved(RIGHT, reward=None), "wrong": solved(WRONG, reward=None), "none": solved(reward=None)}
    results.write_text(json.dumps({kind: json.dumps(each.model_dump(mode="json")) for kind, each in kinds.items()}))
    monkeypatch.setattr(competition, "POLL_S", 0.02)
    monkeypatch.setattr(competition, "LEAST_TASK_S", 0.1)
    monkeypatch.setattr(competition, "machine", lambda: (["0", "1"], []))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def start(body: str, seconds: float = 20, passes: int = 1) -> Any:
        script, python = tmp_path / "solver", sys.executable
        script.write_text(SOLVER.format(python=python, results=str(results), submission=str(submission), body=body))
        script.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(script))
            found = solve_competition(challenges, submission, seconds, passes=passes)
        made = json.loads(submission.read_text())
        assert made.keys() == tasks.keys() and [len(each) for each in made.values()] == [1, 1, 2, 1]
        return found, made

    return start


def test_what_is_found_is_in_the_submission_and_the_rest_is_blank(run: Any) -> None:
    found, made = run("for name in names: answer(name)\nsys.exit(2)")
    assert (found, made) == (2, {"short": [FOUND], "long": [FOUND], "two": [BLANK, BLANK], "broken": [BLANK]})


def test_a_process_that_is_killed_goes_on_where_it_was(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    body = (
        "if not resumed and names:\n    folder.mkdir()\n    print('the last line', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\nfor name in names: answer(name)\nsys.exit(2)"
    )
    found, made = run(body)
    assert found == 2 and made["long"] == made["short"] == [FOUND]
    assert "ended with -9 after 0/2 tasks: the last line" in capsys.readouterr().out


def test_a_process_that_always_dies_is_given_up(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found, made = run("sys.exit('no memory')")
    assert found == 0 and all(each == [BLANK] * len(each) for each in made.values())
    assert capsys.readouterr().out.count("no memory") >= 2 * 2 * (1 + competition.RESTARTS)


def test_when_time_is_up_what_is_there_is_kept_and_nothing_runs_on(run: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    body = f"open(os.path.join({str(pids)!r}, str(os.getpid())), 'w')\n"
    found, made = run(body + "if 'long' in names: answer('long')\ntime.sleep(60)", seconds=2)
    assert found == 1 and made["long"] == [FOUND] and made["short"] == [BLANK]
    assert len(list(pids.iterdir())) == 2
    for pid in pids.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.name), 0)


def test_without_time_the_submission_is_whole_all_the_same(run: Any) -> None:
    assert run("answer('long')", seconds=0) == (0, {name: [BLANK] * (1 + (name == "two")) for name in
                                                    ("short", "long", "two", "broken")})  # fmt: skip


def test_tasks_without_an_answer_are_tried_again(run: Any) -> None:
    body = "for name in names: answer(name, 'right' if name == 'short' or 'again' in place else 'none')"
    found, made = run(body + "\nassert place == 'seed0' or 'short' not in tasks\nsys.exit(2)")
    assert found == 2 and made["long"] == [FOUND]


def test_passes_have_seeds_of_their_own_and_vote_together(run: Any) -> None:
    body = "assert f'seed={int(place[4])}' in sys.argv\n"
    found, made = run(body + "for name in names: answer(name, 'wrong' if '0' in place else 'right')\nsys.exit(2)",
                      passes=2)  # fmt: skip
    assert found == 2 and made["short"] == [{"attempt_1": RIGHT_ROWS, "attempt_2": WRONG_ROWS}]


@pytest.mark.parametrize("text", ["[]", "{}", "{", '"x"'])
def test_a_file_without_tasks_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError):
        solve_competition(tmp_path / "x.json", tmp_path / "submission.json", 1)


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 8))
def test_every_task_is_dealt_once_and_the_longest_come_first(lengths: list[int], processes: int) -> None:
    tasks = {f"task{number}": [0] * length for number, length in enumerate(lengths)}
    parts = deal(tasks, processes)
    assert sorted(name for part in parts for name in part) == sorted(tasks)
    assert len(parts) == min(processes, len(tasks)) and all(parts)
    assert len({len(part) for part in parts}) <= 2
    for part in parts:
        sizes = [len(tasks[name]) for name in part]
        assert sizes == sorted(sizes, reverse=True)
    if parts:
        assert len(tasks[parts[0][0]]) == max(lengths)


@given(st.floats(0, 50_000), st.integers(1, 400))
def test_all_tasks_have_their_turn_unless_time_is_short(left_s: float, tasks: int) -> None:
    seconds = task_seconds(left_s, tasks)
    assert seconds >= LEAST_TASK_S
    assert seconds == LEAST_TASK_S or tasks * seconds < left_s


@pytest.mark.parametrize(
    ("says", "devices", "settings"),
    [
        ("8.9\n8.9\n8.9\n8.9", ["0", "1", "2", "3"], []),
        ("7.5\n7.5", ["0", "1"], ["model.dtype=float32"]),
        ("", [""] * (os.cpu_count() or 1), []),
        ("No devices were found", [""] * (os.cpu_count() or 1), []),
    ],
)
def test_the_machine_is_asked(
    says: str, devices: list[str], settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\necho '{says}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine() == (devices, settings)


def test_without_a_gpu_there_is_a_process_a_core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine() == ([""] * (os.cpu_count() or 1), [])
