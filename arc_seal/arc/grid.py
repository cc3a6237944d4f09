"""The ARC grid: an immutable, hashable rectangle of colours.

A grid is checked once, where it is made; whoever holds one holds a valid one. Votes and deduplication
need equal grids to be equal keys, so the cells are kept as bytes and shown as a numpy array on demand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from arc_seal.errors import GridError

MAX_SIDE = 30
"""The longest side an ARC grid may have, in cells (arXiv 1911.01547, section III.1)."""

COLOURS = 10
"""ARC's colours are the integers 0 to 9."""


Sides = TypeVar("Sides", int, NDArray[np.int64])


@dataclass(frozen=True, slots=True)
class Grid:
    """A rectangle of colours, 1x1 to 30x30.

    Attributes:
        height: Number of rows.
        width: Number of columns.
        cells: Colours row by row, `height * width` bytes, each 0 to 9.

    Raises:
        GridError: When a side is out of bounds, the number of cells is wrong or a value is no colour.
    """

    height: int
    width: int
    cells: bytes

    def __post_init__(self) -> None:
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise GridError(f"a grid has 1x1 to {MAX_SIDE}x{MAX_SIDE} cells, not {self.height}x{self.width}")
        if len(self.cells) != self.height * self.width:
            raise GridError(f"{self.height}x{self.width} needs {self.height * self.width} cells, not {len(self.cells)}")
        if max(self.cells) >= COLOURS:
            raise GridError(f"a colour is 0 to {COLOURS - 1}, not {max(self.cells)}")

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Make a grid from rows of colours, top row first.

        Raises:
            GridError: When the rows are not a rectangle of plain integers 0 to 9 within 30x30.
        """
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise GridError(f"rows must be as long as one another, not {sorted({len(row) for row in rows})}")
        values = [value for row in rows for value in row]
        wrong = next((value for value in values if type(value) is not int or not 0 <= value < COLOURS), None)
        if wrong is not None:
            raise GridError(f"a colour is an integer 0 to {COLOURS - 1}, not {wrong!r}")
        return cls(len(rows), len(rows[0]), bytes(values))

    @classmethod
    def from_array(cls, array: NDArray[Any]) -> Self:
        """Make a grid from an integer array [height, width] of colours.

        Raises:
            GridError: When the array is not two-dimensional or not a grid.
        """
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
            raise GridError(f"a grid is a two-dimensional integer array, not {array.ndim}-dimensional {array.dtype}")
        height, width = array.shape
        if array.size and not (0 <= array.min() and array.max() < COLOURS):
            raise GridError(f"colours are 0 to {COLOURS - 1}, not {array.min()} to {array.max()}")
        return cls(height, width, array.astype(np.uint8).tobytes())

    @property
    def array(self) -> NDArray[np.uint8]:
        """The colours as a read-only array [height, width]."""
        return np.frombuffer(self.cells, dtype=np.uint8).reshape(self.height, self.width)

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The colours as rows, top row first."""
        return tuple(tuple(self.cells[start : start + self.width]) for start in range(0, len(self.cells), self.width))

    def mapped(self, change: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> "Grid":
        """The grid that `change` makes of this one's array.

        Raises:
            GridError: When the result is not a grid.
        """
        return Grid.from_array(change(self.array))

    def __str__(self) -> str:
        """Rows of digits, one row a line."""
        return "\n".join("".join(map(str, row)) for row in self.rows)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In JSON a grid is a list of rows, as in ARC's own files."""

        def parse(value: Any) -> Grid:
            try:
                return value if isinstance(value, Grid) else Grid.from_rows(value)
            except GridError as error:
                raise ValueError(str(error)) from error

        return core_schema.no_info_plain_validator_function(
            parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda grid: [list(row) for row in grid.rows]
            ),
        )


def grid_tokens(height: Sides, width: Sides) -> Sides:
    """Tokens of a grid as the grid model reads it: its mark, its cells, and a token behind each row.

    Args:
        height: Rows of one grid, or of many, as an array of any shape.
        width: Columns, likewise.
    """
    return 1 + height * (width + 1)


# The eight symmetries of the square, numbered, on arrays of cells.
#
#     0  as it is                            4  mirrored left-right
#     1  a quarter turn clockwise            5  mirrored along the diagonal from lower left to upper right
#     2  a half turn                         6  mirrored up-down
#     3  a quarter turn anticlockwise        7  transposed: mirrored along the diagonal from upper left to lower right
#
# Symmetry 4 + n is symmetry 4 and then n quarter turns clockwise.

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
