"""The inner loop: one job in, one result out. All of this runs inside the sandbox."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import GridError, OverBudget
from arc_seal.inner_loop.adapter import attached, unfrozen
from arc_seal.inner_loop.decode import Decoded, decode
from arc_seal.inner_loop.job import AdaptJob, Candidate, Progress, Report, Result, TrainingRecord
from arc_seal.inner_loop.reader import Reader
from arc_seal.inner_loop.score import score
from arc_seal.inner_loop.ttt import train
from arc_seal.inner_loop.vote import vote
from arc_seal.models.base import Encoded
from arc_seal.models.prompt import demonstrations_prompt, query_prompt
from arc_seal.self_edit.augment import NamedView, augment, views
from arc_seal.self_edit.schema import SelfEdit
from arc_seal.self_edit.toolbox import Toolbox

if TYPE_CHECKING:
    from arc_seal.models.base import Model


def adapt(job: AdaptJob, model: "Model", report: Report) -> Result:
    """Adapt a model to one task under one self-edit, predict every query, vote.

    Without a self-edit the model predicts in context, unadapted. The model is left as it was.

    Raises:
        JobFailure: For reasons that are to be recorded: over budget, diverged.
    """
    toolbox = Toolbox.load([Path(folder) for folder in job.toolbox])
    seconds: dict[str, float] = {}
    record = None
    with ExitStack() as stack:
        if job.self_edit is not None:
            with _timed(seconds, "train"):
                stack.enter_context(_trainable(job, job.self_edit, model))
                record = _train(job, job.self_edit, toolbox, model, report)
        with _timed(seconds, "predict"):
            candidates = _predict(job, toolbox, model, report)
    return Result(vote(candidates, len(job.task.queries)), candidates, record, seconds)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start


def _trainable(job: AdaptJob, edit: SelfEdit, model: "Model") -> AbstractContextManager[object]:
    """What is trained, an adapter or all weights, for as long as the context lasts."""
    if job.training.method == "full":
        return unfrozen(model)
    rank = edit.training.lora_rank
    return attached(model, rank, job.training.lora_alpha or float(rank), job.seed, job.training.lora_modules)


def _train(job: AdaptJob, edit: SelfEdit, toolbox: Toolbox, model: "Model", report: Report) -> TrainingRecord:
    augmented = augment(job.task, edit, toolbox, random.Random(f"{job.seed} augment"))
    target_all = edit.training.loss_on == "all"
    fitted = [_fit_example(model, demos, job, target_all) for demos in augmented.examples]
    examples = [example for example in fitted if example is not None]
    if not examples:
        raise OverBudget(f"no training example fits into {job.training.max_tokens} tokens")
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


def _predict(job: AdaptJob, toolbox: Toolbox, model: "Model", report: Report) -> tuple[Candidate, ...]:
    """Candidates of all queries: views of one query share a batch."""
    chosen = views(job.task, job.self_edit, toolbox, random.Random(f"{job.seed} views"), job.decode.views)
    size = job.decode.batch_views
    batches = [chosen[begin : begin + size] for begin in range(0, len(chosen), size)]

    def on_step(step: int, tokens_per_s: float) -> None:
        report(Progress("predict", step, 0, None, tokens_per_s))

    found: list[Candidate] = []
    for query in range(len(job.task.queries)):
        readers = [
            Reader(model, [_fit_query(model, view.view.task, query, job.training.max_tokens) for view in batch])
            for batch in batches
        ]
        candidates = [
            candidate
            for batch, reader in zip(batches, readers, strict=True)
            for candidate in _candidates(query, batch, decode(reader, on_step))
        ]
        found += _scored(candidates, batches, readers) if job.decode.score else candidates
    return tuple(found)


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
