"""What collecting roll-outs and training a policy show, on a terminal and elsewhere."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO

import pytest
from rich.console import Console

from arc_seal.errors import Status
from arc_seal.inner_loop.job import Progress
from arc_seal.outer_loop.restem import RoundSummary
from arc_seal.ui.views import RolloutsView, round_text
from tests.outer_loop.ledger_builders import policy, proposal, rollout
from tests.ui.golden import Clock, assert_golden, colour_console, plain_console, shown


def a_run(view: RolloutsView, pass_time: Callable[[float], None]) -> None:
    """A run of two rounds, stopped once and gone on with."""
    view.title("A run")
    rows = []
    view.begin("self-edits", 0, 3)
    for number in range(3):
        pass_time(6)
        view.proposed([proposal(task=str(number)), proposal(1, status=Status.INVALID_SELF_EDIT)])
    view.begin("roll-outs", 2, 6)
    for sample in range(4):
        pass_time(4)
        rows.append(rollout(sample, status=Status.OK if sample else Status.TIMEOUT))
        view.kept(rows[-1])
    view.collected(0, rows, 2)
    for progress in (Progress("load", 0, 1), Progress("load", 1, 1), Progress("train", 1, 9)):
        view.finetuning(progress)
        pass_time(3)
    for step in range(1, 9):
        pass_time(4)
        view.finetuning(Progress("finetune", step, 8, 2.5 / step))
    view.policy(policy())
    view.begin("self-edits", 3, 3)  # nothing to do
    view.begin("roll-outs", 6, 6)
    view.collected(1, rows, 0)
    view.policy(None)
    view.begin("roll-outs", 0, 6)
    pass_time(30)
    view.kept(rows[0])
    view.close()  # an interrupt
    view.close()


def test_of_a_round_without_roll_outs_only_what_is_imitated_is_said() -> None:
    console = plain_console()
    RolloutsView(console, clock=Clock()).collected(0, [], 17)
    assert shown(console) == "  17 self-edits to imitate\n"


def test_off_the_terminal_a_line_is_due_now_and_then() -> None:
    console, clock = plain_console(), Clock()
    a_run(RolloutsView(console, clock=clock), clock.pass_time)
    assert_golden("rollouts.txt", shown(console))


def test_on_a_terminal_one_line_is_redrawn() -> None:
    plain, colour, clock = plain_console(), colour_console(), Clock()
    a_run(RolloutsView(plain, live=False, clock=clock), clock.pass_time)
    a_run(RolloutsView(colour, live=True, clock=Clock()), clock.pass_time)
    text = shown(colour)
    assert "roll-outs: 3/6" in text  # a line that does not stay
    assert text.count("\x1b[2K") > 10
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is given back
    for line in ("Round 1: 2/4 solved", "  2 self-edits to imitate", "  policy policies/0: 2 self-edits"):
        assert line in text and line in shown(plain)


def test_a_pipe_is_asked_for_nothing_and_a_terminal_is_seen() -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    for environment, live in (({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False)):
        console = Console(file=Terminal(), _environ=environment)
        view = RolloutsView(console)
        view.begin("roll-outs", 0, 2)
        view.kept(rollout())
        view.close()
        assert ("\x1b[?25l" in console.file.getvalue()) is live  # type: ignore[attr-defined]


def test_colour_is_not_used_where_none_is_wanted() -> None:
    for console in (colour_console(), Console(file=StringIO(), force_terminal=True, _environ={"NO_COLOR": "1"})):
        clock = Clock()
        a_run(RolloutsView(console, live=False, clock=clock), clock.pass_time)
        assert "\x1b[" not in shown(console)


def test_many_threads_show_every_roll_out() -> None:
    console = plain_console()
    view = RolloutsView(console, live=False)
    view.begin("roll-outs", 0, 400)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda sample: view.kept(rollout(sample)), range(400)))
    view.close()
    lines = shown(console).splitlines()
    assert lines[-1].startswith("roll-outs: 400/400, 200 solved, ")
    assert all(line.startswith("roll-outs: ") for line in lines)


def test_many_threads_share_the_line_that_is_redrawn() -> None:
    console = colour_console()
    view = RolloutsView(console, live=True)
    view.begin("roll-outs", 0, 40)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda sample: view.kept(rollout(sample)), range(40)))
    view.close()
    assert "roll-outs: 40/40, 20 solved" in shown(console)
    assert shown(console).count("\x1b[?25l") == 1


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (
            RoundSummary(0, 12, 11, 10, 3, 4, 2, 9, -1.25),
            "Round 1: 3/12 solved, 2/4 tasks by any, 11/12 valid, 10/12 ran, 9 distinct, "
            "held-out log-probability -1.250",
        ),
        (
            RoundSummary(1, 12, 12, 12, None, 4, None, 12, None),
            "Round 2: 12 self-edits, 12/12 valid, 12/12 ran, 12 distinct",
        ),
    ],
)
def test_a_round_is_one_line(summary: RoundSummary, text: str) -> None:
    assert round_text(summary) == text
