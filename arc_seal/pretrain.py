"""Pretrain the grid model: `python -m arc_seal.pretrain`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arc_seal.cli import command

if TYPE_CHECKING:
    from arc_seal.config import Composed

USAGE = """\
Pretrain the grid model on ARC's training sets and on sources of rules such as RE-ARC's generators, without anything
that is measured on.

Usage: python -m arc_seal.pretrain [NAME=VALUE...]

Examples:
  python -m arc_seal.pretrain
  python -m arc_seal.pretrain name=big network=20m run.tokens=1000000000 run.batch_tokens=65536 run.compile=true
  python -m arc_seal.pretrain name=more weights=shipped run.tokens=50000000

A run is kept in runs/pretraining/NAME: its weights, which model=grid model.location=./runs/pretraining/NAME/weights
solves tasks with, losses.jsonl, unseen.jsonl and the checkpoint from which the same command goes on, wherever it was
stopped.
Exit code: 0 when the run is done, 1 when it diverged, 2 for bad input, 130 when interrupted.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    return command("pretrain", USAGE, argv, work)


def work(jobs: "list[Composed]") -> int:
    """Pretrain what each job asks for."""
    from arc_seal.config import make, read_config
    from arc_seal.pretraining.run import PretrainConfig, run
    from arc_seal.ui.progress import terminal_console
    from arc_seal.ui.views import RunView

    for job in jobs:
        config = read_config(job.values, PretrainConfig)
        with RunView(terminal_console()) as view:
            finished = run(config, make(config.network), job.folder, view.pretraining, view.generator)
        view.pretrained(finished)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
