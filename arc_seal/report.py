"""Write a report of runs that a browser shows: `python -m arc_seal.report`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from arc_seal.cli import plain_command
from arc_seal.errors import InputError, suggestion

USAGE = """\
Write one HTML file about one or several runs, which any browser shows without a network: every task with its attempts,
what differs, the votes, the self-edits and where time went; of training the rounds; of an evaluation its table.

Usage: python -m arc_seal.report FOLDER... [out=FILE]

  FOLDER is that of a run of solve (a sweep too), train or evaluate. Several are compared, the others with the first.
  out=FILE is where the report is written; by default report.html in the first folder.

Examples:
  python -m arc_seal.report runs/latest
  python -m arc_seal.report runs/restem/seal-seed0
  python -m arc_seal.report runs/before runs/after out=compared.html

Exit code: 0 when the report is written, 2 for bad input.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    return plain_command("report", USAGE, argv, _work)


def _work(argv: Sequence[str]) -> int:
    folders, out = _arguments(argv)
    from arc_seal.arc.task import write_json
    from arc_seal.ui.report import make_report
    from arc_seal.ui.run_folder import read_folder

    runs, target = [read_folder(folder) for folder in folders], out or folders[0] / "report.html"
    write_json(target, make_report(runs))
    print(f"Written to {target}")
    return 0


def _arguments(argv: Sequence[str]) -> tuple[list[Path], Path | None]:
    """The folders, and where the report is to be written if that is said."""
    folders: list[Path] = []
    out: Path | None = None
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name == "out" and equals:
            out = Path(value).expanduser()
        elif Path(argument).expanduser().exists() or not (equals or argument.startswith("-")):
            folders.append(Path(argument).expanduser())
        else:
            expected = f"a folder or out=FILE{suggestion(name, ('out', '--help', '--version'))}"
            raise InputError(argument, "", expected, "an unknown argument")
    if not folders:
        raise InputError("arguments", "", "the folder of a run, such as runs/latest (or --help)", "none")
    return folders, out


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
