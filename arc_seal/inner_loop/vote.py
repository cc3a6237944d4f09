"""The vote: many views' candidates in, at most two distinct attempts out."""

from collections.abc import Sequence
from statistics import fmean

from arc_seal.arc.grid import Grid
from arc_seal.arc.reward import MAX_ATTEMPTS
from arc_seal.inner_loop.job import Attempt, Candidate


def vote(candidates: Sequence[Candidate], queries: int) -> tuple[tuple[Attempt, ...], ...]:
    """The best attempts for each query.

    Most votes first; among equals the higher mean log-probability; among those the grid's height and cells, so that
    the result never depends on the order of the candidates. Invalid candidates have no vote.

    Args:
        candidates: Of all queries, from any number of roll-outs.
        queries: How many queries the task has.
    """
    return tuple(
        _ranked([each for each in candidates if each.query == query])[:MAX_ATTEMPTS] for query in range(queries)
    )


def _ranked(candidates: Sequence[Candidate]) -> tuple[Attempt, ...]:
    scores: dict[Grid, list[float]] = {}
    for candidate in candidates:
        if candidate.grid is not None:
            scores.setdefault(candidate.grid, []).append(candidate.log_probability)
    attempts = (Attempt(grid, len(each), fmean(sorted(each))) for grid, each in scores.items())
    return tuple(sorted(attempts, key=_standing))


def _standing(attempt: Attempt) -> tuple[int, float, int, bytes]:
    return -attempt.votes, -attempt.log_probability, attempt.grid.height, attempt.grid.cells
