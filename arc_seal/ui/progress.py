"""One line that says how far a long command is: redrawn on a terminal, printed now and then elsewhere."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from arc_seal.inner_loop.job import Progress, Stage

LINE_EVERY_S = 10.0
"""Off the terminal a line is due after this many seconds."""


@dataclass
class LiveLine:
    """A line that changes, and lines that stay above it.

    Attributes:
        console: Where to show it.
        live: Whether lines can be redrawn; None asks the console.
        clock: Seconds from any starting point.
        kept: The last line that was printed to stay; empty before there is one.
    """

    console: Console
    live: bool | None = None
    clock: Callable[[], float] = time.monotonic
    kept: str = ""
    _shown: Live | None = None
    _shown_s: float = -math.inf

    @property
    def redraws(self) -> bool:
        """Whether the line is redrawn."""
        if self.live is None:
            console = self.console
            self.live = console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
        return self.live

    def show(self, line: str, *, always: bool = False) -> None:
        """Show the line as it is now; off the terminal only where one is due, or `always`."""
        if self.redraws:
            if self._shown is None:
                self._shown = Live(console=self.console, transient=True, auto_refresh=False)
                self._shown.start()
            self._shown.update(Text(line), refresh=True)
        elif always or self.clock() - self._shown_s >= LINE_EVERY_S:
            self._shown_s = self.clock()
            self.keep(line)

    def keep(self, line: str) -> None:
        """Print a line that stays."""
        self.kept = line
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def close(self) -> None:
        """Stop redrawing; `show` begins anew."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None


# How far a job is: a bar on a terminal, now and then a line elsewhere, and one line that stays for each stage done.

LABELS: dict[Stage, str] = {
    "load": "loading the model",
    "write": "writing the self-edit",
    "train": "training",
    "predict": "predicting",
    "examine": "examining the self-edit",
    "finetune": "fine-tuning",
}
"""What people read for each stage."""

UNITS: dict[Stage, str] = {
    "load": "",
    "write": "tokens",
    "train": "updates",
    "predict": "tokens",
    "examine": "demonstrations",
    "finetune": "updates",
}
"""What the steps of each stage are."""

_TOTALS_ARE_MET: frozenset[Stage] = frozenset({"load", "train", "examine", "finetune"})
"""Stages that take as many steps as they say; the others may end sooner."""

_LINE_EVERY_S = 5.0
_LINE_EVERY_SHARE = 0.1
"""Off the terminal a line is due after this many seconds and this share of the stage, whichever comes later."""


@dataclass
class ProgressDisplay:
    """Shows one stage at a time.

    Attributes:
        console: Where to show it.
        live: Whether the console can redraw a line.
        clock: Seconds from any starting point.
        keep: Prints the line that stays.
    """

    console: Console
    live: bool
    clock: Callable[[], float]
    keep: Callable[[str], None]
    _bar: Bar | None = None
    _row: TaskID | None = None
    _last: Progress | None = None
    _began_s: float = 0.0
    _shown: Progress | None = None
    _shown_s: float = field(default=-math.inf)

    def show(self, progress: Progress) -> None:
        """Take in a sign of life."""
        if self._last is None or self._last.stage != progress.stage or progress.step < self._last.step:
            self.end()
            self._begin(progress.stage)
        self._last = progress
        if self._bar is not None and self._row is not None:
            total = progress.total or None
            self._bar.update(self._row, completed=progress.step, total=total, details=self._details(progress))
        elif not self.live and self._line_is_due(progress):
            self._shown, self._shown_s = progress, self.clock()
            self.console.print(f"{_head(progress)}{self._details(progress)}", soft_wrap=True, highlight=False)

    def wait(self, label: str) -> None:
        """Show that something is going on whose length nobody knows."""
        self.end()
        self._open(label)

    def end(self) -> None:
        """Close the stage that is shown, leaving one line of it."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._row = None
        if self._last is not None:
            self.keep(self._summary(self._last))
        self._last = None

    def _begin(self, stage: Stage) -> None:
        self._began_s, self._shown, self._shown_s = self.clock(), None, self.clock()
        self._open(LABELS[stage])

    def _open(self, label: str) -> None:
        if not self.live:
            return
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[details]}"))
        self._bar = Bar(SpinnerColumn(), *columns, console=self.console, transient=True)
        self._row = self._bar.add_task(label, total=None, details="")
        self._bar.start()

    def _line_is_due(self, progress: Progress) -> bool:
        if not progress.total or progress.step >= progress.total:
            return False  # the line that stays says it
        done = progress.step - (self._shown.step if self._shown else 0)
        return done >= _LINE_EVERY_SHARE * progress.total and self.clock() - self._shown_s >= _LINE_EVERY_S

    def _details(self, progress: Progress) -> str:
        """Steps, loss, speed and the time left, as far as they are known."""
        parts = [f"{progress.step}/{progress.total} {UNITS[progress.stage]}"] if progress.total else []
        parts += _measures(progress)
        elapsed_s = self.clock() - self._began_s
        if 0 < progress.step < progress.total:
            left = duration(elapsed_s / progress.step * (progress.total - progress.step))
            parts.append(f"{left} left" if progress.stage in _TOTALS_ARE_MET else f"at most {left} left")
        return ", ".join(parts)

    def _summary(self, progress: Progress) -> str:
        steps = [f"{progress.step} {UNITS[progress.stage]}"] if progress.step and UNITS[progress.stage] else []
        return f"{_head(progress)}{', '.join([*steps, *_measures(progress), duration(self.clock() - self._began_s)])}"


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


def _head(progress: Progress) -> str:
    return f"{LABELS[progress.stage]}: "


def _measures(progress: Progress) -> list[str]:
    parts = [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    return parts + ([f"{progress.tokens_per_s:.0f} tokens/s"] if progress.tokens_per_s is not None else [])
