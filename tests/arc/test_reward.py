"""The grid evaluator."""

import pytest
from hypothesis import given

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution, Task, binary_reward, mean_score, solved_outputs
from tests.arc.strategies import solved_tasks

A, B, C = (Grid.from_rows([[colour, 0]]) for colour in (1, 2, 3))
TURNED = Grid.from_rows([[1], [0]])


@pytest.mark.parametrize(
    ("attempts", "reward", "mean"),
    [
        ([[A], [B]], 1, 1.0),
        ([[C, A], [B, C]], 1, 1.0),
        ([[A], [A]], 0, 0.5),
        ([[A], []], 0, 0.5),
        ([[B], [A]], 0, 0.0),
        ([[B, C, A], [B]], 0, 0.5),
        ([[TURNED], [B]], 0, 0.5),
        ([[], []], 0, 0.0),
    ],
    ids=["first", "either", "half", "none for one", "swapped", "third counts not", "shape counts", "nothing"],
)
def test_rewards(attempts: list[list[Grid]], reward: int, mean: float) -> None:
    solution = Solution("aa", (A, B))
    assert binary_reward(attempts, solution) == reward
    assert mean_score(attempts, solution) == mean


@pytest.mark.parametrize("attempts", [[], [[A]], [[A], [B], [C]]])
def test_a_wrong_number_of_test_inputs_is_a_programming_error(attempts: list[list[Grid]]) -> None:
    for score in (binary_reward, mean_score, solved_outputs):
        with pytest.raises(ValueError, match="zip"):
            score(attempts, Solution("aa", (A, B)))


@given(solved_tasks())
def test_the_solution_itself_is_rewarded_and_one_changed_cell_is_not(entry: tuple[Task, Solution]) -> None:
    outputs = entry[1].outputs
    last = outputs[-1]
    changed = Grid(last.height, last.width, bytes([*last.cells[:-1], (last.cells[-1] + 1) % 10]))
    assert binary_reward([[output] for output in outputs], entry[1]) == 1
    attempts = [[output] for output in (*outputs[:-1], changed)]
    assert binary_reward(attempts, entry[1]) == 0
    assert mean_score(attempts, entry[1]) == pytest.approx(1 - 1 / len(outputs))
    assert solved_outputs(attempts, entry[1]) == (*[True] * (len(outputs) - 1), False)
