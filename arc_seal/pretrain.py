"""Pretrain the grid model: `python -m arc_seal.pretrain`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arc_seal import __version__, cli
from arc_seal.errors import Diverged, InputError
from arc_seal.places import conf_dir

if TYPE_CHECKING:
    from arc_seal.config import Composed

USAGE = """\
Pretrain the grid model on RE-ARC's generators and ARC's training sets, without anything that is measured on.

Usage: python -m arc_seal.pretrain [NAME=VALUE...]

Examples:
  python -m arc_seal.pretrain
  python -m arc_seal.pretrain name=big network=20m run.tokens=1000000000 run.batch_tokens=65536 run.compile=true
  python -m arc_seal.pretrain name=more weights=shipped run.tokens=50000000

A run is kept in runs/pretraining/NAME: its weights, which model=grid model.location=./runs/pretraining/NAME/weights
solves tasks with, losses.jsonl, held_out.jsonl and the checkpoint from which the same command goes on, wherever it was
stopped.
Exit code: 0 when the run is done, 1 when it diverged, 2 for bad input, 130 when interrupted.

Flags: --cfg job shows the configuration instead of running, --version; Hydra's other flags: --hydra-help.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name.

    Returns:
        The exit code.
    """
    try:
        return _run(argv)
    except (InputError, Diverged) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, Diverged) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(cli.help_text("pretrain", USAGE, conf_dir()), end="")
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

    def job(composed: "Composed") -> None:
        try:
            _job(composed)
        except Diverged as error:  # Hydra would print more than the one line
            diverged.append(error)

    launch("pretrain", arguments, job)
    if diverged:
        raise diverged[0]
    return 0


def _job(composed: "Composed") -> None:
    from arc_seal.config import make, read_config
    from arc_seal.pretraining.run import PretrainConfig, run
    from arc_seal.ui.pretraining import PretrainingView
    from arc_seal.ui.terminal import terminal_console

    config = read_config(composed.values, PretrainConfig)
    view = PretrainingView(terminal_console())
    try:
        finished = run(config, make(config.network), composed.folder, view.update, view.generator)
    finally:
        view.close()
    view.end(finished)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
