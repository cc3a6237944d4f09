"""An evaluation: several ways to solve the same tasks, each roll-out in the ledger, a table at the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from arc_seal.arc.task import Entry, Solution, binary_reward
from arc_seal.errors import InputError, InvalidSelfEdit, Status
from arc_seal.outer_loop.collect import Collection, Watch, collect
from arc_seal.outer_loop.ledger import Ledger, RolloutRow
from arc_seal.outer_loop.rollout import RolloutSettings
from arc_seal.outer_loop.statistics import Interval, auc, auc_within_tasks
from arc_seal.outer_loop.table import Mark, TableRow, best_of
from arc_seal.sandbox.worker import Executor

RowName = Literal["in_context", "random", "untrained", "fixed", "seal", "chosen", "ceiling"]
"""Ways to solve; conf/evaluate.yaml says what each is."""

TITLES: Mapping[RowName, str] = {
    "in_context": "in context only",
    "random": "random self-edits",
    "untrained": "untrained policy",
    "fixed": "best fixed self-edit",
    "seal": "SEAL",
    "chosen": "untrained, held-out choice",
    "ceiling": "best of all",
}
"""What people read."""


@dataclass(frozen=True)
class Evaluation:
    """What to measure.

    Attributes:
        rows: Which ways to solve.
        entries: On what, each with its solution.
        training: Tasks to choose the fixed self-edit on.
        samples: Self-edits for each task where the model or chance writes them.
        candidates: Self-edits to choose the fixed one from, as JSON.
        settings: How self-edits are proposed and tried.
        trained: The same under the trained policy; None where there is none.
        configuration: What is recorded of the runs, to refuse to go on under another.
    """

    rows: tuple[RowName, ...]
    entries: tuple[Entry, ...]
    training: tuple[Entry, ...]
    samples: int
    candidates: tuple[str, ...]
    settings: RolloutSettings
    trained: RolloutSettings | None
    configuration: Mapping[str, Any]


def evaluate(wanted: Evaluation, executor: Executor, ledger: Ledger, watch: Watch) -> dict[RowName, list[RolloutRow]]:
    """The roll-outs of every row that has its own, made where they are missing; of `chosen` all that it chooses among.

    Raises:
        InputError: When a task has no solution, the trained policy is asked for and there is none, or rows make no
            table.
    """
    _check(wanted)
    measured: dict[RowName, list[RolloutRow]] = {}
    for row in _needed(wanted.rows):
        settings, samples = _way(row, wanted, executor, ledger, watch)
        run = _begun(row, samples, settings, wanted, ledger, watch)
        measured[row] = collect(Collection(run, 0, samples), wanted.entries, executor, settings, ledger, watch)
    if "chosen" in wanted.rows:
        measured["chosen"] = _examined(measured["untrained"], wanted, executor, ledger, watch)
    return measured


def table_rows(
    wanted: Sequence[RowName], by_seed: Mapping[int, Mapping[RowName, Sequence[RolloutRow]]], entries: Sequence[Entry]
) -> list[TableRow]:
    """The rows of the table, in the order that was asked for, all seeds together."""
    solutions = {task.id: solution for task, solution in entries if solution is not None}
    own: dict[RowName, TableRow] = {}
    for name in _needed(wanted):
        found = [_mark(row, solutions[row.task], seed) for seed, rows in by_seed.items() for row in rows[name]]
        own[name] = TableRow(TITLES[name], tuple(found))
    finished: list[TableRow] = []
    for name in wanted:
        match name:
            case "ceiling":
                finished.append(best_of(list(own.values()), TITLES["ceiling"]))
            case "chosen":
                finished.append(_chosen_row(by_seed, solutions))
            case _:
                finished.append(own[name])
    return finished


def best_candidate(by_candidate: Sequence[Sequence[RolloutRow]]) -> int:
    """Which candidate solved most tasks; among equals the first.

    Args:
        by_candidate: The roll-outs of each.
    """
    solved = [sum(row.reward == 1 for row in rows) for rows in by_candidate]
    return solved.index(max(solved))


def chosen(rows: Sequence[RolloutRow]) -> list[RolloutRow]:
    """Of each task's roll-outs the one whose self-edit left-out demonstrations prefer, with what the choice cost."""
    by_task: dict[str, list[RolloutRow]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    return [_preferred(made) for made in by_task.values()]


def foresight(rows: Iterable[RolloutRow]) -> tuple[Interval, Interval] | None:
    """How well the held-out log-probability predicts the reward: AUC over all roll-outs, and within tasks.

    Returns:
        None where there are not both: examined roll-outs that solved their task and others of it that did not.
    """
    scores: dict[str, list[float]] = {}
    labels: dict[str, list[bool]] = {}
    for row in rows:
        if row.held_out is not None and row.reward is not None and row.same_as is None:
            scores.setdefault(row.task, []).append(row.held_out)
            labels.setdefault(row.task, []).append(row.reward == 1)
    over_all, within = auc(scores, labels), auc_within_tasks(scores, labels)
    return None if over_all is None or within is None else (over_all, within)


def _check(wanted: Evaluation) -> None:
    for task, solution in (*wanted.entries, *(wanted.training if "fixed" in wanted.rows else ())):
        if solution is None:
            raise InputError(task.id, "", "a task with its solution to measure on", "no solution")
    if "seal" in wanted.rows and wanted.trained is None:
        raise InputError("rows", "seal", "a run that python -m arc_seal.train has trained a policy in", "none")
    if "fixed" in wanted.rows:
        _check_candidates(wanted)
    if not _needed(wanted.rows):
        raise InputError("rows", "", "a row beside ceiling, which is the best of the others", "none")
    if len(set(wanted.rows)) < len(wanted.rows):
        raise InputError("rows", "", "each row once", ", ".join(wanted.rows))


def _check_candidates(wanted: Evaluation) -> None:
    if not wanted.candidates:
        raise InputError("self_edit.candidates", "", "at least one self-edit for the row fixed", "none")
    for number, candidate in enumerate(wanted.candidates):
        try:
            wanted.settings.schema.parse(candidate)
        except InvalidSelfEdit as error:
            place = f"self_edit.candidates[{number}]"
            raise InputError("configuration", place, "a valid self-edit", str(error)) from None


def _needed(rows: Sequence[RowName]) -> list[RowName]:
    """The rows that have roll-outs of their own, those included that others are made of."""
    own: list[RowName] = ["in_context", "random", "untrained", "fixed", "seal"]
    return [row for row in own if row in rows or (row == "untrained" and "chosen" in rows)]


def _way(
    row: RowName, wanted: Evaluation, executor: Executor, ledger: Ledger, watch: Watch
) -> tuple[RolloutSettings, int]:
    """The settings of a row, and how many self-edits a task it takes."""
    match row:
        case "in_context":
            return replace(wanted.settings, author="none", policy=None), 1
        case "random":
            return replace(wanted.settings, author="random", policy=None), wanted.samples
        case "fixed":
            best = _best_fixed(wanted, executor, ledger, watch)
            return replace(wanted.settings, author="hand", by_hand=wanted.candidates[best], policy=None), 1
        case "seal" if wanted.trained is not None:
            return wanted.trained, wanted.samples
        case _:
            return wanted.settings, wanted.samples


def _begun(
    row: RowName, samples: int, settings: RolloutSettings, wanted: Evaluation, ledger: Ledger, watch: Watch
) -> str:
    """Begin the run of a row, or go on with it; every policy has its own."""
    policy = "" if settings.policy is None else f" {Path(settings.policy).name}"
    adapted = None if settings.adapt_from is None else Path(settings.adapt_from).name
    own = {"samples": samples, "by_hand": settings.by_hand, "adapt_from": adapted}
    run = f"evaluate {row}{policy}"
    ledger.begin(run, {**wanted.configuration, **own})
    watch.title(TITLES[row][0].upper() + TITLES[row][1:])
    return run


def _examined(
    rows: Sequence[RolloutRow], wanted: Evaluation, executor: Executor, ledger: Ledger, watch: Watch
) -> list[RolloutRow]:
    """The untrained policy's roll-outs, their self-edits examined too: in a run apart, as no other row is to pay."""
    run = _begun("chosen", wanted.samples, wanted.settings, wanted, ledger, watch)
    for task, _ in wanted.entries:
        if not ledger.proposals(run, 0, task.id):
            written = ledger.proposals(rows[0].run, 0, task.id)
            ledger.record_proposals([replace(proposal, run=run, seconds=0.0) for proposal in written])
    examining = Collection(run, 0, wanted.samples, solve=False, examine=True)
    examined = collect(examining, wanted.entries, executor, wanted.settings, ledger, watch)
    return [
        replace(row, held_out=each.held_out, held_out_hits=each.held_out_hits, seconds=row.seconds | each.seconds)
        for row, each in zip(rows, examined, strict=True)
    ]


def _best_fixed(wanted: Evaluation, executor: Executor, ledger: Ledger, watch: Watch) -> int:
    """Try every candidate on the training tasks; the held-out ones are not looked at."""
    run = "evaluate candidates"
    ledger.begin(run, {**wanted.configuration, "candidates": list(wanted.candidates)})
    found = []
    watch.title("Candidates for the fixed self-edit, on the training tasks")
    for number, candidate in enumerate(wanted.candidates):
        settings = replace(wanted.settings, author="hand", by_hand=candidate, policy=None)
        found.append(collect(Collection(run, number, 1), wanted.training, executor, settings, ledger, watch))
    return best_candidate(found)


def _mark(row: RolloutRow, solution: Solution, seed: int) -> Mark:
    first = [[attempt.grid for attempt in query[:1]] for query in row.attempts]
    return Mark(
        task=row.task,
        sample=row.sample,
        seed=seed,
        solved=row.reward == 1,
        score=row.score,
        pass_at_1=bool(row.attempts) and binary_reward(first, solution) == 1,
        seconds=sum(row.seconds.values()),
        status=row.status,
    )


def _chosen_row(
    by_seed: Mapping[int, Mapping[RowName, Sequence[RolloutRow]]], solutions: Mapping[str, Solution]
) -> TableRow:
    marks = [_mark(row, solutions[row.task], seed) for seed, rows in by_seed.items() for row in chosen(rows["chosen"])]
    return TableRow(TITLES["chosen"], tuple(marks))


def _preferred(rows: Sequence[RolloutRow]) -> RolloutRow:
    """One task's: all are written and examined, one is solved with."""
    examined = [row for row in rows if row.held_out is not None and row.status is Status.OK]
    best = max(examined, key=lambda row: (row.held_out or 0.0, -row.sample)) if examined else rows[0]
    asking = sum(row.seconds.get(stage, 0.0) for row in rows for stage in ("write", "examine"))
    own = {stage: spent for stage, spent in best.seconds.items() if stage not in ("write", "examine")}
    return replace(best, seconds={**own, "choose": asking})
