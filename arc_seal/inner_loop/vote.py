"""The vote: many views' candidates in, at most two distinct attempts out."""

from collections.abc import Sequence
from math import exp, fsum
from statistics import fmean

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import MAX_ATTEMPTS
from arc_seal.inner_loop.job import Attempt, Candidate


def vote(candidates: Sequence[Candidate], queries: int) -> tuple[tuple[Attempt, ...], ...]:
    """The best attempts for each query.

    Each candidate votes for its grid. A vote weighs 1, or exp(score) where candidates were scored under every view:
    the geometric mean of the grid's probabilities, a product of experts (arXiv 2505.07859). The greatest weight comes
    first; among equals the higher mean log-probability; among those the grid's height and cells, so that the result
    never depends on the order of the candidates. Invalid candidates have no vote.

    Args:
        candidates: Of all queries, from any number of roll-outs.
        queries: How many queries the task has.
    """
    return tuple(
        _ranked([each for each in candidates if each.query == query])[:MAX_ATTEMPTS] for query in range(queries)
    )


def _ranked(candidates: Sequence[Candidate]) -> tuple[Attempt, ...]:
    found: dict[Grid, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.grid is not None:
            found.setdefault(candidate.grid, []).append(candidate)
    return tuple(sorted((_attempt(grid, each) for grid, each in found.items()), key=standing))


def _attempt(grid: Grid, votes: Sequence[Candidate]) -> Attempt:
    log_probability = fmean(sorted(vote.log_probability for vote in votes))
    return Attempt(
        grid, len(votes), log_probability, fsum(1.0 if vote.score is None else exp(vote.score) for vote in votes)
    )


def standing(attempt: Attempt) -> tuple[float, float, int, bytes]:
    """Sorts attempts, the best first."""
    return -attempt.weight, -attempt.log_probability, attempt.grid.height, attempt.grid.cells
