"""A reward without labels: demonstrations are left out one at a time and their outputs foreseen by the adapted model.

It rewards self-edits on the very task to be solved, where no test output is known. Exact reproduction is often too
rare to choose by, so the log-probability of the left-out output is what counts.
"""

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.inner_loop.adapt import adapted, judge, predict
from arc_seal.inner_loop.job import AdaptJob, Examination, ExamineJob, Progress, Report
from arc_seal.inner_loop.vote import vote

if TYPE_CHECKING:
    from arc_seal.models.base import Model


def examine(job: ExamineJob, model: "Model", report: Report) -> Examination:
    """Adapt to what is left of the demonstrations, once for each that is left out, and judge its output.

    A task's only demonstration cannot be left out: then it is judged behind itself, which ranks self-edits by how well
    they are learnt by heart.

    Raises:
        JobFailure: For reasons that are to be recorded: over budget, diverged.
    """
    found: list[float] = []
    hits = tokens = 0
    seconds: dict[str, float] = {}
    for fold, index in enumerate(job.left_out):
        report(Progress("examine", fold, len(job.left_out)))
        inner, output = left_out(job.adapt, index)
        with adapted(inner, model, _silent, seconds) as record:
            candidates = predict(inner, model, _silent, seconds)
            found.append(judge(inner, model, output, seconds))
        tokens += record.tokens if record else 0
        (attempts,) = vote(candidates, 1)
        hits += output in [attempt.grid for attempt in attempts]
    report(Progress("examine", len(job.left_out), len(job.left_out)))
    return Examination(fmean(found), hits, len(found), tokens, seconds)


def left_out(job: AdaptJob, index: int) -> tuple[AdaptJob, Grid]:
    """The job on a task whose demonstration `index` has become its query, and the output that it is to find."""
    demos = job.task.demos
    rest = demos[:index] + demos[index + 1 :] or demos
    return replace(job, task=Task(job.task.id, rest, (demos[index].input,))), demos[index].output


def _silent(progress: Progress) -> None:
    """Updates of a fold are not steps of the examination."""
