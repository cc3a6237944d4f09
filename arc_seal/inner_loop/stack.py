"""Several inner loops side by side on one model: their adapters are trained and asked together, each as if alone.

An update is one of every adapter. Batches of like length are computed together, as many as `Shapes` allows, with the
frozen products done once for all of them; then one step of AdamW updates all adapters. Who has done its updates leaves
the training and waits until there are several to predict with, whose views are decoded and scored together. Others may
join at any time. What a job does is fixed by its seed, whoever is beside it, rounding errors aside.

A job fails alone: one whose loss or outputs are not finite is taken out, and nothing of it reaches the others.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from arc_seal.arc.grid import Grid
from arc_seal.errors import Diverged
from arc_seal.inner_loop.adapt import (
    candidates_of,
    drawn_views,
    known_candidates,
    mean_score,
    predicted_grids,
    query_prompts,
    to_be_scored,
    training_set,
)
from arc_seal.inner_loop.job import (
    AdaptJob,
    Candidate,
    Precision,
    Progress,
    Report,
    Result,
    TrainedAdapter,
    TrainingRecord,
    vote,
)
from arc_seal.inner_loop.lora import adapted_modules
from arc_seal.inner_loop.predict import NOT_FINITE, Decoded, decode, score
from arc_seal.inner_loop.stacked_adapters import Adapter, AdapterRows, fresh_adapter, merge, with_adapters
from arc_seal.inner_loop.train import Plan, make_plan, target_states
from arc_seal.models.generate import CachedContext
from arc_seal.models.model import Batch, Model, collate, logits_of
from arc_seal.models.prompt import Encoded
from arc_seal.self_edit.augment import NamedView
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.toolbox import Toolbox

PREDICT_SHARE = 0.25
"""Predictions wait until so large a share of the stack is trained, or nobody trains any more."""

CPU_TOKENS, PASS_BYTES = 2048, 8 << 30
"""Tokens of a forward pass on a CPU, for its caches; elsewhere, what a pass may keep for its backward pass."""

NO_TARGET = -100
"""The label of a place that is filled up; torch's own."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Which batches are computed together."""

    tokens: int  # at most in one forward pass, padding included, where it is more than one job's
    max_padding: float  # the share of those tokens that may be padding
    length_bucket: int  # contexts are filled up to a multiple of so many tokens: fewer shapes, more padding


def pass_tokens(network: PreTrainedModel) -> int:
    """How many tokens are best computed in one forward pass; see `tokens` in conf/executor/stacked.yaml."""
    if network.device.type == "cpu":
        return CPU_TOKENS
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    kept = sum(layer.in_features + layer.out_features for layer in layers)  # about what autograd keeps of a token
    return max(CPU_TOKENS, PASS_BYTES // (kept * network.dtype.itemsize))


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a job needs and that can be made without computing with the network."""

    job: AdaptJob
    self_edit: SelfEdit
    plan: Plan
    examples: int  # contexts in the training set
    skipped: int  # others
    shown: tuple[NamedView, ...]
    prompts: tuple[list[Encoded], ...]  # of each query, in every view
    began: float  # when preparing began, in seconds of `time.monotonic`


def prepare(job: AdaptJob, model: Model) -> Prepared:
    """Make a job's examples, views and prompts. JobFailure as in `adapt.adapt`."""
    began, edit = time.monotonic(), job.self_edit
    if edit is None:
        raise ValueError("expected a job that trains, found one without a self-edit")
    toolbox = Toolbox.load([Path(folder) for folder in job.toolbox])
    examples, skipped = training_set(job, edit, toolbox, model)
    share, most = job.training.warmup_share, job.max_training_tokens
    plan = make_plan(model, examples, edit.training, share, job.seed, most)
    shown = drawn_views(job, toolbox)
    prompts = tuple(query_prompts(job, model, shown, query) for query in range(len(job.task.queries)))
    return Prepared(job, edit, plan, len(examples), skipped, shown, prompts, began)


@dataclass(slots=True, eq=False)
class _Member:
    """A job in the stack."""

    key: int
    made: Prepared
    report: Report
    losses: list[float] = field(default_factory=list)
    tokens: int = 0  # read in training, padding left out
    targets: int = 0
    computed: int = 0  # read in training, with the padding that a training alone has
    adapter: Adapter | None = None  # once it is trained
    trained: float = 0.0  # when it was
    candidates: list[Candidate] = field(default_factory=list)
    known: list[Candidate] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def batch(self) -> tuple[Encoded, ...]:
        """The contexts of the next update."""
        return self.made.plan.batches[len(self.losses)]

    @property
    def precision(self) -> Precision:
        """What its training multiplies in."""
        return self.made.job.training.precision

    @property
    def length(self) -> int:
        """Tokens of the longest of them."""
        return max(len(context.ids) for context in self.batch)

    def say(self, progress: Progress) -> None:
        """Report; what the report raises, such as that time is up, is this job's failure alone."""
        try:
            self.report(progress)
        except Exception as error:
            self.failure = error

    def record(self) -> TrainingRecord:
        """What its training did."""
        padding = 1 - self.tokens / self.computed
        made, losses, begin = self.made, tuple(self.losses), self.made.job.begin
        counts = made.examples, made.skipped, len(losses), self.tokens, self.targets
        return TrainingRecord(*counts, padding, losses, begin.tokens if begin is not None else 0)


class Stack:
    """Jobs in training, and those trained that wait to predict.

    Args:
        model: Its network is computed with in `add` and `advance` alone, and is as it was after each.
        width: Jobs that there will be at most.
        shapes: Which of them are computed together.
    """

    def __init__(self, model: Model, width: int, shapes: Shapes) -> None:
        self._model, self._shapes = model, shapes
        self._enough = max(1, math.floor(width * PREDICT_SHARE))
        self._rows = AdapterRows(model.network)
        self._training: list[_Member] = []  # in the order of their rows
        self._trained: list[_Member] = []

    def __len__(self) -> int:
        """How many jobs are in it."""
        return len(self._training) + len(self._trained)

    def keys(self) -> list[int]:
        """The jobs in it."""
        return [member.key for member in (*self._training, *self._trained)]

    def add(self, key: int, made: Prepared, report: Report) -> None:
        """Take a job up."""
        training, settings = made.self_edit.training, made.job.training
        alpha = settings.lora_alpha or float(training.lora_rank)
        begin = made.job.begin.weights if made.job.begin is not None else None
        modules = adapted_modules(self._model.network, settings)
        adapter = fresh_adapter(self._model, training.lora_rank, alpha, made.job.seed, modules, begin)
        self._rows.add(adapter)
        self._training.append(_Member(key, made, report))

    def advance(self) -> list[tuple[int, Result | Exception]]:
        """Do one update of every adapter, or predict with those that are trained; returns the jobs that are done.

        An exception is what a job failed with. What is raised is nobody's alone, such as that memory is out.
        """
        if failed := self._let_go():  # since the last call
            return failed
        if self._trained and (not self._training or len(self._trained) >= self._enough):
            asked, self._trained = self._trained, []
            self._predict(asked)
            return [(member.key, member.failure or _result(member)) for member in asked]
        self._update()
        return self._let_go()

    def fail(self, key: int, failure: Exception) -> None:
        """Have a job fail that is in it; the next call of `advance` returns it."""
        for member in (*self._training, *self._trained):
            if member.key == key:
                member.failure = failure

    def clear(self) -> None:
        """Let all jobs go."""
        self._training, self._trained, self._rows = [], [], AdapterRows(self._model.network)
        if self._model.network.device.type == "cuda":
            torch.cuda.empty_cache()  # for other processes

    def _update(self) -> None:
        """Every adapter's next update."""
        found = [self._losses(group) for group in _groups(list(enumerate(self._training)), self._shapes)]
        self._rows.step(
            [member.made.plan.rates[len(member.losses)] for member in self._training],
            [member.made.job.training.max_gradient_norm for member in self._training],
        )
        losses = torch.cat([each for _, each in found]).tolist()  # the only wait for a GPU in an update
        for row, loss in zip((row for rows, _ in found for row in rows), losses, strict=True):
            _count(self._training[row], loss)

    def _losses(self, group: "_Group") -> tuple[list[int], Tensor]:
        """Rows of the group's adapters and the loss of each, [group]; their gradients are kept in their rows."""
        rows, members = [row for row, _ in group], [member for _, member in group]
        network = self._model.network
        batch, places = _side_by_side(members, self._shapes)
        batch, (labels, alphabet, counts) = batch.to(network.device), (each.to(network.device) for each in places)
        weights, parts = self._rows.group(rows)
        with with_adapters(network, parts):
            states = target_states(network, batch, members[0].precision)
            states = states.unflatten(0, labels.shape)  # [group, targets, width]
            logits = logits_of(network, states, alphabet.clamp(min=0))  # [group, targets, symbols]
            logits = logits.masked_fill((alphabet < 0)[:, None], float("-inf"))
            each = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NO_TARGET, reduction="none")
            losses = each.view_as(labels).sum(dim=1) / counts
            losses.sum().backward()
        if weights.grad is None:
            raise RuntimeError("an adapter has no gradient")
        self._rows.gradients[rows] = weights.grad
        return rows, losses.detach()

    def _let_go(self) -> list[tuple[int, Result | Exception]]:
        """Take those out of the training that are done, and those out of the stack that failed, which are returned."""
        lost = [member for member in (*self._training, *self._trained) if member.failure is not None]
        self._trained = [member for member in self._trained if member.failure is None]
        kept = []
        for row, member in enumerate(self._training):
            if member.failure is not None:
                continue
            if len(member.losses) < len(member.made.plan.batches):
                kept.append(row)
            else:
                member.adapter, member.trained = self._rows.trained(row), time.monotonic()
                self._trained.append(member)
        if len(kept) < len(self._training):
            self._rows.keep(kept)
            self._training = [self._training[row] for row in kept]
        return [(member.key, member.failure) for member in lost if member.failure is not None]

    @torch.inference_mode()
    def _predict(self, members: Sequence[_Member]) -> None:
        """Give each member its candidates, or its failure."""
        for query in range(max(len(member.made.prompts) for member in members)):
            asked = [each for each in members if query < len(each.made.prompts) and each.failure is None]
            for group in _prompt_groups(asked, query, self._shapes.tokens):
                adapters = [member.adapter for member in group if member.adapter is not None]
                with with_adapters(self._model.network, merge(self._model.network, adapters)):
                    _ask(self._model, group, query)


_Group = list[tuple[int, _Member]]
"""Members and the rows of their adapters."""


def _groups(members: _Group, shapes: Shapes) -> Iterator[_Group]:
    """Members whose next batches are computed together: of like length, so that little of it is padding.

    All of a group multiply in one precision.
    """
    group: _Group = []
    rows = longest = real = 0
    for row, member in sorted(members, key=lambda each: (each[1].precision, -each[1].length)):
        own = len(member.batch) * member.length
        most, total = max(rows, len(member.batch)), real + own
        computed = (len(group) + 1) * most * longest
        other = bool(group) and group[0][1].precision != member.precision
        if group and (other or computed > shapes.tokens or total < (1 - shapes.max_padding) * computed):
            yield group
            group, most, total = [], len(member.batch), own
        if not group:
            longest = member.length
        group.append((row, member))
        rows, real = most, total
    yield group


def _side_by_side(members: Sequence[_Member], shapes: Shapes) -> tuple[Batch, tuple[Tensor, Tensor, Tensor]]:
    """The members' next batches as one, each filled up to equally many contexts and targets.

    Returns it, its targets as places in each member's alphabet [group, targets], the alphabets' tokens
    [group, symbols], both filled up with negative numbers, and how many targets each has, [group].
    """
    rows = max(len(member.batch) for member in members)
    empty = _empty_like(members[0].batch[0])
    contexts = [context for member in members for context in (*member.batch, *[empty] * (rows - len(member.batch)))]
    batch = collate(contexts, multiple=shapes.length_bucket)
    counts = [sum(int(context.target.sum()) for context in member.batch) for member in members]
    alphabets = [member.made.plan.alphabet for member in members]
    begins = torch.arange(len(members)) * rows
    where = torch.zeros(2, len(members), max(counts), dtype=torch.long)
    where[0] = begins[:, None]  # what is filled up stands for some token of the member's own
    labels = torch.full((len(members), max(counts)), NO_TARGET)
    alphabet = torch.full((len(members), max(map(len, alphabets))), -1)
    own = zip(batch.where.split(counts, dim=1), batch.labels.split(counts), alphabets, strict=True)
    for place, (stand, wanted, tokens) in enumerate(own):
        where[:, place, : len(wanted)] = stand
        labels[place, : len(wanted)] = torch.searchsorted(tokens, wanted)
        alphabet[place, : len(tokens)] = tokens
    stacked = Batch(batch.ids, batch.positions, where.flatten(1), batch.labels, batch.tokens)
    return stacked, (labels, alphabet, torch.tensor(counts))


def _empty_like(context: Encoded) -> Encoded:
    """A context of one token and no target."""
    return Encoded(np.zeros(1, np.int64), np.zeros((len(context.positions), 1), np.int64), np.zeros(1, np.bool_))


def _count(member: _Member, loss: float) -> None:
    """Note an update that is done, and report it."""
    batch, longest = member.batch, member.length
    member.losses.append(loss)
    if not math.isfinite(loss):
        member.failure = Diverged(f"the loss became {loss}")
        return
    member.tokens += sum(len(context.ids) for context in batch)
    member.targets += sum(int(context.target.sum()) for context in batch)
    member.computed += len(batch) * longest
    spent, updates = max(time.monotonic() - member.made.began, 1e-9), len(member.made.plan.batches)
    member.say(Progress("train", len(member.losses), updates, loss, member.tokens / spent))


def _prompt_groups(members: Sequence[_Member], query: int, tokens: int) -> Iterator[list[_Member]]:
    """Members whose views of a query are read together: at most so many tokens, unless one alone has more."""
    group: list[_Member] = []
    views = longest = 0
    for member in sorted(members, key=lambda each: -max(len(prompt.ids) for prompt in each.made.prompts[query])):
        most = max(views, len(member.made.shown))
        if group and (len(group) + 1) * most * longest > tokens:
            yield group
            group, most = [], len(member.made.shown)
        if not group:
            longest = max(len(prompt.ids) for prompt in member.made.prompts[query])
        group.append(member)
        views = most
    if group:
        yield group


def _ask(model: Model, group: Sequence[_Member], query: int) -> None:
    """Decode a query in all views of some members, then score what came; their adapters are at work."""
    views = max(len(member.made.shown) for member in group)
    prompts, rows, lost = [], [], set[int]()
    for place, member in enumerate(group):
        own, begin = member.made.prompts[query], place * views
        rows.append(range(begin, begin + len(own)))
        lost.update(range(begin + len(own), begin + views))  # filled up, so that each adapter has equally many
        prompts += [*own, *[min(own, key=lambda prompt: len(prompt.ids))] * (views - len(own))]
    context = CachedContext(model, prompts)

    def on_step(step: int, tokens_per_s: float) -> None:
        for member, its in zip(group, rows, strict=True):
            if member.failure is None:
                member.say(Progress("predict", step, 0, None, tokens_per_s))
            if member.failure is not None:
                lost.update(its)

    decoded = decode(context, on_step, lost)
    _note_diverged(group, rows, lost)
    own_decoded = [decoded[its.start : its.stop] for its in rows]
    scores = _scores(context, group, query, rows, own_decoded, views, lost)
    _note_diverged(group, rows, lost)
    for member, each, own_scores in zip(group, own_decoded, scores, strict=True):
        if member.failure is None:
            member.candidates += candidates_of(query, member.made.shown, each, own_scores)
            member.known += known_candidates(member.made.job, query, own_scores)


def _note_diverged(group: Sequence[_Member], rows: Sequence[range], lost: set[int]) -> None:
    for member, its in zip(group, rows, strict=True):
        if member.failure is None and not lost.isdisjoint(its):
            member.failure = Diverged(NOT_FINITE)


def _scores(
    context: CachedContext,
    group: Sequence[_Member],
    query: int,
    rows: Sequence[range],
    decoded: Sequence[Sequence[Decoded]],
    views: int,
    lost: set[int],
) -> list[dict[Grid | None, float]]:
    """The score of each member's distinct grids, where it asks for them: the first of each together, and so on."""
    wanted: list[list[Grid]] = []
    for member, own in zip(group, decoded, strict=True):
        asks, shown_in = member.made.job.decode.score and member.failure is None, member.made.shown
        grids = predicted_grids(shown_in, own)
        wanted.append(to_be_scored(member.made.job, query, shown_in, grids) if asks else [])
    scores: list[dict[Grid | None, float]] = [{} for _ in group]
    for turn in range(max(map(len, wanted))):
        shown: list[Grid | None] = [None] * (len(group) * views)
        scored = [place for place, grids in enumerate(wanted) if turn < len(grids)]
        for place in scored:
            its = rows[place]
            shown[its.start : its.stop] = [view.show(wanted[place][turn]) for view in group[place].made.shown]
        found = score(context, shown, lost)
        for place in scored:
            its = rows[place]
            scores[place][wanted[place][turn]] = mean_score(found[its.start : its.stop])
    return scores


def _result(member: _Member) -> Result:
    """What came of a job that is done."""
    made, now = member.made, time.monotonic()
    seconds = {"train": member.trained - made.began, "predict": now - member.trained}
    attempts, record = vote(member.candidates, len(made.job.task.queries)), member.record()
    adapter = None
    if made.job.keep and member.adapter is not None:
        adapter = TrainedAdapter(member.adapter.to_bytes(), record.total)
    return Result(attempts, tuple(member.candidates), record, seconds, tuple(member.known), adapter)
