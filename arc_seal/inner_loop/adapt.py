"""The inner loop: one job in, one result out. All of this runs inside the sandbox."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import GridError, OverBudget
from arc_seal.inner_loop.adapter import attached, unfrozen
from arc_seal.inner_loop.decode import Decoded, decode
from arc_seal.inner_loop.job import AdaptJob, Candidate, Progress, Report, Result, TrainingRecord
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
    found: list[Candidate] = []
    for query in range(len(job.task.queries)):
        for begin in range(0, len(chosen), job.decode.batch_views):
            batch = chosen[begin : begin + job.decode.batch_views]
            prompts = [_fit_query(model, view.view.task, query, job.training.max_tokens) for view in batch]

            def on_step(step: int, tokens_per_s: float) -> None:
                report(Progress("predict", step, 0, None, tokens_per_s))

            found.extend(_candidates(query, batch, decode(model, prompts, on_step)))
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
