"""Train the policy that writes self-edits: `python -m arc_seal.train`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arc_seal.cli import command

if TYPE_CHECKING:
    from arc_seal.arc.task import Entry
    from arc_seal.config import Composed, TrainConfig
    from arc_seal.outer_loop.rollout import Rollout

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
"""


REWARDS = {
    "solution": "the self-edit solves its task",
    "gain": "the self-edit solves a task that is not solved without training",
    "graded": "whether the self-edit solves its task, and how probable the solution is under the model that it adapted",
    "held_out_demo": "left-out demonstrations prefer the self-edit",
}
"""What `restem.reward` can be, for people."""


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    return command("train", USAGE, argv, lambda jobs: work(jobs, argv))


def work(jobs: "list[Composed]", argv: Sequence[str] = ()) -> int:
    """Train one policy after another; what failed does not keep the others from it."""
    from arc_seal.errors import Diverged, FinetuningFailed, InputError

    failed: list[InputError | FinetuningFailed | Diverged] = []
    for job in jobs:
        try:
            _train(job, argv)
        except (InputError, FinetuningFailed, Diverged) as error:
            failed.append(error)
    if failed:
        raise next((each for each in failed if isinstance(each, InputError)), failed[0])
    return 0


def _train(job: "Composed", argv: Sequence[str]) -> None:
    from arc_seal.config import TrainConfig, make, read_config
    from arc_seal.outer_loop.author import Author
    from arc_seal.outer_loop.ledger import Ledger
    from arc_seal.outer_loop.restem import LEDGER, POLICIES, RUN, check_reward, fitting, restem
    from arc_seal.outer_loop.rollout import Runner
    from arc_seal.ui.progress import terminal_console
    from arc_seal.ui.views import RunView

    config = read_config(job.values, TrainConfig)
    config.check(policy_writes=True)
    entries = config.data.entries(config.data.train)
    check_reward(config.restem, entries, config)  # before a folder is made
    earlier, known = reused(config)
    executor = make(config.executor)(make(config.model))
    view = RunView(terminal_console())
    view.begin(f"Training {job.folder.name}", facts(config, len(entries), executor.workers))
    fit = fitting(earlier, entries, config.edit_schema)
    if strangers := len(earlier) - len(fit):
        why = "of tasks not trained on here, or of self-edits in another form"
        view.note(f"{strangers} of {len(earlier)} reused roll-outs are {why}, and are left out")
    with Ledger.open(job.folder / LEDGER) as ledger:
        try:
            ledger.begin(RUN, recorded(config), [*entries, *known])
            runner = Runner(executor, config, Author("policy", config.seed), view)
            policies = restem(entries, runner, config.restem, fit, ledger, job.folder / POLICIES)
        finally:
            view.close()
            executor.close()
        rounds = [ledger.rollouts(RUN, number) for number in range(config.restem.rounds)]
        ledger.export(job.folder / "rollouts.jsonl")
    for line in closing(rounds, len(policies)):
        view.note(line)
    view.end(job.folder, *(("evaluate", *to_evaluate(argv or job.overrides, config.seed)) if policies else ()))


def facts(config: "TrainConfig", tasks: int, workers: int) -> dict[str, str]:
    """What a run works on, for people."""
    from arc_seal.errors import plural
    from arc_seal.ui.views import MARKS, named

    how = config.restem
    return {
        "model": f"{config.model_name}, {plural(workers, 'worker')}",
        "tasks": f"{tasks} of {named(config.data.train)}",
        "rounds": f"{plural(how.rounds, 'round')} of {plural(how.samples, 'self-edit')} a task",
        "reward": f"{how.reward}: {REWARDS[how.reward]}",
        "marks": MARKS,
    }


def to_evaluate(argv: Sequence[str], seed: int) -> list[str]:
    """The arguments with which `evaluate` measures what these have trained."""
    left_out = ("seed=", "restem.", "hydra.", "hydra/")
    kept = [each for each in argv if each not in ("-m", "--multirun") and not each.startswith(left_out)]
    return [*kept, *([f"seeds=[{seed}]"] if seed else [])]


def recorded(config: "TrainConfig") -> dict[str, Any]:
    """What a run may not change when it goes on: all but where and how long jobs run, rounds, what `evaluate` asks."""
    from arc_seal.outer_loop.provenance import recorded_model

    left_out: dict[str, Any] = {"executor": True, "name": True, "self_edit": {"candidates"}}
    left_out["restem"] = {"rounds": True, "finetune": {"timeout_s"}}
    settings = config.model_dump(mode="json", by_alias=True, exclude=left_out)
    return {**settings, "model": recorded_model(settings["model"])}


def reused(config: "TrainConfig") -> "tuple[list[Rollout], list[Entry]]":
    """The roll-outs of earlier runs' training, under the path of the ledger that each is from, and those runs' tasks.

    InputError where a path is no ledger, or nothing is sampled and nothing reused.
    """
    from arc_seal.errors import InputError
    from arc_seal.outer_loop.ledger import Ledger
    from arc_seal.outer_loop.restem import RUN

    rollouts: list[Rollout] = []
    entries: list[Entry] = []
    for path in config.restem.reuse:
        with Ledger.read_only(Path(path).expanduser()) as ledger:
            rollouts += [each.model_copy(update={"run": path}) for each in ledger.rollouts(RUN)]
            entries += ledger.entries(RUN)
    if not config.restem.samples and not rollouts:
        raise InputError("restem.samples", "", "1 or more, or roll-outs of an earlier run in restem.reuse", "0")
    return rollouts, entries


def closing(rounds: "Sequence[Sequence[Rollout]]", policies: int) -> list[str]:
    """What to say at the end; what no round has improved is said so."""
    known = [made for made in rounds if any(each.reward is not None for each in made)]
    shares = [sum(each.reward == 1 for each in made) / len(made) for made in known]
    lines = []
    if len(shares) > 1:
        change = "rose" if shares[-1] > shares[0] else "did not rise"
        first, last = f"{100 * shares[0]:.1f} %", f"{100 * shares[-1]:.1f} %"
        lines.append(f"The share solved {change}: {first} in the first round, {last} in the last.")
    if not policies:
        lines.append("No self-edit was rewarded, so there is no policy: the model is as it was.")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
