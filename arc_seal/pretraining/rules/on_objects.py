"""Transformations of objects: recolour, move, copy, fill, count."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from arc_seal.pretraining.rules.catalogue import SPARE, Cells, Mask, Style, Unfit, transformation
from arc_seal.pretraining.rules.objects import ANY, KINDS, SOME, Object, chosen_in, components, leading

SHAPES = "objects objects repeated frames"

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))
"""Steps down, up, right and left."""


@transformation(SHAPES + " legend bars", select=SOME, colour=SPARE)
def recolour_selected(cells: Cells, style: Style, select: str, colour: int) -> Cells:
    """Give the selected objects a new colour."""
    new, chosen = chosen_in(cells, style, select)
    for one in chosen:
        one.box(new)[one.mask] = colour
    return new


@transformation(SHAPES + " bars", select=SOME)
def delete_selected(cells: Cells, style: Style, select: str) -> Cells:
    """Take the selected objects away."""
    return recolour_selected(cells, style, select, style.background)


@transformation(SHAPES + " bars", select=SOME)
def keep_selected(cells: Cells, style: Style, select: str) -> Cells:
    """Take all other objects away."""
    _, chosen = chosen_in(cells, style, select)
    new = np.full_like(cells, style.background)
    for one in chosen:
        one.box(new)[one.mask] = one.colour
    return new


@transformation(SHAPES + " walled", area=360, select=SOME, inside=(False, False, False, True))
def crop_selected(cells: Cells, style: Style, select: str, inside: bool) -> Cells:
    """The box of the one object that is selected, or what is inside its outer cells."""
    _, chosen = chosen_in(cells, style, select)
    if len(chosen) != 1 or (inside and min(chosen[0].mask.shape) < 3):
        raise Unfit("one object is cropped")
    box = chosen[0].box(cells).copy()
    return box[1:-1, 1:-1] if inside else box


@transformation(SHAPES, select=SOME)
def recolour_like(cells: Cells, style: Style, select: str) -> Cells:
    """Give all objects the colour of the one that is selected."""
    _, chosen = chosen_in(cells, style, select)
    if len(chosen) != 1:
        raise Unfit("one object gives its colour")
    return np.where(cells == style.background, style.background, chosen[0].colour)


@transformation(SHAPES, area=330, select=SOME, side=(1, 2, 3))
def colour_of_selected(cells: Cells, style: Style, select: str, side: int) -> Cells:
    """A square in the colour of the objects selected."""
    _, chosen = chosen_in(cells, style, select)
    return np.full((side, side), leading([one.colour for one in chosen]))


@transformation("objects repeated points", select=ANY, colour=SPARE)
def outline(cells: Cells, style: Style, select: str, colour: int) -> Cells:
    """Draw the outline of objects, corners too."""
    new, chosen = chosen_in(cells, style, select)
    for one in chosen:
        mask = np.zeros(cells.shape, bool)
        one.box(mask)[one.mask] = True
        new[_grown(mask) & (cells == style.background)] = colour
    return new


@transformation("objects repeated frames frames", select=ANY, colour=SPARE)
def fill_holes(cells: Cells, style: Style, select: str, colour: int) -> Cells:
    """Colour the background that objects enclose."""
    return _in_boxes(cells, style, select, colour, lambda one: _enclosed(one.mask))


@transformation("objects repeated", select=ANY, colour=SPARE)
def fill_boxes(cells: Cells, style: Style, select: str, colour: int) -> Cells:
    """Colour the background in the boxes of objects."""
    return _in_boxes(cells, style, select, colour, lambda one: ~one.mask)


@transformation("objects", select=ANY, colour=SPARE, empty=(False, True))
def hollow_out(cells: Cells, style: Style, select: str, colour: int, empty: bool) -> Cells:
    """Empty or recolour the cells of objects that have no other cell beside them."""

    def core(one: Object) -> Mask:
        return one.mask & ~_grown(~np.pad(one.mask, 1))[1:-1, 1:-1]

    return _in_boxes(cells, style, select, style.background if empty else colour, core)


@transformation("objects repeated", select=ANY, axis=(0, 1))
def mirror_objects(cells: Cells, style: Style, select: str, axis: int) -> Cells:
    """Mirror objects where they are."""
    new, chosen = chosen_in(cells, style, select)
    for one in chosen:
        one.box(new)[...] = np.flip(one.box(cells), axis)
    return new


def _in_boxes(cells: Cells, style: Style, select: str, colour: int, where: Callable[[Object], Mask]) -> Cells:
    """Colour a part of the box of each object that is selected."""
    new, chosen = chosen_in(cells, style, select)
    for one in chosen:
        one.box(new)[where(one)] = colour
    return new


def _grown(mask: Mask) -> Mask:
    """The cells of a mask and their eight neighbours."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def _enclosed(mask: Mask) -> Mask:
    """The cells outside a mask from which no way by sides leads to its border."""
    inside = np.zeros(mask.shape, bool)
    for area in components((~mask).astype(np.int64), 0, diagonal=False):
        if not area.edge:
            inside[area.top : area.bottom, area.left : area.right] |= area.mask
    return inside


@transformation("objects repeated points walled walled", select=ANY, step=DIRECTIONS, trail=(False, False, True))
def slide(cells: Cells, style: Style, select: str, step: tuple[int, int], trail: bool) -> Cells:
    """Move objects to one side until they meet something, with a trail behind them if so."""
    new, chosen = chosen_in(cells, style, select)
    for one in sorted(chosen, key=lambda one: _front(one, step), reverse=True):
        if one.colour == style.mark:  # a wall
            continue
        ys, xs = _places(one)
        new[ys, xs] = style.background
        passed = [(ys, xs)]
        while _free(new, style, ys := ys + step[0], xs := xs + step[1]):
            passed.append((ys, xs))
        for place in passed if trail else passed[-1:]:
            new[place] = one.colour
    return new


@transformation("objects repeated", select=ANY, step=DIRECTIONS, mirrored=(False, True))
def copy_beside(cells: Cells, style: Style, select: str, step: tuple[int, int], mirrored: bool) -> Cells:
    """Draw a copy or mirror image of objects beside them, as far as it is in the grid and nothing is there."""
    new, chosen = chosen_in(cells, style, select)
    for one in chosen:
        height, width = one.mask.shape
        mask = np.flip(one.mask, 0 if step[0] else 1) if mirrored else one.mask
        ys, xs = _places(Object(one.top + step[0] * height, one.left + step[1] * width, mask, one.colour, False))
        inside = (0 <= ys) & (ys < cells.shape[0]) & (0 <= xs) & (xs < cells.shape[1])
        ys, xs = ys[inside], xs[inside]
        new[ys, xs] = np.where(new[ys, xs] == style.background, one.colour, new[ys, xs])
    return new


@transformation("objects", select=ANY, by=(1, 2, 3), step=DIRECTIONS)
def shift_objects(cells: Cells, style: Style, select: str, by: int, step: tuple[int, int]) -> Cells:
    """Move objects so many cells; `Unfit` where one leaves the grid or meets another."""
    new, chosen = chosen_in(cells, style, select)
    for one in chosen:
        new[_places(one)] = style.background
    for one in chosen:
        ys, xs = _places(one)
        if not _free(new, style, ys := ys + by * step[0], xs := xs + by * step[1]):
            raise Unfit("no room to move")
        new[ys, xs] = one.colour
    return new


@transformation("stamp")
def stamp_at_marks(cells: Cells, style: Style) -> Cells:
    """Draw the shape around one marked cell around every marked cell."""
    shown = cells != style.background
    marks = [(int(y), int(x)) for y, x in np.argwhere(cells == style.mark)]
    if len(marks) < 2:
        raise Unfit("no mark alone")
    reach = 2 if any(_near(shown, mark, 2).sum() > _near(shown, mark, 1).sum() for mark in marks) else 1
    ranked = sorted(marks, key=lambda mark: int(_near(shown, mark, reach).sum()), reverse=True)
    y, x = ranked[0]
    if min(y, x) < reach or y + reach >= cells.shape[0] or x + reach >= cells.shape[1]:
        raise Unfit("no whole shape to draw again")
    pattern = cells[y - reach : y + reach + 1, x - reach : x + reach + 1]
    new = np.pad(cells, reach, constant_values=style.background)
    for y, x in ranked[1:]:
        new[y : y + 2 * reach + 1, x : x + 2 * reach + 1] = pattern
    return new[reach:-reach, reach:-reach]


def _near(shown: Mask, place: tuple[int, int], reach: int) -> Mask:
    y, x = place
    return shown[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]


def _places(one: Object) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and columns of an object's cells."""
    ys, xs = np.nonzero(one.mask)
    return ys + one.top, xs + one.left


def _front(one: Object, step: tuple[int, int]) -> int:
    """How far an object reaches in the direction of a step."""
    return max(one.top * step[0], (one.bottom - 1) * step[0]) + max(one.left * step[1], (one.right - 1) * step[1])


def _free(cells: Cells, style: Style, ys: NDArray[np.int64], xs: NDArray[np.int64]) -> bool:
    inside = ys.min() >= 0 and xs.min() >= 0 and ys.max() < cells.shape[0] and xs.max() < cells.shape[1]
    return bool(inside and (cells[ys, xs] == style.background).all())


MEASURES: dict[str, Callable[[Object], int]] = {
    "size": lambda one: one.size,
    "height": lambda one: one.mask.shape[0],
    "width": lambda one: one.mask.shape[1],
    "place from the left": lambda one: one.left,
    "place from the top": lambda one: one.top,
}


@transformation(SHAPES + " bars bars", by=tuple(MEASURES), descending=(False, True))
def recolour_by_rank(cells: Cells, style: Style, by: str, descending: bool) -> Cells:
    """Give each object the colour of its rank by a measure; at most as many ranks as spare colours."""
    new, found = chosen_in(cells, style, "all")
    ranks = sorted({MEASURES[by](one) for one in found}, reverse=descending)
    if not 2 <= len(ranks) <= len(style.spare):
        raise Unfit("too few or too many ranks")
    for one in found:
        one.box(new)[one.mask] = style.spare[ranks.index(MEASURES[by](one))]
    return new


@transformation("objects objects frames", by=("holes", "size", "height", "width"))
def recolour_by_number(cells: Cells, style: Style, by: str) -> Cells:
    """Give each object the colour that stands for its number of holes, or of cells, across or down."""
    new, found = chosen_in(cells, style, "all")
    numbers = [one.holes if by == "holes" else MEASURES[by](one) for one in found]
    if len(set(numbers)) < 2 or max(numbers) >= len(style.spare):
        raise Unfit("too few or too large numbers")
    for one, number in zip(found, numbers, strict=True):
        one.box(new)[one.mask] = style.spare[number]
    return new


@transformation("objects repeated frames", kind=tuple(KINDS), colour=SPARE, other=SPARE)
def sort_by_kind(cells: Cells, style: Style, kind: str, colour: int, other: int) -> Cells:
    """Give one colour to objects that have a property and another to the rest."""
    new, chosen = chosen_in(cells, style, kind)
    new[cells != style.background] = other
    for one in chosen:
        one.box(new)[one.mask] = colour
    return new


@transformation("objects repeated points frames", area=330, select=("all", "all", *KINDS), colour=SPARE, form=(0, 1, 2))
def count_objects(cells: Cells, style: Style, select: str, colour: int, form: int) -> Cells:
    """As many cells as there are objects: side by side, one on another, or down the diagonal."""
    number = len(chosen_in(cells, style, select)[1])
    if number > 9:
        raise Unfit("too many objects")
    if form == 2:
        return np.where(np.eye(number, dtype=bool), colour, style.background)
    return np.full((1, number) if form == 0 else (number, 1), colour)


@transformation("objects repeated points", area=330, turns=(0, 1, 2, 3))
def count_by_colour(cells: Cells, style: Style, turns: int) -> Cells:
    """A bar for each colour, as long as the number of its objects, the longest first."""
    counts = Counter(one.colour for one in components(cells, style.background)).most_common()
    numbers = [number for _, number in counts]
    if len(counts) < 2 or len(set(numbers)) < len(numbers) or numbers[0] > 9:
        raise Unfit("no clear order of colours")
    new = np.full((len(counts), numbers[0]), style.background)
    for row, (colour, number) in enumerate(counts):
        new[row, :number] = colour
    return np.rot90(new, turns)


@transformation("legend legend", erased=(False, True))
def recolour_by_legend(cells: Cells, style: Style, erased: bool) -> Cells:
    """Give the marked objects the colour of the cell in the corner, which goes away if so."""
    legends = [one for one in components(cells, style.background) if one.colour != style.mark]
    if len(legends) != 1:
        raise Unfit("one cell gives the colour")
    new = np.where(cells == style.mark, legends[0].colour, cells)
    if erased:
        legends[0].box(new)[...] = style.background
    return new


@transformation("frames objects", colour=SPARE, outside=(False, False, True))
def fill_enclosed(cells: Cells, style: Style, colour: int, outside: bool) -> Cells:
    """Colour the background from which no way leads to the border, or all the other."""
    enclosed = _enclosed(cells != style.background)
    if not enclosed.any():
        raise Unfit("nothing is enclosed")
    return np.where((cells == style.background) & (enclosed != outside), colour, cells)


@transformation("frames frames objects", colour=SPARE, other=SPARE)
def fill_enclosed_by_size(cells: Cells, style: Style, colour: int, other: int) -> Cells:
    """Colour the largest enclosed areas, and the others in another colour."""
    areas = [one for one in components(1 * (cells == style.background), 0, diagonal=False) if not one.edge]
    sizes = {area.size for area in areas}
    if len(sizes) < 2:
        raise Unfit("areas of one size")
    new = cells.copy()
    for area in areas:
        area.box(new)[area.mask] = colour if area.size == max(sizes) else other
    return new


@transformation("rooms")
def fill_rooms(cells: Cells, style: Style) -> Cells:
    """Fill each area between walls with the colour of the cell in it; `Unfit` where there are two."""
    new = cells.copy()
    for room in components(1 * (cells != style.mark), 0, diagonal=False):
        colours = set(room.box(cells)[room.mask].tolist()) - {style.background}
        if len(colours) > 1:
            raise Unfit("a room of two colours")
        for colour in colours:
            room.box(new)[room.mask] = colour
    return new
