"""Progress, on a terminal and elsewhere."""

import pytest

from arc_seal.inner_loop.job import Progress
from arc_seal.ui.progress import ProgressDisplay, duration
from tests.ui.golden import Clock, colour_console, plain_console, shown


def run(display: ProgressDisplay, clock: Clock) -> None:
    """A short job: a minute of training in a hundred updates, and predicting."""
    display.wait("starting")
    display.show(Progress("load", 0, 1))
    clock.pass_time(2)
    display.show(Progress("load", 1, 1))
    for step in range(101):
        display.show(Progress("train", step, 100, loss=2 - step / 100, tokens_per_s=150.4))
        clock.pass_time(0.6)
    display.show(Progress("predict", 0, 900))
    clock.pass_time(1)
    display.show(Progress("predict", 450, 900, tokens_per_s=450))
    display.end()


def test_off_the_terminal_there_are_few_lines() -> None:
    console, clock, kept = plain_console(), Clock(), list[str]()
    run(ProgressDisplay(console, False, clock, lambda line: (kept.append(line), console.print(line))[0]), clock)
    lines = shown(console).splitlines()
    assert lines[0] == "loading the model: 2.0 s"
    assert lines[1] == "training: 10/100 updates, loss 1.900, 150 tokens/s, 54 s left"
    assert [line.split(",")[0] for line in lines[1:10]] == [f"training: {n}0/100 updates" for n in range(1, 10)]
    assert lines[10:] == [
        "training: 100 updates, loss 1.000, 150 tokens/s, 1:01",
        "predicting: 450 tokens, 450 tokens/s, 1.0 s",
    ]
    assert "\x1b" not in shown(console) and "\r" not in shown(console)
    assert kept == [lines[0], *lines[10:]]


def test_a_quick_stage_has_one_line() -> None:
    console, clock = plain_console(), Clock()
    display = ProgressDisplay(console, False, clock, console.print)
    for step in range(11):
        display.show(Progress("write", step, 10))
        clock.pass_time(0.1)
    display.end()
    assert shown(console).splitlines() == ["writing the self-edit: 10 tokens, 1.1 s"]


def test_on_a_terminal_a_bar_moves_and_goes() -> None:
    console, clock = colour_console(), Clock()
    run(ProgressDisplay(console, True, clock, console.print), clock)
    assert "training" in shown(console)
    assert "\x1b[?25l" in shown(console)  # the cursor hides while the bar moves
    assert shown(console).count("\x1b[?25l") == shown(console).count("\x1b[?25h")


def test_the_same_stage_anew_is_another_line() -> None:
    console, clock = plain_console(), Clock()
    display = ProgressDisplay(console, False, clock, console.print)
    for step in (0, 5, 0, 7):
        display.show(Progress("write", step, 10))
    display.end()
    assert [line.split(",")[0] for line in shown(console).splitlines()] == [
        "writing the self-edit: 5 tokens",
        "writing the self-edit: 7 tokens",
    ]


def test_a_total_that_nobody_knows_is_no_share() -> None:
    console, clock = plain_console(), Clock()
    display = ProgressDisplay(console, False, clock, console.print)
    display.show(Progress("load", 0, 0))
    clock.pass_time(61)
    display.show(Progress("load", 0, 0))
    display.end()
    assert shown(console) == "loading the model: 1:01\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00"), (205, "3:25"), (3723, "1:02:03")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_stage_that_may_end_sooner_says_so() -> None:
    console, clock = plain_console(), Clock()
    display = ProgressDisplay(console, False, clock, console.print)
    for step in (0, 50):
        display.show(Progress("write", step, 200))
        clock.pass_time(10)
    assert shown(console) == "writing the self-edit: 50/200 tokens, at most 30 s left\n"
