"""The eight symmetries: what each is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import SYMMETRIES, Grid, apply
from tests.arc.strategies import grids

symmetries = st.sampled_from(SYMMETRIES)

ABC = np.array([["a", "b", "c"], ["d", "e", "f"]])

PICTURES = ["abc/def", "da/eb/fc", "fed/cba", "cf/be/ad", "cba/fed", "fc/eb/da", "def/abc", "ad/be/cf"]
"""What symmetry 0, 1, 2... makes of ABC."""


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_each_symmetry_is_what_it_is_said_to_be(symmetry: int) -> None:
    assert "/".join("".join(row) for row in apply(ABC, symmetry)) == PICTURES[symmetry]


@given(grids(), symmetries)
def test_a_mirror_image_then_quarter_turns_clockwise(grid: Grid, symmetry: int) -> None:
    mirrored = np.fliplr(grid.array) if symmetry >= 4 else grid.array
    assert np.array_equal(apply(grid.array, symmetry), np.rot90(mirrored, -(symmetry % 4)))


def test_any_two_are_one_again() -> None:
    made = [apply(ABC, symmetry).tolist() for symmetry in SYMMETRIES]
    for first in SYMMETRIES:
        for second in SYMMETRIES:
            assert apply(apply(ABC, first), second).tolist() in made
    assert len({str(one) for one in made}) == len(SYMMETRIES)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_no_cell_is_copied(symmetry: int) -> None:
    assert np.shares_memory(apply(ABC, symmetry), ABC)


@pytest.mark.parametrize("number", [-1, 8])
def test_there_is_no_other(number: int) -> None:
    with pytest.raises(IndexError):
        apply(ABC, number)
