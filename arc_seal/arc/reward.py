"""The grid evaluator: how good a task's attempts are. The one place where attempts and solution meet."""

from collections.abc import Sequence

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution

MAX_ATTEMPTS = 2
"""How many attempts at a test input count (ARC Prize's rule since 2024; SEAL's too)."""


def binary_reward(attempts: Sequence[Sequence[Grid]], solution: Solution) -> int:
    """1 when every test output equals one of its attempts in every cell, else 0 (arXiv 2506.10943, section 4.2).

    Args:
        attempts: For each test input, in order, the attempts, best first; only the first two count.
        solution: The test outputs.

    Raises:
        ValueError: When there are not as many lists of attempts as test outputs.
    """
    return int(all(solved_outputs(attempts, solution)))


def mean_score(attempts: Sequence[Sequence[Grid]], solution: Solution) -> float:
    """The share of test outputs that equal one of their attempts, 0 to 1: ARC Prize's official score of a task.

    Args:
        attempts: For each test input, in order, the attempts, best first; only the first two count.
        solution: The test outputs.

    Raises:
        ValueError: When there are not as many lists of attempts as test outputs.
    """
    solved = solved_outputs(attempts, solution)
    return sum(solved) / len(solved)


def solved_outputs(attempts: Sequence[Sequence[Grid]], solution: Solution) -> tuple[bool, ...]:
    """For each test output, whether one of its first two attempts equals it in every cell.

    Raises:
        ValueError: When there are not as many lists of attempts as test outputs.
    """
    pairs = zip(attempts, solution.outputs, strict=True)
    return tuple(output in tuple(made[:MAX_ATTEMPTS]) for made, output in pairs)
