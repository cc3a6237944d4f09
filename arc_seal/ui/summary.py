"""The table at the end of a sweep."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arc_seal.errors import Status
from arc_seal.outer_loop.solver import Solved
from arc_seal.ui.progress import duration
from arc_seal.ui.run_folder import Run
from arc_seal.ui.terminal import printable


def summary(runs: Sequence[Run]) -> Group:
    """One line a run, and one line on all of them."""
    table = Table("task", box=None, pad_edge=False, header_style="bold")
    for heading in ("seed", "status", "reward", "attempts", "votes", "time"):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    for run in runs:
        table.add_row(*map(printable, _cells(run)))
    return Group(Text("Summary", style="bold"), table, Text(totals(runs)))


def totals(runs: Sequence[Run]) -> str:
    """How many runs were solved, of all there were; what failed counts as not solved."""
    if all(run.solved is not None and run.solved.reward is None for run in runs):
        return f"{len(runs)} runs, no solutions to score them by."
    unscored = sum(run.solved is not None and run.solved.reward is None for run in runs)
    solved = sum(run.solved is not None and run.solved.reward == 1 for run in runs)
    score = sum(run.solved.score or 0.0 for run in runs if run.solved is not None)
    scored = len(runs) - unscored
    without = f"; {unscored} without a solution left out" if unscored else ""
    return f"Solved {solved} of {scored} runs; mean share of test outputs right {score / scored:.1%}{without}."


def status(solved: Solved) -> str:
    """`ok`, how many of the roll-outs are, or how the first of them failed."""
    ended = [rollout.status for rollout in solved.rollouts]
    good = ended.count(Status.OK)
    if good == len(ended):
        return "ok"
    return f"{good} of {len(ended)} ok" if good else str(ended[0])


def _cells(run: Run) -> tuple[str, ...]:
    solved = run.solved
    if solved is None:
        return (run.name, str(run.seed), "bad input", "", "", "", "")
    return (
        solved.task_id,
        str(solved.seed),
        status(solved),
        "-" if solved.reward is None else str(solved.reward),
        " ".join(str(len(attempts)) for attempts in solved.attempts),
        " ".join("+".join(str(attempt.votes) for attempt in attempts) or "0" for attempts in solved.attempts),
        duration(sum(solved.seconds.values())),
    )
