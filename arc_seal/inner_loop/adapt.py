"""The inner loop: one job in, one result out. All of this runs inside the sandbox."""

import random
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import GridError, OverBudget
from arc_seal.inner_loop.job import (
    AdaptJob,
    Candidate,
    Examination,
    ExamineJob,
    Progress,
    Report,
    Result,
    TrainingRecord,
)
from arc_seal.inner_loop.lora import attached, folded, unfrozen, worn
from arc_seal.inner_loop.predict import Decoded, decode, score
from arc_seal.inner_loop.train import train
from arc_seal.inner_loop.vote import vote
from arc_seal.models.generate import Reader
from arc_seal.models.prompt import Encoded, demonstrations_prompt, query_prompt
from arc_seal.self_edit.augment import NamedView, augment, views
from arc_seal.self_edit.schema import SelfEdit
from arc_seal.self_edit.toolbox import Toolbox

if TYPE_CHECKING:
    from arc_seal.models.prompt import Model


def adapt(job: AdaptJob, model: "Model", report: Report) -> Result:
    """Adapt a model to one task under one self-edit, predict every query, vote.

    Without a self-edit the model predicts in context, unadapted. The model is left as it was.

    Raises:
        JobFailure: For reasons that are to be recorded: over budget, diverged.
    """
    seconds: dict[str, float] = {}
    with adapted(job, model, report, seconds) as record:
        candidates = predict(job, model, report, seconds)
    return Result(vote(candidates, len(job.task.queries)), candidates, record, seconds)


@contextmanager
def adapted(
    job: AdaptJob, model: "Model", report: Report, seconds: dict[str, float]
) -> Iterator[TrainingRecord | None]:
    """Have the model adapted as the job's self-edit says for as long as the context lasts.

    Args:
        job: What to train on and how; its queries are not looked at.
        model: Any model; afterwards it is as it was.
        report: Told after every update.
        seconds: Wall time is added to its `train`.

    Yields:
        What training did; None when there is no self-edit.

    Raises:
        JobFailure: For reasons that are to be recorded: over budget, diverged.
    """
    record = None
    with ExitStack() as stack:
        if job.self_edit is None:
            if job.adapt_from is not None:
                stack.enter_context(worn(model, Path(job.adapt_from)))
        else:
            with _timed(seconds, "train"):
                stack.enter_context(_trainable(job, job.self_edit, model))
                record = _train(job, job.self_edit, _toolbox(job), model, report)
        yield record


def predict(job: AdaptJob, model: "Model", report: Report, seconds: dict[str, float]) -> tuple[Candidate, ...]:
    """Candidates of all queries, each under several views.

    Args:
        job: What to predict, and in which views.
        model: As adapted as it is to be.
        report: Told after every token.
        seconds: Wall time is added to its `predict`.
    """

    def on_step(step: int, tokens_per_s: float) -> None:
        report(Progress("predict", step, 0, None, tokens_per_s))

    found: list[Candidate] = []
    with _timed(seconds, "predict"), folded(model.network):
        batches = _batches(job)
        for query in range(len(job.task.queries)):
            readers = _readers(job, model, batches, query)
            candidates = [
                candidate
                for batch, reader in zip(batches, readers, strict=True)
                for candidate in _candidates(query, batch, decode(reader, on_step))
            ]
            found += _scored(candidates, batches, readers) if job.decode.score else candidates
    return tuple(found)


def judge(job: AdaptJob, model: "Model", output: Grid, seconds: dict[str, float]) -> float:
    """Mean log-probability of an output of the job's first query over all views that can show it, in nats a symbol.

    Args:
        job: What to predict, and in which views.
        model: As adapted as it is to be.
        output: What is to be judged.
        seconds: Wall time is added to its `predict`.
    """
    with _timed(seconds, "predict"), folded(model.network):
        batches = _batches(job)
        readers = _readers(job, model, batches, 0)
        with torch.inference_mode():
            for reader in readers:
                reader.read_prompts()
        return _score(output, batches, readers) / (output.height * (output.width + 1))


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - start


def _toolbox(job: AdaptJob) -> Toolbox:
    return Toolbox.load([Path(folder) for folder in job.toolbox])


def _trainable(job: AdaptJob, edit: SelfEdit, model: "Model") -> AbstractContextManager[object]:
    """What is trained, an adapter or all weights, for as long as the context lasts."""
    if job.training.method == "full":
        return unfrozen(model)
    rank = edit.training.lora_rank
    beneath = None if job.adapt_from is None else Path(job.adapt_from)
    alpha = job.training.lora_alpha or float(rank)
    return attached(model, rank, alpha, job.seed, job.training.lora_modules, beneath=beneath)


def _train(job: AdaptJob, edit: SelfEdit, toolbox: Toolbox, model: "Model", report: Report) -> TrainingRecord:
    augmented = augment(job.task, edit, toolbox, random.Random(f"{job.seed} augment"))
    target_all = edit.training.loss_on == "all"
    fitted = [_fit_example(model, demos, job, target_all) for demos in augmented.examples]
    examples = [example for example in fitted if example is not None]
    if not examples:
        raise OverBudget(f"no training example fits into {job.training.max_tokens} tokens")
    examples = _affordable(examples, edit.training.epochs, job.training.token_budget)
    return train(
        model,
        examples,
        edit.training,
        job.training,
        skipped=augmented.skipped + len(fitted) - len(examples),
        max_tokens=job.max_training_tokens,
        seed=job.seed,
        report=report,
    )


def _fit_example(model: "Model", demos: tuple[Demonstration, ...], job: AdaptJob, target_all: bool) -> Encoded | None:
    """Encode an example, leaving out its first demonstrations while it is too long; None when that is not enough.

    Two stay, so that an output is learnt from a demonstration before it; a task that has one only trains on that.
    """
    fewest = min(2, len(demos))
    while len(demos) >= fewest:
        encoded = model.codec.encode(demonstrations_prompt(demos, job.training.targets), target_all=target_all)
        if len(encoded.ids) <= job.training.max_tokens:
            return encoded
        demos = demos[1:]
    return None


def _affordable(examples: list[Encoded], epochs: int, token_budget: int | None) -> list[Encoded]:
    """As many of the first examples as the budget has room for in all epochs together, at least one."""
    if token_budget is None:
        return examples
    read = list(accumulate(epochs * len(example.ids) for example in examples))
    return examples[: max(1, bisect_right(read, token_budget))]


def _batches(job: AdaptJob) -> list[tuple[NamedView, ...]]:
    """The views to predict in, as many together as are read side by side."""
    chosen = views(job.task, job.self_edit, _toolbox(job), random.Random(f"{job.seed} views"), job.decode.views)
    return [chosen]


def _readers(job: AdaptJob, model: "Model", batches: Sequence[Sequence[NamedView]], query: int) -> list[Reader]:
    """One for each batch of views, its prompts ending where the query's output is to begin."""
    return [
        Reader(model, [_fit_query(model, view.view.task, query, job.training.max_tokens) for view in batch])
        for batch in batches
    ]


def _fit_query(model: "Model", task: Task, query: int, max_tokens: int) -> Encoded:
    """Encode a query behind as many of the last demonstrations as the length allows, at least one."""
    demos = task.demos
    while True:
        encoded = model.codec.encode(query_prompt(task.with_demos(demos), task.queries[query]))
        if len(encoded.ids) <= max_tokens or len(demos) == 1:
            return encoded
        demos = demos[1:]


def _candidates(query: int, batch: Sequence[NamedView], decoded: Sequence[Decoded]) -> Iterator[Candidate]:
    for view, each in zip(batch, decoded, strict=True):
        yield Candidate(query, view.name, _inverted(view, each.grid), each.log_probability)


def _inverted(view: NamedView, grid: Grid | None) -> Grid | None:
    """The prediction in the task's own frame; None when the view's way back does not exist for it."""
    if grid is None or view.view.invert is None:
        return None
    try:
        return view.view.invert(grid)
    except GridError:
        return None


def _scored(
    candidates: Sequence[Candidate], batches: Sequence[Sequence[NamedView]], readers: Sequence[Reader]
) -> list[Candidate]:
    """The candidates of one query, each with how likely all views together hold its grid to be."""
    scores = {grid: _score(grid, batches, readers) for grid in dict.fromkeys(each.grid for each in candidates) if grid}
    return [replace(each, score=None if each.grid is None else scores[each.grid]) for each in candidates]


def _score(grid: Grid, batches: Sequence[Sequence[NamedView]], readers: Sequence[Reader]) -> float:
    """Mean log-probability of a grid over the views that can show it, in nats; the view that it came from can."""
    found: list[float] = []
    for batch, reader in zip(batches, readers, strict=True):
        found += [each for each in score(reader, [view.show(grid) for view in batch]) if each is not None]
    return fmean(found)


# A reward without labels: demonstrations are left out one at a time and their outputs foreseen by the adapted model.
#
# It rewards self-edits on the very task to be solved, where no test output is known. Exact reproduction is often too
# rare to choose by, so the log-probability of the left-out output is what counts.


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
