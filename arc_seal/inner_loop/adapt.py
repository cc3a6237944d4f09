"""The inner loop: one job in, one result out. All of this runs inside the sandbox.

`adapt` solves a task; `examine` is a reward without labels, on the very task to be solved.
"""

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import fmean

import torch

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.errors import OverBudget
from arc_seal.inner_loop.drafts import decode_views, inverted
from arc_seal.inner_loop.job import (
    AdaptJob,
    Candidate,
    Examination,
    ExamineJob,
    Progress,
    Report,
    Result,
    ScoreJob,
    TrainedAdapter,
    TrainingRecord,
    vote,
)
from arc_seal.inner_loop.lora import (
    adapted_modules,
    adapter_bytes,
    fresh_weights,
    merged,
    unfrozen,
    with_adapter,
    with_fresh_adapter,
)
from arc_seal.inner_loop.predict import Decoded, decode, score
from arc_seal.inner_loop.train import train
from arc_seal.models.generate import CachedContext
from arc_seal.models.model import Model, lowered_weights
from arc_seal.models.prompt import Encoded, demonstrations_prompt, query_prompt
from arc_seal.self_edit.augment import NamedView, augment, views
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.toolbox import Toolbox


def adapt(job: AdaptJob, model: Model, report: Report) -> Result:
    """Adapt a model to one task under one self-edit, predict every query, vote.

    Without a self-edit the model predicts in context, unadapted. The model is left as it was. JobFailure for what is to
    be recorded: over budget, diverged.
    """
    seconds: dict[str, float] = defaultdict(float)
    candidates: list[Candidate] = []
    known: list[Candidate] = []
    with _adapted(job, model, report, seconds) as (record, shown):
        for query in range(len(job.task.queries)):
            made, scored = _candidates(job, model, shown, query, report)
            candidates, known = candidates + made, known + scored
        adapter = None
        if job.keep and record is not None and job.training.method == "lora":
            adapter = TrainedAdapter(adapter_bytes(fresh_weights(model.network)), record.total)
    attempts = vote(candidates, len(job.task.queries))
    return Result(attempts, tuple(candidates), record, dict(seconds), tuple(known), adapter)


def examine(job: ExamineJob, model: Model, report: Report) -> Examination:
    """Adapt to what is left of the demonstrations, once for each that is left out, and judge its output.

    What is measured is the log-probability of the left-out output: to reproduce it exactly is often too rare to choose
    by. A task's only demonstration is judged behind itself, which ranks self-edits by how well it is learnt by heart.

    Each adaptation has the self-edit, the settings and the seed of `job.adapt`, but contexts that are a demonstration
    shorter: fewer are cut to `max_tokens`, a token budget has room for more, and the updates come in another order. It
    fails as `adapt` does.
    """
    found: list[float] = []
    seconds: dict[str, float] = defaultdict(float)
    tokens = 0
    for fold, index in enumerate(job.left_out):
        report(Progress("examine", fold, len(job.left_out)))
        inner, output = left_out(job.adapt, index)
        with _adapted(inner, model, lambda progress: None, seconds) as (record, shown):
            context = CachedContext(model, query_prompts(inner, model, shown, 0))
            with torch.inference_mode():
                context.read_prompts()
            found.append(_score(output, shown, context) / _symbols(output))
            del context  # its keys and values are let go before the next fold is trained
        tokens += record.tokens if record else 0
    report(Progress("examine", len(job.left_out), len(job.left_out)))
    return Examination(fmean(found), len(found), tokens, dict(seconds))


def score_known(job: ScoreJob, model: Model) -> tuple[Candidate, ...]:
    """Score the inner loop's known grids under the adapter that it kept, in its views; those that no view can show not.

    What its own candidates had there is found again. The model is left as it was.
    """
    inner, known = job.adapt, list[Candidate]()
    with _adapted(inner, model, lambda progress: None, defaultdict(float), trained=True) as (_, shown):
        for query in range(len(inner.known)):
            wanted = to_be_scored(inner, query, shown, ())
            if wanted:
                context = CachedContext(model, query_prompts(inner, model, shown, query))
                with torch.inference_mode():
                    context.read_prompts()
                known += known_candidates(inner, query, {grid: _score(grid, shown, context) for grid in wanted})
                del context  # its keys and values are let go before the next query is read
    return tuple(known)


def left_out(job: AdaptJob, index: int) -> tuple[AdaptJob, Grid]:
    """The job on a task whose demonstration `index` has become its query, and the output that it is to find."""
    demos = job.task.demos
    rest = demos[:index] + demos[index + 1 :] or demos
    return replace(job, task=Task(job.task.id, rest, (demos[index].input,))), demos[index].output


@contextmanager
def _adapted(
    job: AdaptJob, model: Model, report: Report, seconds: dict[str, float], trained: bool = False
) -> Iterator[tuple[TrainingRecord | None, tuple[NamedView, ...]]]:
    """Have the model adapted as the job's self-edit says, its adapters merged, for as long as the context lasts.

    Yields what training did, None without a self-edit, and the views to predict in. Wall time is added to `train`, and
    that of the context's body to `predict`. With `trained` the adapter that the job begins with is taken as it is.
    """
    start, edit, training, record = time.monotonic(), job.self_edit, job.training, None
    toolbox = Toolbox.load([Path(folder) for folder in job.toolbox])
    kept = None if job.adapt_from is None else Path(job.adapt_from)
    with ExitStack() as stack:
        if edit is None and kept is not None:
            stack.enter_context(with_adapter(model, kept))
        if edit is not None:
            if training.method == "full":
                stack.enter_context(unfrozen(model))
            else:
                rank, alpha = edit.training.lora_rank, training.lora_alpha or float(edit.training.lora_rank)
                begin, modules = job.begin.weights if job.begin else None, adapted_modules(model.network, training)
                stack.enter_context(with_fresh_adapter(model, rank, alpha, job.seed, modules, kept, begin))
        if edit is not None and not trained:
            examples, skipped = training_set(job, edit, toolbox, model)
            record = train(
                model, examples, edit.training, training, job.seed, report,
                skipped=skipped, max_tokens=job.max_training_tokens, precision=training.precision,
            )  # fmt: skip
            record = replace(record, before=job.begin.tokens if job.begin is not None else 0)
            seconds["train"] += time.monotonic() - start
        start = time.monotonic()
        lowers = training.precision == "auto"
        with merged(model.network), lowered_weights(model.network) if lowers else nullcontext():
            yield record, drawn_views(job, toolbox)
        seconds["predict"] += time.monotonic() - start


def drawn_views(job: AdaptJob, toolbox: Toolbox) -> tuple[NamedView, ...]:
    """The views in which the job's queries are predicted."""
    return views(job.task, job.self_edit, toolbox, Random(f"{job.seed} views"), job.decode.views)


def training_set(job: AdaptJob, edit: SelfEdit, toolbox: Toolbox, model: Model) -> tuple[list[Encoded], int]:
    """The contexts to train on, and how many more there would be.

    A context that is too long loses its first demonstrations. Two stay, so that an output is learnt from a
    demonstration before it; a task that has one only trains on that. Where the self-edit says how many demonstrations a
    context has at most, it begins with the last so many, and equal ones are one. Of the tokens that the job allows and
    those that the self-edit wants the fewer count.
    """
    most, targets, target_all = job.training.max_tokens, job.training.targets, edit.training.loss_on == "all"
    contexts, skipped = augment(job.task, edit, toolbox, Random(f"{job.seed} augment"))
    if edit.training.demonstrations is not None:
        contexts = tuple(dict.fromkeys(demos[-edit.training.demonstrations :] for demos in contexts))
    examples = []
    for demos in contexts:
        for first in range(max(1, len(demos) - 1)):
            encoded = model.codec.encode(demonstrations_prompt(demos[first:], targets), target_all=target_all)
            if len(encoded.ids) <= most:
                examples.append(encoded)
                break
    if not examples:
        raise OverBudget(f"no training example fits into {most} tokens")
    wanted = edit.training.tokens
    if wanted is not None and job.begin is not None:
        wanted = max(1, wanted - job.begin.tokens)
    limits = [limit for limit in (job.training.token_budget, wanted) if limit is not None]
    if limits:
        read = list(accumulate(edit.training.epochs * len(example.ids) for example in examples))
        examples = examples[: max(1, bisect_right(read, min(limits)))]
    return examples, skipped + len(contexts) - len(examples)


def _candidates(
    job: AdaptJob, model: Model, shown: Sequence[NamedView], query: int, report: Report
) -> tuple[list[Candidate], list[Candidate]]:
    """What each view predicts for one query, and the grids known before with their scores.

    Its keys and values are let go before the next query is read.
    """
    context = CachedContext(model, query_prompts(job, model, shown, query))

    def on_step(step: int, tokens_per_s: float) -> None:
        report(Progress("predict", step, 0, None, tokens_per_s))

    scores: dict[Grid | None, float] = {}
    if not job.decode.score:
        decoded = decode(context, on_step)
    else:
        decoded, found = decode_views(context, shown, query, on_step)
        for grid in to_be_scored(job, query, shown, predicted_grids(shown, decoded)):
            scores[grid] = mean_score(found[grid]) if grid in found else _score(grid, shown, context)
    return candidates_of(query, shown, decoded, scores), known_candidates(job, query, scores)


def query_prompts(job: AdaptJob, model: Model, shown: Sequence[NamedView], query: int) -> list[Encoded]:
    """One query in all views, behind as many of the last demonstrations as the length allows, at least one."""
    tasks, most = (view.task for view in shown), job.training.max_tokens
    return [fitting_query_prompt(task, task.queries[query], model, most) for task in tasks]


def fitting_query_prompt(task: Task, query: Grid, model: Model, most: int) -> Encoded:
    """A query behind as many of the task's last demonstrations as fit into `most` tokens, at least one."""
    for first in range(len(task.demos)):
        encoded = model.codec.encode(query_prompt(task.with_demos(task.demos[first:]), query))
        if len(encoded.ids) <= most:
            break
    return encoded


def predicted_grids(shown: Sequence[NamedView], decoded: Sequence[Decoded]) -> list[Grid | None]:
    """What was decoded in each view, in the task's own frame; None for no grid, or where there is no way back."""
    return [inverted(view, each.grid) for view, each in zip(shown, decoded, strict=True)]


def candidates_of(
    query: int, shown: Sequence[NamedView], decoded: Sequence[Decoded], scores: Mapping[Grid | None, float]
) -> list[Candidate]:
    """A candidate for each view, with the score of its grid where there is one."""
    return [
        Candidate(query, view.name, grid, each.log_probability, scores.get(grid))
        for view, grid, each in zip(shown, predicted_grids(shown, decoded), decoded, strict=True)
    ]


def to_be_scored(job: AdaptJob, query: int, shown: Sequence[NamedView], grids: Sequence[Grid | None]) -> list[Grid]:
    """The distinct grids that were predicted for a query, then those known before that some view can show."""
    known = job.known[query] if job.known else ()
    can_be_shown = (grid for grid in known if any(view.show(grid) is not None for view in shown))
    return [grid for grid in dict.fromkeys([*grids, *can_be_shown]) if grid is not None]


def known_candidates(job: AdaptJob, query: int, scores: Mapping[Grid | None, float]) -> list[Candidate]:
    """The grids known before, with the scores that they have now."""
    scored = [(grid, scores[grid]) for grid in (job.known[query] if job.known else ()) if grid in scores]
    return [Candidate(query, "known", grid, score / _symbols(grid), score) for grid, score in scored]


def _score(grid: Grid, shown: Sequence[NamedView], context: CachedContext) -> float:
    """Mean log-probability of a grid over the views that can show it, in nats; the view that it came from can."""
    return mean_score(score(context, [view.show(grid) for view in shown]))


def _symbols(grid: Grid) -> int:
    """How many symbols say a grid: its cells, and the end of each row."""
    return grid.height * (grid.width + 1)


def mean_score(scores: Sequence[float | None]) -> float:
    """Mean over the views that can show a grid, at least one."""
    return fmean(each for each in scores if each is not None)
