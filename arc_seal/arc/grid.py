"""The ARC grid: an immutable, hashable rectangle of colours, and the eight symmetries of the square."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from arc_seal.arc.html import figure
from arc_seal.errors import GridError
from arc_seal.settings import joined

MAX_SIDE = 30
"""The longest side an ARC grid may have, in cells (arXiv 1911.01547, section III.1)."""

COLOURS = 10
"""ARC's colours are the integers 0 to 9."""

Sides = TypeVar("Sides", int, NDArray[np.int64])
Cell = TypeVar("Cell", bound=np.generic)
Rows = Sequence[Sequence[int]] | NDArray[Any]

_set = object.__setattr__  # what a frozen dataclass sets its own fields with


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Grid:
    """A rectangle of colours, 1x1 to 30x30: `Grid([[1, 2], [3, 4]])`; GridError where it would be none.

    The package itself gives height, width and `cells`, row by row and a byte each. Votes and deduplication need equal
    grids to be equal keys, so the cells are bytes, and an array on demand.
    """

    height: int
    width: int
    cells: bytes

    @overload
    def __init__(self, rows: Rows, /) -> None: ...
    @overload
    def __init__(self, height: int, width: int, cells: bytes) -> None: ...
    def __init__(self, height: Any, width: Any = None, cells: Any = None) -> None:
        if cells is None:
            made = Grid.from_rows(height)
            height, width, cells = made.height, made.width, made.cells
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            raise GridError(f"a grid has 1x1 to {MAX_SIDE}x{MAX_SIDE} cells, not {height}x{width}")
        if len(cells) != height * width:
            raise GridError(f"{height}x{width} needs {height * width} cells, not {len(cells)}")
        if max(cells) >= COLOURS:
            raise GridError(f"a colour is 0 to {COLOURS - 1}, not {max(cells)}")
        _set(self, "height", height)
        _set(self, "width", width)
        _set(self, "cells", cells)

    @classmethod
    def from_rows(cls, rows: Rows) -> Self:
        """Make a grid from rows of integers 0 to 9, top row first, lists or an array; GridError where they are none."""
        rows = rows.tolist() if isinstance(rows, np.ndarray) else rows
        if fault := _fault(rows):
            place, expected, found = fault
            raise GridError(f"{joined(place) or 'rows'}: expected {expected}, found {found!r}")
        return cls(len(rows), len(rows[0]), b"".join(map(bytes, rows)))

    @classmethod
    def from_array(cls, array: NDArray[Any]) -> Self:
        """Make a grid from an integer array [height, width] of colours; GridError where it is none."""
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
        """The grid that `change` makes of this one's array; GridError where that is none."""
        return Grid.from_array(change(self.array))

    def __repr__(self) -> str:
        return f"Grid({[list(row) for row in self.rows]})"

    def __str__(self) -> str:
        """Rows of digits, one row a line."""
        return "\n".join("".join(map(str, row)) for row in self.rows)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return figure(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In JSON a grid is a list of rows, as in ARC's own files; pydantic's errors name the row and the cell."""

        def parse(value: Any) -> Grid:
            if isinstance(value, Grid):
                return value
            if fault := _fault(value):
                place, expected, found = fault
                kind = PydanticCustomError("grid", f"Input should be {expected}")
                raise ValidationError.from_exception_data("Grid", [InitErrorDetails(type=kind, loc=place, input=found)])
            return Grid.from_rows(value)

        rows = core_schema.plain_serializer_function_ser_schema(lambda grid: [list(row) for row in grid.rows])
        return core_schema.no_info_plain_validator_function(parse, serialization=rows)


def _fault(rows: Any) -> tuple[tuple[int, ...], str, Any] | None:
    """What first keeps rows from being a grid: its place, what is expected there, and the value or number found."""
    if not isinstance(rows, list | tuple):
        return (), "a list of rows", rows
    if not 1 <= len(rows) <= MAX_SIDE:
        return (), f"1 to {MAX_SIDE} rows", len(rows)
    for y, row in enumerate(rows):
        if not isinstance(row, list | tuple):
            return (y,), "a row, a list of integers", row
        if not 1 <= len(row) <= MAX_SIDE:
            return (y,), f"1 to {MAX_SIDE} cells", len(row)
        if len(row) != len(rows[0]):
            return (y,), f"{len(rows[0])} cells, as in the first row", len(row)
        for x, cell in enumerate(row):
            if not (type(cell) is int or isinstance(cell, np.integer)) or not 0 <= cell < COLOURS:
                return (y, x), f"an integer 0 to {COLOURS - 1}", cell
    return None


def grid_tokens(height: Sides, width: Sides) -> Sides:
    """Tokens of grids of these sides as the grid model reads one: its mark, its cells, and a token behind each row."""
    return 1 + height * (width + 1)


_SYMMETRIES: tuple[Callable[[NDArray[Cell]], NDArray[Cell]], ...] = (
    lambda cells: cells,  # 0: as it is
    lambda cells: cells[::-1].T,  # 1: a quarter turn clockwise
    lambda cells: cells[::-1, ::-1],  # 2: a half turn
    lambda cells: cells.T[::-1],  # 3: a quarter turn anticlockwise
    lambda cells: cells[:, ::-1],  # 4: mirrored left-right; 4 + n is this and then n quarter turns clockwise
    lambda cells: cells[::-1, ::-1].T,  # 5: mirrored along the diagonal from lower left to upper right
    lambda cells: cells[::-1],  # 6: mirrored up-down
    lambda cells: cells.T,  # 7: transposed: mirrored along the diagonal from upper left to lower right
)

SYMMETRIES = range(len(_SYMMETRIES))
"""The numbers of the symmetries."""


def apply(cells: NDArray[Cell], symmetry: int) -> NDArray[Cell]:
    """The cells under a symmetry: [height, width] to the same, or to [width, height] under 1, 3, 5 and 7.

    A view of the array, no copy, and as writable as the array. IndexError where there is no symmetry of that number.
    """
    if symmetry < 0:  # Python would count from the end
        raise IndexError(f"there is no symmetry {symmetry}")
    return _SYMMETRIES[symmetry](cells)
