"""A sweep: a line a task, and what stands at its end."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from arc_seal.errors import InputError, Status
from arc_seal.ui.run_folder import Run
from arc_seal.ui.views import SweepView, totals
from tests.ui.builders import RIGHT, SELF_EDIT, WRONG, solved
from tests.ui.golden import Clock, assert_golden, colour_console, plain_console, shown

RUNS = [
    Run("5582e5ca", 0, Path("a"), solved(RIGHT, WRONG)),
    Run("5582e5ca", 1, Path("b"), solved(WRONG, reward=0, seed=1)),
    Run("5582e5ca", 2, Path("c"), solved(reward=0, seed=2, status=Status.TIMEOUT)),
    Run("tasks/missing.json", 0, Path("d"), None, InputError("tasks/missing.json", "", "a file", "none")),
]


def sweep(console: Console, runs: Sequence[Run]) -> None:
    view = SweepView(console, live=False, clock=Clock(), total=len(runs), width=18, seeds=True)
    view.stage("tasks", 0, len(runs))
    for run in runs:
        view.ran(run)
    view.sum_up(runs, Path("runs/2025 01"))


def other_edit(run: Run) -> Run:
    """The run under a self-edit without tools."""
    assert run.solved is not None
    made = [
        each.model_copy(update={"self_edit": SELF_EDIT.model_copy(update={"tools": ()})})
        for each in run.solved.rollouts
    ]
    return replace(run, solved=run.solved.model_copy(update={"rollouts": tuple(made)}))


def test_one_line_a_run_and_the_self_edit_where_it_differs() -> None:
    console = plain_console()
    sweep(console, [*RUNS, RUNS[0], other_edit(RUNS[0]), other_edit(RUNS[1]), RUNS[0]])
    assert_golden("summary.txt", shown(console))
    assert shown(console).count("Self-edit: ") == 3


def test_the_tokens_that_were_written_for_a_task_stand_in_its_line() -> None:
    def of_tokens(run: Run, tokens: int) -> Run:
        assert run.solved is not None
        made = (each.model_copy(update={"self_edit": SELF_EDIT.of_tokens(tokens)}) for each in run.solved.rollouts)
        return replace(run, solved=run.solved.model_copy(update={"rollouts": tuple(made)}))

    console = plain_console()
    sweep(console, [of_tokens(RUNS[0], 8000), of_tokens(RUNS[0], 60000)])
    said = shown(console)
    assert said.count("Self-edit: ") == 1 and said.count("8,000 tokens") == said.count("60,000 tokens") == 1


@pytest.mark.parametrize("width", [80, 120, 200])
def test_on_a_terminal_no_word_is_broken(width: int) -> None:
    console, words = colour_console(width), set(", ".join(map(str, SELF_EDIT.tools)).split())
    sweep(console, RUNS[:1])
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown(console)).splitlines()
    assert words <= {word for line in lines for word in line.replace(";", "").split()}
    assert all(len(line) <= width for line in lines)


def test_a_name_is_not_read_as_markup_and_does_not_steer_the_terminal() -> None:
    console = plain_console()
    sweep(console, [Run("[bold]a[/bold]\x1b[2J", 0, Path("a"), None, InputError("a", "", "a file", "none"))])
    assert "[bold]a[/bold]" in shown(console) and "\x1b" not in shown(console)


def test_what_was_not_chosen_has_not_failed() -> None:
    assert RUNS[0].solved is not None
    (made,) = RUNS[0].solved.rollouts
    both = (made, made.model_copy(update={"status": Status.NOT_CHOSEN}))
    console = plain_console()
    sweep(console, [replace(RUNS[0], solved=RUNS[0].solved.model_copy(update={"rollouts": both}))])
    assert "solved" in shown(console) and "failed" not in shown(console)


def test_what_failed_counts_as_not_solved() -> None:
    assert totals(RUNS) == "Solved 1 of 4 runs; mean share of test outputs right 25.0 %."


def test_what_has_no_solution_does_not_count() -> None:
    unscored = Run("x", 0, Path("x"), solved(RIGHT, reward=None))
    assert totals([*RUNS, unscored]).endswith("right 25.0 %; 1 without a solution left out.")
    assert totals([unscored]) == "1 task, no solutions to score them by."


def test_a_task_whose_time_was_up_says_so() -> None:
    begun = solved(WRONG, reward=0).model_copy(update={"open": True})
    never = begun.model_copy(update={"rollouts": (), "attempts": ((),), "seconds": {}})
    console = plain_console(120)
    sweep(console, [Run("aa", 0, Path("a"), begun), Run("bb", 0, Path("b"), never)])
    first, second = [line for line in shown(console).splitlines() if re.match(r"\d/2", line)]
    assert first.endswith("time was up") and "not solved" in first
    assert "not begun" in second and second.endswith("  time was up")


@pytest.mark.parametrize(
    ("chances", "said"),
    [
        ([0.9, None, 0.7], "tasks: 0/3, probably 2 solved in all, 1:05 until the deadline"),
        ([None, None], "tasks: 0/3, 1:05 until the deadline"),
    ],
)
def test_what_is_foreseen_is_shown_with_the_stage(chances: list[float | None], said: str) -> None:
    console = colour_console(120)
    view = SweepView(console, clock=Clock(), total=3, width=18)
    view.stage("tasks", 0, 3)
    view.foreseen(chances, 65.0)
    assert view._line == said
    view.close()
    view.foreseen(chances, -1.0)  # without a stage nothing is counted
