"""Which tasks share something with sets that must stay unseen: `python -m arc_seal.contamination`."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from arc_seal.cli import plain_command
from arc_seal.errors import InputError, printable, suggestion

if TYPE_CHECKING:
    from arc_seal.arc.splits import Contamination, Shared

USAGE = """\
Say which tasks share an id, a pair or a grid with sets that must stay unseen.

Usage: python -m arc_seal.contamination DATA... [against=SET]... [--json]

Examples:
  python -m arc_seal.contamination my_tasks
  python -m arc_seal.contamination arcagi2/training against=arcagi1/evaluation
  python -m arc_seal.contamination made.jsonl --against arcagi1/evaluation --against test_set_folder --json

DATA and SET are what solve takes: a file with a task, a folder of them, JSON lines, RE-ARC's lists of pairs, a Kaggle
file, or a set such as arcagi1/evaluation. Without against= it is all that arc-seal's models are never pretrained on.

Pairs and grids count as shared under the eight symmetries and any relabelling of the colours; single grids from 10
cells on, as smaller ones coincide by chance. Of several unseen tasks with the same content the first is named.

A line a task that shares something, such as
  00576224: is arcagi1/evaluation/00576224 and shares 3 pairs and 3 grids with it (train[0], train[1], test[0], ...)
  007bbfb7: shares 1 grid with arcagi1/evaluation/8e2edd66 (train[1].output)
and a summary for each DATA; --json prints everything with its place. Nothing is written.
Exit code: 0 when nothing is shared, 1 when something is, 2 for bad input.
"""

FLAGS = ("--against", "--json", "-h", "--help", "--version")

PLACES_SHOWN = 3

_KINDS = {"id": "an", "pair": "a", "grid": "a"}


@dataclass(slots=True)
class _Arguments:
    data: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    return plain_command("contamination", USAGE, argv, lambda argv: _work(_parse(argv)))


def _parse(argv: Sequence[str]) -> _Arguments:
    parsed, rest = _Arguments(), list(argv)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--json":
            parsed.json = True
        elif name in ("against", "--against") and (equals or (rest and name == "--against")):
            parsed.against.append(value if equals else rest.pop(0))
        elif name == "--against":
            raise InputError(argument, "", "a set after it", "nothing")
        elif argument.startswith("-"):
            raise InputError(argument, "", f"a flag that --help lists{suggestion(name, FLAGS)}", "an unknown flag")
        else:
            parsed.data.append(argument)
    if not parsed.data:
        raise InputError("arguments", "", "tasks: a file, a folder or a set (or --help)", "none")
    return parsed


def _work(arguments: _Arguments) -> int:
    from arc_seal.arc.datasets import load_tasks
    from arc_seal.arc.splits import UNTRAINED, Contamination, untrained

    against = list(dict.fromkeys(arguments.against)) or list(UNTRAINED)
    unseen = untrained()
    if arguments.against:
        unseen = Contamination.of({spec.rstrip("/"): load_tasks(spec) for spec in against})
    judged = {spec: judge(spec, unseen) for spec in dict.fromkeys(arguments.data)}
    if arguments.json:
        data = {
            spec: {task_id: [*map(asdict, each)] for task_id, each in tasks.items()} for spec, tasks in judged.items()
        }
        print(json.dumps({"against": against, "shared": data}, indent=2))
    else:
        for spec, tasks in judged.items():
            lines = [f"{task_id}: {in_words(shared)}" for task_id, shared in tasks.items() if shared]
            print(*map(printable, [*lines, summary(spec, tasks, against)]), sep="\n")
    return int(any(any(tasks.values()) for tasks in judged.values()))


def judge(spec: str, unseen: "Contamination") -> "dict[str, list[Shared]]":
    """What each task that a spec names shares, by its id; an InputError for a task with a fault or an id twice.

    Files of a folder that are plainly no task are left out, with a line each on standard error.
    """
    from rich.console import Console
    from rich.progress import track

    from arc_seal.arc.datasets import read_tasks
    from arc_seal.arc.task import NotATask

    found = {}
    console = Console(stderr=True)
    for each in track(
        read_tasks(spec), printable(spec), console=console, transient=True, disable=not console.is_terminal
    ):
        if isinstance(each, NotATask):
            print(each, file=sys.stderr)
        elif isinstance(each, InputError):
            raise each
        elif each[0].id in found:
            raise InputError(spec, "", f"the task id {each[0].id} once", "it twice")
        else:
            found[each[0].id] = list(unseen.shared(each))
    return found


def in_words(shared: "Sequence[Shared]") -> str:
    """What one task shares, by the unseen task it shares it with."""
    parts = []
    for name in dict.fromkeys(each.name for each in shared):
        of_name = [each for each in shared if each.name == name]
        kinds = Counter(each.what for each in of_name)
        counts = " and ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in kinds.items() if what != "id")
        places = [each.place for each in of_name if each.place]
        shown = ", ".join([*places[:PLACES_SHOWN], *["..."] * (len(places) > PLACES_SHOWN)])
        if not kinds["id"]:
            parts.append(f"shares {counts} with {name} ({shown})")
        else:
            parts.append(f"is {name}" + (f" and shares {counts} with it ({shown})" if counts else ""))
    return "; ".join(parts)


def summary(spec: str, tasks: "Mapping[str, Sequence[Shared]]", against: Sequence[str]) -> str:
    """How many of the tasks share something, and what."""
    sets = ", ".join(against)
    kinds = Counter(what for shared in tasks.values() for what in {each.what for each in shared})
    number = sum(map(bool, tasks.values()))
    if not number:
        return f"{spec}: none of {len(tasks)} tasks shares an id, a pair or a grid with {sets}"
    counts = ", ".join(f"{kinds[what]} {article} {what}" for what, article in _KINDS.items() if kinds[what])
    return f"{spec}: {number} of {len(tasks)} tasks share{'s' * (number == 1)} something with {sets}: {counts}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
