"""List runs, and compare two of them: `python -m arc_seal.runs`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arc_seal.cli import plain_command
from arc_seal.errors import InputError, printable, suggestion

if TYPE_CHECKING:
    from arc_seal.ui.run_folder import RunFolder

USAGE = """\
List the runs that are kept, and compare two of them on the tasks that both have.

Usage: python -m arc_seal.runs list [FOLDER]
       python -m arc_seal.runs compare A B

  list      the runs in FOLDER and below it, by default in runs/, the last changed first.
  compare   by how much B is better than A, task by task, with the 95 % interval of a bootstrap over tasks, and what
            differs in the configuration. A and B are folders of runs of solve (sweeps too), train or evaluate.

Examples:
  python -m arc_seal.runs list
  python -m arc_seal.runs compare runs/before runs/latest

Exit code: 0 when it is shown, 2 for bad input.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    return plain_command("runs", USAGE, argv, _work)


def _work(argv: Sequence[str]) -> int:
    match argv:
        case ["list"]:
            _list(Path("runs"))
        case ["list", folder]:
            _list(Path(folder).expanduser())
        case ["compare", first, second]:
            _compare(Path(first).expanduser(), Path(second).expanduser())
        case ["list" | "compare", *rest]:
            takes = "two folders" if argv[0] == "compare" else "at most one folder"
            raise InputError(argv[0], "", f"{takes} (or --help)", f"{len(rest)}")
        case [name, *_]:
            raise InputError(name, "", f"list or compare{suggestion(name, ('list', 'compare'))}", "another command")
        case _:
            raise InputError("arguments", "", "list or compare (or --help)", "none")
    return 0


def _list(folder: Path) -> None:
    """A line a run; one that cannot be read is listed with the reason."""
    from arc_seal.ui.run_folder import read_folder, run_folders

    if not folder.is_dir():
        raise InputError(str(folder), "", "a folder with runs in it", "no such folder")
    lines = []
    for place in run_folders(folder):
        name = str(place.relative_to(folder)) if place != folder else str(place)
        try:
            lines.append((name, *_cells(read_folder(place))))
        except InputError as error:
            lines.append((name, f"cannot be read: {error}"))
    if not lines:
        print(f"No runs in {folder}")
        return
    headings = ("run", "kind", "changed", "model", "tasks", "solved", "time")
    widths = [max(len(line[at]) for line in [headings, *lines] if len(line) == len(headings)) for at in range(6)]
    widths[0] = max(len(line[0]) for line in [headings, *lines])
    for line in (headings, *lines):
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print(printable("  ".join([*padded, *line[6:]]).rstrip()))


def _cells(run: "RunFolder") -> tuple[str, ...]:
    """A run under the headings, behind its name."""
    from datetime import datetime

    from arc_seal.ui.progress import duration
    from arc_seal.ui.run_folder import last_change, marks

    found = marks(run)
    last = list(found)[-1] if found else None  # a training run's last round
    if run.table and run.table["difference"]:
        last = run.table["difference"]["first"]  # the row that the evaluation is about
    rewards = [reward for rewards in found[last].values() for reward in rewards] if last else []
    solved = f"{sum(rewards):.0f}/{len(rewards)}{'' if run.kept else f' in {last}'}" if last else "-"
    tasks = {each.solved.task_id for each in run.kept} | {each[0].id for each in run.entries}
    tasks |= {task for row in found.values() for task in row} | {str(each.get("task")) for each in run.failed}
    seconds = [sum(each.solved.seconds.values()) for each in run.kept] or [
        sum(each.seconds.values()) for each in run.rollouts
    ]
    models = {each.solved.model for each in run.kept} | {each.model for each in run.rollouts}
    models |= {str(run.table["run"].get("model", "-"))} if run.table else set()
    changed = datetime.fromtimestamp(last_change(run.place)).strftime("%Y-%m-%d %H:%M")
    time = duration(sum(seconds)) if seconds else "-"
    return run.kind, changed, ", ".join(sorted(models)) or "-", str(len(tasks)), solved, time


def _compare(first: Path, second: Path) -> None:
    from arc_seal.outer_loop.table import difference_text
    from arc_seal.ui.run_folder import changed, compare, read_folder

    one, other = read_folder(first), read_folder(second)
    found, settings = compare(one, other, (str(first), str(second))), changed(one, other)
    if not found:
        raise InputError(str(second), "", f"tasks with a reward that {first} has too", "none")
    for each in found:
        print(printable(f"{each['name']}: {difference_text(each)}"))
    print("Configuration: the same." if not settings else "Configuration:")
    for place, before, after in settings:
        print(printable(f"  {place}: {before} -> {after}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
