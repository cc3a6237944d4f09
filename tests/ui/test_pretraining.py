"""What pretraining shows, on a terminal and elsewhere."""

from dataclasses import replace
from pathlib import Path

from arc_seal.pretraining.loop import Clock, PretrainingProgress, Score
from arc_seal.pretraining.pool import Made
from arc_seal.pretraining.run import Finished
from arc_seal.ui.views import RunView
from tests.ui.golden import Clock as Watch
from tests.ui.golden import colour_console, plain_console, shown

SCORE = Score(contexts=40, loss=0.5, accuracy=0.8125, exact=0.075)
SIGN = PretrainingProgress(Clock(1, 100_000, 10.0), 1_000_000, loss=4.0, accuracy=0.25, tokens_per_s=1000.0, scores={})


def at(tokens: int, loss: float = 4.0, **changes: object) -> PretrainingProgress:
    return replace(SIGN, clock=Clock(1, tokens, 10.0), loss=loss, **changes)  # type: ignore[arg-type]


def test_off_the_terminal_a_line_is_due_now_and_then() -> None:
    console, watch = plain_console(100), Watch()
    view = RunView(console, clock=watch)
    for tokens in range(100_000, 1_000_001, 100_000):
        view.pretraining(at(tokens, scores={"dev": SCORE} if tokens == 500_000 else {}))
        watch.pass_time(4)
    view.pretrained(Finished(Path("runs/weights"), 1_000_000, 3725.0, 3_420_000))
    assert shown(console).splitlines() == [
        "pretraining: 0.10M/1.00M tokens, loss 4.000, 25.0 % of tokens right, 1000 tokens/s, 15:00 left",
        "pretraining: 0.40M/1.00M tokens, loss 4.000, 25.0 % of tokens right, 1000 tokens/s, 10:00 left",
        "  dev: 3 of 40 outputs exact, 81.2 % of tokens right, loss 0.500",
        "pretraining: 0.70M/1.00M tokens, loss 4.000, 25.0 % of tokens right, 1000 tokens/s, 5:00 left",
        "pretraining: 1.00M/1.00M tokens, loss 4.000, 25.0 % of tokens right, 1000 tokens/s, 0.0 s left",
        "3.4M parameters, 1.0M tokens, 1:02:05 of training; weights in runs/weights",
    ]


def test_the_first_fifty_losses_count_alike_then_the_mean_moves() -> None:
    console = plain_console(100)
    view = RunView(console, clock=Watch())
    view.pretraining(at(100_000, loss=4.0))
    for _ in range(99):
        view.pretraining(at(200_000, loss=2.0, accuracy=0.75))
    view.pretraining(at(1_000_000, loss=2.0, accuracy=0.75))
    first, last = shown(console).splitlines()
    assert "loss 4.000, 25.0 %" in first
    assert f"loss {2 + 2 / 50 * 0.98**51:.3f}" in last


def test_groups_are_shown_while_their_pairs_are_made() -> None:
    console, watch = plain_console(), Watch()
    view = RunView(console, clock=watch)
    for done in range(1, 6):
        view.generator(Made("re_arc", "44f52bb0", done, 5, 200))
        watch.pass_time(3)
    assert [line.split(",")[0] for line in shown(console).splitlines()] == [
        f"making pairs: {done}/5 of re_arc" for done in (1, 5)
    ]


def test_on_a_terminal_one_line_is_redrawn_and_what_was_measured_stays() -> None:
    console = colour_console(100)
    view = RunView(console, live=True, clock=Watch())
    view.pretraining(at(100_000))
    view.pretraining(at(500_000, scores={"dev": SCORE}))
    view.pretraining(at(1_000_000))
    view.close()
    view.close()
    text = shown(console)
    assert text.count("pretraining: ") >= 3 and "\x1b[2K" in text
    assert "  dev: 3 of 40 outputs exact" in text
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in text  # the cursor is given back


def test_colours_forced_into_a_file_make_it_no_terminal() -> None:
    console = colour_console(100)
    view = RunView(console, clock=Watch())
    view.pretraining(at(100_000))
    assert shown(console).splitlines() == [
        "pretraining: 0.10M/1.00M tokens, loss 4.000, 25.0 % of tokens right, 1000 tokens/s, 15:00 left"
    ]


def test_a_score_as_people_read_it() -> None:
    console = plain_console(100)
    RunView(console, clock=Watch()).pretraining(at(100_000, scores={"dev": SCORE}))
    assert shown(console).splitlines()[-1] == "  dev: 3 of 40 outputs exact, 81.2 % of tokens right, loss 0.500"
