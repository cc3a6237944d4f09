"""Objects, connected cells of one colour, and how a rule selects some of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from arc_seal.pretraining.rules.catalogue import Cells, Mask, Style, Unfit


@dataclass(frozen=True, slots=True)
class Object:
    """Connected cells of one colour: where their box begins, which of its cells they are [height, width]."""

    top: int
    left: int
    mask: Mask
    colour: int
    edge: bool  # whether it touches the grid's border

    @property
    def size(self) -> int:
        """Its number of cells."""
        return int(self.mask.sum())

    @property
    def bottom(self) -> int:
        """The row behind its last one."""
        return self.top + len(self.mask)

    @property
    def right(self) -> int:
        """The column behind its last one."""
        return self.left + int(self.mask.shape[1])

    @property
    def holes(self) -> int:
        """How many areas it encloses."""
        outside = np.zeros((self.mask.shape[0] + 2, self.mask.shape[1] + 2), np.int64)
        outside[1:-1, 1:-1] = self.mask
        return len(components(1 - outside, 0, diagonal=False)) - 1

    def box(self, cells: Cells) -> Cells:
        """A view of the cells in its box."""
        return cells[self.top : self.bottom, self.left : self.right]


def components(cells: Cells, background: int, diagonal: bool = True) -> list[Object]:
    """The objects of a grid from its top row on; cells also hang together by their corners where `diagonal`."""
    height, width = cells.shape
    padded = np.full((height + 2, width + 2), background)
    padded[1:-1, 1:-1] = cells
    flat, row = padded.ravel().tolist(), width + 2
    steps = (1, -1, row, -row, row + 1, row - 1, -row + 1, -row - 1)[: 8 if diagonal else 4]
    found = []
    for start, colour in enumerate(flat):
        if colour == background:
            continue
        flat[start], members = background, [start]
        for member in members:  # grows meanwhile
            for step in steps:
                if flat[member + step] == colour:
                    flat[member + step] = background
                    members.append(member + step)
        found.append(_object(members, row, colour, cells.shape))
    return found


def _object(members: list[int], row: int, colour: int, shape: tuple[int, ...]) -> Object:
    ys, xs = [member // row - 1 for member in members], [member % row - 1 for member in members]
    top, bottom, left, right = min(ys), max(ys), min(xs), max(xs)
    mask = np.zeros((bottom - top + 1, right - left + 1), bool)
    mask[[y - top for y in ys], [x - left for x in xs]] = True
    return Object(top, left, mask, colour, top == 0 or left == 0 or bottom + 1 == shape[0] or right + 1 == shape[1])


EXTREMES: dict[str, Callable[[Object], int]] = {
    "largest": lambda one: one.size,
    "smallest": lambda one: -one.size,
    "top": lambda one: -one.top,
    "bottom": lambda one: one.bottom,
    "left": lambda one: -one.left,
    "right": lambda one: one.right,
    "tallest": lambda one: one.mask.shape[0],
    "widest": lambda one: one.mask.shape[1],
    "most holes": lambda one: one.holes,
}
"""What the one object that is selected has most of."""

KINDS: dict[str, Callable[[Object, list[Object]], bool]] = {
    "holed": lambda one, _: one.holes > 0,
    "whole": lambda one, _: one.holes == 0,
    "full": lambda one, _: bool(one.mask.all()),
    "not full": lambda one, _: not one.mask.all(),
    "symmetric": lambda one, _: np.array_equal(one.mask, one.mask[:, ::-1]),
    "asymmetric": lambda one, _: not np.array_equal(one.mask, one.mask[:, ::-1]),
    "at the edge": lambda one, _: one.edge,
    "not at the edge": lambda one, _: not one.edge,
    "upright": lambda one, _: one.mask.shape[0] > one.mask.shape[1],
    "unique shape": lambda one, others: _like(one, others) == 1,
    "repeated shape": lambda one, others: _like(one, others) > 1,
    "unique colour": lambda one, others: sum(other.colour == one.colour for other in others) == 1,
    "most common colour": lambda one, others: one.colour == leading([other.colour for other in others]),
}
"""What the objects that are selected are, others not."""

SOME = (*EXTREMES, *KINDS)
ANY = ("all", "all", "all", "all", *EXTREMES, *KINDS)


def selected(found: list[Object], select: str) -> list[Object]:
    """The objects that a property selects; `Unfit` where it does not tell them from others."""
    if select == "all":
        return found
    if select in EXTREMES:
        values = [EXTREMES[select](one) for one in found]
        chosen = [one for one, value in zip(found, values, strict=True) if value == max(values)]
    else:
        chosen = [one for one in found if KINDS[select](one, found)]
    if not chosen or len(found) == len(chosen) or (select in EXTREMES and len(chosen) > 1):
        raise Unfit("the property does not tell objects apart")
    return chosen


def _like(one: Object, others: list[Object]) -> int:
    return sum(np.array_equal(one.mask, other.mask) for other in others)


def leading(values: list[int]) -> int:
    """The most common value; `Unfit` where two are."""
    ranked = Counter(values).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        raise Unfit("no value is the most common one")
    return ranked[0][0]


def chosen_in(cells: Cells, style: Style, select: str) -> tuple[Cells, list[Object]]:
    """A copy of the cells, and the objects selected in them."""
    return cells.copy(), selected(components(cells, style.background), select)
