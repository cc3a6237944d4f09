"""Collecting roll-outs: tasks times samples, each through the same code as `solve`, each kept as soon as it is done."""

from collections.abc import Sequence
from dataclasses import dataclass

from arc_seal.arc.task import Entry, Task
from arc_seal.errors import Status
from arc_seal.outer_loop.ledger import Ledger
from arc_seal.outer_loop.rollout import Rollout, Runner, concurrently


@dataclass(frozen=True, slots=True)
class Collection:
    """What to collect."""

    run: str  # the run that the roll-outs belong to
    round: int  # its round
    samples: int  # self-edits for each task
    solve: bool = True  # whether to adapt to the task and predict its queries
    examine: bool = False  # whether to ask the left-out demonstrations, instead or as well


def collect(wanted: Collection, entries: Sequence[Entry], runner: Runner, ledger: Ledger) -> list[Rollout]:
    """Have every roll-out in the ledger, in order of task and sample: missing ones are made, and nothing done twice."""
    by_task = {task.id: (number, task, solution) for number, (task, solution) in enumerate(entries)}

    def recorded(*, done: bool | None) -> list[Rollout]:
        return [each for each in ledger.rollouts(wanted.run, wanted.round, finished=done) if each.task in by_task]

    def write(task: Task) -> None:
        made = runner.propose(task, wanted.samples, wanted.run, wanted.round)
        ledger.record(made)
        runner.view.advance(failed=sum(each.status is not Status.OK for each in made))

    def attempt(proposed: Rollout) -> None:
        """Solve with a self-edit, examine it, or both; what is not to be solved has no reward, 0 neither."""
        _, task, solution = by_task[proposed.task]
        made = runner.examine(proposed, task) if wanted.examine else proposed
        if wanted.solve:
            made = runner.roll_out(proposed.model_copy(update={"examination": made.examination}), task, solution)
        else:
            made = runner.finish(made)
        ledger.record([made])
        runner.view.advance(solved=int(made.reward == 1), failed=int(made.status is not Status.OK))

    known = {each.task for each in recorded(done=None)}
    missing = [task for task, _ in entries if task.id not in known]
    runner.view.stage("self-edits", len(entries) - len(missing), len(entries))
    for _ in concurrently(runner.executor, write, missing):
        pass
    tried = recorded(done=True)
    untried = sorted(recorded(done=False), key=lambda each: (by_task[each.task][0], each.sample))
    runner.view.stage("roll-outs", len(tried), len(entries) * wanted.samples, [*tried, *untried])
    for _ in concurrently(runner.executor, attempt, untried):
        pass
    return recorded(done=True)
