"""Pretrain the grid model: `python -m arc_seal.pretrain`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arc_seal.cli import command

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
    return command("pretrain", USAGE, argv, _job)


def _job(composed: "Composed") -> None:
    from arc_seal.config import make, read_config
    from arc_seal.pretraining.run import PretrainConfig, run
    from arc_seal.ui.views import PretrainingView, terminal_console

    config = read_config(composed.values, PretrainConfig)
    view = PretrainingView(terminal_console())
    try:
        finished = run(config, make(config.network), composed.folder, view.update, view.generator)
    finally:
        view.close()
    view.end(finished)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
