"""The grid model's vocabulary: a token a colour, a handful of marks, and a token a byte for the self-edit's JSON.

    INPUT 0 0 3 ROW_END 0 3 0 END  OUTPUT 3 3 0 ROW_END 3 0 3 END   one demonstration
    ASK { " t o o l s " : ... } END                                 a self-edit

Input and output are spelt alike, end included, so that copying one from the other is the same at every token.
A token's place is (segment, row, column). Every grid, and every text, is a segment of its own; its opening mark stands
at row 0, column 0, cells from row 0, column 1 on, a row end behind the last cell of its row.
"""

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.grid import COLOURS

ROW_END = COLOURS
"""Between two rows."""

END = COLOURS + 1
"""After the last row of a grid, and after the last byte of a text."""

INPUT = COLOURS + 2
"""Opens a grid that is given."""

OUTPUT = COLOURS + 3
"""Opens a grid that is answered."""

ASK = COLOURS + 4
"""Opens a self-edit."""

PAD = COLOURS + 5
"""Fills a batch; never read by any real token."""

FIRST_BYTE = 16
"""Byte b of UTF-8 text is token FIRST_BYTE + b."""

VOCABULARY = FIRST_BYTE + 256

AXES = 3
"""Segment, row, column."""


def next_place(place: NDArray[np.int64], token: int) -> NDArray[np.int64]:
    """Where the token after `token` stands: one column on, or at the start of the next row. [3] -> [3].

    A mark that opens a segment is placed by whoever opens it.
    """
    segment, row, column = place
    if token == ROW_END:
        return np.array([segment, row + 1, 1], np.int64)
    return np.array([segment, row, column + 1], np.int64)
