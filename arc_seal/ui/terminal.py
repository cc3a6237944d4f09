"""The live view of one task being solved: what is asked, what the model decided, how far it is, what came of it.

Everything that stays on the screen goes through `View._print`, to the terminal and to the recording that a picture is
made of alike; what moves is shown on the terminal alone.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution, Task
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Attempt, Progress
from arc_seal.outer_loop.solver import Solved
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.ui.grids import Comparison, Demonstrations, Labelled, differing_cells, size
from arc_seal.ui.progress import ProgressDisplay, duration
from arc_seal.whole_file import write_whole

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
