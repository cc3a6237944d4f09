"""What the commands show: one task being solved, a long run, and the tables at their ends.

Nothing that comes from outside, such as a task's id or what a model wrote, steers the terminal or is read as markup.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.highlighter import JSONHighlighter
from rich.table import Column, Table
from rich.text import Text

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution, Task
from arc_seal.errors import InputError, Status
from arc_seal.files import write_whole
from arc_seal.inner_loop.job import Attempt, Progress
from arc_seal.outer_loop import table as tables
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.outer_loop.solve import Solved
from arc_seal.ui.grids import Comparison, Demonstrations, differing_cells, size
from arc_seal.ui.progress import Display, duration, printable
from arc_seal.ui.run_folder import Run

if TYPE_CHECKING:
    from arc_seal.pretraining.loop import PretrainingProgress
    from arc_seal.pretraining.pool import Made
    from arc_seal.pretraining.run import Finished

SMOOTHING = 0.98
"""Losses of single batches jump; what is shown is their moving average, each batch counting a fiftieth; the mean of the
first fifty, so that a run that goes on does not look worse than it is when its first batch is a hard one."""

_GOOD, _BAD, _BAD_FIGURE = "bold #56b4e9", "bold #e69f00", "#e69f00"
"""Okabe and Ito's sky blue and orange: told apart by all kinds of colour vision; the words and digits say the same."""


def terminal_console() -> Console:
    """The console of standard output; what its encoding cannot show is spelled out instead of failing."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False)


def recording_console() -> Console:
    """A console that shows nothing and remembers everything, in colour whatever the terminal can do."""
    return Console(
        file=StringIO(), record=True, force_terminal=True, color_system="truecolor", width=100,
        highlight=False, legacy_windows=False, _environ={},
    )  # fmt: skip


@dataclass
class TaskView(Display):
    """Shows tasks being solved, one after another: what is asked, what the model decided, what came of it."""

    _samples: int = 1
    _rollout: int | None = None
    _used: bool = False

    def begin(self, task: Task, seed: int, samples: int) -> None:
        """Show what is asked, and that the work begins."""
        self._samples, self._rollout = samples, None
        self.show(Text(f"Task {printable(task.id)}, seed {seed}", style="bold"), Demonstrations(task.demos), Text())
        self.redraw("starting", due=False)

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self.show(text)

    def stage(self, *_: object, **counts: object) -> None:
        """Show nothing: every roll-out of a task is shown by itself."""

    advance = stage

    def progress(self, sample: int, progress: Progress) -> None:
        """Show how far a job is."""
        if progress.stage in ("train", "predict") and sample != self._rollout:
            self.close()
            self._rollout = sample
            if self._samples > 1:
                self.keep(Text(f"Roll-out{self._which(sample)}", style="bold"))
        self.job(progress)

    def proposed(self, rollout: Rollout) -> None:
        """Show a self-edit as the model wrote it, or one that was given or drawn."""
        self.close()
        given = "" if rollout.self_edit is None else rollout.self_edit.model_dump_json()
        text = given if rollout.completion is None else rollout.completion
        fault = "" if rollout.self_edit is not None else " (not valid)" if text else ": none was written"
        title = Text(f"Self-edit{self._which(rollout.sample)}{fault}", style="bold")
        self.keep(title, _Written(text), Text())

    def finished(self, rollout: Rollout) -> None:
        """Say how a roll-out ended, unless all is well and it is the only one."""
        self.close()
        ended = f"Roll-out{self._which(rollout.sample)}: {rollout.status}"
        if rollout.status is not Status.OK:
            reason = f": {printable(rollout.message)}" if rollout.message else ""
            self.keep(Text(f"{ended}{reason}", style=_BAD))
        elif self._samples > 1:
            self.keep(Text(ended), Text())

    def end(self, task: Task, solution: Solution | None, solved: Solved, folder: Path) -> None:
        """Show what came of it: attempts, reward, time, and where it is kept."""
        self.close()
        outputs = solution.outputs if solution else (None,) * len(task.queries)
        queries = zip(task.queries, solved.attempts, outputs, strict=True)
        for number, (query, attempts, output) in enumerate(queries, start=1):
            which = f" {number} of {len(task.queries)}" if len(task.queries) > 1 else ""
            self.keep(Text(), Text(f"Test{which}", style="bold"), _answers(query, attempts, output))
        whole = sum(solved.seconds.values())
        times = [(stage, duration(s), f"{s / whole:.0%}" if whole else "") for stage, s in solved.seconds.items()]
        table = _table(("stage", "time", "share"), [*times, ("all", duration(whole), "")])
        near = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        if solved.reward is None or solved.score is None:
            verdict = Text("No reward: the task comes without its solution.", style="bold")
        elif solved.reward:
            verdict = Text("Reward 1: solved.", style=_GOOD)
        else:
            verdict = Text(f"Reward 0: not solved ({solved.score:.0%} of the test outputs right).", style=_BAD)
        self.keep(Text(), verdict, Text(), table, Text(f"Kept in {printable(str(near))}"))

    def show(self, *renderables: RenderableType) -> None:
        """Show anything else that is to stay, an empty line below what is above."""
        self.close()
        self.keep(*([Text()] if self._used else []), *renderables)
        self._used = True

    def fail(self, error: InputError) -> None:
        """Show that a task could not be read or worked on, and that the rest goes on."""
        self.show(Text(f"error: {printable(str(error))}", style=_BAD))

    def save_svg(self, path: Path, title: str) -> None:
        """Save everything shown so far as a picture; InputError where the file cannot be written."""
        assert self.recording is not None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = self.recording.export_svg(title=title, clear=False, unique_id="arc-seal")
            write_whole(path, lambda file: file.write(picture.encode()))
        except OSError as error:
            raise InputError("save_svg", "", "a file that can be written", f"{path}: {error.strerror}") from None

    def _which(self, sample: int) -> str:
        return f" {sample + 1} of {self._samples}" if self._samples > 1 else ""


@dataclass
class RunView(Display):
    """Shows a long run: one line of the stage that it is in, and what stays. It may be called from several threads."""

    _counts: Counter[str] = field(default_factory=Counter)
    _batches: int = 0
    _loss: float = 0.0
    _accuracy: float = 0.0

    def note(self, text: str) -> None:
        """Show a line that stays; it ends the stage that is shown."""
        with self._lock:
            self.close()
            self.keep(text)

    def stage(self, name: str, done: int, total: int) -> None:
        """Begin a stage of so many items, `done` of which are there from before."""
        with self._lock:
            self.begin_stage(name, done)
            self._total = total
            self._counts.clear()
            if done < total:
                self.show_stage(done, total)

    def advance(self, solved: int = 0, failed: int = 0) -> None:
        """Count one more item of the stage, and what came of it."""
        with self._lock:
            self._counts.update(solved=solved, failed=failed)
            counts = [f"{count} {name}" for name, count in self._counts.items() if count]
            self.show_stage(self._step + 1, self._total, counts)

    def progress(self, sample: int, progress: Progress) -> None:
        """Show how far an M-step is; the jobs of a stage that is under way are only counted."""
        with self._lock:
            counting = self._stage and self._unit is None and self._step < self._total
            if progress.stage in ("load", "finetune") and not counting:
                self.job(progress)

    def proposed(self, rollout: Rollout) -> None:
        """Show nothing: it is counted by `advance`."""

    finished = proposed

    def generator(self, made: "Made") -> None:
        """Show that the pairs of one more group of a source are there."""
        line = f"making pairs: {made.done}/{made.total} of {made.source}, {made.pairs} pairs of {made.group}"
        self.redraw(line, due=made.done == made.total or None)

    def pretraining(self, done: "PretrainingProgress") -> None:
        """Show how far pretraining is, and what was just measured."""
        weight = min(SMOOTHING, self._batches / (self._batches + 1))
        self._batches += 1
        self._loss = weight * self._loss + (1 - weight) * done.loss
        self._accuracy = weight * self._accuracy + (1 - weight) * done.accuracy
        left_s = max(0.0, (done.total - done.clock.tokens) / max(done.tokens_per_s, 1e-9))
        self.redraw(
            f"pretraining: {done.clock.tokens / 1e6:.2f}M/{done.total / 1e6:.2f}M tokens, loss {self._loss:.3f}, "
            f"{self._accuracy:.1%} of tokens right, {done.tokens_per_s:.0f} tokens/s, {duration(left_s)} left",
            due=done.clock.tokens >= done.total or None,
        )
        for name, score in done.scores.items():
            exact = f"{round(score.exact * score.contexts)} of {score.contexts} outputs exact"
            self.keep(f"  {name}: {exact}, {score.accuracy:.1%} of tokens right, loss {score.loss:.3f}")

    def pretrained(self, finished: "Finished") -> None:
        """Say what came of pretraining."""
        millions = f"{finished.parameters / 1e6:.1f}M parameters, {finished.tokens / 1e6:.1f}M tokens"
        self.note(f"{millions}, {duration(finished.seconds)} of training; weights in {finished.weights}")


def pretty_json(value: Any, width: int, indent: str = "") -> str:
    """JSON for people: on one line where that fits into `width`, else one member a line."""
    line = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or len(indent) + len(line) <= width:
        return line
    items = value.values() if isinstance(value, dict) else value
    members = [pretty_json(item, width, f"{indent}  ") for item in items]
    if isinstance(value, dict):
        members = [f"{json.dumps(key, ensure_ascii=False)}: {each}" for key, each in zip(value, members, strict=True)]
    inside = f",\n{indent}  ".join(members)
    return f"{line[0]}\n{indent}  {inside}\n{indent}{line[-1]}"


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
    grids: list[tuple[str, str, Grid | None, Grid | None]] = [("input", size(query), query, None)]
    for number, attempt in enumerate(attempts, start=1):
        name = f"attempt {number}, {attempt.votes} vote{'' if attempt.votes == 1 else 's'}"
        grids.append((name, _correctness(attempt.grid, output), attempt.grid, output))
    grids += [] if attempts else [("no attempt", "", None, None)]
    grids += [] if output is None else [("solution", size(output), output, None)]
    return Comparison(grids)


def _correctness(grid: Grid, output: Grid | None) -> str:
    """The size alone where there is no solution; else whether the grid is right, or how far from it."""
    if output is None:
        return size(grid)
    if grid == output:
        return "right"
    if (grid.height, grid.width) != (output.height, output.width):
        return f"{size(grid)}, wrong size"
    return f"{len(differing_cells(grid, output))} of {len(grid.cells)} cells wrong"


def summary(runs: Sequence[Run]) -> Group:
    """The end of a sweep: one line a run, and one line on all of them."""
    table = _table(("task", "seed", "status", "reward", "attempts", "votes", "time"), map(_run_cells, runs))
    table.columns[2].justify = "left"  # status
    return Group(Text("Summary", style="bold"), table, Text(totals(runs)))


def totals(runs: Sequence[Run]) -> str:
    """How many runs were solved, of all there were; what failed counts as not solved."""
    known = [run.solved for run in runs if run.solved is not None]
    unscored = sum(solved.reward is None for solved in known)
    scored = len(runs) - unscored
    if not scored:
        return f"{len(runs)} runs, no solutions to score them by."
    right, score = sum(solved.reward == 1 for solved in known), sum(solved.score or 0.0 for solved in known)
    without = f"; {unscored} without a solution left out" if unscored else ""
    return f"Solved {right} of {scored} runs; mean share of test outputs right {score / scored:.1%}{without}."


def _run_cells(run: Run) -> Sequence[str]:
    solved = run.solved
    if solved is None:
        return (run.name, str(run.seed), "bad input", "", "", "", "")
    ended = [rollout.status for rollout in solved.rollouts]
    good = ended.count(Status.OK)
    return (
        solved.task_id,
        str(solved.seed),
        "ok" if good == len(ended) else f"{good} of {len(ended)} ok" if good else str(ended[0]),
        "-" if solved.reward is None else str(solved.reward),
        " ".join(str(len(attempts)) for attempts in solved.attempts),
        " ".join("+".join(str(attempt.votes) for attempt in attempts) or "0" for attempts in solved.attempts),
        duration(sum(solved.seconds.values())),
    )


def evaluation(table: tables.Table, by_task: bool = False) -> Group:
    """The rows, how roll-outs failed, the differences, what was run, and if asked for a line a task."""
    rows, failed = table["rows"], [row for row in table["rows"] if row["failures"]]
    parts: list[RenderableType] = [Text("Evaluation", style="bold")]
    parts.append(_table(tables.HEADINGS, map(tables.cells, rows), whole=True))
    parts += [Text(printable(f"Failed, {row['name']}: {tables.failures_text(row)}")) for row in failed]
    for number, each in enumerate(tables.differences(table)):
        style = {1: _GOOD, 0: "", -1: _BAD_FIGURE}[tables.side(each)]
        parts += [] if number else [Text()]
        parts.append(Text(printable(tables.difference_text(each)), style=style))
    parts += [Text(), Text(tables.NOTE), *([Text()] if table["run"] else [])]
    parts += [Text(printable(line)) for line in tables.run_lines(table)]
    if by_task:
        lines = [[Text(printable(task)), *map(_share, counts)] for task, *counts in tables.task_cells(table)]
        by_name = _table(["task", *(row["name"] for row in rows)], lines)
        parts += [Text(), Text("Solved by task", style="bold"), by_name]
    return Group(*parts)


def _share(count: str) -> Text:
    """Such as `3/5`; in colour where all or none of the roll-outs solved the task."""
    correct, _, total = count.partition("/")
    return Text(count, style=_GOOD if correct == total else _BAD_FIGURE if correct == "0" else "")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], whole: bool = False) -> Table:
    """Cells as they stand, flush right but in the first column; with `whole`, that one alone is broken to fit."""
    first, *others = (Text(printable(heading)) for heading in headings)
    columns = [
        Column(each, justify="right", no_wrap=whole, overflow="ellipsis" if whole else "fold") for each in others
    ]
    table = Table(Column(first, overflow="fold"), *columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    return table
