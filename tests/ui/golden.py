"""What the terminal shows, compared with files: set UPDATE_GOLDEN=1 to write them anew, then read the difference."""

import os
from io import StringIO
from pathlib import Path

from rich.console import Console

FOLDER = Path(__file__).parent / "golden"


def plain_console(width: int = 80) -> Console:
    """A console that is no terminal, such as a pipe."""
    return Console(file=StringIO(), width=width, highlight=False, _environ={})


def colour_console(width: int = 80) -> Console:
    """A terminal that shows all colours."""
    return Console(
        file=StringIO(), width=width, highlight=False, force_terminal=True, color_system="truecolor",
        legacy_windows=False, _environ={},
    )  # fmt: skip


def shown(console: Console) -> str:
    """What a console of this module has been sent."""
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def assert_golden(name: str, text: str) -> None:
    """Compare a text with the file of that name."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
    assert text == path.read_text("utf-8")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
