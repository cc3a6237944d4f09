"""The Python API: what is exported, what it takes, and what a notebook shows of it."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import arc_seal
from arc_seal import api
from arc_seal.arc.html import PALETTES
from arc_seal.errors import ExecutorClosed
from arc_seal.inner_loop.job import Attempt, Candidate, Result
from arc_seal.ui.task_view import TaskView
from tests.outer_loop.fakes import RIGHT, WRONG
from tests.outer_loop.test_solve import ONE, TASK, TWO, by_hand
from tests.outer_loop.test_solve import solve as solve_scripted

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tasks" / "5582e5ca.json"
SMALL = ("ttt.token_budget=300", "decode.views=1")
"""Overrides under which a task takes two seconds."""

EXPORTS = [
    "ArcSealError", "Attempt", "Demonstration", "Grid", "GridError", "InputError", "SelfEdit", "Solution", "Solved",
    "Solver", "Task", "__version__", "load_task", "load_tasks", "solve",
]  # fmt: skip


def test_what_is_exported() -> None:
    assert arc_seal.__all__ == EXPORTS == [name for name in dir(arc_seal) if name in EXPORTS]
    assert all(getattr(arc_seal, name) is not None for name in EXPORTS)
    with pytest.raises(AttributeError, match="has no attribute 'solv'"):
        arc_seal.solv  # noqa: B018


def loaded(code: str) -> str:
    """Which heavy libraries there are after code has run in a fresh interpreter, behind what it prints."""
    libraries = ("torch", "transformers", "peft", "hydra", "pydantic", "numpy")
    after = f"import sys; print(*[name for name in {libraries} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{after}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_name_loads_only_what_it_needs() -> None:
    assert loaded("from arc_seal import *; Grid, solve, Solver").split() == ["hydra", "pydantic", "numpy"]
    assert loaded("import arc_seal; arc_seal.Grid").split() == ["pydantic", "numpy"]
    assert loaded("import arc_seal; dir(arc_seal)") == ""


@pytest.mark.parametrize("first", ["import arc_seal.solve", "import arc_seal; arc_seal.solve; import arc_seal.solve"])
def test_solve_is_called_alike_whether_the_command_of_that_name_is_imported_or_not(first: str) -> None:
    code = f"{first}\ntry: arc_seal.solve(3)\nexcept arc_seal.InputError as error: print(error)"
    assert loaded(code).startswith("task: expected a spec, a path, a Task or ARC's JSON form as a dict, found 3")


@pytest.fixture(scope="module")
def solver() -> Any:
    with arc_seal.Solver(model="grid", overrides=SMALL) as warm:
        yield warm


def test_every_form_of_a_task_gives_the_same_answer(solver: arc_seal.Solver, capfd: pytest.CaptureFixture[str]) -> None:
    task, solution = arc_seal.load_task(str(FILE))
    form = json.loads(FILE.read_text())
    arrays = {"id": task.id, "train": [{name: np.array(rows) for name, rows in pair.items()} for pair in form["train"]]}
    arrays["test"] = tuple({name: np.array(rows) for name, rows in pair.items()} for pair in form["test"])
    rewarded = [solver.solve(each) for each in (str(FILE), FILE, (task, solution), {"id": task.id, **form}, arrays)]
    alone = solver.solve(task)
    assert {each.attempts for each in (*rewarded, alone)} == {alone.attempts}
    assert {each.task_id for each in rewarded} == {task.id} and solver.solve(form, train=False).task_id == "task"
    assert {each.reward for each in rewarded} <= {0, 1} and alone.reward is None
    assert isinstance(alone.attempts[0][0].grid, arc_seal.Grid) and isinstance(alone.self_edit, arc_seal.SelfEdit)
    assert capfd.readouterr() == ("", "")  # nothing is shown


def test_settings_change_for_one_task_alone(solver: arc_seal.Solver) -> None:
    changed = solver.solve(FILE, seed=3, samples=2, train=False, overrides=["decode.views=2"])
    assert changed.seed == 3 and len(changed.rollouts) == 2 and changed.self_edit is None
    assert all(each.result is not None and len(each.result.candidates) == 2 for each in changed.rollouts)
    again = solver.solve(FILE, train=False)
    assert again.seed == 0 and len(again.rollouts) == 1


def test_threads_take_turns(solver: arc_seal.Solver) -> None:
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda seed: solver.solve(FILE, seed=seed, train=False), range(3)))
    assert [each.seed for each in made] == [0, 1, 2]


@pytest.mark.slow
def test_a_script_without_a_guard_solves(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import arc_seal\nprint(arc_seal.solve({str(FILE)!r}, train=False).rollouts[0].status)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_a_view_is_shown_what_happens_and_settings_are_python_s_values() -> None:
    output = StringIO()
    with TaskView(Console(file=output)) as view:
        arc_seal.solve(FILE, view=view, overrides=SMALL, train=False, temperature=0.5, toolbox=[], policy=None)
    assert "predicting: " in output.getvalue()


def test_a_closed_solver_says_so() -> None:
    with arc_seal.Solver() as closed:
        pass
    with pytest.raises(ExecutorClosed, match="the executor was closed"):
        closed.solve(FILE)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (None, {}, "task: expected a spec, a path, a Task or ARC's JSON form as a dict, found null"),
        ("", {}, "task: expected a JSON file, .*, found nothing"),
        (ROOT / "tasks", {}, "expected one task, as .*/ID, found "),
        ({"train": []}, {}, "task: train: expected at least one pair"),
        ({"train": [{"input": [[11]]}]}, {}, r"task: train\[0\]"),
        ({"train": object()}, {}, "task: expected values that JSON has"),
        (FILE, {"smaples": 2}, r"smaples: expected a setting that there is \(did you mean 'samples'\?\)"),
        (FILE, {"samples": 0}, "samples: expected greater than or equal to 1, found 0"),
        (FILE, {"samples": {}}, "samples: expected None, a truth value, a number, a text or a list of them"),
        (FILE, {"decode": "nix"}, "decode: expected one of default, scored"),
        (FILE, {"overrides": ["ttt.token_budget"]}, "ttt.token_budget: expected NAME=VALUE"),
        (FILE, {"save_svg": "a.svg"}, "save_svg: expected a setting of how to solve"),
        (FILE, {"overrides": ["resume=a"]}, "resume: expected a setting of how to solve"),
        (FILE, {"self_edit": "default", "train": False, "select": "held_out"}, "train: expected true"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(task: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(arc_seal.InputError, match=message) as raised:
        arc_seal.solve(task, **settings)
    assert "\n" not in str(raised.value) and isinstance(raised.value, arc_seal.ArcSealError)


@pytest.mark.parametrize("other", [{"model": "smollm2"}, {"executor": "process"}])
def test_another_model_or_executor_needs_a_solver_of_its_own(solver: arc_seal.Solver, other: dict[str, str]) -> None:
    (name,) = other
    with pytest.raises(arc_seal.InputError, match=f"{name}: expected the {name} of this Solver, found another one"):
        solver.solve(FILE, **other)


def test_a_solver_goes_on_after_an_interrupt(solver: arc_seal.Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(api, "solve_task", interrupted)
        with pytest.raises(KeyboardInterrupt):
            solver.solve(FILE)
    assert solver.solve(FILE, train=False).attempts[0]


def test_the_self_edit_is_the_one_whose_views_gave_the_answers() -> None:
    solved, _ = solve_scripted(task=TASK, samples=2, **by_hand(ONE.model_dump_json()))

    def rollout(sample: int, edit: arc_seal.SelfEdit, *grids: arc_seal.Grid | None) -> Any:
        candidates = tuple(Candidate(0, "", each, 0.0) for each in grids)
        result = Result((), candidates, None)
        return solved.rollouts[sample].model_copy(update={"result": result, "self_edit": edit})

    attempts = ((Attempt(RIGHT, 3, 0.0, 0.0), Attempt(WRONG, 1, 0.0, 0.0)),)
    one, two = rollout(0, ONE, WRONG, RIGHT, None), rollout(1, TWO, RIGHT, RIGHT)
    assert solved.model_copy(update={"attempts": attempts, "rollouts": (one, two)}).self_edit == TWO
    assert solved.model_copy(update={"attempts": ((),), "rollouts": (one, two)}).self_edit == ONE  # the first of equals
    assert solved.model_copy(update={"rollouts": (one.model_copy(update={"result": None}),)}).self_edit is None


class Page(HTMLParser):
    """The tags, titles and lines of a page; what opens must close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.titles: list[str] = []
        self.lines: list[str] = [""]
        self.styles: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"style", "title"}
        self.titles += [str(value) for name, value in attrs if name == "title"]
        self.styles += [str(value) for name, value in attrs if name == "style" and tag == "span"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag != "span":
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        self.lines[-1] += data


def test_a_notebook_shows_a_grid_with_its_digits_in_arc_s_colours() -> None:
    grid = arc_seal.Grid([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    page = Page(grid._repr_html_())
    assert page.titles == ["2x5"] and page.lines[:3] == ["2x5", "01234", "56789"]
    colours = [tuple(part.partition(":")[2] for part in style.split(";")[1:]) for style in page.styles]
    assert colours == list(PALETTES["arc"])
    assert [style.split(";")[0] for style in Page(arc_seal.Grid([[1, 1, 2]])._repr_html_()).styles] == [
        "width:40px",
        "width:20px",
    ]


def test_a_notebook_shows_tasks_and_results_and_what_is_in_a_name_does_nothing() -> None:
    grid = arc_seal.Grid([[1, 2]])
    task = arc_seal.Task("<script>alert(1)</script>\x1b", (arc_seal.Demonstration(grid, grid),), (grid,))
    page = Page(task._repr_html_())
    assert page.titles == ["demo 1 input, 1x2", "demo 1 output, 1x2", "test 1 input, 1x2"]
    assert page.lines[0] == "Task <script>alert(1)</script>\ufffd"
    solved, _ = solve_scripted(task=TASK, **by_hand(ONE.model_dump_json()))
    failed = solved.rollouts[0].model_copy(update={"message": "<b>no</b>", "result": None})
    page = Page(solved._repr_html_())
    assert page.titles and all(title.startswith("test ") and "vote" in title for title in page.titles)
    assert any(line.startswith('Self-edit: {"tools":[{"tool":"rotate"') for line in page.lines)
    lines = Page(solved.model_copy(update={"rollouts": (failed,), "attempts": ((),), "reward": None})._repr_html_())
    assert "ok: <b>no</b>" in lines.lines and "without a solution" in lines.lines[0]
    assert page.tags | lines.tags <= {"section", "h4", "div", "figure", "figcaption", "span", "p"}
