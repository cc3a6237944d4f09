"""How sure a figure is: intervals of shares, of differences, and of how well a score ranks roll-outs.

Roll-outs of one task resemble each other, so five of each of eight tasks say less than forty tasks would. The bootstrap
here therefore draws tasks, each with all its roll-outs (Field and Welsh 2007, "Bootstrapping clustered data", Journal
of the Royal Statistical Society B 69: 369-390), and every task weighs the same, however many roll-outs it has. The
tasks are drawn in the order of their names, so no result depends on the order in which roll-outs ended.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
"""Draws of a bootstrap: its bounds then vary by far less than they are wide (Efron and Tibshirani 1993 use 1000)."""

PERCENTILES = (0.025, 0.975)
"""The bounds of a 95 % interval."""

NORMAL_95 = 1.96
"""Standard deviations from the middle of a normal distribution that hold 95 % of it, to two decimals."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval.

    Attributes:
        mean: The figure as it was measured.
        low: The interval's lower bound.
        high: Its upper bound.
    """

    mean: float
    low: float
    high: float


def wilson(correct: int, total: int, z: float = NORMAL_95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927, Journal of the American Statistical Association 22: 209-212).

    It takes all that is counted as independent: of several roll-outs a task, `bootstrap_over_tasks` says more.

    Args:
        correct: How many are right.
        total: Of how many; of none, every share is possible.
        z: How wide, in standard deviations; 95 % unless given.

    Returns:
        Lower and upper bound, 0 to 1.

    Raises:
        ValueError: When more are right than there are, or fewer than none.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"expected 0 <= correct <= total, found {correct} of {total}")
    if total == 0:
        return 0.0, 1.0
    middle = 2 * correct + z * z
    spread = z * math.sqrt(z * z + 4 * correct * (total - correct) / total)
    width = 2 * (total + z * z)
    return max(0.0, (middle - spread) / width), min(1.0, (middle + spread) / width)


def bootstrap_over_tasks(marks: Mapping[str, Sequence[float]], seed: int = 0, draws: int = DRAWS) -> Interval:
    """The mean over tasks of each task's mean mark, with its bootstrap interval.

    The bounds are percentiles of the means of drawn sets of tasks (Efron 1979, Annals of Statistics 7: 1-26; Efron and
    Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13). Of few tasks they are too close together: of eight
    by about a fifth, as the variance is one of eighths instead of sevenths, and 1.96 stands where Student's t has 2.36
    (Hesterberg 2015, The American Statistician 69: 371-386). They say nothing where all tasks have the same mean, or
    where there is one task only: both are then the mean itself.

    Args:
        marks: By task the marks of its roll-outs, such as 1 for solved and 0 for not; as many as there are.
        seed: Seed of the draws.
        draws: How many sets of tasks are drawn.

    Raises:
        ValueError: When there is no task, or a task without marks.
    """
    means = _task_means(marks, sorted(marks))
    return _interval(float(means.mean()), _weights(len(means), seed, draws) @ means / len(means))


def paired_difference(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], seed: int = 0, draws: int = DRAWS
) -> Interval:
    """By how much the first is better than the second: the mean over tasks of the difference of the tasks' means.

    Each task is compared with itself, so how hard the tasks are does not widen the interval; it is a bootstrap over
    tasks as in `bootstrap_over_tasks`. Roll-outs of several seeds are pooled: a task's marks are those of all seeds
    together. The interval thus speaks for other tasks like these, under these very seeds, and a side may have more
    roll-outs than the other.

    Args:
        first: By task the marks of its roll-outs, such as those of the trained policy.
        second: The same tasks' marks, such as those of the untrained policy.
        seed: Seed of the draws.
        draws: How many sets of tasks are drawn.

    Raises:
        ValueError: When the tasks are not the same, when there is none, or one is without marks.
    """
    if first.keys() != second.keys():
        raise ValueError(f"expected the same tasks twice, found one side only: {sorted(first.keys() ^ second.keys())}")
    tasks = sorted(first)
    differences = _task_means(first, tasks) - _task_means(second, tasks)
    return _interval(float(differences.mean()), _weights(len(tasks), seed, draws) @ differences / len(tasks))


def auc(
    scores: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[bool]], seed: int = 0, draws: int = DRAWS
) -> Interval | None:
    """How well a score tells good roll-outs from bad: the chance that a good one's is higher than a bad one's.

    This is the area under the receiver operating characteristic: Mann and Whitney's U (1947, Annals of Mathematical
    Statistics 18: 50-60) divided by the number of pairs (Hanley and McNeil 1982, Radiology 143: 29-36). Equal scores
    count half. Pairs are made of all roll-outs, so a score that only tells easy tasks from hard ones ranks well here;
    `auc_within_tasks` does not reward that. The interval is a bootstrap over tasks; drawn sets of tasks without a pair
    are left out of it, and were all of them, it is 0 to 1.

    Args:
        scores: By task the scores of its roll-outs, in any unit; infinite ones are ranked like others.
        labels: By task whether each of them is good, in the same order.
        seed: Seed of the draws.
        draws: How many sets of tasks are drawn.

    Returns:
        1 for a perfect score, 0.5 for a useless one; None when no roll-out is good, or none is bad.

    Raises:
        ValueError: When scores and labels are not of the same tasks and numbers, or a score is not a number.
    """
    won, pairs = _comparisons(scores, labels)
    if not pairs.any():
        return None
    weights = _weights(len(scores), seed, draws)
    return _share(won, pairs, ((weights @ won) * weights).sum(axis=1), ((weights @ pairs) * weights).sum(axis=1))


def auc_within_tasks(
    scores: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[bool]], seed: int = 0, draws: int = DRAWS
) -> Interval | None:
    """As `auc`, of pairs of the same task alone: how well the score chooses among one task's roll-outs.

    The pairs of all tasks are pooled, so a task counts by its pairs of a good and a bad roll-out; one without such a
    pair says nothing. Arguments and errors are those of `auc`.

    Returns:
        1 for a perfect score, 0.5 for a useless one; None when no task has both a good and a bad roll-out.
    """
    won, pairs = (matrix.diagonal() for matrix in _comparisons(scores, labels))
    if not pairs.any():
        return None
    weights = _weights(len(scores), seed, draws)
    return _share(won, pairs, weights @ won, weights @ pairs)


def _task_means(marks: Mapping[str, Sequence[float]], tasks: Sequence[str]) -> NDArray[np.float64]:
    """Each task's mean mark; shape (tasks,)."""
    empty = [task for task in tasks if not marks[task]]
    if empty or not tasks:
        raise ValueError(f"expected marks of every task, found none of {empty or 'any'}")
    return np.array([np.mean(marks[task]) for task in tasks], np.float64)


def _weights(tasks: int, seed: int, draws: int) -> NDArray[np.float64]:
    """How often each task is in each drawn set, which is as large as what it is drawn from; shape (draws, tasks)."""
    drawn = np.random.default_rng(seed).integers(tasks, size=(draws, tasks))
    flat = drawn + tasks * np.arange(draws)[:, None]
    return np.bincount(flat.ravel(), minlength=draws * tasks).reshape(draws, tasks).astype(np.float64)


def _interval(mean: float, drawn: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(drawn, PERCENTILES)
    return Interval(mean, float(low), float(high))


def _comparisons(
    scores: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[bool]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pairs of a good roll-out of task i and a bad one of task j: those that the good one wins, and all of them.

    Returns:
        Two arrays of shape (tasks, tasks), tasks in the order of their names.
    """
    tasks = sorted(scores)
    good, bad = _parted(scores, labels, tasks)
    owners = np.repeat(np.arange(len(tasks)), [len(each) for each in good])
    all_good = np.concatenate([np.empty(0), *good])
    won = np.zeros((len(tasks), len(tasks)))
    for column, rivals in enumerate(bad):
        beaten = (np.searchsorted(rivals, all_good, "left") + np.searchsorted(rivals, all_good, "right")) / 2
        won[:, column] = np.bincount(owners, weights=beaten, minlength=len(tasks))
    pairs = np.outer([len(each) for each in good], [len(each) for each in bad]).astype(np.float64)
    return won, pairs


def _parted(
    scores: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[bool]], tasks: Sequence[str]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """By task the sorted scores of its good roll-outs, and those of its bad ones."""
    if scores.keys() != labels.keys() or any(len(scores[task]) != len(labels[task]) for task in tasks):
        raise ValueError("expected a label for every score of every task")
    values = [np.array(scores[task], np.float64) for task in tasks]
    marked = [np.array(labels[task], np.bool_) for task in tasks]
    if any(np.isnan(each).any() for each in values):
        raise ValueError("expected scores that can be ranked, found one that is not a number")
    pairs = list(zip(values, marked, strict=True))
    return [np.sort(each[good]) for each, good in pairs], [np.sort(each[~good]) for each, good in pairs]


def _share(
    won: NDArray[np.float64],
    pairs: NDArray[np.float64],
    drawn_won: NDArray[np.float64],
    drawn_pairs: NDArray[np.float64],
) -> Interval:
    """The share of pairs that are won, with its interval."""
    mean, some = float(won.sum() / pairs.sum()), drawn_pairs > 0
    return _interval(mean, drawn_won[some] / drawn_pairs[some]) if some.any() else Interval(mean, 0.0, 1.0)
