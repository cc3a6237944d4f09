"""The live view, as a pipe and as a terminal see it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from arc_seal.arc.task import Solution, Task
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Progress
from arc_seal.outer_loop.solve import Solved
from arc_seal.self_edit.schema import ChoiceSchema
from arc_seal.ui.progress import recording_console
from arc_seal.ui.task_view import TaskView, pretty_json, written_by
from arc_seal.ui.views import one_line_edit
from tests.self_edit.test_choices import WIDE
from tests.ui.builders import COMPLETION, OTHER_SIZE, RIGHT, SOLUTION, TASK, WRONG, grid, rollout, solved
from tests.ui.golden import Clock, assert_golden, colour_console, plain_console, shown


def session(console: Console, solution: Solution | None, result: Solved, recording: Console | None = None) -> TaskView:
    """One task solved, at the pace of a clock that does not move."""
    view = TaskView(console, recording, live=False, clock=Clock())
    with view:
        view.begin(TASK, 0, 1)
        view.progress(0, Progress("load", 1, 1))
        view.progress(0, Progress("write", 80, 512, tokens_per_s=31.0))
        view.proposed(rollout())
        view.progress(0, Progress("train", 60, 60, loss=0.03125, tokens_per_s=150.0))
        view.progress(0, Progress("predict", 96, 96, tokens_per_s=210.0))
        view.finished(rollout())
        view.end(TASK, solution, result, Path("runs/x"))
    return view


@pytest.mark.parametrize("width", [80, 48])
def test_a_solved_task_in_plain_lines(width: int) -> None:
    console = plain_console(width)
    session(console, SOLUTION, solved(RIGHT, WRONG))
    assert_golden(f"solved_{width}.txt", shown(console))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown(console))


def test_a_solved_task_in_colour() -> None:
    console = colour_console()
    session(console, SOLUTION, solved(RIGHT, WRONG))
    assert_golden("solved_colour.txt", shown(console))


def test_no_color_leaves_the_digits_alone() -> None:
    coloured, bare = colour_console(), colour_console()
    bare.no_color = True
    for console in (coloured, bare):
        session(console, SOLUTION, solved(RIGHT, WRONG))
    assert not re.search(r"\x1b\[[\d;]*[34][0-9]", shown(bare))
    escapes = re.compile(r"\x1b\[[\d;]*m")
    assert escapes.sub("", shown(bare)) == escapes.sub("", shown(coloured))


def test_a_task_without_its_solution() -> None:
    console = plain_console()
    session(console, None, solved(RIGHT, OTHER_SIZE, reward=None))
    assert_golden("unscored.txt", shown(console))


def test_an_unsolved_task() -> None:
    console = plain_console()
    session(console, SOLUTION, solved(WRONG, OTHER_SIZE, reward=0))
    assert_golden("unsolved.txt", shown(console))


def test_confidence_is_shown_where_there_is_one() -> None:
    console = plain_console(120)
    session(console, SOLUTION, solved(replace(RIGHT, confidence=0.873), replace(WRONG, confidence=0.0)))
    assert "attempt 1, 6 votes, 87 % sure" in shown(console) and "attempt 2, 2 votes, 0 % sure" in shown(console)
    without = plain_console(120)
    session(without, SOLUTION, solved(RIGHT, WRONG))
    assert "sure" not in shown(without)


def test_a_failure_is_bold_as_a_success_is() -> None:
    console = colour_console()
    session(console, SOLUTION, solved(WRONG, reward=0))
    assert "\x1b[1;38;2;230;159;0mReward 0: not solved" in shown(console)


def test_a_self_edit_that_nobody_wrote_is_shown_too() -> None:
    console = plain_console()
    with TaskView(console, live=False, clock=Clock()) as view:
        view.proposed(rollout(completion=None))
        view.proposed(rollout(completion=None, self_edit=None, status=Status.TIMEOUT))
    first, second = shown(console).split("Self-edit")[1:]
    assert '{"tool": "rotate", "quarter_turns": 1},' in first
    assert second == ": none was written\n\n\n"


def test_several_samples_of_which_one_fails() -> None:
    console = plain_console()
    with TaskView(console, live=False, clock=Clock()) as view:
        view.begin(TASK, 0, 2)
        view.proposed(rollout())
        view.finished(rollout())
        view.proposed(rollout(1, completion="so sorry,\n\x1b[31mI cannot\x07", self_edit=None))
        view.finished(rollout(1, status=Status.INVALID_SELF_EDIT, message="expected JSON, found \x1b"))
    text = shown(console)
    assert "Self-edit 1 of 2\n" in text and "Roll-out 1 of 2: ok\n" in text
    assert "Self-edit 2 of 2 (not valid)\nso sorry,\n\ufffd[31mI cannot\ufffd\n" in text
    assert text.endswith("Roll-out 2 of 2: invalid_self_edit: expected JSON, found \ufffd\n")


def test_several_test_inputs_are_told_apart() -> None:
    task = Task("two", TASK.demos, (grid("1"), grid("2")))
    solution = Solution("two", (grid("3"), grid("4")))
    result = solved().model_copy(update={"attempts": ((RIGHT,), ())})
    console = plain_console()
    with TaskView(console, live=False) as view:
        view.end(task, solution, result, Path("x"))
    text = shown(console)
    assert "Test 1 of 2\ninput   attempt 1, 6 votes   solution\n1x1     3x3, wrong size      1x1\n" in text
    assert "Test 2 of 2\ninput   no attempt   solution\n1x1                  1x1\n" in text


def test_the_picture_holds_what_was_shown_but_for_what_moved(tmp_path: Path) -> None:
    console = colour_console()
    view = session(console, SOLUTION, solved(RIGHT, WRONG), recording_console())
    view.save_svg(tmp_path / "new" / "run.svg", "python -m arc_seal.solve x")
    picture = (tmp_path / "new" / "run.svg").read_text("utf-8")
    assert picture.startswith("<svg") and "python&#160;-m&#160;arc_seal.solve&#160;x" in picture
    for words in ("Task", "demo", "Self-edit", "lora_rank", "training", "Reward", "solution"):
        assert words in picture
    assert "#ff4136" in picture
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "run.svg"]


def test_a_picture_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="save_svg: expected a file that can be written"):
        TaskView(plain_console(), recording_console()).save_svg(tmp_path / "file" / "run.svg", "")


def test_pretty_json_breaks_only_what_is_too_long() -> None:
    value = json.loads(COMPLETION)
    text = pretty_json(value, 72)
    assert json.loads(text) == value
    assert all(len(line) <= 80 for line in text.splitlines())
    assert '  "tools": [\n    {"tool": "rotate", "quarter_turns": 1},\n' in text
    assert pretty_json({}, 0) == "{}"


def test_a_self_edit_says_what_it_leaves_open_nowhere() -> None:
    choices = ChoiceSchema(WIDE)
    text = '{"tokens":8000,"learning_rate":0.0005,"rank":16,"demonstrations":2,"symmetries":false,"colours":false}'
    every = choices.parse(text.replace(":2,", ':"all",'))
    training = "loss_on outputs, learning_rate 0.0005, epochs 1, batch_size 4, lora_rank 16, max_examples 256"
    plain = f"shuffle_demos(); {training}"
    assert one_line_edit(choices.parse(text)) == f"{plain}, tokens 8000, demonstrations 2"
    assert one_line_edit(every) == f"{plain}, tokens 8000"


def test_who_wrote_a_self_edit_and_what_else_it_might_have_been_is_said() -> None:
    alternatives = {"tokens": {"8000": 0.251, "120000": 0.619, "30000": 0.13}}
    written = {"completion": "{}", "policy": "policy-grid", "difficulty": 4, "alternatives": alternatives}
    made = rollout().model_copy(update=written)
    assert written_by(made) == [
        "written by policy-grid, to which the task looks 4 of 9 hard",
        "  tokens: 120000 (62 %), 8000 (25 %), 30000 (13 %)",
    ]
    assert written_by(made.model_copy(update={"completion": None})) == []
    assert written_by(made.model_copy(update={"self_edit": None})) == []
