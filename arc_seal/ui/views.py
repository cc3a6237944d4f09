"""The live view of one task being solved: what is asked, what the model decided, how far it is, what came of it.

Everything that stays on the screen goes through `View._print`, to the terminal and to the recording that a picture is
made of alike; what moves is shown on the terminal alone.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution, Task
from arc_seal.errors import InputError, Status
from arc_seal.files import write_whole
from arc_seal.inner_loop.job import Attempt, Progress
from arc_seal.outer_loop.ledger import PolicyRow, ProposalRow, RolloutRow
from arc_seal.outer_loop.restem import RoundSummary, summarise
from arc_seal.outer_loop.solve import Solved
from arc_seal.outer_loop.table import (
    HEADINGS,
    NOTE,
    Count,
    Difference,
    cells,
    difference_text,
    differences,
    failures_text,
    run_lines,
)
from arc_seal.outer_loop.table import Table as EvaluationTable
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.ui.grids import Comparison, Demonstrations, Labelled, differing_cells, size
from arc_seal.ui.progress import LiveLine, ProgressDisplay, duration
from arc_seal.ui.run_folder import Run

if TYPE_CHECKING:
    from arc_seal.pretraining.loop import Score, Sign
    from arc_seal.pretraining.pool import Made
    from arc_seal.pretraining.run import Finished

RECORDING_WIDTH = 100
"""Characters a line in a picture of the session."""

_GOOD, _BAD = "bold #56b4e9", "bold #e69f00"
"""Okabe and Ito's sky blue and orange: told apart by all kinds of colour vision; the words say the same."""


def terminal_console() -> Console:
    """The console of standard output; what its encoding cannot show is spelled out instead of failing."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False)


def recording_console() -> Console:
    """A console that shows nothing and remembers everything, in colour whatever the terminal can do."""
    return Console(
        file=StringIO(), record=True, force_terminal=True, color_system="truecolor", width=RECORDING_WIDTH,
        highlight=False, legacy_windows=False, _environ={},
    )  # fmt: skip


class View:
    """Shows runs in a terminal; it is what `solve_task` calls back.

    Args:
        console: Where to show.
        recording: Where to show the same again, for a picture; None for none.
        live: Whether lines can be redrawn; None asks the console.
        clock: Seconds from any starting point.
    """

    def __init__(
        self,
        console: Console,
        recording: Console | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consoles = [console] if recording is None else [console, recording]
        self._recording = recording
        redrawable = console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
        self._progress = ProgressDisplay(console, redrawable if live is None else live, clock, self._keep)
        self._samples = 1
        self._rollout: int | None = None
        self._used = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back as it was, whatever happened."""
        self._progress.end()

    def begin(self, task: Task, seed: int, samples: int) -> None:
        """Show what is asked, and that the work begins."""
        self._samples, self._rollout = samples, None
        self._separate()
        self._print(Text(f"Task {printable(task.id)}, seed {seed}", style="bold"), Demonstrations(task.demos), Text())
        self._progress.wait("starting")

    def proposed(self, sample: int, completion: str, self_edit: SelfEdit | None) -> None:
        """Show a self-edit as the model wrote it."""
        self._progress.end()
        fault = "" if self_edit is not None else " (not valid)" if completion else ": none was written"
        self._print(Text(f"Self-edit{self._which(sample)}{fault}", style="bold"), _Written(completion), Text())

    def progress(self, sample: int, progress: Progress) -> None:
        """Show how far a roll-out is."""
        if progress.stage in ("train", "predict") and sample != self._rollout:
            self._progress.end()
            self._rollout = sample
            if self._samples > 1:
                self._print(Text(f"Roll-out{self._which(sample)}", style="bold"))
        self._progress.show(progress)

    def finished(self, sample: int, status: Status, message: str) -> None:
        """Say how a roll-out ended, unless all is well and it is the only one."""
        self._progress.end()
        if status is not Status.OK:
            reason = f": {printable(message)}" if message else ""
            self._print(Text(f"Roll-out{self._which(sample)}: {status}{reason}", style=_BAD))
        elif self._samples > 1:
            self._print(Text(f"Roll-out{self._which(sample)}: {status}"), Text())

    def end(self, task: Task, solution: Solution | None, solved: Solved, folder: Path) -> None:
        """Show what came of it: attempts, reward, time, and where it is kept."""
        self._progress.end()
        outputs = solution.outputs if solution else (None,) * len(task.queries)
        for number, (query, attempts, output) in enumerate(
            zip(task.queries, solved.attempts, outputs, strict=True), start=1
        ):
            which = f" {number} of {len(task.queries)}" if len(task.queries) > 1 else ""
            self._print(Text(), Text(f"Test{which}", style="bold"), _answers(query, attempts, output))
        self._print(
            Text(), _verdict(solved), Text(), _times(solved.seconds), Text(f"Kept in {printable(_near(folder))}")
        )

    def show(self, renderable: RenderableType) -> None:
        """Show anything else that is to stay."""
        self._progress.end()
        self._separate()
        self._print(renderable)

    def fail(self, error: InputError) -> None:
        """Show that a task could not be read or worked on, and that the rest goes on."""
        self.show(Text(f"error: {printable(str(error))}", style=_BAD))

    def save_svg(self, path: Path, title: str) -> None:
        """Save everything shown so far as a picture.

        Raises:
            InputError: When the file cannot be written.
        """
        if self._recording is None:
            raise ValueError("this view was made without a recording")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = self._recording.export_svg(title=title, clear=False, unique_id="arc-seal")
            write_whole(path, lambda file: file.write(picture.encode()))
        except OSError as error:
            raise InputError("save_svg", "", "a file that can be written", f"{path}: {error.strerror}") from None

    def _separate(self) -> None:
        """Leave an empty line below whatever is above."""
        if self._used:
            self._print(Text())
        self._used = True

    def _print(self, *renderables: RenderableType) -> None:
        for console in self._consoles:
            for renderable in renderables:
                console.print(renderable)

    def _keep(self, line: str) -> None:
        self._print(Text(line))

    def _which(self, sample: int) -> str:
        return f" {sample + 1} of {self._samples}" if self._samples > 1 else ""


def printable(text: str) -> str:
    """The text without what would steer the terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def pretty_json(value: Any, width: int, indent: str = "") -> str:
    """JSON for people: on one line where that fits into `width`, else one member a line."""
    line = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or len(indent) + len(line) <= width:
        return line
    inner = f"{indent}  "
    if isinstance(value, dict):
        keys = (json.dumps(key, ensure_ascii=False) for key in value)
        parts = [f"{key}: {pretty_json(item, width, inner)}" for key, item in zip(keys, value.values(), strict=True)]
    else:
        parts = [pretty_json(item, width, inner) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    members = f",\n{inner}".join(parts)
    return f"{opening}\n{inner}{members}\n{indent}{closing}"


@dataclass(frozen=True, slots=True)
class _Written:
    """A rich renderable: a completion in readable lines if it is JSON, as it stands if not."""

    completion: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        try:
            text = pretty_json(json.loads(self.completion), options.max_width - len(","))
        except (json.JSONDecodeError, RecursionError):
            text = self.completion
        yield JSONHighlighter()(Text(printable(text)))


def _answers(query: Grid, attempts: Sequence[Attempt], output: Grid | None) -> Comparison:
    """The test input, the attempts at it with their faults marked, and the solution."""
    grids = [Labelled(("input", size(query)), query)]
    for number, attempt in enumerate(attempts, start=1):
        caption = f"attempt {number}, {_votes(attempt.votes)}", _correctness(attempt.grid, output)
        grids.append(Labelled(caption, attempt.grid, output))
    if not attempts:
        grids.append(Labelled(("no attempt", ""), None))
    if output is not None:
        grids.append(Labelled(("solution", size(output)), output))
    return Comparison(grids)


def _votes(votes: int) -> str:
    return f"{votes} vote{'' if votes == 1 else 's'}"


def _correctness(grid: Grid, output: Grid | None) -> str:
    """The size alone where there is no solution; else whether the grid is right, or how far from it."""
    if output is None:
        return size(grid)
    if grid == output:
        return "right"
    if (grid.height, grid.width) != (output.height, output.width):
        return f"{size(grid)}, wrong size"
    return f"{len(differing_cells(grid, output))} of {len(grid.cells)} cells wrong"


def _verdict(solved: Solved) -> Text:
    if solved.reward is None or solved.score is None:
        return Text("No reward: the task comes without its solution.", style="bold")
    if solved.reward:
        return Text("Reward 1: solved.", style=_GOOD)
    return Text(f"Reward 0: not solved ({solved.score:.0%} of the test outputs right).", style=_BAD)


def _near(folder: Path) -> str:
    """The folder as seen from here."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def _times(seconds: dict[str, float]) -> Table:
    """Where the time went."""
    table = Table("stage", box=None, pad_edge=False, header_style="bold")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    whole = sum(seconds.values())
    for stage, spent in seconds.items():
        table.add_row(stage, duration(spent), f"{spent / whole:.0%}" if whole else "")
    table.add_row("all", duration(whole), "")
    return table


# The table at the end of a sweep.


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


# The table of an evaluation, in a terminal.

_GOOD, _BAD = "bold #56b4e9", "#e69f00"
"""Okabe and Ito's sky blue and orange: told apart by all kinds of colour vision; the digits say the same."""


def evaluation(table: EvaluationTable, by_task: bool = False) -> Group:
    """The rows, how roll-outs failed, the difference, what was run, and if asked for a line a task."""
    failed = [(row.name, failures_text(row)) for row in table.rows if row.failures]
    parts: list[RenderableType] = [Text("Evaluation", style="bold"), _rows(table)]
    parts += [Text(printable(f"Failed, {name}: {text}")) for name, text in failed]
    parts += [Text()] if differences(table) else []
    parts += [_difference(each) for each in differences(table)]
    parts += [Text(), Text(NOTE)]
    parts += [Text()] if table.run else []
    parts += [Text(printable(line)) for line in run_lines(table)]
    parts += [Text(), Text("Solved by task", style="bold"), _tasks(table)] if by_task else []
    return Group(*parts)


def _rows(table: EvaluationTable) -> Table:
    """A line a row. Only names are broken, so that figures stay whole in 80 columns."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column(HEADINGS[0], overflow="fold")
    for heading in HEADINGS[1:]:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(Text(printable(cell)) for cell in cells(row)))
    return shown


def _difference(difference: Difference) -> Text:
    """Coloured where the interval lies on one side of zero, which is said in words too."""
    style = {1: _GOOD, 0: "", -1: _BAD}[difference.side()]
    return Text(printable(difference_text(difference)), style=style)


def _tasks(table: EvaluationTable) -> Table:
    """A line a task, a column a row."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("task", overflow="fold")
    for row in table.rows:
        shown.add_column(Text(printable(row.name)), justify="right", overflow="fold")
    for task in table.tasks():
        shown.add_row(Text(printable(task)), *(_mark(row.tasks.get(task)) for row in table.rows))
    return shown


def _mark(count: Count | None) -> Text:
    """Such as `3/5`; in colour where all or none of the roll-outs solved the task."""
    if count is None:
        return Text("-")
    return Text(str(count), style=_GOOD if count.correct == count.total else "" if count.correct else _BAD)


# What collecting roll-outs and training a policy show: how far it is, what came of it, how long it will take.


@dataclass
class RolloutsView:
    """Shows stages of many roll-outs: one line that is redrawn on a terminal, a line now and then elsewhere.

    Attributes:
        console: Where to show it.
        live: Whether lines can be redrawn; None asks the console.
        clock: Seconds from any starting point.
    """

    console: Console
    live: bool | None = None
    clock: Callable[[], float] = time.monotonic
    _lock: RLock = field(default_factory=RLock)
    _stage: str = ""
    _done: int = 0
    _known: int = 0
    _total: int = 0
    _solved: int = 0
    _failed: int = 0
    _began_s: float = 0.0

    def __post_init__(self) -> None:
        self._live_line = LiveLine(self.console, self.live, self.clock)

    def title(self, text: str) -> None:
        """Say what comes next."""
        with self._lock:
            self.close()
            self._live_line.keep(text)

    def begin(self, stage: str, done: int, total: int) -> None:
        """A stage begins, so much of which is there from before."""
        with self._lock:
            self._end_stage()
            self._stage, self._done, self._known, self._total = stage, done, done, total
            self._solved = self._failed = 0
            self._began_s = self.clock()
            if done < total:
                self._show()

    def proposed(self, rows: Sequence[ProposalRow]) -> None:
        """A task's self-edits are written."""
        with self._lock:
            self._done += 1
            self._failed += sum(row.status is not Status.OK for row in rows)
            self._show()

    def kept(self, row: RolloutRow) -> None:
        """One more roll-out is kept."""
        with self._lock:
            self._done += 1
            self._solved += row.reward == 1
            self._failed += row.status is not Status.OK
            self._show()

    def collected(self, round: int, rows: Sequence[RolloutRow], lessons: int) -> None:
        """An E-step is done."""
        with self._lock:
            self.close()
            if rows:
                self._live_line.keep(round_text(summarise(round, rows)))
            self._live_line.keep(
                f"  {lessons} self-edits to imitate" if lessons else "  nothing to imitate: no policy from it"
            )

    def finetuning(self, progress: Progress) -> None:
        """An M-step is this far."""
        with self._lock:
            if progress.stage not in ("load", "finetune"):
                return
            stage = "loading the model" if progress.stage == "load" else "fine-tuning the policy"
            if stage != self._stage:
                self.begin(stage, 0, progress.total)
            self._done, self._total = progress.step, progress.total
            self._show("" if progress.loss is None else f", loss {progress.loss:.3f}")

    def policy(self, row: PolicyRow | None) -> None:
        """An M-step is done."""
        with self._lock:
            self.close()
            if row is not None:
                losses = f"loss {row.losses[0]:.3f} to {row.losses[-1]:.3f}" if row.losses else "no update"
                self._live_line.keep(
                    f"  policy {row.folder}: {len(row.rows)} self-edits, {losses}, {duration(row.seconds)}"
                )

    def close(self) -> None:
        """Stop redrawing."""
        with self._lock:
            self._end_stage()

    def _end_stage(self) -> None:
        self._live_line.close()
        if self._done > self._known and self._live_line.kept != self._line(""):
            self._live_line.keep(self._line(""))
        self._stage, self._done, self._known, self._total = "", 0, 0, 0

    def _show(self, details: str = "") -> None:
        if self._live_line.redraws or self._done < self._total:  # elsewhere the line that stays says the end
            self._live_line.show(self._line(details))

    def _line(self, details: str) -> str:
        spent, made = self.clock() - self._began_s, self._done - self._known
        parts = [f"{self._done}/{self._total}"]
        parts += [f"{self._solved} solved"] if self._solved else []
        parts += [f"{self._failed} failed"] if self._failed else []
        if self._done >= self._total:
            parts.append(duration(spent))
        elif made:
            parts.append(f"{duration(spent / made * (self._total - self._done))} left")
        return f"{self._stage}: {', '.join(parts)}{details}"


def round_text(summary: RoundSummary) -> str:
    """A round in one line."""
    count = summary.rollouts
    parts = [f"{summary.solved}/{count} solved"] if summary.solved is not None else [f"{count} self-edits"]
    parts += [f"{summary.tasks_solved}/{summary.tasks} tasks by any"] if summary.tasks_solved is not None else []
    parts += [f"{summary.valid}/{count} valid", f"{summary.ran}/{count} ran", f"{summary.distinct} distinct"]
    parts += [f"held-out log-probability {summary.held_out:.3f}"] if summary.held_out is not None else []
    return f"Round {summary.round + 1}: {', '.join(parts)}"


# What pretraining shows: how far it is, how good it is, how long it will take.

SMOOTHING = 0.98
"""Losses of single batches jump; what is shown is their moving average, each batch counting a fiftieth; the mean of the
first fifty, so that a run that goes on does not look worse than it is when its first batch is a hard one."""


@dataclass
class PretrainingView:
    """Shows a run: one line that is redrawn on a terminal, a line now and then elsewhere, and what was measured.

    Attributes:
        console: Where to show it.
        live: Whether lines can be redrawn; None asks the console.
        clock: Seconds from any starting point.
    """

    console: Console
    live: bool | None = None
    clock: Callable[[], float] = time.monotonic
    _loss: float = 0.0
    _accuracy: float = 0.0
    _seen: int = 0

    def __post_init__(self) -> None:
        self._line = LiveLine(self.console, self.live, self.clock)

    def update(self, sign: "Sign") -> None:
        """Take in a sign of life."""
        self._smooth(sign)
        self._line.show(self._text(sign), always=sign.clock.tokens >= sign.total)
        for name, score in sign.scores.items():
            self._line.keep(f"  {name}: {measured(score)}")

    def generator(self, made: "Made") -> None:
        """One more generator's pairs are there."""
        line = f"making pairs: {made.done}/{made.total} generators, {made.pairs} pairs of {made.task_id}"
        self._line.show(line, always=made.done == made.total)

    def end(self, finished: "Finished") -> None:
        """Say what came of the run."""
        self.close()
        millions = f"{finished.parameters / 1e6:.1f}M parameters, {finished.tokens / 1e6:.1f}M tokens"
        self._line.keep(f"{millions}, {duration(finished.seconds)} of training; weights in {finished.weights}")

    def close(self) -> None:
        """Stop redrawing."""
        self._line.close()

    def _smooth(self, sign: "Sign") -> None:
        weight = min(SMOOTHING, self._seen / (self._seen + 1))
        self._seen += 1
        self._loss = weight * self._loss + (1 - weight) * sign.loss
        self._accuracy = weight * self._accuracy + (1 - weight) * sign.accuracy

    def _text(self, sign: "Sign") -> str:
        left = (sign.total - sign.clock.tokens) / max(sign.tokens_per_s, 1e-9)
        return (
            f"pretraining: {sign.clock.tokens / 1e6:.2f}M/{sign.total / 1e6:.2f}M tokens, loss {self._loss:.3f}, "
            f"{self._accuracy:.1%} of tokens right, {sign.tokens_per_s:.0f} tokens/s, {duration(max(0.0, left))} left"
        )


def measured(score: "Score") -> str:
    """A score as people read it."""
    exact = f"{round(score.exact * score.contexts)} of {score.contexts} outputs exact"
    return f"{exact}, {score.accuracy:.1%} of tokens right, loss {score.loss:.3f}"
