"""All commands under one name: `python -m arc_seal COMMAND ...`, installed as `arc-seal COMMAND ...`."""

import importlib
import sys
from collections.abc import Sequence

from arc_seal import __version__
from arc_seal.errors import InputError, suggestion

COMMANDS = {
    "solve": "solve ARC tasks",
    "train": "train the policy that writes self-edits",
    "evaluate": "measure ways to solve side by side, before and after training",
    "pretrain": "make the grid model",
    "report": "write a run as one HTML page",
    "runs": "list runs and compare two",
    "contamination": "say which tasks share something with sets that must stay unseen",
    "kaggle": "make an offline bundle for Kaggle",
}

USAGE = f"""\
An ARC few-shot solver that adapts to each task: arc-seal COMMAND [ARGUMENT...]

{chr(10).join(f"  {name:<14} {about}" for name, about in COMMANDS.items())}

arc-seal COMMAND --help says what each takes; python -m arc_seal.COMMAND is the same. Begin with

  arc-seal solve arcagi1/5582e5ca
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names on the others; returns the exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "--version"):
        print(f"arc-seal {__version__}\n" if name == "--version" else USAGE, end="")
        return 0
    if name not in COMMANDS:
        error = InputError(
            name, "", f"one of {', '.join(COMMANDS)}{suggestion(name, list(COMMANDS))}", "an unknown command"
        )
        print("error:", error, file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"arc_seal.{name}").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
