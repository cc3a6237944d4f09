"""Collecting roll-outs: tasks times samples, each through the same code as `solve`, each kept as soon as it is done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from arc_seal.arc.task import Entry, Solution, Task
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
    # Whether to measure how probable the true outputs are, for training alone; a task's samples have one seed then.
    graded: bool = False


def collect(wanted: Collection, entries: Sequence[Entry], runner: Runner, ledger: Ledger) -> list[Rollout]:
    """Have every roll-out in the ledger, in order of task and sample: missing ones are made, and nothing done twice."""
    by_task = {task.id: (number, task, solution) for number, (task, solution) in enumerate(entries)}

    def recorded(*, done: bool | None) -> list[Rollout]:
        return [each for each in ledger.rollouts(wanted.run, wanted.round, finished=done) if each.task in by_task]

    def write(task: Task) -> None:
        made = runner.propose(task, wanted.samples, wanted.run, wanted.round, common_seed=wanted.graded)
        ledger.record(made)
        runner.view.advance(failed=sum(each.status is not Status.OK for each in made))

    def tried(proposed: Rollout, task: Task, solution: Solution | None) -> Rollout:
        if wanted.graded and solution is not None:
            return graded(proposed, task, solution, runner)
        return runner.roll_out(proposed, task, solution)

    def attempt(proposed: Rollout) -> None:
        """Solve with a self-edit, examine it, or both; what is not to be solved has no reward, 0 neither."""
        _, task, solution = by_task[proposed.task]
        made = runner.examine(proposed, task) if wanted.examine else proposed
        if wanted.solve:
            made = tried(proposed.model_copy(update={"examination": made.examination}), task, solution)
        else:
            made = runner.finish(made)
        ledger.record([made])
        runner.view.advance(solved=int(made.reward == 1), failed=int(made.status is not Status.OK))

    known = {each.task for each in recorded(done=None)}
    missing = [task for task, _ in entries if task.id not in known]
    runner.view.stage("self-edits", len(entries) - len(missing), len(entries))
    for _ in concurrently(runner.executor, write, missing):
        pass
    done = recorded(done=True)
    untried = sorted(recorded(done=False), key=lambda each: (by_task[each.task][0], each.sample))
    runner.view.stage("roll-outs", len(done), len(entries) * wanted.samples, [*done, *untried])
    for _ in concurrently(runner.executor, attempt, untried):
        pass
    return recorded(done=True)


def graded(rollout: Rollout, task: Task, solution: Solution, runner: Runner) -> Rollout:
    """Try a proposed self-edit, and measure how probable the true outputs are under the model that it adapted.

    They are given to the job as known grids, which are scored after its predictions and have no vote, so all else is as
    without them; what is returned does not hold them. Needs `decode.score`.
    """
    made = runner.roll_out(rollout, task, solution, known=tuple((output,) for output in solution.outputs))
    if made.result is None:
        return made
    scores = [each.score for each in made.result.known if each.score is not None]
    found = min(scores) if len(scores) == len(solution.outputs) else -inf  # one that no view can show
    return made.model_copy(update={"solution_log_probability": found, "result": replace(made.result, known=())})
