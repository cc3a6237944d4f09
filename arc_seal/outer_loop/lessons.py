"""What an M-step imitates: what roll-outs were worth, and by that which self-edits are lessons, and of what weight."""

import random
from collections.abc import Iterable, Mapping, Sequence
from math import exp
from statistics import fmean, median
from typing import Literal

from pydantic import Field

from arc_seal.errors import Status
from arc_seal.inner_loop.job import FinetuneSettings
from arc_seal.outer_loop.rollout import Rollout, derived_seed
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.settings import Settings

EVEN = -4.5
"""Nats at which a roll-out solves its task as often as not. On 20 tasks of arcagi1/dev, 286 roll-outs, the logistic
regression of solving on the log-probability of the true outputs is 1 / (1 + exp(-0.96 (x + 4.52)))."""

FAILED = -1.0
"""What a roll-out is worth that came to nothing: less than any that ran, unless seconds are dear."""


class RestemSettings(Settings):
    """How to train the policy: conf/restem/; each setting is described in default.yaml there."""

    rounds: int = Field(ge=1)
    first: Literal["policy", "candidates"]
    samples: int = Field(ge=0)
    reward: Literal["solution", "gain", "held_out_demo", "graded"]
    examine: bool
    margin: float = Field(ge=0)
    price: float = Field(ge=0)
    temperature: float = Field(gt=0)
    alike: Literal["difficulty", "all", "none"]
    halvings: int = Field(ge=0)
    per_task: int | None = Field(ge=1)
    contrast: bool
    adapt_from: Literal["base", "policy"]
    reuse: tuple[str, ...]
    finetune: FinetuneSettings

    @property
    def labelled(self) -> bool:
        """Whether the reward asks the solutions."""
        return self.reward != "held_out_demo"


Lesson = tuple[Rollout, float]
"""A roll-out whose self-edit is to be imitated, and its weight in the M-step."""


def lessons(
    rollouts: Sequence[Rollout], how: RestemSettings, seed: int, levels: Mapping[str, int] | None = None
) -> list[Lesson]:
    """What an M-step imitates: with a graded reward `weighted_lessons`, else `to_imitate`, all of one weight."""
    if how.reward == "graded":
        return weighted_lessons(rollouts, how, levels or {})
    return [(each, 1.0) for each in to_imitate(rollouts, how, seed)]


def weighted_lessons(rollouts: Sequence[Rollout], how: RestemSettings, levels: Mapping[str, int]) -> list[Lesson]:
    """Self-edits that ran, weighted by exp(advantage / temperature), at most `per_task` of each task, the best.

    The weights of each task have the same sum, and the mean of all is 1. They come in order of task, the best first.
    With `contrast` there are none of a task whose self-edits are all as good: they say nothing about which are better.
    With `levels`, how hard each task looks, an advantage is the mean over tasks that look alike.
    """
    kept: list[list[Lesson]] = []
    for best in rated(rollouts, how, levels).values():
        if best and not (how.contrast and best[0][1] == best[-1][1]):
            kept.append(best[: how.per_task])
    share = sum(map(len, kept)) / max(1, len(kept))  # of each task in the sum of all weights
    return [(each, share * weight) for best in kept for each, weight in _softmax(best, how.temperature)]


def better_half(
    rollouts: Sequence[Rollout], how: RestemSettings, levels: Mapping[str, int]
) -> dict[str, tuple[SelfEdit, ...]]:
    """The better half of each task's self-edits that ran, one more where they are odd in number; the best first."""
    return {
        task: tuple(each.self_edit for each, _ in best[: (len(best) + 1) // 2] if each.self_edit is not None)
        for task, best in rated(rollouts, how, levels).items()
    }


def rated(
    rollouts: Sequence[Rollout], how: RestemSettings, levels: Mapping[str, int]
) -> dict[str, list[tuple[Rollout, float]]]:
    """The self-edits of each task by their advantages, which tasks alike share; tasks in order, the best first."""
    by_task: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_task.setdefault(rollout.task, []).append(rollout)
    found = {task: advantages(made, how) for task, made in sorted(by_task.items())}
    return {
        task: sorted(shared, key=lambda each: (-each[1], each[0].key))
        for task, shared in over_tasks_alike(found, levels).items()
    }


def advantages(rollouts: Sequence[Rollout], how: RestemSettings) -> list[tuple[Rollout, float]]:
    """How much better than its round each self-edit of one task was that ran.

    A roll-out's advantage is its value minus the mean of those of its round that ran. Equal self-edits are one, the
    first of those that ran standing for its like: it has the mean of their advantages, failed ones included.
    """
    known = [each for each in rollouts if each.self_edit is not None and value(each, how) is not None]
    found: dict[SelfEdit, list[tuple[Rollout, float]]] = {}
    for group in _by_round(known):
        values = {each.key: value(each, how) or 0.0 for each in group}
        ran = [values[each.key] for each in group if each.ran]
        for each in group if ran else ():
            if each.self_edit is not None:
                found.setdefault(each.self_edit, []).append((each, values[each.key] - fmean(ran)))
    pooled = []
    for like in found.values():
        first = min((each for each, _ in like if each.ran), key=lambda each: each.key, default=None)
        if first is not None:
            pooled.append((first, fmean(advantage for _, advantage in like)))
    return pooled


def over_tasks_alike(
    found: Mapping[str, Sequence[tuple[Rollout, float]]], levels: Mapping[str, int]
) -> dict[str, list[tuple[Rollout, float]]]:
    """The advantages of each task's self-edits as means over the tasks that look as hard and tried the same.

    One roll-out says little of a self-edit. A task that looks one level harder or easier counts half; of a task without
    a level its own advantages stay.
    """
    known: dict[SelfEdit | None, list[tuple[int, float]]] = {}
    for task, own in found.items():
        for rollout, advantage in own if task in levels else ():
            known.setdefault(rollout.self_edit, []).append((levels[task], advantage))

    def mean(edit: SelfEdit | None, level: int) -> float:
        near = [(1.0 if at == level else 0.5, advantage) for at, advantage in known[edit] if abs(at - level) <= 1]
        return sum(weight * advantage for weight, advantage in near) / sum(weight for weight, _ in near)

    return {
        task: [(each, mean(each.self_edit, levels[task]) if task in levels else advantage) for each, advantage in own]
        for task, own in found.items()
    }


def _softmax(found: Sequence[tuple[Rollout, float]], temperature: float) -> list[Lesson]:
    """Weights by exp(advantage / temperature) whose sum is 1, of advantages with the greatest first."""
    weights = [exp((advantage - found[0][1]) / temperature) for _, advantage in found]
    return [(each, weight / sum(weights)) for (each, _), weight in zip(found, weights, strict=True)]


def _by_round(rollouts: Iterable[Rollout]) -> list[list[Rollout]]:
    """The roll-outs of each round of each run."""
    rounds: dict[tuple[str, int], list[Rollout]] = {}
    for rollout in rollouts:
        rounds.setdefault((rollout.run, rollout.round), []).append(rollout)
    return list(rounds.values())


def to_imitate(rollouts: Iterable[Rollout], how: RestemSettings, seed: int) -> list[Rollout]:
    """The roll-outs whose self-edits are to be imitated: rewarded, no two equal for a task, at most `per_task` of each.

    Where there are too many of a task, chance decides. They come in order of task, then of their keys. With `contrast`
    there are none of a task on which every self-edit that ran was rewarded: whatever is written there is as good as
    anything else, so to imitate it only pulls the policy back to where it was (as DAPO leaves such groups out, arXiv
    2503.14476, section 3.2).
    """
    by_task: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_task.setdefault(rollout.task, []).append(rollout)
    kept: list[Rollout] = []
    for task, made in sorted(by_task.items()):
        best = rewarded(made, how)
        if how.contrast and len(best) == sum(each.ran for each in made):
            continue
        distinct: dict[SelfEdit | None, Rollout] = {}
        for rollout in sorted(best, key=lambda each: each.key):
            distinct.setdefault(rollout.self_edit, rollout)
        chosen = list(distinct.values())
        if how.per_task is not None and len(chosen) > how.per_task:
            rng = random.Random(derived_seed(seed, task, "imitate"))
            chosen = sorted(rng.sample(chosen, how.per_task), key=lambda each: each.key)
        kept += chosen
    return kept


def rewarded(rollouts: Sequence[Rollout], how: RestemSettings) -> list[Rollout]:
    """The roll-outs of one task that earned their reward.

    By the solution: those that solved it; where gain is what counts, tasks that are solved in context were left out
    before. By left-out demonstrations: the best of each round, where it beats the round's median by more than `margin`.
    """
    ran = [each for each in rollouts if each.ran]
    if how.labelled:
        return [each for each in ran if each.reward == 1]
    best = []
    for group in _by_round(ran):
        scores = [each.held_out for each in group if each.held_out is not None]
        first = max(group, key=lambda each: (-float("inf") if each.held_out is None else each.held_out, -each.sample))
        if first.held_out is not None and first.held_out > median(scores) + how.margin:
            best.append(first)
    return best


def value(rollout: Rollout, how: RestemSettings) -> float | None:
    """What a roll-out was worth where the reward is graded; None where that was not measured.

    The mean of its reward and its chance to solve the task, 0 to 1, as the log-probability of the true outputs tells,
    less the price of its seconds of training and predicting. The chance alone varies less and is not fair: it is a mean
    over views, and few views that agree are worth more votes than many that differ. A failed one is worth `FAILED`.
    """
    if rollout.status is not Status.OK:
        return FAILED
    if rollout.solution_log_probability is None:
        return None
    seconds = sum(rollout.seconds.get(stage, 0.0) for stage in ("train", "predict"))
    chance = 1 / (1 + exp(EVEN - max(rollout.solution_log_probability, -100.0)))
    return fmean((chance, chance if rollout.reward is None else rollout.reward)) - how.price * seconds
