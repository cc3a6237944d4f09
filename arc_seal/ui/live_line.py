"""One line that says how far a long command is: redrawn on a terminal, printed now and then elsewhere."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.text import Text

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
