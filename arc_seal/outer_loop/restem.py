"""What a round of roll-outs came to, in numbers."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Literal, Protocol

from arc_seal.arc.task import Entry, Task
from arc_seal.errors import Diverged, InputError, InvalidSelfEdit, Status
from arc_seal.inner_loop.job import FinetuneJob, FinetuneSettings, Lesson, Progress
from arc_seal.outer_loop import collect as collecting
from arc_seal.outer_loop.collect import Collection, collect
from arc_seal.outer_loop.ledger import Key, Ledger, PolicyRow, RolloutRow
from arc_seal.outer_loop.rollout import RolloutSettings, derived_seed, utc_now
from arc_seal.sandbox.worker import Executor
from arc_seal.self_edit.schema import Schema


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """What a round came to.

    Attributes:
        round: Which.
        rollouts: Self-edits tried.
        valid: Those that were self-edits; what could not be written is none.
        ran: Those whose job ended well.
        solved: Those that solved their task; None where there are no solutions.
        tasks: Tasks.
        tasks_solved: Tasks that at least one self-edit solved; None where there are no solutions.
        distinct: Self-edits, equal ones of one task counted once.
        held_out: Mean held-out log-probability in nats a symbol, of those that were examined; None when none was.
    """

    round: int
    rollouts: int
    valid: int
    ran: int
    solved: int | None
    tasks: int
    tasks_solved: int | None
    distinct: int
    held_out: float | None


def summarise(number: int, rows: Sequence[RolloutRow]) -> RoundSummary:
    """Count a round's roll-outs."""
    known = any(row.reward is not None for row in rows)
    examined = [row.held_out for row in rows if row.held_out is not None]
    return RoundSummary(
        round=number,
        rollouts=len(rows),
        valid=sum(row.self_edit is not None for row in rows),
        ran=sum(row.status is Status.OK for row in rows),
        solved=sum(row.reward == 1 for row in rows) if known else None,
        tasks=len({row.task for row in rows}),
        tasks_solved=len({row.task for row in rows if row.reward == 1}) if known else None,
        distinct=len({(row.task, row.self_edit) for row in rows if row.self_edit is not None}),
        held_out=fmean(examined) if examined else None,
    )


# ReST-EM over self-edits: sample, reward, imitate what was rewarded, again (arXiv 2312.06585; SEAL, arXiv
# 2506.10943).
#
# An E-step collects roll-outs of every task; an M-step fine-tunes the model on the self-edits that were rewarded.
# Each
# M-step begins from the model as it came, as ReST-EM does to keep from drifting, with the rewarded self-edits of its
# own
# round: those of earlier ones were written by a worse policy (arXiv 2312.06585, algorithm 1).

LEDGER, POLICIES = "ledger.sqlite", "policies"
"""What a run's folder holds: every roll-out, and the policy adapters."""


@dataclass(frozen=True)
class RestemSettings:
    """How to train the policy; documented in conf/restem/."""

    rounds: int
    samples: int
    reward: Literal["solution", "gain", "held_out_demo"]
    examine: bool
    margin: float
    per_task: int | None
    contrast: bool
    adapt_from: Literal["base", "policy"]
    finetune: FinetuneSettings

    @property
    def labelled(self) -> bool:
        """Whether the reward asks the solutions."""
        return self.reward != "held_out_demo"


class Watch(collecting.Watch, Protocol):
    """Who wants to see how far it is."""

    def collected(self, round: int, rows: Sequence[RolloutRow], lessons: int) -> None:
        """An E-step is done; so many of its self-edits, and of those of earlier rounds, are to be imitated."""
        ...

    def finetuning(self, progress: Progress) -> None:
        """An M-step is this far."""
        ...

    def policy(self, row: PolicyRow | None) -> None:
        """An M-step is done; None when there was nothing to imitate."""
        ...


def restem(
    run: str,
    entries: Sequence[Entry],
    executor: Executor,
    finetuner: Executor,
    settings: RolloutSettings,
    how: RestemSettings,
    reused: Sequence[RolloutRow],
    ledger: Ledger,
    folder: Path,
    watch: Watch,
) -> list[PolicyRow]:
    """Train a policy, or go on where that was stopped.

    Args:
        run: Name of the run in the ledger; it was begun.
        entries: What to train on. Solutions are only compared with finished attempts.
        executor: Where roll-outs run.
        finetuner: Where fine-tuning runs; it may take longer than a roll-out is allowed to.
        settings: How self-edits are proposed and tried; its policy is that of round 0.
        how: How to train.
        reused: Roll-outs of earlier runs: those that were rewarded, on tasks of this one, are imitated too.
        ledger: Where all is kept.
        folder: Where adapters are kept.
        watch: Told what happens, from several threads.

    Returns:
        The policies, one for each round in which there was something to imitate.

    Raises:
        InputError: When a task has no solution to be rewarded by.
        Diverged: When fine-tuning failed.
    """
    if how.labelled:
        check_solutions(entries)
    if how.reward == "gain":
        entries = _with_room(run, entries, executor, settings, ledger, watch)
    tasks = {task.id: task for task, _ in entries}
    fitting = [row for row in reused if row.task in tasks and _is_of_form(row.self_edit, settings.schema)]
    if strangers := len(reused) - len(fitting):
        why = "of tasks not trained on here, or of self-edits in another form"
        watch.title(f"{strangers} of {len(reused)} reused roll-outs are {why}, and are left out")
    policies: list[PolicyRow] = []
    for number in range(how.rounds):
        wanted = Collection(
            run, number, how.samples,
            solve=how.labelled, examine=how.examine or not how.labelled,
        )  # fmt: skip
        policy = folder / policies[-1].folder if policies else None
        drawing = wearing(_of_round(settings, number), policy, how.adapt_from)
        rows = collect(wanted, entries, executor, drawing, ledger, watch) if how.samples else []
        known = [*fitting, *(row for row in ledger.rollouts(run, number) if row.task in tasks)]
        lessons = chosen(known, how, settings.seed)
        watch.collected(number, rows, len(lessons))
        row = ledger.policy(run, number)
        if row is None and lessons:
            row = _imitate(run, number, lessons, tasks, finetuner, settings, how, folder, watch)
            ledger.record_policy(row)
        watch.policy(row)
        policies += [row] if row else []
    return policies


def check_solutions(entries: Sequence[Entry]) -> None:
    """Check that every task can be rewarded by its solution.

    Raises:
        InputError: When one has none.
    """
    for task, solution in entries:
        if solution is None:
            raise InputError(
                task.id, "", "a task with its solution, or restem.reward=held_out_demo, which needs none", "no solution"
            )


def wearing(settings: RolloutSettings, policy: Path | None, adapt_from: Literal["base", "policy"]) -> RolloutSettings:
    """The settings under a policy, if there is one."""
    if policy is None:
        return settings
    return replace(settings, policy=str(policy), adapt_from=str(policy) if adapt_from == "policy" else None)


def chosen(rows: Iterable[RolloutRow], how: RestemSettings, seed: int) -> list[RolloutRow]:
    """The roll-outs whose self-edits are to be imitated: rewarded, no two equal for a task, at most `per_task` of each.

    Where there are too many of a task, chance decides. They come in order of task, then of their keys. With `contrast`
    there are none of a task on which every self-edit that ran was rewarded: whatever is written there is as good as
    anything else, so to imitate it only pulls the policy back to where it was (as DAPO leaves such groups out, arXiv
    2503.14476, section 3.2).
    """
    by_task: dict[str, list[RolloutRow]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    kept: list[RolloutRow] = []
    for task, made in sorted(by_task.items()):
        best = rewarded(made, how)
        if how.contrast and len(best) == sum(map(_ran, made)):
            continue
        distinct: dict[str | None, RolloutRow] = {}
        for row in sorted(best, key=_key):
            distinct.setdefault(row.self_edit, row)
        lessons = list(distinct.values())
        if how.per_task is not None and len(lessons) > how.per_task:
            rng = random.Random(derived_seed(seed, task, "imitate"))
            lessons = sorted(rng.sample(lessons, how.per_task), key=_key)
        kept += lessons
    return kept


def rewarded(rows: Sequence[RolloutRow], how: RestemSettings) -> list[RolloutRow]:
    """The roll-outs of one task that earned their reward.

    By the solution: those that solved it; where gain is what counts, tasks without room for it were left out before. By
    the left-out demonstrations: the best of each round, where it beats the round's median by more than `margin`.
    """
    ran = list(filter(_ran, rows))
    if how.labelled:
        return [row for row in ran if row.reward == 1]
    best = []
    for group in _by_round(ran).values():
        scores = [row.held_out for row in group if row.held_out is not None]
        first = max(group, key=lambda row: (-float("inf") if row.held_out is None else row.held_out, -row.sample))
        if scores and first.held_out is not None and first.held_out > median(scores) + how.margin:
            best.append(first)
    return best


def _with_room(
    run: str,
    entries: Sequence[Entry],
    executor: Executor,
    settings: RolloutSettings,
    ledger: Ledger,
    watch: Watch,
) -> list[Entry]:
    """The tasks that are not solved without training: on the others a self-edit has nothing to gain."""
    own = f"{run} in context"
    ledger.begin(own, {})  # another configuration is refused for the run that it belongs to
    watch.title("In context, without training")
    asking = replace(settings, author="none", policy=None)
    rows = collect(Collection(own, 0, 1), entries, executor, asking, ledger, watch)
    solved = {row.task for row in rows if row.reward == 1}
    watch.title(f"{len(solved)} of {len(entries)} tasks are solved without training and left out")
    return [entry for entry in entries if entry[0].id not in solved]


def _is_of_form(self_edit: str | None, schema: Schema) -> bool:
    """Whether a self-edit, if there is one, can be said under a schema."""
    try:
        return self_edit is None or schema.canonical(schema.parse(self_edit)) == self_edit
    except InvalidSelfEdit:
        return False


def _of_round(settings: RolloutSettings, number: int) -> RolloutSettings:
    """Every round draws anew: without a policy of its own it would else repeat the one before it."""
    return replace(settings, seed=derived_seed(settings.seed, "round", number)) if number else settings


def _ran(row: RolloutRow) -> bool:
    return row.status is Status.OK and row.self_edit is not None


def _imitate(
    run: str,
    number: int,
    rows: Sequence[RolloutRow],
    tasks: Mapping[str, Task],
    finetuner: Executor,
    settings: RolloutSettings,
    how: RestemSettings,
    folder: Path,
    watch: Watch,
) -> PolicyRow:
    """The M-step."""
    name = f"round-{number + 1}"
    job = FinetuneJob(
        lessons=tuple(Lesson(tasks[row.task], row.self_edit) for row in rows if row.self_edit is not None),
        menu=settings.schema.menu(),
        example=settings.example,
        schema=settings.schema.json_schema(),
        settings=how.finetune,
        seed=derived_seed(settings.seed, run, "imitate", number),
        folder=str(folder / name),
    )
    outcome = finetuner.run(job, watch.finetuning)
    if outcome.result is None:
        raise Diverged(f"fine-tuning the policy in round {number + 1} failed: {outcome.status}, {outcome.message}")
    return PolicyRow(run, number, name, tuple(map(_key, rows)), outcome.result.losses, outcome.seconds, utc_now())


def _by_round(rows: Sequence[RolloutRow]) -> dict[tuple[str, int], list[RolloutRow]]:
    groups: dict[tuple[str, int], list[RolloutRow]] = {}
    for row in rows:
        groups.setdefault((row.run, row.round), []).append(row)
    return groups


def _key(row: RolloutRow) -> Key:
    return row.run, row.round, row.task, row.sample
