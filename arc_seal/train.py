"""Train the policy that writes self-edits: `python -m arc_seal.train`."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arc_seal.cli import command

if TYPE_CHECKING:
    from arc_seal.config import Composed, TrainConfig
    from arc_seal.outer_loop.ledger import RolloutRow
    from arc_seal.outer_loop.restem import RoundSummary

USAGE = """\
Train a policy by ReST-EM: sample self-edits, try each in the sandbox, imitate those that were rewarded.

Usage: python -m arc_seal.train [NAME=VALUE...] [-m]

Examples:
  python -m arc_seal.train experiment=seal_arc
  python -m arc_seal.train experiment=seal_arc model=smollm2
  python -m arc_seal.train name=mine 'data.train=[my_tasks]' restem.rounds=3 restem.samples=8 executor.workers=2
  python -m arc_seal.train name=mine restem.reward=held_out_demo
  python -m arc_seal.train -m name=mine seed=0,1,2

A run is kept in runs/restem/NAME-seedN: ledger.sqlite holds every roll-out, policies/round-N the adapters, which
`solve policy=FOLDER self_edit=default` writes with. The same command goes on wherever it was stopped.
Exit code: 0 when the run is done, 1 when fine-tuning failed, 2 for bad input, 130 when interrupted.

Flags: -m sweeps over values with commas, --cfg job shows the configuration instead of running, --version; Hydra's other
flags are listed by --hydra-help.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name.

    Returns:
        The exit code.
    """
    return command("train", USAGE, argv, _job)


def _job(composed: "Composed") -> None:
    from arc_seal.config import TrainConfig, entries, make, read_config, restem_settings, rollout_settings
    from arc_seal.outer_loop.ledger import Ledger
    from arc_seal.outer_loop.restem import LEDGER, POLICIES, check_solutions, restem, summarise
    from arc_seal.ui.views import RolloutsView, terminal_console

    config = read_config(composed.values, TrainConfig)
    tasks = entries(config.data.train, config.data)
    settings, how = rollout_settings(config, config.seed, "policy"), restem_settings(config.restem)
    if how.labelled:
        check_solutions(tasks)  # before a folder is made
    earlier = reused(config)
    source = make(config.model)
    executor = make(config.executor)(source)
    finetuner = make(finetuning(config.executor, config.restem.finetune.timeout_s))(source)
    view = RolloutsView(terminal_console())
    composed.folder.mkdir(parents=True, exist_ok=True)
    with Ledger.open(composed.folder / LEDGER) as ledger:
        try:
            ledger.begin("train", recorded(config))
            policies = restem(
                "train", tasks, executor, finetuner, settings, how,
                earlier, ledger, composed.folder / POLICIES, view,
            )  # fmt: skip
        finally:
            view.close()
            executor.close()
            finetuner.close()
        rounds = [summarise(number, ledger.rollouts("train", number)) for number in range(config.restem.rounds)]
        ledger.export(composed.folder / "rollouts.jsonl")
    view.title(closing(rounds, len(policies), composed.folder))


def recorded(config: "TrainConfig") -> dict[str, Any]:
    """What a run may not change when it goes on: all but where and how long jobs run, rounds, what `evaluate` asks."""
    from arc_seal.outer_loop.rollout import model_settings

    settings = config.model_dump(
        mode="json",
        by_alias=True,
        exclude={
            "executor": True,
            "name": True,
            "restem": {"rounds": True, "finetune": {"timeout_s"}},
            "self_edit": {"candidates"},
        },
    )
    return {**settings, "model": model_settings(settings["model"])}


def reused(config: "TrainConfig") -> "list[RolloutRow]":
    """The roll-outs of earlier runs' training, under the path of the ledger that each is from.

    Raises:
        InputError: When a path is no ledger, or nothing is sampled and nothing reused.
    """
    from arc_seal.errors import InputError
    from arc_seal.outer_loop.ledger import Ledger

    rows: list[RolloutRow] = []
    for path in config.restem.reuse:
        with Ledger.read_only(Path(path).expanduser()) as ledger:
            rows += [replace(row, run=path) for row in ledger.rollouts("train")]
    if not config.restem.samples and not rows:
        raise InputError("restem.samples", "", "1 or more, or roll-outs of an earlier run in restem.reuse", "0")
    return rows


def finetuning(executor: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The settings of an executor for the M-step: one worker, and time."""
    alone = {"workers": 1} if "workers" in executor else {}
    return {**executor, **alone, "timeout_s": timeout_s}


def closing(rounds: "Sequence[RoundSummary]", policies: int, folder: Path) -> str:
    """What to say at the end; what no round has improved is said so."""
    shares = [each.solved / each.rollouts for each in rounds if each.solved is not None and each.rollouts]
    lines = []
    if len(shares) > 1:
        better = shares[-1] > shares[0]
        change = "rose" if better else "did not rise"
        lines.append(f"The share solved {change}: {shares[0]:.1%} in the first round, {shares[-1]:.1%} in the last.")
    if not policies:
        lines.append("No self-edit was rewarded, so there is no policy: the model is as it was.")
    return "\n".join([*lines, f"Kept in {folder}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
