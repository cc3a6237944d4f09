"""Measure how well self-edits solve: `python -m arc_seal.evaluate`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arc_seal.cli import command

if TYPE_CHECKING:
    from arc_seal.arc.grid import Grid
    from arc_seal.arc.task import Entry
    from arc_seal.config import Composed, EvaluateConfig
    from arc_seal.inner_loop.job import Attempt
    from arc_seal.outer_loop.evaluate import Evaluation, RowName
    from arc_seal.outer_loop.ledger import Ledger, RolloutRow

USAGE = """\
Measure ways to solve the same tasks, side by side: in context, random self-edits, the policy before and after training.

Usage: python -m arc_seal.evaluate [NAME=VALUE...]

Examples:
  python -m arc_seal.evaluate experiment=seal_arc
  python -m arc_seal.evaluate experiment=seal_arc 'seeds=[0,1,2]'
  python -m arc_seal.evaluate name=grid data=dev 'rows=[in_context,fixed]' data.limit=10

Results are kept in runs/restem/NAME-evaluation: table.json, table.md, submission.json. Every roll-out goes into the
ledger of the run, so the same command goes on wherever it was stopped.
Exit code: 0 when all is measured, 2 for bad input, 130 when interrupted.

Flags: --cfg job shows the configuration instead of running, --version; Hydra's other flags are listed by --hydra-help.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name.

    Returns:
        The exit code.
    """
    return command("evaluate", USAGE, argv, _job)


def _job(composed: "Composed") -> None:
    from arc_seal.config import EvaluateConfig, check_apart, entries, make, read_config, restem_settings
    from arc_seal.outer_loop.evaluate import evaluate
    from arc_seal.outer_loop.ledger import Ledger
    from arc_seal.outer_loop.restem import LEDGER
    from arc_seal.ui.views import RolloutsView, terminal_console

    config = read_config(composed.values, EvaluateConfig)
    held_out, training = (entries(specs, config.data) for specs in (config.data.held_out, config.data.train))
    if "fixed" in config.rows or ("seal" in config.rows and restem_settings(config.restem).labelled):
        check_apart(training, held_out)
    executor = make(config.executor)(make(config.model))
    console = terminal_console()
    view = RolloutsView(console)
    by_seed: dict[int, dict[RowName, list[RolloutRow]]] = {}
    try:
        for seed in config.seeds:
            folder = composed.folder.parent / f"{config.name}-seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            with Ledger.open(folder / LEDGER) as ledger:
                wanted = evaluation(config, seed, folder, held_out, training, ledger)
                view.title(f"Seed {seed}")
                by_seed[seed] = evaluate(wanted, executor, ledger, view)
    finally:
        view.close()
        executor.close()
    _report(config, by_seed, held_out, composed.folder)


def evaluation(
    config: "EvaluateConfig",
    seed: int,
    folder: Path,
    held_out: "Sequence[Entry]",
    training: "Sequence[Entry]",
    ledger: "Ledger",
) -> "Evaluation":
    """What to measure under one seed.

    Args:
        config: The configuration.
        seed: Which of its seeds.
        folder: Of the run of that seed.
        held_out: The tasks to measure on.
        training: The tasks to choose the fixed self-edit on.
        ledger: The run's, which says what policies there are.
    """
    from arc_seal.config import rollout_settings
    from arc_seal.outer_loop.evaluate import Evaluation
    from arc_seal.outer_loop.restem import POLICIES, wearing

    settings = rollout_settings(config, seed, "policy")
    policy = ledger.policy("train", config.round - 1) if config.round else ledger.last_policy("train")
    place = None if policy is None else folder / POLICIES / policy.folder
    return Evaluation(
        rows=config.rows,
        entries=tuple(held_out),
        training=tuple(training),
        samples=config.samples,
        candidates=config.self_edit.candidates,
        settings=settings,
        trained=None if place is None else wearing(settings, place, config.restem.adapt_from),
        configuration=recorded(config),
    )


def recorded(config: "EvaluateConfig") -> dict[str, Any]:
    """What a measurement may not change when it goes on; the candidates matter to the row `fixed` alone."""
    from arc_seal.outer_loop.rollout import model_settings

    shared = {"model", "ttt", "decode", "self_edit", "temperature", "max_tokens", "max_resamples", "toolbox"}
    settings = config.model_dump(
        mode="json",
        by_alias=True,
        include={*shared, "max_training_tokens", "folds"},
        exclude={"self_edit": {"candidates"}},
    )
    return {**settings, "model": model_settings(settings["model"])}


def _report(
    config: "EvaluateConfig",
    by_seed: "Mapping[int, Mapping[RowName, Sequence[RolloutRow]]]",
    entries: "Sequence[Entry]",
    folder: Path,
) -> None:
    from arc_seal.arc.task import submission, write_json, write_submission
    from arc_seal.outer_loop.evaluate import TITLES, table_rows
    from arc_seal.outer_loop.table import make_table, to_json, to_markdown
    from arc_seal.ui.views import evaluation as shown
    from arc_seal.ui.views import terminal_console

    trained, untrained, fixed = TITLES["seal"], TITLES["untrained"], TITLES["fixed"]
    rows, facts = table_rows(config.rows, by_seed, entries), run_facts(config, by_seed)
    table = make_table(rows, facts, (trained, untrained), [(trained, fixed)])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", to_json(table))
    write_json(folder / "table.md", to_markdown(table))
    write_submission(folder / "submission.json", submission(answers(by_seed, entries)))
    terminal_console().print(shown(table, by_task=True))


def answers(
    by_seed: "Mapping[int, Mapping[RowName, Sequence[RolloutRow]]]", entries: "Sequence[Entry]"
) -> "dict[str, list[list[Grid]]]":
    """By task the best supported attempts of the trained policy's roll-outs, or of the last row that was measured."""
    from arc_seal.outer_loop.rollout import grids
    from arc_seal.ui.run_folder import best_supported

    by_task: dict[str, list[Sequence[Sequence[Attempt]]]] = {
        task.id: [((),) * len(task.queries)] for task, _ in entries
    }
    for rows in by_seed.values():
        for row in rows["seal"] if "seal" in rows else list(rows.values())[-1]:
            by_task[row.task] += [row.attempts] if row.attempts else []
    return {task: grids(best_supported(runs)) for task, runs in by_task.items()}


def run_facts(
    config: "EvaluateConfig", by_seed: "Mapping[int, Mapping[RowName, Sequence[RolloutRow]]]"
) -> dict[str, Any]:
    """What was measured, for whoever reads the table later."""
    from arc_seal.outer_loop.rollout import git_commit, versions

    return {
        "model": config.model.get("name", config.model["_target_"]),
        "data": list(config.data.held_out),
        "limit": config.data.limit,
        "seeds": list(config.seeds),
        "samples": config.samples,
        **_foresight(by_seed),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def _foresight(by_seed: "Mapping[int, Mapping[RowName, Sequence[RolloutRow]]]") -> dict[str, str]:
    from arc_seal.outer_loop.evaluate import foresight

    found = foresight(row for rows in by_seed.values() for made in rows.values() for row in made)
    if found is None:
        return {}
    over_all, within = (f"{each.mean:.2f} ({each.low:.2f} to {each.high:.2f})" for each in found)
    return {"AUC of the held-out log-probability": f"{over_all}, within tasks {within}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
