"""As many jobs at the same time as an executor has workers."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol, TypeVar

from arc_seal.arc.task import Entry, Solution, Task, mean_score
from arc_seal.errors import Status
from arc_seal.inner_loop.job import Examination, Progress
from arc_seal.outer_loop.ledger import Ledger, ProposalRow, RolloutRow
from arc_seal.outer_loop.rollout import (
    Proposal,
    Rollout,
    RolloutSettings,
    examine,
    git_commit,
    grids,
    propose,
    roll_out,
    utc_now,
    versions,
)
from arc_seal.sandbox.worker import Executor, Outcome
from arc_seal.self_edit.edit import SelfEdit

T = TypeVar("T")
U = TypeVar("U")


def concurrently(executor: Executor, work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Do `work` on every item, each call in a thread that may use the executor; yields what comes of it as it comes.

    What a call raises is raised here, after the calls under way have ended; no other is begun. On an interrupt the
    executor's workers are ended first, so that nothing is waited for.
    """
    failed = threading.Event()

    def once(item: T) -> list[U]:
        """What comes of an item, or nothing after a failure."""
        try:
            return [] if failed.is_set() else [work(item)]
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(executor.workers, thread_name_prefix="roll-out") as threads:
        try:
            for future in as_completed([threads.submit(once, item) for item in items]):
                yield from future.result()
        except BaseException as error:
            threads.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):
                executor.close()
            raise


# Collecting roll-outs: tasks times samples, each through the same code as `solve`, each kept as soon as it is done.


@dataclass(frozen=True, slots=True)
class Collection:
    """What to collect.

    Attributes:
        run: The run that the roll-outs belong to.
        round: Its round.
        samples: Self-edits for each task.
        solve: Whether to adapt to the task and predict its queries.
        examine: Whether to ask the demonstrations (`held_out`), instead or as well.
    """

    run: str
    round: int
    samples: int
    solve: bool = True
    examine: bool = False


class Watch(Protocol):
    """Who wants to see how far it is; called from several threads."""

    def title(self, text: str) -> None:
        """Say what comes next."""
        ...

    def begin(self, stage: str, done: int, total: int) -> None:
        """A stage begins, so much of which is there from before."""
        ...

    def proposed(self, rows: Sequence[ProposalRow]) -> None:
        """A task's self-edits are written."""
        ...

    def kept(self, row: RolloutRow) -> None:
        """One more roll-out is kept."""
        ...


def collect(
    wanted: Collection,
    entries: Sequence[Entry],
    executor: Executor,
    settings: RolloutSettings,
    ledger: Ledger,
    watch: Watch,
) -> list[RolloutRow]:
    """Have every roll-out in the ledger: those that are missing are made, and nothing is done twice.

    Equal self-edits of one task are tried once; the others' rows say whose result they share.

    Returns:
        All of them, in order of task and sample.
    """
    _propose_all(wanted, entries, executor, settings, ledger, watch)
    groups = [(task, solution, group) for task, solution in entries for group in _open_groups(wanted, task, ledger)]
    watch.begin("roll-outs", len(_recorded(wanted, entries, ledger)), len(entries) * wanted.samples)

    def work(item: tuple[Task, Solution | None, list[ProposalRow]]) -> None:
        for row in _rows(wanted, *item, executor, settings, ledger):
            ledger.record(row)
            watch.kept(row)

    _all(executor, work, groups)
    return _recorded(wanted, entries, ledger)


def _propose_all(
    wanted: Collection,
    entries: Sequence[Entry],
    executor: Executor,
    settings: RolloutSettings,
    ledger: Ledger,
    watch: Watch,
) -> None:
    missing = [task for task, _ in entries if not ledger.proposals(wanted.run, wanted.round, task.id)]
    watch.begin("self-edits", len(entries) - len(missing), len(entries))

    def work(task: Task) -> None:
        proposals, seconds = propose(task, wanted.samples, executor, settings, _Silent())
        rows = [
            ProposalRow(
                run=wanted.run,
                round=wanted.round,
                task=task.id,
                sample=sample,
                completion=each.completion,
                self_edit=None if each.self_edit is None else settings.schema.canonical(each.self_edit),
                status=each.status,
                message=each.message,
                seconds=seconds / wanted.samples,
            )
            for sample, each in enumerate(proposals)
        ]
        ledger.record_proposals(rows)
        watch.proposed(rows)

    _all(executor, work, missing)


def _all(executor: Executor, work: Callable[[T], None], items: Sequence[T]) -> None:
    """Do what is left to do; where that is nothing, no model is loaded."""
    if items:
        executor.start()
    for _ in concurrently(executor, work, items):
        pass


def _recorded(wanted: Collection, entries: Sequence[Entry], ledger: Ledger) -> list[RolloutRow]:
    names = {task.id for task, _ in entries}
    return [row for row in ledger.rollouts(wanted.run, wanted.round) if row.task in names]


def _open_groups(wanted: Collection, task: Task, ledger: Ledger) -> list[list[ProposalRow]]:
    """A task's proposals that have no roll-out yet, equal self-edits together, behind one of theirs that has one."""
    done = {row.sample for row in ledger.rollouts(wanted.run, wanted.round, task.id)}
    groups: dict[object, list[ProposalRow]] = {}
    for row in ledger.proposals(wanted.run, wanted.round, task.id):
        key = (row.self_edit,) if row.status is Status.OK else row.sample
        groups.setdefault(key, []).append(row)
    return [group for group in groups.values() if any(row.sample not in done for row in group)]


def _rows(
    wanted: Collection,
    task: Task,
    solution: Solution | None,
    group: Sequence[ProposalRow],
    executor: Executor,
    settings: RolloutSettings,
    ledger: Ledger,
) -> list[RolloutRow]:
    """The missing roll-outs of equal self-edits: the first is made, or taken from the ledger; the others share it."""
    recorded = {row.sample: row for row in ledger.rollouts(wanted.run, wanted.round, task.id)}
    first = group[0]
    made = recorded.get(first.sample) or _make(wanted, task, solution, first, executor, settings)
    shared = [
        replace(
            made,
            sample=each.sample,
            completion=each.completion,
            same_as=first.sample,
            seconds=_writing(each),
            tokens=0,
        )
        for each in group[1:]
    ]
    return [row for row in (made, *shared) if row.sample not in recorded]


def _make(
    wanted: Collection,
    task: Task,
    solution: Solution | None,
    row: ProposalRow,
    executor: Executor,
    settings: RolloutSettings,
) -> RolloutRow:
    """Try one self-edit: solve with it, examine it, or both. What is not to be solved has no reward, 0 neither."""
    proposal, solution = _proposal(row, settings), solution if wanted.solve else None
    held_out: Outcome[Examination] | None = None
    if wanted.examine:
        held_out = examine(row.sample, proposal, task, executor, settings, _Silent())
        if not wanted.solve and held_out.status is not Status.OK:
            proposal = replace(proposal, status=held_out.status, message=held_out.message)
    if wanted.solve or proposal.status is not Status.OK:
        rollout = roll_out(row.sample, proposal, task, solution, executor, settings, _Silent())
    else:
        rollout = Rollout(row.sample, 0, row.completion, proposal.self_edit, Status.OK, "", None, None)
    return _row(wanted, task, solution, rollout, None if held_out is None else held_out.result, row, settings)


def _proposal(row: ProposalRow, settings: RolloutSettings) -> Proposal:
    edit = None if row.self_edit is None else settings.schema.parse(row.self_edit)
    return Proposal(row.completion, edit, row.status, row.message)


def _row(
    wanted: Collection,
    task: Task,
    solution: Solution | None,
    rollout: Rollout,
    held_out: Examination | None,
    proposal: ProposalRow,
    settings: RolloutSettings,
) -> RolloutRow:
    result = rollout.result
    training = result.training if result else None
    attempts = result.attempts if result else ()
    seconds = _writing(proposal)
    if held_out is not None:
        seconds["examine"] = sum(held_out.seconds.values())
    return RolloutRow(
        run=wanted.run,
        round=wanted.round,
        task=task.id,
        sample=rollout.sample,
        seed=rollout.seed,
        completion=rollout.completion,
        self_edit=proposal.self_edit,
        status=rollout.status,
        message=rollout.message,
        reward=rollout.reward,
        score=None if solution is None else mean_score(grids(attempts), solution) if result else 0.0,
        held_out=held_out.log_probability if held_out else None,
        held_out_hits=held_out.hits if held_out else None,
        attempts=attempts,
        losses=training.losses if training else (),
        tokens=training.tokens if training else 0,
        updates=training.updates if training else 0,
        seconds=seconds | (result.seconds if result else {}),
        same_as=None,
        model=settings.model,
        versions=_versions(),
        git_commit=_git_commit(),
        finished_at=utc_now(),
    )


def _writing(proposal: ProposalRow) -> dict[str, float]:
    return {"write": proposal.seconds} if proposal.seconds else {}


_versions, _git_commit = cache(versions), cache(git_commit)  # they do not change while a process lives


class _Silent:
    """Roll-outs beside one another are told of when they are kept, not as they go."""

    def proposed(self, sample: int, completion: str, self_edit: SelfEdit | None) -> None:
        """Nothing to say."""

    def progress(self, sample: int, progress: Progress) -> None:
        """Nothing to say."""

    def finished(self, sample: int, status: Status, message: str) -> None:
        """Nothing to say."""
