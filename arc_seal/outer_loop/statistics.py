"""How sure a figure is: intervals of shares, of differences, and of how well a score ranks roll-outs.

Roll-outs of one task resemble each other, so five of each of eight tasks say less than forty tasks would. The bootstrap
therefore draws tasks, each with all its roll-outs (Field and Welsh 2007, "Bootstrapping clustered data", Journal of the
Royal Statistical Society B 69: 369-390); every task weighs the same. Tasks are drawn in the order of their names, so no
result depends on the order in which roll-outs ended.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
"""Draws of a bootstrap: its bounds then vary by far less than they are wide (Efron and Tibshirani 1993 use 1000)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure as it was measured, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927, Journal of the American Statistical Association 22: 209-212).

    It takes all that is counted as independent: of several roll-outs a task, `bootstrap_over_tasks` says more. The
    bounds are 0 to 1; of a total of 0, every share is possible. ValueError unless 0 <= correct <= total.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"expected 0 <= correct <= total, found {correct} of {total}")
    if total == 0:
        return 0.0, 1.0
    z = 1.96  # standard deviations that hold 95 % of a normal distribution
    middle, width = 2 * correct + z * z, 2 * (total + z * z)
    spread = z * math.sqrt(z * z + 4 * correct * (total - correct) / total)
    return max(0.0, (middle - spread) / width), min(1.0, (middle + spread) / width)


def bootstrap_over_tasks(marks: Mapping[str, Sequence[float]], seed: int = 0, draws: int = DRAWS) -> Interval:
    """The mean over tasks of each task's mean mark, such as 1 for solved and 0 for not, with its bootstrap interval.

    The bounds are percentiles of the means of drawn sets of tasks (Efron 1979, Annals of Statistics 7: 1-26; Efron and
    Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13). Of few tasks they are too close together: of eight
    by about a fifth, as the variance is one of eighths instead of sevenths, and 1.96 stands where Student's t has 2.36
    (Hesterberg 2015, The American Statistician 69: 371-386). They say nothing where all tasks have the same mean, or
    where there is one task only: both are then the mean itself. ValueError where there is no task or one without marks.
    """
    return paired_difference(marks, dict.fromkeys(marks, (0.0,)), seed, draws)


def paired_difference(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], seed: int = 0, draws: int = DRAWS
) -> Interval:
    """By how much the first is better than the second: the mean over tasks of the difference of the tasks' means.

    Each task is compared with itself, so how hard the tasks are does not widen the interval, which is that of
    `bootstrap_over_tasks`. A task's marks are those of all seeds together: the interval speaks for other tasks like
    these under these very seeds, and a side may have more roll-outs than the other. ValueError where the tasks are not
    the same, there is none, or one is without marks.
    """
    if first.keys() != second.keys():
        raise ValueError(f"expected the same tasks twice, found one side only: {sorted(first.keys() ^ second.keys())}")
    differences = _task_means(first) - _task_means(second)
    drawn = _weights(len(differences), seed, draws) @ differences / len(differences)
    return _interval(float(differences.mean()), drawn)


def auc(
    scores: Mapping[str, Sequence[float]],
    labels: Mapping[str, Sequence[bool]],
    seed: int = 0,
    draws: int = DRAWS,
    within_tasks: bool = False,
) -> Interval | None:
    """How well a score tells good roll-outs from bad: the chance that a good one's is higher than a bad one's.

    1 is a perfect score and 0.5 a useless one; None where no roll-out is good, or none is bad. By task there are the
    scores of its roll-outs, infinite ones ranked like others, and whether each is good; ValueError where these are not
    of the same tasks and numbers, or a score is not a number.

    This is the area under the receiver operating characteristic: Mann and Whitney's U (1947, Annals of Mathematical
    Statistics 18: 50-60) divided by the number of pairs (Hanley and McNeil 1982, Radiology 143: 29-36). Equal scores
    count half. Pairs are made of all roll-outs, so a score that only tells easy tasks from hard ones ranks well here;
    `auc_within_tasks` does not reward that. The interval is a bootstrap over tasks; drawn sets of tasks without a pair
    are left out of it, and were all of them, it is 0 to 1.
    """
    won, pairs = _comparisons(scores, labels)
    return _share(won.diagonal(), pairs.diagonal(), seed, draws) if within_tasks else _share(won, pairs, seed, draws)


auc_within_tasks = partial(auc, within_tasks=True)
"""As `auc`, of pairs of the same task alone: how well the score chooses among one task's roll-outs.

The pairs of all tasks are pooled, so a task counts by its pairs of a good and a bad roll-out; None without one.
"""


def _task_means(marks: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """Each task's mean mark, tasks in the order of their names; shape (tasks,)."""
    tasks = sorted(marks)
    empty = [task for task in tasks if not marks[task]]
    if empty or not tasks:
        raise ValueError(f"expected marks of every task, found none of {empty or 'any'}")
    return np.array([np.mean(marks[task]) for task in tasks], np.float64)


def _weights(tasks: int, seed: int, draws: int) -> NDArray[np.float64]:
    """How often each task is in each drawn set, which is as large as what it is drawn from; shape (draws, tasks)."""
    drawn = np.random.default_rng(seed).integers(tasks, size=(draws, tasks)) + tasks * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * tasks).reshape(draws, tasks).astype(np.float64)


def _interval(mean: float, drawn: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(mean, float(low), float(high))


def _comparisons(
    scores: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[bool]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pairs of a good roll-out of task i and a bad one of task j, (tasks, tasks): won by the good one, and all."""
    tasks = sorted(scores)
    if scores.keys() != labels.keys() or any(len(scores[task]) != len(labels[task]) for task in tasks):
        raise ValueError("expected a label for every score of every task")
    owners = np.array([number for number, task in enumerate(tasks) for _ in scores[task]], np.intp)
    values = np.array([score for task in tasks for score in scores[task]], np.float64)
    good = np.array([label for task in tasks for label in labels[task]], np.bool_)
    if np.isnan(values).any():
        raise ValueError("expected scores that can be ranked, found one that is not a number")
    winners, losers = (np.bincount(owners[side], minlength=len(tasks)) for side in (good, ~good))
    won = np.zeros((len(tasks), len(tasks)))
    for column in range(len(tasks)):
        rivals = np.sort(values[~good & (owners == column)])
        beaten = np.searchsorted(rivals, values[good], "left") + np.searchsorted(rivals, values[good], "right")
        won[:, column] = np.bincount(owners[good], weights=beaten / 2, minlength=len(tasks))
    return won, np.outer(winners, losers).astype(np.float64)


def _share(won: NDArray[np.float64], pairs: NDArray[np.float64], seed: int, draws: int) -> Interval | None:
    """The share of pairs won; None without any. Shape (tasks,) are a task's own, (tasks, tasks) all with all."""
    if not pairs.any():
        return None
    weights = _weights(len(pairs), seed, draws)
    drawn_won, drawn_pairs = (
        weights @ each if each.ndim == 1 else ((weights @ each) * weights).sum(axis=1) for each in (won, pairs)
    )
    mean, some = float(won.sum() / pairs.sum()), drawn_pairs > 0
    return _interval(mean, drawn_won[some] / drawn_pairs[some]) if some.any() else Interval(mean, 0.0, 1.0)
