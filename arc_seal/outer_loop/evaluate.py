"""An evaluation: several ways to solve the same tasks, each roll-out in the ledger, a table at the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from arc_seal.arc.splits import Contamination
from arc_seal.arc.task import Entry
from arc_seal.errors import InputError, Status
from arc_seal.outer_loop.author import Author, RolloutSettings
from arc_seal.outer_loop.collect import Collection, collect
from arc_seal.outer_loop.ledger import Ledger
from arc_seal.outer_loop.rollout import Rollout, Runner, View
from arc_seal.outer_loop.statistics import Interval, auc, auc_within_tasks
from arc_seal.outer_loop.table import TableRow, best_of, mark
from arc_seal.sandbox.worker import Executor
from arc_seal.self_edit.edit import SelfEdit

RowName = Literal[
    "in_context", "random", "untrained", "fixed", "seal", "seal_policy", "in_context_policy", "chosen", "ceiling"
]
"""Ways to solve; conf/evaluate.yaml says what each is."""

TITLES: Mapping[RowName, str] = {
    "in_context": "in context only",
    "random": "random self-edits",
    "untrained": "untrained policy",
    "fixed": "best fixed self-edit",
    "seal": "SEAL",
    "seal_policy": "SEAL, solving with the policy on",
    "in_context_policy": "in context, with the policy on",
    "chosen": "untrained, held-out choice",
    "ceiling": "best of all",
}
"""What people read."""


@dataclass(frozen=True)
class Evaluation:
    """What to measure."""

    rows: tuple[RowName, ...]  # which ways to solve
    entries: tuple[Entry, ...]  # on what, each with its solution
    training: tuple[Entry, ...]  # tasks to choose the fixed self-edit on
    samples: int  # self-edits for each task where the model or chance writes them
    settings: RolloutSettings  # how self-edits are written and tried, and candidates for the fixed one
    seed: int  # of every author
    trained: Author | None  # who writes under the trained policy; None where there is none
    configuration: Mapping[str, Any]  # what is recorded of the runs, to refuse to go on under another


def evaluate(wanted: Evaluation, executor: Executor, ledger: Ledger, view: View) -> dict[RowName, list[Rollout]]:
    """The roll-outs of every row that has its own, made where they are missing; of `chosen` all that it chooses among.

    InputError as in `check_rows`, and where the trained policy is asked for and there is none.
    """
    candidates = check_rows(wanted.rows, wanted.entries, wanted.training, wanted.settings)
    trained = wanted.trained
    if trained is None and needs_policy(wanted.rows):
        raise untrained_run()
    plain = Runner(executor, wanted.settings, Author("policy", wanted.seed), view)
    measured: dict[RowName, list[Rollout]] = {}
    for row in _with_rollouts(wanted.rows):
        samples = wanted.samples
        match row:
            case "in_context":
                author, samples = Author("none", wanted.seed), 1
            case "random":
                author = Author("random", wanted.seed)
            case "fixed":
                best = _best_candidate(candidates, wanted, plain, ledger)
                author, samples = Author("hand", wanted.seed, by_hand=(best,)), 1
            case "seal" if trained is not None:
                author = trained
            case "seal_policy" if trained is not None:
                author = replace(trained, adapt_from=trained.policy)
            case "in_context_policy" if trained is not None:
                author, samples = Author("none", wanted.seed, adapt_from=trained.policy), 1
            case _:
                author = plain.author
        run = _begin(row, samples, author, wanted, ledger, view)
        measured[row] = collect(Collection(run, 0, samples), wanted.entries, replace(plain, author=author), ledger)
    if "chosen" in wanted.rows:
        measured["chosen"] = _examined(measured["untrained"], wanted, plain, ledger)
    return measured


def check_rows(
    rows: Sequence[RowName], entries: Sequence[Entry], training: Sequence[Entry], settings: RolloutSettings
) -> list[SelfEdit]:
    """The candidates for the row `fixed`, once all that is asked for is known to make sense.

    InputError where a task has no solution, a candidate is not valid, or rows make no table.
    """
    for task, solution in (*entries, *(training if "fixed" in rows else ())):
        if solution is None:
            raise InputError(task.id, "", "a task with its solution to measure on", "no solution")
    if not _with_rollouts(rows):
        raise InputError("rows", "", "a row beside ceiling, which is the best of the others", "none")
    if len(set(rows)) < len(rows):
        raise InputError("rows", "", "each row once", ", ".join(rows))
    if "fixed" not in rows:
        return []
    return settings.candidates


def needs_policy(rows: Iterable[RowName]) -> bool:
    """Whether one of the rows is of a trained policy."""
    return not {"seal", "seal_policy", "in_context_policy"}.isdisjoint(rows)


def untrained_run() -> InputError:
    """The error where a row of a trained policy is asked for and there is none."""
    return InputError("rows", "seal", "a run that python -m arc_seal.train has trained a policy in", "none")


def check_apart(training: Sequence[Entry], held_out: Sequence[Entry], source: str) -> None:
    """Check that no task, and no pair of one under any symmetry and relabelling of colours, is in both.

    `source` is what people call the tasks that were learnt from or chosen on. InputError where one is in both: what was
    rewarded by a solution would be measured on it.
    """
    known = Contamination.of({source: training})
    for entry in held_out:
        task_id = entry[0].id
        shared = f"it is {known.ids[task_id]}" if task_id in known.ids else known.shared_pair(entry)
        if shared:
            raise InputError("data.held_out", task_id, f"a task that {source} knows nothing of", shared)


def table_rows(
    wanted: Sequence[RowName], by_seed: Mapping[int, Mapping[RowName, Sequence[Rollout]]], entries: Sequence[Entry]
) -> list[TableRow]:
    """The rows of the table, in the order that was asked for, all seeds together."""
    solutions = {task.id: solution for task, solution in entries if solution is not None}

    def made(name: RowName) -> TableRow:
        of_seeds = ((seed, preferred(rows[name]) if name == "chosen" else rows[name]) for seed, rows in by_seed.items())
        marks = (mark(each, solutions[each.task], seed) for seed, rollouts in of_seeds for each in rollouts)
        return TableRow(TITLES[name], tuple(marks))

    own = {name: made(name) for name in _with_rollouts(wanted)}
    return [
        best_of(list(own.values()), TITLES["ceiling"]) if name == "ceiling" else own.get(name) or made(name)
        for name in wanted
    ]


def preferred(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Of each task's roll-outs the one whose self-edit left-out demonstrations prefer, with what the choice cost."""
    by_task: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_task.setdefault(rollout.task, []).append(rollout)
    found = []
    for made in by_task.values():
        examined = [each for each in made if each.held_out is not None and each.status is Status.OK]
        best = max(examined, key=lambda each: (each.held_out or 0.0, -each.sample)) if examined else made[0]
        asking = sum(each.seconds.get(stage, 0.0) for each in made for stage in ("write", "examine"))
        found.append(best.model_copy(update={"writing_s": asking, "examination": None}))
    return found


def held_out_auc(rollouts: Iterable[Rollout]) -> tuple[Interval, Interval] | None:
    """How well the held-out log-probability predicts the reward: AUC over all roll-outs, and within tasks.

    None where there are not both: examined roll-outs that solved their task and others of it that did not.
    """
    scores: dict[str, list[float]] = {}
    labels: dict[str, list[bool]] = {}
    for rollout in rollouts:
        if rollout.held_out is not None and rollout.reward is not None:
            scores.setdefault(rollout.task, []).append(rollout.held_out)
            labels.setdefault(rollout.task, []).append(rollout.reward == 1)
    over_all, within = auc(scores, labels), auc_within_tasks(scores, labels)
    return None if over_all is None or within is None else (over_all, within)


def _with_rollouts(rows: Sequence[RowName]) -> list[RowName]:
    """The rows that have roll-outs of their own, those included that others are made of."""
    own: list[RowName] = ["in_context", "random", "untrained", "fixed", "seal", "seal_policy", "in_context_policy"]
    return [row for row in own if row in rows or (row == "untrained" and "chosen" in rows)]


def _begin(row: RowName, samples: int, author: Author, wanted: Evaluation, ledger: Ledger, view: View) -> str:
    """Begin the run of a row, or go on with it; every policy has its own."""
    policy, adapted = (None if folder is None else Path(folder).name for folder in (author.policy, author.adapt_from))
    by_hand = [wanted.settings.edit_schema.canonical(each) for each in author.by_hand]
    run = f"evaluate {row}" + (f" {policy or adapted}" if policy or adapted else "")
    ledger.begin(run, {**wanted.configuration, "samples": samples, "by_hand": by_hand, "adapt_from": adapted})
    view.note(TITLES[row][0].upper() + TITLES[row][1:])
    return run


def _examined(rollouts: Sequence[Rollout], wanted: Evaluation, runner: Runner, ledger: Ledger) -> list[Rollout]:
    """The untrained policy's roll-outs, their self-edits examined too: in a run apart, as no other row is to pay."""
    run = _begin("chosen", wanted.samples, runner.author, wanted, ledger, runner.view)
    known = {each.key for each in ledger.rollouts(run, 0, finished=None)}
    proposed = [
        each.model_copy(
            update={
                "run": run, "writing_s": 0.0, "result": None, "reward": None, "score": None, "finished_at": None,
                **({"status": Status.OK, "message": ""} if each.self_edit else {}),
            }
        )
        for each in rollouts
    ]  # fmt: skip
    ledger.record([each for each in proposed if each.key not in known])
    examining = Collection(run, 0, wanted.samples, solve=False, examine=True)
    examined = collect(examining, wanted.entries, runner, ledger)
    both = zip(rollouts, examined, strict=True)
    return [each.model_copy(update={"examination": other.examination}) for each, other in both]


def _best_candidate(candidates: Sequence[SelfEdit], wanted: Evaluation, runner: Runner, ledger: Ledger) -> SelfEdit:
    """The candidate that solves most training tasks, among equals the first; the held-out ones are not looked at."""
    run = "evaluate candidates"
    ledger.begin(run, {**wanted.configuration, "candidates": list(wanted.settings.self_edit.candidates)})
    runner.view.note("Candidates for the fixed self-edit, on the training tasks")
    solved = []
    for number, candidate in enumerate(candidates):
        trying = replace(runner, author=Author("hand", wanted.seed, by_hand=(candidate,)))
        made = collect(Collection(run, number, 1), wanted.training, trying, ledger)
        solved.append(sum(each.reward == 1 for each in made))
    return candidates[solved.index(max(solved))]
