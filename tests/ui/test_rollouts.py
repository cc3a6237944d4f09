"""What collecting roll-outs and training a policy show, on a terminal and elsewhere."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

from rich.console import Console

from arc_seal.errors import Status
from arc_seal.inner_loop.job import Examination, Progress
from arc_seal.outer_loop.ledger import Policy
from arc_seal.outer_loop.restem import policy_text, round_text
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.ui.views import MARKS, RunView
from tests.ui.builders import SELF_EDIT, rollout
from tests.ui.golden import Clock, assert_golden, colour_console, plain_console, shown

POLICY = Policy(
    run="seal", round=0, folder="policies/0", rollouts=(("seal", 0, "0d3d703e", 1), ("earlier", 2, "25ff71a9", 0)),
    losses=(1.5, 0.5), seconds=12.5, finished_at="2025-01-01T00:00:00.000+00:00",
)  # fmt: skip


def epochs(number: int) -> SelfEdit:
    """A self-edit that trains for so many epochs."""
    return SELF_EDIT.model_copy(update={"training": SELF_EDIT.training.model_copy(update={"epochs": number})})


def tried(sample: int, **changes: object) -> Rollout:
    """A roll-out that every second sample's self-edit, each of them another, earns a reward in."""
    examination = Examination(-1.25 - sample, 2, 900)
    return rollout(
        sample, **{"self_edit": epochs(sample + 1), "reward": sample % 2, "examination": examination, **changes}
    )


def a_run(view: RunView, pass_time: Callable[[float], None]) -> None:
    """A run of two rounds, stopped once and gone on with."""
    view.note("A run")
    rollouts = []
    view.stage("self-edits", 0, 3)
    for _ in range(3):
        pass_time(6)
        view.advance(failed=1)
    view.stage("roll-outs", 2, 6)
    for sample in range(4):
        pass_time(4)
        rollouts.append(tried(sample, status=Status.OK if sample else Status.TIMEOUT))
        view.progress(sample, Progress("load", 1, 1))
        view.advance(solved=sample % 2, failed=int(not sample))
    view.note(round_text(0, rollouts))
    view.note("  2 self-edits to imitate")
    for progress in (Progress("load", 0, 1), Progress("load", 1, 1), Progress("train", 1, 9)):
        view.progress(0, progress)
        pass_time(3)
    for step in range(1, 9):
        pass_time(4)
        view.progress(0, Progress("finetune", step, 8, 2.5 / step))
    view.note(policy_text(POLICY))
    view.stage("self-edits", 3, 3)  # nothing to do
    view.stage("roll-outs", 6, 6)
    view.note(round_text(1, rollouts))
    view.note("  nothing to imitate: no policy from it")
    view.stage("roll-outs", 0, 6)
    pass_time(30)
    view.advance(failed=1)
    view.close()  # an interrupt
    view.close()


def collected(view: RunView, pass_time: Callable[[float], None]) -> None:
    """Two tasks of three self-edits each, one roll-out of which is there from before."""
    view.begin("Training seal-seed0", {"model": "grid", "marks": MARKS})
    proposed = [tried(sample, task=task, reward=None) for task in ("a", "a long name") for sample in range(3)]
    before = tried(0, task="a", reward=1, finished_at="2025-01-01T00:00:00.000+00:00")
    view.stage("roll-outs", 1, 6, [before, *proposed[1:]])
    view.progress(0, Progress("load", 0, 1))
    pass_time(2)
    view.progress(0, Progress("load", 1, 1))
    for each in proposed[1:]:
        pass_time(10)
        failed = each.task == "a" and each.sample == 2
        ended = {"reward": int(each.sample < 1), "status": Status.TIMEOUT if failed else Status.OK, "finished_at": "x"}
        view.finished(each.model_copy(update=ended))
        view.advance(solved=int(each.sample < 1), failed=int(failed))
    view.end(Path("runs/restem/seal-seed0"), "evaluate", "name=a b")


def test_a_task_has_a_line_with_a_mark_for_each_self_edit() -> None:
    console, clock = plain_console(), Clock()
    collected(RunView(console, live=False, clock=clock), clock.pass_time)
    lines = shown(console).splitlines()
    assert "  a            +-x  1/3 solved  24 s" in lines
    assert "  a long name  +--  1/3 solved  24 s" in lines
    assert lines[-3].startswith("Best self-edit so far, solved 2 of 2: rotate(quarter_turns=1), ")
    assert lines[-2:] == ["Kept in runs/restem/seal-seed0", "Next: python -m arc_seal.evaluate 'name=a b'"]
    assert any(line.startswith("roll-outs: 6/6, 2 solved, 1 failed, ") for line in lines)


def test_on_a_terminal_loading_has_a_clock_and_the_best_self_edit_stands_below() -> None:
    console, clock = colour_console(), Clock()
    collected(RunView(console, live=True, clock=clock), clock.pass_time)
    assert "roll-outs: 1/6, 1 solved, loading the model, 0.0 s" in shown(console)
    assert "roll-outs: 1/6, 1 solved, 2.0 s" in shown(console)
    assert shown(console).count("Best self-edit so far") > 2


def test_the_best_self_edit_is_shown_as_it_was_written_where_that_is_shorter() -> None:
    console = plain_console()
    view = RunView(console, live=False)
    made = [tried(sample, reward=1 - sample, completion='{"basic": true}') for sample in range(2)]
    view.stage("roll-outs", 0, 2, made)
    for each in made:
        view.finished(each.model_copy(update={"finished_at": "x"}))
        view.advance(solved=each.reward)
    view.close()
    assert 'Best self-edit so far, solved 1 of 1: {"basic": true}\n' in shown(console)


def test_roll_outs_without_a_reward_have_no_best_self_edit() -> None:
    console = plain_console()
    view = RunView(console, live=False)
    made = [tried(sample, reward=None) for sample in range(2)]
    view.stage("roll-outs", 0, 2, made)
    for each in made:
        view.finished(each.model_copy(update={"finished_at": "x"}))
        view.advance()
    view.close()
    assert f"  {made[0].task}  oo  16 s" in shown(console) and "Best" not in shown(console)


def test_off_the_terminal_a_line_is_due_now_and_then() -> None:
    console, clock = plain_console(), Clock()
    a_run(RunView(console, clock=clock), clock.pass_time)
    assert_golden("rollouts.txt", shown(console))


def test_a_note_neither_steers_the_terminal_nor_is_read_as_markup() -> None:
    console = plain_console()
    RunView(console).note("[bold]red\x1b[2J")
    assert shown(console) == "[bold]red\ufffd[2J\n"


def test_on_a_terminal_one_line_is_redrawn() -> None:
    plain, colour, clock = plain_console(), colour_console(), Clock()
    a_run(RunView(plain, live=False, clock=clock), clock.pass_time)
    a_run(RunView(colour, live=True, clock=Clock()), clock.pass_time)
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
        view = RunView(console)
        view.stage("roll-outs", 0, 2)
        view.advance()
        view.close()
        assert ("\x1b[?25l" in console.file.getvalue()) is live  # type: ignore[attr-defined]


def test_colour_is_not_used_where_none_is_wanted() -> None:
    for console in (colour_console(), Console(file=StringIO(), force_terminal=True, _environ={"NO_COLOR": "1"})):
        clock = Clock()
        a_run(RunView(console, live=False, clock=clock), clock.pass_time)
        assert "\x1b[" not in shown(console)


def test_many_threads_show_every_roll_out() -> None:
    console = plain_console()
    view = RunView(console, live=False)
    view.stage("roll-outs", 0, 400)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda sample: view.advance(solved=sample % 2), range(400)))
    view.close()
    lines = shown(console).splitlines()
    assert lines[-1].startswith("roll-outs: 400/400, 200 solved, ")
    assert all(line.startswith("roll-outs: ") for line in lines)


def test_many_threads_share_the_line_that_is_redrawn() -> None:
    console = colour_console()
    view = RunView(console, live=True)
    view.stage("roll-outs", 0, 40)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda sample: view.advance(solved=sample % 2), range(40)))
    view.close()
    assert "roll-outs: 40/40, 20 solved" in shown(console)
    assert shown(console).count("\x1b[?25l") == 1


def test_a_round_is_one_line() -> None:
    scores = Examination(-1.0, 2, 0), Examination(-1.5, 2, 0)
    equal = [tried(sample, task="a", self_edit=epochs(1), reward=1, examination=scores[sample]) for sample in (0, 1)]
    other = tried(0, task="b", self_edit=epochs(1), reward=0, examination=None)
    invalid = tried(1, task="b", self_edit=None, reward=0, status=Status.INVALID_SELF_EDIT, examination=None)
    assert round_text(0, [*equal, other, invalid]) == (
        "Round 1: 2/4 solved, 1/2 tasks by any, 3/4 valid, 3/4 ran, 2 distinct, held-out log-probability -1.250"
    )


def test_of_a_round_without_solutions_or_examinations_less_is_said() -> None:
    made = [tried(sample, reward=None, examination=None) for sample in range(12)]
    assert round_text(1, made) == "Round 2: 12 self-edits, 12/12 valid, 12/12 ran, 12 distinct"


def test_a_policy_is_one_line() -> None:
    assert policy_text(POLICY) == "  policy policies/0: 2 self-edits, loss 1.500 to 0.500, 12 s"
    assert "2 self-edits, no update, 12 s" in policy_text(POLICY.model_copy(update={"losses": ()}))
