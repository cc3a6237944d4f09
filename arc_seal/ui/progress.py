"""How far a command is: one line that is redrawn on a terminal, and printed now and then elsewhere.

And what the views share: consoles, colours, plain tables, where something is kept.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from threading import RLock
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from arc_seal.errors import InputError, plural
from arc_seal.files import write_whole
from arc_seal.inner_loop.job import Progress, Stage

STAGES: dict[Stage, tuple[str, str, str]] = {
    "load": ("loading the model", "", ""),
    "write": ("writing the self-edit", "token", "at most "),
    "train": ("training", "update", ""),
    "predict": ("predicting", "token", "at most "),
    "examine": ("examining the self-edit", "demonstration", ""),
    "finetune": ("fine-tuning", "update", ""),
}
"""What people read for each stage of a job, what its steps are, and how the time left is meant."""

GOOD, BAD, BAD_FIGURE = "bold #56b4e9", "bold #e69f00", "#e69f00"
"""Okabe and Ito's sky blue and orange: told apart by all kinds of colour vision; the words and digits say the same."""

LINE_EVERY_S, JOB_LINE_EVERY_S, JOB_LINE_EVERY_SHARE = 10.0, 5.0, 0.1
"""Off the terminal a line is due after so many seconds; a job's after a share of its stage too, if that comes later."""

SHOWN_STEP_S = 0.1
"""Seconds between two pictures of the line that is redrawn, on which a clock runs while nothing else is known."""


@dataclass
class Display:
    """A line that says how far the stage is that a command is in, and what stays above it."""

    console: Console
    recording: Console | None = None  # where what stays is shown too, for a picture
    live: bool | None = None  # whether the line can be redrawn; None asks the console
    clock: Callable[[], float] = time.monotonic  # seconds from any starting point
    _lock: RLock = field(default_factory=RLock)
    _drawn: Live | None = None
    _printed_s: float = -math.inf
    _printed_step: int = 0
    _stage: str = ""
    _unit: str | None = None
    _step: int = 0
    _known: int = 0
    _total: int = 0
    _measures: Sequence[str] = ()
    _began_s: float = 0.0
    _line: str = ""
    _clock_runs: bool = False
    _until_s: float | None = None  # what the clock says at the deadline
    _below: str = ""  # a second line on the terminal

    def __post_init__(self) -> None:
        if self.live is None:
            console = self.console
            self.live = console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
        self._spinner = Spinner("dots")

    def __enter__(self) -> Self:
        return self

    def keep(self, *shown: RenderableType) -> None:
        """Print what stays. A line breaks between words on a terminal, nowhere if it may not, and nowhere in a pipe."""
        for console in [self.console, self.recording] if self.recording else [self.console]:
            for each in shown:
                renderable = Text(printable(each)) if isinstance(each, str) else each
                whole = isinstance(renderable, Text) and (renderable.no_wrap or not console.is_terminal)
                console.print(renderable, soft_wrap=bool(whole and console is self.console))

    def redraw(self, line: str, due: bool | None = None) -> None:
        """Show the line as it is now; where it cannot be redrawn, print it if it is due, by the clock unless said."""
        with self._lock:  # several roll-outs of a task are told of by several threads
            self._line = line
            if self.live:
                if self._drawn is None:
                    self._drawn = Live(
                        get_renderable=self._moving,
                        console=self.console,
                        transient=True,
                        refresh_per_second=1 / SHOWN_STEP_S,
                    )
                    self._drawn.start()
                self._drawn.refresh()
            elif due or (due is None and self.clock() - self._printed_s >= LINE_EVERY_S):
                self._printed_step, self._printed_s = self._step, self.clock()
                self.console.print(Text(printable(line)), soft_wrap=True)

    def _moving(self) -> RenderableType:
        """The line as it is at this moment, and what stands below it."""
        clock = f", {duration(self.clock() - self._began_s)}" if self._clock_runs else ""
        self._spinner.update(text=Text(printable(f"{self._line}{clock}")))
        below = [Text(printable(self._below), no_wrap=True, overflow="ellipsis")] if self._below else []
        return Group(self._spinner, *below)

    def begin_stage(self, name: str, known: int = 0, unit: str | None = None) -> None:
        """Begin a job's stage, which has a unit, or one of many items, of which so many are there from before."""
        self.close()
        self._stage, self._unit, self._step, self._known, self._printed_step = name, unit, known, known, 0
        self._began_s = self.clock()

    def show_stage(self, step: int, total: int, measures: Sequence[str] = (), at_most: str = "") -> None:
        """Show how far the stage is: steps, what was measured, and the time left as far as it is known."""
        self._step, self._total, self._measures = step, total, measures
        spent_s, made, left = self.clock() - self._began_s, step - self._known, total - step
        parts = [f"{step}/{plural(total, self._unit) if self._unit else total}"] if total else []
        parts += measures
        self._clock_runs = not (made > 0 and left > 0)  # there is nothing better to tell the time by
        if self._until_s is not None:
            parts.append(f"{duration(max(0.0, self._until_s - self.clock()))} until the deadline")
        elif not self._clock_runs:
            parts.append(f"{at_most}{duration(spent_s / made * left)} left")
        due: bool | None = None
        if left <= 0:
            due = False  # the line that stays says it
        elif self._unit is not None:
            enough = step - self._printed_step >= JOB_LINE_EVERY_SHARE * total
            due = enough and min(self.clock() - self._printed_s, spent_s) >= JOB_LINE_EVERY_S
        self.redraw(f"{self._stage}: {', '.join(parts)}" if parts else self._stage, due)

    def job(self, progress: Progress) -> None:
        """Show how far a job is; another stage, or the same one anew, ends what was shown before."""
        name, unit, at_most = STAGES[progress.stage]
        if self._stage != name or progress.step < self._step:
            self.begin_stage(name, unit=unit)
        measures = [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
        measures += [f"{progress.tokens_per_s:.0f} tokens/s"] if progress.tokens_per_s is not None else []
        self.show_stage(progress.step, progress.total, measures, at_most)

    def close(self, *_: object) -> None:
        """End the stage, of which a line stays unless no item was added, and give the terminal back."""
        with self._lock:
            if self._drawn is not None:
                self._drawn.stop()
                self._drawn = None
            if self._stage and (self._unit is not None or self._step > self._known):
                steps = f"{self._step}/{self._total}" if self._unit is None else plural(self._step, self._unit)
                parts = [steps] if self._unit is None or (self._unit and self._step) else []
                parts += [*self._measures, duration(self.clock() - self._began_s)]
                self.keep(Text(f"{self._stage}: {', '.join(parts)}"))
            self._stage, self._measures, self._clock_runs, self._until_s = "", (), False, None

    __exit__ = close

    def save_svg(self, path: Path, title: str) -> None:
        """Save everything that was kept so far as a picture; InputError where the file cannot be written."""
        assert self.recording is not None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = self.recording.export_svg(title=title, clear=False, unique_id="arc-seal")
            write_whole(path, lambda file: file.write(picture.encode()))
        except OSError as error:
            raise InputError("save_svg", "", "a file that can be written", f"{path}: {error.strerror}") from None


def duration(seconds: float) -> str:
    """Seconds as people read them: `0.4 s`, `12 s`, `3:25`, `1:02:03`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(share: float, decimals: int = 0) -> str:
    """A share as people read it: `93 %`."""
    return f"{100 * share:.{decimals}f} %"


def printable(text: str) -> str:
    """The text without what would steer the terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


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


def near(path: Path) -> Path:
    """The path from where the command was started, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def kept_in(place: Path) -> Text:
    """Where something is kept."""
    return Text(f"Kept in {printable(str(near(place)))}", no_wrap=True)


def plain_table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], whole: bool = False) -> Table:
    """Cells as they stand, flush right but in the first column; with `whole`, that one alone is broken to fit."""
    first, *others = (Text(printable(heading)) for heading in headings)
    columns = [
        Column(each, justify="right", no_wrap=whole, overflow="ellipsis" if whole else "fold") for each in others
    ]
    table = Table(Column(first, overflow="fold"), *columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    return table
