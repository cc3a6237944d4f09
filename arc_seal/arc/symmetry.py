"""The eight symmetries of the square, numbered, on arrays of cells.

    0  as it is                            4  mirrored left-right
    1  a quarter turn clockwise            5  mirrored along the diagonal from lower left to upper right
    2  a half turn                         6  mirrored up-down
    3  a quarter turn anticlockwise        7  transposed: mirrored along the diagonal from upper left to lower right

Symmetry 4 + n is symmetry 4 and then n quarter turns clockwise.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Cell = TypeVar("Cell", bound=np.generic)

_SYMMETRIES: tuple[Callable[[NDArray[Cell]], NDArray[Cell]], ...] = (
    lambda cells: cells,
    lambda cells: cells[::-1].T,
    lambda cells: cells[::-1, ::-1],
    lambda cells: cells.T[::-1],
    lambda cells: cells[:, ::-1],
    lambda cells: cells[::-1, ::-1].T,
    lambda cells: cells[::-1],
    lambda cells: cells.T,
)

_INVERSES = (0, 3, 2, 1, 4, 5, 6, 7)

SYMMETRIES = range(len(_SYMMETRIES))
"""Their numbers."""


def apply(cells: NDArray[Cell], symmetry: int) -> NDArray[Cell]:
    """The cells under a symmetry: [height, width] to the same, or to [width, height] under 1, 3, 5 and 7.

    It is a view of the array, which costs no copy and is as writable as the array itself.

    Raises:
        IndexError: When there is no symmetry of that number.
    """
    return _SYMMETRIES[_checked(symmetry)](cells)


def inverse(symmetry: int) -> int:
    """The number of the symmetry that undoes this one.

    Raises:
        IndexError: When there is no symmetry of that number.
    """
    return _INVERSES[_checked(symmetry)]


def _checked(symmetry: int) -> int:
    if symmetry < 0:  # Python would count from the end
        raise IndexError(f"there is no symmetry {symmetry}")
    return symmetry
