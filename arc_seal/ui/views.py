"""What the commands show: one task being solved, a long run, and the tables at their ends.

Nothing that comes from outside, such as a task's id or what a model wrote, steers the terminal or is read as markup.
"""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.highlighter import JSONHighlighter
from rich.table import Column, Table
from rich.text import Text

from arc_seal.arc.grid import Grid
from arc_seal.arc.html import PALETTES, Palette
from arc_seal.arc.task import Solution, Task
from arc_seal.errors import Status, plural
from arc_seal.inner_loop.job import Attempt, Progress
from arc_seal.outer_loop import table as tables
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.outer_loop.solve import Solved, attempt_title
from arc_seal.self_edit.edit import SelfEdit, canonical
from arc_seal.ui.grids import Comparison, Demonstrations, differing_cells, size
from arc_seal.ui.progress import Display, duration, percent, printable
from arc_seal.ui.run_folder import SUBMISSION, Run

if TYPE_CHECKING:
    from arc_seal.pretraining.loop import PretrainingProgress
    from arc_seal.pretraining.pool import Made
    from arc_seal.pretraining.run import Finished

SMOOTHING = 0.98
"""Losses of single batches jump; what is shown is their moving average, each batch counting a fiftieth; the mean of the
first fifty, so that a run that goes on does not look worse than it is when its first batch is a hard one."""

MARKS = "+ solved, - not solved, x failed, o not scored"
"""What stands for a roll-out in a task's line."""

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


MOST_ALTERNATIVES = 4
"""Of a field of a self-edit, how many values are shown that it might have had."""


@dataclass
class TaskView(Display):
    """Shows tasks being solved, one after another: what is asked, what the model decided, what came of it."""

    palette: Palette = PALETTES["arc"]
    _samples: int = 1
    _rollout: int | None = None

    def begin(self, task: Task, seed: int, samples: int) -> None:
        """Show what is asked, and that the work begins."""
        self._samples, self._rollout = samples, None
        self.close()
        title = Text(f"Task {printable(task.id)}, seed {seed}", style="bold")
        self.keep(title, Demonstrations(task.demos, self.palette), Text())
        self.redraw("starting", due=False)

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self.close()
        self.keep(text)

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
        self.keep(title, _Written(text), *map(Text, written_by(rollout)), Text())

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
            self.keep(Text(), Text(f"Test{which}", style="bold"), _answers(query, attempts, output, self.palette))
        whole = sum(solved.seconds.values())
        times = [(stage, duration(s), percent(s / whole) if whole else "") for stage, s in solved.seconds.items()]
        table = _table(("stage", "time", "share"), [*times, ("all", duration(whole), "")])
        if solved.reward is None or solved.score is None:
            verdict = Text("No reward: the task comes without its solution.", style="bold")
        elif solved.reward:
            verdict = Text("Reward 1: solved.", style=_GOOD)
        else:
            verdict = Text(f"Reward 0: not solved ({percent(solved.score)} of the test outputs right).", style=_BAD)
        self.keep(Text(), verdict, Text(), table, kept_in(folder))

    def _which(self, sample: int) -> str:
        return f" {sample + 1} of {self._samples}" if self._samples > 1 else ""


def written_by(rollout: Rollout) -> list[str]:
    """Who wrote a self-edit, and what else it might have been; nothing of one that was given or drawn."""
    if rollout.completion is None or rollout.self_edit is None:
        return []
    looks = "" if rollout.difficulty is None else f", to which the task looks {rollout.difficulty} of 9 hard"
    lines = [f"written by {rollout.policy or rollout.model}{looks}"]
    for name, chances in rollout.alternatives.items():
        likeliest = sorted(chances.items(), key=lambda each: -each[1])[:MOST_ALTERNATIVES]
        lines.append(f"  {name}: {', '.join(f'{value} ({percent(chance)})' for value, chance in likeliest)}")
    return lines


@dataclass
class RunView(Display):
    """Shows a long run: what it works on, a line a task, and how far it is. It may be called from several threads."""

    _counts: Counter[str] = field(default_factory=Counter)
    _foreseen: str = ""  # how many are probably solved
    _loading: int = 0
    _made: dict[str, dict[int, Rollout]] = field(default_factory=dict)
    _tried: Counter[SelfEdit] = field(default_factory=Counter)
    _said: dict[SelfEdit, str] = field(default_factory=dict)
    _solved: Counter[SelfEdit] = field(default_factory=Counter)
    _batches: int = 0
    _loss: float = 0.0
    _accuracy: float = 0.0

    def begin(self, title: str, facts: Mapping[str, str]) -> None:
        """Say what is worked on."""
        width = max(map(len, facts))
        self.keep(Text(printable(title), style="bold"), *(f"{name:<{width}}  {text}" for name, text in facts.items()))

    def note(self, text: str) -> None:
        """Show a line that stays; it ends the stage that is shown."""
        with self._lock:
            self.close()
            self.keep(text)

    def end(self, place: Path, *command: str) -> None:
        """Say where what was made is, and which command to type next, if any."""
        with self._lock:
            self.close()
            self.keep(kept_in(place), *([next_command(*command)] if command else []))

    def stage(self, name: str, done: int, total: int, rollouts: Sequence[Rollout] = ()) -> None:
        """Begin a stage of so many items, `done` of which are there from before; of roll-outs, those and the others."""
        with self._lock:
            self.begin_stage(name, done)
            self._total, self._loading, self._made = total, 0, {}
            for tallied in (self._counts, self._tried, self._solved, self._said):
                tallied.clear()
            for rollout in rollouts:
                self._made.setdefault(rollout.task, {})[rollout.sample] = rollout
                if rollout.finished_at is not None:
                    self._counts.update(solved=int(rollout.reward == 1), failed=int(rollout.status is not Status.OK))
                    self._compare(rollout)
            if done < total:
                self._count(0)

    def advance(self, solved: int = 0, failed: int = 0) -> None:
        """Count one more item of the stage, and what came of it."""
        with self._lock:
            self._counts.update(solved=solved, failed=failed)
            self._loading = 0
            self._count(1)

    def progress(self, sample: int, progress: Progress) -> None:
        """Show how far an M-step is; of the jobs of a stage that is under way only that a model is loaded for them."""
        with self._lock:
            counting = self._stage and self._unit is None and self._step < self._total
            if progress.stage in ("load", "finetune") and not counting:
                self.job(progress)
            elif progress.stage == "load" and self.live:
                self._loading = max(0, self._loading + (1 if progress.step == 0 else -1))
                self._count(0)

    def proposed(self, rollout: Rollout) -> None:
        """Show nothing: it is counted by `advance`."""

    def finished(self, rollout: Rollout) -> None:
        """Show a task's line when its last roll-out has ended."""
        with self._lock:
            made = self._made.get(rollout.task, {})
            if rollout.sample not in made:
                return
            made[rollout.sample] = rollout
            self._compare(rollout)
            if all(each.finished_at is not None for each in made.values()):
                self.keep(_task_line(list(made.values()), max(map(len, self._made))))

    def close(self, *_: object) -> None:
        """End the stage, as every display does; the best self-edit stays below its line."""
        with self._lock:
            best, self._below = self._below if self._step > self._known else "", ""
            super().close()
            if best:
                self.keep(best)

    __exit__ = close

    def _count(self, more: int) -> None:
        counts = [f"{count} {name}" for name, count in self._counts.items() if count]
        loading = ["loading the model"] if self._loading else []
        foreseen = [self._foreseen] if self._foreseen else []
        self.show_stage(self._step + more, self._total, [*counts, *foreseen, *loading])

    def _compare(self, rollout: Rollout) -> None:
        """Note which self-edit has solved most so far, where there is a choice."""
        edit = rollout.self_edit
        if edit is None or rollout.reward is None:
            return
        self._tried[edit] += 1
        # One in the paper's form asks for dozens of tools in a few words.
        self._said[edit] = min((each for each in (one_line_edit(edit), rollout.completion) if each), key=len)
        self._solved[edit] += rollout.reward
        best = max(self._tried, key=lambda each: (self._solved[each], -self._tried[each]))
        if self._solved[best] and len(self._tried) > 1:
            solved = f"solved {self._solved[best]} of {self._tried[best]}"
            self._below = f"Best self-edit so far, {solved}: {printable(self._said[best])}"

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
            f"{percent(self._accuracy, 1)} of tokens right, {done.tokens_per_s:.0f} tokens/s, {duration(left_s)} left",
            due=done.clock.tokens >= done.total or None,
        )
        for name, score in done.scores.items():
            exact = f"{round(score.exact * score.contexts)} of {score.contexts} outputs exact"
            self.keep(f"  {name}: {exact}, {percent(score.accuracy, 1)} of tokens right, loss {score.loss:.3f}")

    def pretrained(self, finished: "Finished") -> None:
        """Say what came of pretraining."""
        millions = f"{finished.parameters / 1e6:.1f}M parameters, {finished.tokens / 1e6:.1f}M tokens"
        self.note(f"{millions}, {duration(finished.seconds)} of training; weights in {finished.weights}")


@dataclass
class SweepView(RunView):
    """Shows many tasks being solved: a line each as they are done, and a self-edit where it differs from the last.

    The tokens that a policy wrote for a task are in the task's line.
    """

    total: int = 0
    width: int = 0  # of the longest name
    seeds: bool = False  # whether there are several
    _runs: int = 0
    _edits: tuple[SelfEdit, ...] = ()

    def ran(self, run: Run) -> None:
        """Show what came of a task."""
        with self._lock:
            self._runs += 1
            made = run.solved.rollouts if run.solved else ()
            edits = {_however_long(each.self_edit): each.self_edit for each in made if each.self_edit is not None}
            if edits and (*edits,) != self._edits:
                self._edits = (*edits,)
                self.keep(*(f"Self-edit: {one_line_edit(edit)}" for edit in edits.values()))
            number = f"{self._runs:>{len(str(self.total))}}/{self.total}"
            seed = [f"seed {run.seed}"] if self.seeds else []
            verdict, style, facts = _verdict(run)
            line = Text("  ".join([number, f"{printable(run.name):<{self.width}}", *seed, ""]))
            self.keep(line.append(f"{verdict:<10}", style=style).append("".join(f"  {each}" for each in facts if each)))
            if self._stage:
                self.advance(solved=int(verdict == "solved"), failed=int(style == _BAD))

    def foreseen(self, chances: Sequence[float | None], left_s: float) -> None:
        """Show how many tasks are probably solved so far, of those whose chance is known, and how much time is left."""
        known = [chance for chance in chances if chance is not None]
        with self._lock:
            self._foreseen = f"probably {sum(known):.0f} solved in all" if known else ""
            self._until_s = self.clock() + left_s
            if self._stage:
                self._count(0)

    def sum_up(self, runs: Sequence[Run], folder: Path) -> None:
        """Say what all came to, where the answers are and what to type to look at them."""
        self.close()
        self.keep(Text(), totals(runs), kept_in(folder / SUBMISSION))
        if any(run.solved for run in runs):
            self.keep(next_command("report", str(near(folder))))


def near(path: Path) -> Path:
    """The path from where the command was started, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def kept_in(place: Path) -> Text:
    """Where something is kept."""
    return Text(f"Kept in {printable(str(near(place)))}", no_wrap=True)


def named(specs: Sequence[str]) -> str:
    """Names of sets, files and folders; of many the first three."""
    more = f" and {len(specs) - 3} more" if len(specs) > 3 else ""
    return f"{', '.join(specs[:3])}{more}"


def next_command(name: str, *argv: str) -> Text:
    """What to type next, in one piece to be copied."""
    return Text(f"Next: {printable(shlex.join(['python', '-m', f'arc_seal.{name}', *argv]))}", no_wrap=True)


def one_line_edit(edit: SelfEdit) -> str:
    """A self-edit in one line: its tools, then how it trains."""
    said = edit.training.model_dump()
    training = ", ".join(f"{name} {canonical(value).strip(chr(34))}" for name, value in said.items())
    return f"{', '.join(map(str, edit.tools)) or 'no tools'}; {training}"


def _however_long(edit: SelfEdit) -> SelfEdit:
    """The self-edit without what says how long it trains."""
    return edit.model_copy(update={"training": edit.training.model_copy(update={"tokens": None, "max_examples": 0})})


def _task_line(made: Sequence[Rollout], width: int) -> Text:
    """A task's roll-outs: a mark each (MARKS), how many solved it, and the wall time of all."""
    line = Text(f"  {printable(made[0].task):<{width}}  ", no_wrap=True)
    for rollout in made:
        failed = rollout.status is not Status.OK
        mark = "x" if failed else {1: "+", 0: "-", None: "o"}[rollout.reward]
        line.append(mark, style={"+": _GOOD, "x": _BAD}.get(mark, ""))
    scored = [each.reward for each in made if each.reward is not None]
    solved = f"  {sum(scored)}/{len(scored)} solved" if len(scored) > 1 else ""
    return line.append(f"{solved}  {duration(sum(sum(each.seconds.values()) for each in made))}")


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


def _answers(query: Grid, attempts: Sequence[Attempt], output: Grid | None, palette: Palette) -> Comparison:
    """The test input, the attempts at it with their faults marked, and the solution."""
    grids: list[tuple[str, str, Grid | None, Grid | None]] = [("input", size(query), query, None)]
    for number, attempt in enumerate(attempts, start=1):
        grids.append((attempt_title(number, attempt), _correctness(attempt.grid, output), attempt.grid, output))
    grids += [] if attempts else [("no attempt", "", None, None)]
    grids += [] if output is None else [("solution", size(output), output, None)]
    return Comparison(grids, palette)


def _correctness(grid: Grid, output: Grid | None) -> str:
    """The size alone where there is no solution; else whether the grid is right, or how far from it."""
    if output is None:
        return size(grid)
    if grid == output:
        return "right"
    if (grid.height, grid.width) != (output.height, output.width):
        return f"{size(grid)}, wrong size"
    return f"{len(differing_cells(grid, output))} of {len(grid.cells)} cells wrong"


def totals(runs: Sequence[Run]) -> str:
    """How many runs were solved, of all there were; what failed counts as not solved."""
    noun = (
        "task" if len({run.name for run in runs}) == len(runs) else "run"
    )  # several runs where there are several seeds
    known = [run.solved for run in runs if run.solved is not None]
    unscored = sum(solved.reward is None for solved in known)
    scored = len(runs) - unscored
    if not scored:
        return f"{plural(len(runs), noun)}, no solutions to score them by."
    right, score = sum(solved.reward == 1 for solved in known), sum(solved.score or 0.0 for solved in known)
    without = f"; {unscored} without a solution left out" if unscored else ""
    share = percent(score / scored, 1)
    return f"Solved {right} of {plural(scored, noun)}; mean share of test outputs right {share}{without}."


def _verdict(run: Run) -> tuple[str, str, list[str]]:
    """How a run ended, in which style, and what else there is to say of it."""
    solved = run.solved
    if solved is None:
        return "bad input", _BAD, [printable(str(run.error))]
    failed = [each for each in solved.rollouts if each.status not in (Status.OK, Status.NOT_CHOSEN)]
    votes = " ".join("+".join(str(attempt.votes) for attempt in attempts) or "0" for attempts in solved.attempts)
    if not solved.rollouts:
        return "not begun", _BAD, ["time was up"]
    facts = [f"votes {votes}", duration(sum(solved.seconds.values()))]
    wanted = [each.self_edit.training.tokens or 0 for each in solved.rollouts if each.self_edit is not None]
    if any(wanted):
        facts.append(f"{max(wanted):,} tokens")
    if len(failed) == len(solved.rollouts):
        return str(failed[0].status), _BAD, [facts[1], printable(failed[0].message)]
    facts += [f"{len(failed)} of {plural(len(solved.rollouts), 'roll-out')} failed"] if failed else []
    facts += ["time was up"] if solved.open else []
    if solved.reward is None:
        return "done", "", facts
    if solved.reward:
        return "solved", _GOOD, facts
    return "not solved", "", [*facts, f"{percent(solved.score)} of the test outputs right" if solved.score else ""]


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
