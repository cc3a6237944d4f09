"""What the commands that take no task have in common: help, version, errors in one line, exit codes."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arc_seal import __version__, cli
from arc_seal.errors import Diverged, InputError
from arc_seal.places import conf_dir

if TYPE_CHECKING:
    from arc_seal.config import Composed


def command(name: str, usage: str, argv: Sequence[str], job: "Callable[[Composed], None]") -> int:
    """Run a command whose runs can be gone on with.

    Args:
        name: The command's name, which is its configuration's too.
        usage: What `--help` prints first.
        argv: Arguments without the program's name.
        job: The work on one composed configuration.

    Returns:
        0 when all is done, 1 when training diverged, 2 for bad input, 130 when interrupted.
    """
    try:
        return _run(name, usage, argv, job)
    except (InputError, Diverged) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, Diverged) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(name: str, usage: str, argv: Sequence[str], job: "Callable[[Composed], None]") -> int:
    if {"-h", "--help"} & set(argv):
        print(cli.help_text(name, usage, conf_dir()), end="")
        return 0
    if "--version" in argv:
        print(f"arc-seal {__version__}")
        return 0
    arguments = cli.rewrite(argv)
    stranger = next((argument for argument in arguments if argument.startswith("task=")), None)
    if stranger is not None:
        typed = stranger.removeprefix("task=").strip("'")
        raise InputError(typed, "", "settings as NAME=VALUE (or --help)", "a bare argument")

    from arc_seal.config import launch  # Hydra and pydantic, which --help does without

    diverged: list[Diverged] = []

    def once(composed: "Composed") -> None:
        try:
            job(composed)
        except Diverged as error:  # Hydra would print more than the one line
            diverged.append(error)

    launch(name, arguments, once)
    if diverged:
        raise diverged[0]
    return 0
