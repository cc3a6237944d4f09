"""Every error that arc-seal raises on purpose.

    ArcSealError
    ├── InputError          the user's input is wrong: one line, exit code 2
    │   ├── ModelError      a model cannot be found, read or used as asked
    │   └── NotATask        what was found is plainly no task (arc/task.py)
    ├── GridError           cells that are not an ARC grid (1x1 to 30x30, colours 0-9)
    ├── ExecutorClosed      a job's executor was closed before there was an outcome; says nothing about the job
    ├── FinetuningFailed    a policy could not be fine-tuned: out of time or memory, diverged
    └── JobFailure          one job came to nothing: recorded with reward 0, never a crash
        ├── InvalidSelfEdit   the completion is not a self-edit
        ├── OverBudget        the self-edit asks for more training tokens than are allowed
        ├── Diverged          the training loss stopped being finite
        └── OutOfMemory       the job asked for more memory than it was given

Anything else that is raised is a programming error and is meant to be seen.
"""

import difflib
import re
from collections.abc import Sequence
from enum import StrEnum

LONGEST_LINE = 300
"""Characters of a line that others' code wrote, from where it is cut."""


class Status(StrEnum):
    """How a job ended. Everything but `OK` is a recorded outcome with reward 0.

    `NOT_CHOSEN` is no failure: an examination on the demonstrations preferred another self-edit, or time was up first.
    """

    OK = "ok"
    INVALID_SELF_EDIT = "invalid_self_edit"
    OVER_BUDGET = "over_budget"
    DIVERGED = "diverged"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    DIED = "died"
    NOT_CHOSEN = "not_chosen"


class ArcSealError(Exception):
    """The root of the tree."""

    def __str__(self) -> str:
        """The message as one line that steers no terminal, whatever foreign text is in it."""
        return printable(super().__str__())


class InputError(ArcSealError):
    """Something the user gave is wrong: in a file, option or set, at a place such as `train[0].input[2][1]` if any."""

    def __init__(self, source: str, place: str, expected: str, found: str) -> None:
        self.source, self.place, self.expected, self.found = source, place, expected, found
        where = f"{source}: {place}" if place else source
        super().__init__(f"{where}: expected {expected}, found {found}")

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """Keep the four parts when the error crosses a process boundary."""
        return type(self), (self.source, self.place, self.expected, self.found)


class ModelError(InputError):
    """A model cannot be found, read or used as asked."""


class GridError(ArcSealError):
    """Cells that are not an ARC grid, or a grid that a transform cannot make or undo."""


class ExecutorClosed(ArcSealError):
    """A job's executor was closed before there was an outcome: nothing is known about the job."""

    def __init__(self) -> None:
        super().__init__("the executor was closed")


class FinetuningFailed(ArcSealError):
    """Fine-tuning a policy came to nothing; the message says why."""


class JobFailure(ArcSealError):
    """One job came to nothing, for the reason in `status`."""

    status: Status


class InvalidSelfEdit(JobFailure):
    """The completion is not a self-edit, or breaks a rule that the grammar cannot hold."""

    status = Status.INVALID_SELF_EDIT


class OverBudget(JobFailure):
    """The self-edit asks for more training tokens than the limits allow."""

    status = Status.OVER_BUDGET


class Diverged(JobFailure):
    """The training loss stopped being finite."""

    status = Status.DIVERGED


class OutOfMemory(JobFailure):
    """The job asked for more memory than it was given."""

    status = Status.OUT_OF_MEMORY


def one_line(error: BaseException) -> str:
    """The first line of what an error says, else its name; the name too where an error is meant to end a process."""
    name, text = type(error).__name__, str(error).strip()
    if isinstance(error, ArcSealError):
        text = Exception.__str__(error).strip()  # with its line breaks
    line = text if text and isinstance(error, Exception) else f"{name} {text}".strip()
    return printable(line.splitlines()[0][:LONGEST_LINE])


def printable(text: str) -> str:
    """The text as one line, without what would steer a terminal."""
    line = re.sub(r"\s*[\r\n]\s*", " ", text)
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "\ufffd" for sign in line)


def plural(count: int, noun: str) -> str:
    """So many of something: `1 task`, `2 tasks`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)` for the name nearest to a wrong one, or nothing."""
    near = difflib.get_close_matches(wrong, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
