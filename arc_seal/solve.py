"""Solve ARC tasks: `python -m arc_seal.solve task.json`."""

import sys
from collections.abc import Sequence

from arc_seal import __version__, cli
from arc_seal.errors import InputError
from arc_seal.files import conf_dir

USAGE = """\
Solve ARC tasks: a language model writes a self-edit, trains on it, and predicts the test outputs.

Usage: python -m arc_seal.solve TASK... [NAME=VALUE...] [-m]

  TASK is a file, a folder, a Kaggle file, or a task of a set, such as arcagi1/0d3d703e. Several make a sweep.

Examples:
  python -m arc_seal.solve tasks/5582e5ca.json
  python -m arc_seal.solve arcagi1/0d3d703e samples=5 seed=3
  python -m arc_seal.solve -m tasks/*.json seed=1,2
  python -m arc_seal.solve tasks/5582e5ca.json self_edit=paper
  python -m arc_seal.solve tasks/5582e5ca.json self_edit.json='{"tools": [], "training": {...}}'

A run is kept in runs/, as result.json and submission.json; a sweep adds summary.json and one submission.json of all.
Exit code: 0 when every task was worked on, 1 when a job failed, 2 for bad input.

Flags: -m sweeps over values with commas, -cd DIR adds a folder of configuration, --cfg job shows the configuration
instead of running, --version; Hydra's other flags are listed by --hydra-help.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name.

    Returns:
        The exit code: 0 when all jobs ran, 1 when a job failed, 2 for bad input, 130 when interrupted.
    """
    try:
        return _run(argv)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(argv: Sequence[str]) -> int:
    flags = set(argv[: argv.index("--")] if "--" in argv else argv)
    if flags & {"-h", "--help"}:
        print(cli.help_text("solve", USAGE, conf_dir()), end="")
        return 0
    if "--version" in flags:
        print(f"arc-seal {__version__}")
        return 0
    arguments = cli.rewrite(argv)
    if not cli.names_task(arguments):
        raise InputError("arguments", "", "a task: a file, a folder, arcagi1/ID or arcagi2/ID (or --help)", "none")

    from arc_seal.config import launch  # Hydra and pydantic, which --help does without
    from arc_seal.session import Session

    with Session(title=" ".join(["python -m arc_seal.solve", *argv])) as session:
        launch("solve", arguments, session.job)
    return session.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
