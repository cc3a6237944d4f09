"""The grid model's vocabulary: a token a colour, a handful of marks, and a token a byte for the self-edit's JSON.

    INPUT 0 0 3 ROW_END 0 3 0 END  OUTPUT 3 3 0 ROW_END 3 0 3 END   one demonstration
    ASK { " t o o l s " : ... } END                                 a self-edit

Input and output are spelt alike, end included, so that copying one from the other is the same at every token.
A token's place is (segment, row, column). Every grid, and every text, is a segment of its own; its opening mark stands
at row 0, column 0, cells from row 0, column 1 on, a row end behind the last cell of its row.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.grid import COLOURS, Grid, grid_tokens
from arc_seal.models.prompt import Encoded, GridSymbols, Prompt, Turn

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


# The codec of the grid model: grids one token a cell, text one token a byte, each at its place.
#
# Made of numpy alone: pretraining's data workers encode with the same functions and load no torch.


class Segment(NamedTuple):
    """One grid or one text, from its opening mark on.

    Attributes:
        ids: Token ids, [tokens].
        places: Row and column of each token, [2, tokens]; not to be written to.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.int64]


class GridCodec:
    """Encodes prompts for the grid model, which knows no language.

    - Grids of a user's turn are inputs. Where text stands among them (as when a self-edit is asked for) they are inputs
      and outputs in turn, and the text is not read. System turns are not read either.
    - A grid of the assistant's is an output, a text of the assistant's a self-edit.
    - A prompt that ends with a user's turn ends with the mark of what is asked for: an output behind grids, a self-edit
      behind text.
    """

    symbols = GridSymbols(tuple(range(COLOURS)), ROW_END, END)

    def encode(self, prompt: Prompt, *, target_all: bool = False) -> Encoded:
        """Encode a prompt; see `Codec.encode`.

        In a target turn all but the opening mark is target: whoever asks writes the mark.
        """
        segments, said = zip(*_segments(prompt), strict=True)
        ids, positions = join(segments)
        if target_all:
            target = np.ones(len(ids), np.bool_)
            target[0] = False
        else:
            marks = positions[2] == 0  # nothing else stands at column 0
            target = np.repeat(said, [len(segment.ids) for segment in segments]) & ~marks
        return Encoded(ids, positions, target)

    def next_position(self, position: NDArray[np.int64], token: int) -> NDArray[np.int64]:
        """See `grid_vocabulary.next_place`. [3] -> [3]."""
        return next_place(position, token)


def join(segments: Sequence[Segment]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segments behind one another: ids [tokens] and positions [3, tokens]. The first is segment 0."""
    ids = np.concatenate([segment.ids for segment in segments])
    positions = np.empty((AXES, len(ids)), np.int64)
    positions[0] = np.repeat(np.arange(len(segments)), [len(segment.ids) for segment in segments])
    np.concatenate([segment.places for segment in segments], axis=1, out=positions[1:])
    return ids, positions


def grid_segment(cells: NDArray[np.uint8], mark: int) -> Segment:
    """A grid: its mark, its rows with a row end between two of them, its end.

    Args:
        cells: Colours, [height, width].
        mark: `INPUT` or `OUTPUT`.
    """
    height, width = cells.shape
    ids = np.empty(grid_tokens(height, width), np.int64)
    rows = ids[1:].reshape(height, width + 1)
    rows[:, :-1] = cells
    rows[:, -1] = ROW_END
    ids[0], ids[-1] = mark, END
    return Segment(ids, _grid_places(height, width))


def text_segment(text: str) -> Segment:
    """A text: the mark that asks for it, its bytes, its end."""
    content = np.frombuffer(text.encode(), np.uint8)
    ids = np.empty(len(content) + 2, np.int64)
    ids[1:-1] = content
    ids[1:-1] += FIRST_BYTE
    ids[0], ids[-1] = ASK, END
    return Segment(ids, np.stack([np.zeros(len(ids), np.int64), np.arange(len(ids))]))


def mark_segment(mark: int) -> Segment:
    """A segment that has only been opened."""
    return Segment(np.array([mark], np.int64), np.zeros((2, 1), np.int64))


def _segments(prompt: Prompt) -> Iterator[tuple[Segment, bool]]:
    """What is read of a prompt, with whether it is said in a target turn."""
    for turn in prompt.turns:
        for segment in _turn(turn):
            yield segment, turn.target
    last = prompt.turns[-1]
    if last.role == "user":
        yield mark_segment(ASK if _has_text(last) else OUTPUT), False


def _turn(turn: Turn) -> Iterator[Segment]:
    if turn.role == "assistant":
        for part in turn.content:
            yield grid_segment(part.array, OUTPUT) if isinstance(part, Grid) else text_segment(part)
    if turn.role == "user":
        grids = [part for part in turn.content if isinstance(part, Grid)]
        marks = (INPUT, OUTPUT) if _has_text(turn) else (INPUT, INPUT)
        for index, grid in enumerate(grids):
            yield grid_segment(grid.array, marks[index % 2])


def _has_text(turn: Turn) -> bool:
    return any(isinstance(part, str) for part in turn.content)


@cache  # at most 900 shapes, in all less than 5 MB
def _grid_places(height: int, width: int) -> NDArray[np.int64]:
    """Rows and columns of the mark, then of every cell, row end and the end, [2, 1 + height * (width + 1)]."""
    rows, columns = np.indices((height, width + 1)).reshape(2, -1)
    places = np.zeros((2, 1 + rows.size), np.int64)
    places[:, 1:] = rows, columns + 1
    places.flags.writeable = False
    return places
