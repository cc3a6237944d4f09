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
    from arc_seal.outer_loop.evaluate import Evaluation, RowName
    from arc_seal.outer_loop.ledger import Ledger
    from arc_seal.outer_loop.rollout import Rollout

    BySeed = Mapping[int, Mapping[RowName, Sequence[Rollout]]]

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
"""


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    return command("evaluate", USAGE, argv, work)


def work(jobs: "list[Composed]") -> int:
    """Measure what each job asks for."""
    for job in jobs:
        _evaluate(job)
    return 0


def _evaluate(job: "Composed") -> None:
    from arc_seal.config import EvaluateConfig, make, read_config
    from arc_seal.outer_loop.evaluate import check_apart, check_rows, evaluate, needs_policy, untrained_run
    from arc_seal.outer_loop.ledger import Ledger
    from arc_seal.outer_loop.restem import LEDGER
    from arc_seal.ui.progress import terminal_console
    from arc_seal.ui.views import RunView

    config = read_config(job.values, EvaluateConfig)
    config.check(policy_writes=True)
    held_out, training = (config.data.entries(specs) for specs in (config.data.held_out, config.data.train))
    if "fixed" in config.rows:
        check_apart(training, held_out, "data.train")
    check_rows(config.rows, held_out, training, config)
    folders = {seed: job.folder.parent / f"{config.name}-seed{seed}" for seed in config.seeds}
    if needs_policy(config.rows) and not all((folder / LEDGER).is_file() for folder in folders.values()):
        raise untrained_run()  # before a folder is made
    executor = make(config.executor)(make(config.model))
    view = RunView(terminal_console())
    view.begin(f"Evaluating {config.name}", facts(config, len(held_out), executor.workers))
    by_seed: dict[int, dict[RowName, list[Rollout]]] = {}
    try:
        for seed, folder in folders.items():
            with Ledger.open(folder / LEDGER) as ledger:
                wanted = evaluation(config, seed, folder, held_out, training, ledger)
                view.note(f"Seed {seed}")
                by_seed[seed] = evaluate(wanted, executor, ledger, view)
    finally:
        view.close()
        executor.close()
    _report(config, by_seed, held_out, job.folder)
    view.end(job.folder / "table.md", *to_solve(job, config, max(folders.values())))


def facts(config: "EvaluateConfig", tasks: int, workers: int) -> dict[str, str]:
    """What is worked on, for people."""
    from arc_seal.errors import plural
    from arc_seal.outer_loop.evaluate import TITLES
    from arc_seal.ui.views import MARKS, named

    return {
        "model": f"{config.model_name}, {plural(workers, 'worker')}",
        "tasks": f"{tasks} of {named(config.data.held_out)}",
        "rows": ", ".join(TITLES[row] for row in config.rows),
        "seeds": f"{', '.join(map(str, config.seeds))}; at most {plural(config.samples, 'self-edit')} a task",
        "marks": MARKS,
    }


def to_solve(job: "Composed", config: "EvaluateConfig", run: Path) -> list[str]:
    """The command that solves a task with the trained policy of the run that is kept there; none without a policy."""
    from arc_seal.outer_loop.evaluate import needs_policy
    from arc_seal.outer_loop.ledger import Ledger
    from arc_seal.outer_loop.restem import LEDGER, POLICIES, RUN
    from arc_seal.ui.progress import near

    with Ledger.read_only(run / LEDGER) as ledger:
        policies = [each for each in ledger.policies(RUN) if config.round in (None, each.round + 1)]
    if not needs_policy(config.rows) or not policies:
        return []
    form, model = job.choices["self_edit"], job.choices["model"]
    own = [f"model={model}"] if model != "grid" else []
    form = "default" if form == "fixed" else form
    return ["solve", "TASK", *own, f"self_edit={form}", f"policy={near(run / POLICIES / policies[-1].folder)}"]


def evaluation(
    config: "EvaluateConfig",
    seed: int,
    folder: Path,
    held_out: "Sequence[Entry]",
    training: "Sequence[Entry]",
    ledger: "Ledger",
) -> "Evaluation":
    """What to measure under one seed; the run's ledger says what policies there are and what they were trained on.

    InputError where the run's policy learnt from the solution of a task that it is measured on.
    """
    from arc_seal.outer_loop.author import Author
    from arc_seal.outer_loop.evaluate import Evaluation, check_apart, needs_policy
    from arc_seal.outer_loop.provenance import check_policy
    from arc_seal.outer_loop.restem import POLICIES, RUN, with_policy

    trained_by = ledger.configuration(RUN).get("restem", {}).get("reward")
    if needs_policy(config.rows) and trained_by != "held_out_demo":  # which asks no solutions
        check_apart(ledger.entries(RUN), held_out, f"what {folder.name} was trained on")
    policies = [each for each in ledger.policies(RUN) if config.round in (None, each.round + 1)]
    author = Author("policy", seed)
    kept = folder / POLICIES / policies[-1].folder if policies else None
    if kept and needs_policy(config.rows):
        check_policy(str(kept), config.model)
    return Evaluation(
        rows=config.rows,
        entries=tuple(held_out),
        training=tuple(training),
        samples=config.samples,
        settings=config,
        seed=seed,
        trained=with_policy(author, kept, config.restem.adapt_from) if kept else None,
        configuration=recorded(config),
    )


def recorded(config: "EvaluateConfig") -> dict[str, Any]:
    """What a measurement may not change when it goes on; the candidates matter to the row `fixed` alone."""
    from arc_seal.outer_loop.provenance import recorded_model

    shared = {"model", "ttt", "decode", "self_edit", "temperature", "max_tokens", "max_resamples", "toolbox"}
    shared |= {"max_training_tokens", "folds"}
    settings = config.model_dump(mode="json", by_alias=True, include=shared, exclude={"self_edit": {"candidates"}})
    return {**settings, "model": recorded_model(settings["model"])}


def _report(config: "EvaluateConfig", by_seed: "BySeed", entries: "Sequence[Entry]", folder: Path) -> None:
    """Write and show the table, and write one submission."""
    from arc_seal.arc.task import write_json, write_submission
    from arc_seal.outer_loop.evaluate import TITLES, table_rows
    from arc_seal.outer_loop.table import make_table, to_json, to_markdown
    from arc_seal.ui.progress import terminal_console
    from arc_seal.ui.views import evaluation as shown

    rows, facts = table_rows(config.rows, by_seed, entries), run_facts(config, by_seed)
    pairs: list[tuple[RowName, RowName]] = [("seal", "untrained"), ("seal", "fixed")]
    pairs += [("seal_policy", "seal"), ("in_context_policy", "in_context")]
    to_untrained, *others = ((TITLES[one], TITLES[other]) for one, other in pairs)
    table = make_table(rows, facts, to_untrained, others)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", to_json(table))
    write_json(folder / "table.md", to_markdown(table))
    write_submission(folder / "submission.json", answers(by_seed, entries))
    terminal_console().print(shown(table, by_task=True))


def answers(by_seed: "BySeed", entries: "Sequence[Entry]") -> "dict[str, list[list[Grid]]]":
    """By task the best supported attempts of the trained policy's roll-outs, or of the last row that was measured."""
    from arc_seal.inner_loop.job import pool_attempts
    from arc_seal.outer_loop.rollout import grids

    chosen = [rows["seal"] if "seal" in rows else list(rows.values())[-1] for rows in by_seed.values()]
    made = [each for row in chosen for each in row if each.attempts]
    found = {}
    for task, _ in entries:
        own = [each.attempts for each in made if each.task == task.id]
        found[task.id] = grids(pool_attempts([((),) * len(task.queries), *own]))
    return found


def run_facts(config: "EvaluateConfig", by_seed: "BySeed") -> dict[str, Any]:
    """What was measured, for whoever reads the table later."""
    from arc_seal.outer_loop.evaluate import held_out_auc
    from arc_seal.outer_loop.provenance import git_commit, versions

    facts: dict[str, Any] = {
        "model": config.model_name,
        "data": list(config.data.held_out),
        "limit": config.data.limit,
        "seeds": list(config.seeds),
        "samples": config.samples,
    }
    found = held_out_auc(each for rows in by_seed.values() for made in rows.values() for each in made)
    if found is not None:
        over_all, within = (f"{each.mean:.2f} ({each.low:.2f} to {each.high:.2f})" for each in found)
        facts["AUC of the held-out log-probability"] = f"{over_all}, within tasks {within}"
    return {**facts, "versions": versions(), "git_commit": git_commit()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
