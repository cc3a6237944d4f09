"""One task being solved: what is asked, what the model decided, what came of it.

Nothing that comes from outside, such as a task's id or what a model wrote, steers the terminal or is read as markup.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.highlighter import JSONHighlighter
from rich.text import Text

from arc_seal.arc.grid import Grid
from arc_seal.arc.html import PALETTES, Palette
from arc_seal.arc.task import Solution, Task
from arc_seal.errors import Status
from arc_seal.inner_loop.job import Attempt, Progress
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.outer_loop.solve import Solved, attempt_title
from arc_seal.ui.grids import Comparison, Demonstrations, differing_cells, size
from arc_seal.ui.progress import BAD, GOOD, Display, duration, kept_in, percent, plain_table, printable

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
            self.keep(Text(f"{ended}{reason}", style=BAD))
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
        table = plain_table(("stage", "time", "share"), [*times, ("all", duration(whole), "")])
        if solved.reward is None or solved.score is None:
            verdict = Text("No reward: the task comes without its solution.", style="bold")
        elif solved.reward:
            verdict = Text("Reward 1: solved.", style=GOOD)
        else:
            verdict = Text(f"Reward 0: not solved ({percent(solved.score)} of the test outputs right).", style=BAD)
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
