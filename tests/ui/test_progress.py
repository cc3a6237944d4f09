"""Progress, on a terminal and elsewhere."""

import pytest

from arc_seal.inner_loop.job import Progress
from arc_seal.ui.progress import Display, duration, printable
from tests.ui.golden import Clock, colour_console, plain_console, shown


def run(display: Display, clock: Clock) -> None:
    """A short job: a minute of training in a hundred updates, and predicting."""
    display.redraw("starting", due=False)
    display.job(Progress("load", 0, 1))
    clock.pass_time(2)
    display.job(Progress("load", 1, 1))
    for step in range(101):
        display.job(Progress("train", step, 100, loss=2 - step / 100, tokens_per_s=150.4))
        clock.pass_time(0.6)
    display.job(Progress("predict", 0, 900))
    clock.pass_time(1)
    display.job(Progress("predict", 450, 900, tokens_per_s=450))
    display.close()


def test_off_the_terminal_there_are_few_lines() -> None:
    console, recording, clock = plain_console(), plain_console(), Clock()
    run(Display(console, recording, False, clock), clock)
    lines = shown(console).splitlines()
    assert lines[0] == "loading the model: 2.0 s"
    assert lines[1] == "training: 10/100 updates, loss 1.900, 150 tokens/s, 54 s left"
    assert [line.split(",")[0] for line in lines[1:10]] == [f"training: {n}0/100 updates" for n in range(1, 10)]
    assert lines[10:] == [
        "training: 100 updates, loss 1.000, 150 tokens/s, 1:01",
        "predicting: 450 tokens, 450 tokens/s, 1.0 s",
    ]
    assert "\x1b" not in shown(console) and "\r" not in shown(console)
    assert shown(recording).splitlines() == [lines[0], *lines[10:]]


def test_a_quick_stage_has_one_line() -> None:
    console, clock = plain_console(), Clock()
    display = Display(console, live=False, clock=clock)
    for step in range(11):
        display.job(Progress("write", step, 10))
        clock.pass_time(0.1)
    display.close()
    assert shown(console).splitlines() == ["writing the self-edit: 10 tokens, 1.1 s"]


def test_on_a_terminal_a_line_moves_and_goes() -> None:
    console, clock = colour_console(), Clock()
    run(Display(console, live=True, clock=clock), clock)
    assert "training" in shown(console)
    assert "\x1b[?25l" in shown(console)  # the cursor hides while the line moves
    assert shown(console).count("\x1b[?25l") == shown(console).count("\x1b[?25h")


def test_the_same_stage_anew_is_another_line() -> None:
    console, clock = plain_console(), Clock()
    display = Display(console, live=False, clock=clock)
    for step in (0, 5, 0, 7):
        display.job(Progress("write", step, 10))
    display.close()
    assert [line.split(",")[0] for line in shown(console).splitlines()] == [
        "writing the self-edit: 5 tokens",
        "writing the self-edit: 7 tokens",
    ]


def test_a_total_that_nobody_knows_is_no_share() -> None:
    console, clock = plain_console(), Clock()
    display = Display(console, live=False, clock=clock)
    display.job(Progress("load", 0, 0))
    clock.pass_time(61)
    display.job(Progress("load", 0, 0))
    display.close()
    assert shown(console) == "loading the model: 1:01\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00"), (205, "3:25"), (3723, "1:02:03")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_stage_that_may_end_sooner_says_so() -> None:
    console, clock = plain_console(), Clock()
    display = Display(console, live=False, clock=clock)
    for step in (0, 50):
        display.job(Progress("write", step, 200))
        clock.pass_time(10)
    assert shown(console) == "writing the self-edit: 50/200 tokens, at most 30 s left\n"


def test_what_would_steer_the_terminal_is_not_passed_on() -> None:
    assert printable("a\x1b[2Jb\rc\x9bd\u202ee\nü") == "a\ufffd[2Jb\ufffdc\ufffdd\ufffde\nü"
