"""Transformations that go on with a pattern, take noise away, read panels or find a way."""

from collections import Counter
from itertools import product

import numpy as np

from arc_seal.pretraining.rules.catalogue import SPARE, Cells, Mask, Style, Unfit, transformation
from arc_seal.pretraining.rules.on_grids import cropped, moved
from arc_seal.pretraining.rules.on_objects import DIRECTIONS


@transformation("half half noise objects", axis=((0,), (1,), (0, 1)))
def overlay_mirror(cells: Cells, style: Style, axis: tuple[int, ...]) -> Cells:
    """Draw the mirror image on the background of the grid."""
    new = cells
    for one in axis:
        new = np.where(new == style.background, np.flip(new, one), new)
    return new


@transformation("covered_symmetric", patch=(False, False, True))
def complete_symmetry(cells: Cells, style: Style, patch: bool) -> Cells:
    """Draw what the marked cells hide of a symmetric pattern, or only that; `Unfit` where nothing shows it."""
    new, hidden = cells.copy(), cells == style.mark
    for _, axis in product(range(2), (0, 1)):
        other = np.flip(new, axis)
        both = (new != style.mark) & (other != style.mark)
        if both.any() and (new == other)[both].all():
            new = np.where(new == style.mark, other, new)
    return _uncovered(new, hidden, style, patch)


@transformation("covered_tiling", patch=(False, False, True))
def complete_tiling(cells: Cells, style: Style, patch: bool) -> Cells:
    """Draw what the marked cells hide of a tiling, or only that; `Unfit` where nothing shows it."""
    new, hidden = cells.copy(), cells == style.mark
    down, across = _period(cells, hidden), _period(cells.T, hidden.T)
    for row, column in product(range(down), range(across)):
        alike = new[row::down, column::across]
        shown = set(alike.ravel().tolist()) - {style.mark}
        if len(shown) != 1:
            raise Unfit("a cell is hidden everywhere")
        alike[...] = shown.pop()
    return _uncovered(new, hidden, style, patch)


def _uncovered(new: Cells, hidden: Mask, style: Style, patch: bool) -> Cells:
    if (new == style.mark).any() or (patch and not cropped(1 * hidden, hidden).all()):
        raise Unfit("not clear what is hidden")
    return cropped(new, hidden) if patch else new


def _period(cells: Cells, hidden: Mask) -> int:
    """After how many rows all that is seen repeats."""
    for period in range(1, len(cells) // 2 + 1):
        either = hidden[period:] | hidden[:-period]
        if ((cells[period:] == cells[:-period]) | either).all():
            return period
    raise Unfit("no period")


@transformation("sequence", colour=SPARE, recoloured=(False, False, True))
def continue_sequence(cells: Cells, style: Style, colour: int, recoloured: bool) -> Cells:
    """Let rows or columns that repeat go on to the other side, there in another colour if so."""
    shown = cells != style.background
    for turns in range(4):
        seen = np.rot90(shown, turns)
        if seen[: len(seen) // 2].any(1).any() and not seen[-1].any() and seen[0].any():
            turned = np.rot90(cells, turns)
            end = int(np.nonzero(seen.any(1))[0][-1]) + 1
            if end > len(turned) - 2:
                continue
            period = _period(turned[:end], np.zeros((end, turned.shape[1]), bool))
            new = turned[
                np.where(np.arange(len(turned)) < end, np.arange(len(turned)), np.arange(len(turned)) % period)
            ]
            if recoloured:
                new[end:][new[end:] != style.background] = colour
            return np.rot90(new, -turns)
    raise Unfit("nothing goes on")


@transformation("speckled")
def denoise(cells: Cells, style: Style) -> Cells:
    """Take noise away: marked cells become as the cell on their left is."""
    return np.where(cells == style.mark, np.roll(cells, 1, 1), cells)


@transformation("speckled", colour=SPARE)
def mark_noise(cells: Cells, style: Style, colour: int) -> Cells:
    """Recolour the noise that lies on objects, and take away the rest."""
    noise, around = cells == style.mark, np.roll(cells, 1, 1)
    return np.where(noise, np.where(around == style.background, style.background, colour), cells)


BOOLEANS = {
    "and": lambda one, other: one & other,
    "or": lambda one, other: one | other,
    "xor": lambda one, other: one ^ other,
    "neither": lambda one, other: ~(one | other),
    "not both": lambda one, other: ~(one & other),
    "first only": lambda one, other: one & ~other,
    "second only": lambda one, other: other & ~one,
}


@transformation("panels panels panels", area=400, name=tuple(BOOLEANS), colour=SPARE)
def combine_panels(cells: Cells, style: Style, name: str, colour: int) -> Cells:
    """The cells that a Boolean of two panels gives."""
    contents = _contents(cells, style)
    if len(contents) != 2:
        raise Unfit("not two panels")
    one, other = contents != style.background
    return np.where(BOOLEANS[name](one, other), colour, style.background)


@transformation("panels panels", area=400, last=(False, True))
def overlay_panels(cells: Cells, style: Style, last: bool) -> Cells:
    """All panels on one another, the first or the last on top."""
    contents = _contents(cells, style)
    new: Cells = np.full_like(contents[0], style.background)
    for content in contents if last else contents[::-1]:
        new = np.where(content == style.background, new, content)
    return new


@transformation("alike alike", area=400)
def odd_panel(cells: Cells, style: Style) -> Cells:
    """The panel that is not as the others."""
    contents = list(_contents(cells, style))
    counts = Counter(content.tobytes() for content in contents)
    odd = [content for content in contents if counts[content.tobytes()] == 1]
    if len(odd) != 1 or len(contents) < 3:
        raise Unfit("no panel is odd")
    new: Cells = odd[0]
    return new


@transformation("panels panels", area=400, most=(True, False), form=("crop", "fill", "keep"), colour=SPARE)
def fullest_panel(cells: Cells, style: Style, most: bool, form: str, colour: int) -> Cells:
    """Crop, fill or keep the panel that has most coloured cells, or fewest."""
    found = _panels(cells, style)
    numbers = (found != style.background).sum((2, 3)) * (1 if most else -1)
    rows, columns = np.nonzero(numbers == numbers.max())
    if len(rows) != 1:
        raise Unfit("no panel has most")
    row, column = int(rows[0]), int(columns[0])
    if form == "crop":
        new: Cells = found[row, column]
        return new
    height, width = found.shape[2] + 1, found.shape[3] + 1
    new = np.where(cells == style.mark, style.mark, style.background) if form == "keep" else cells.copy()
    box = (slice(row * height, row * height + height - 1), slice(column * width, column * width + width - 1))
    new[box] = cells[box] if form == "keep" else colour
    return new


@transformation("panels", area=400, colour=SPARE, by=("colour", "full"))
def shrink_panels(cells: Cells, style: Style, colour: int, by: str) -> Cells:
    """A cell for each panel: the colour in it, or whether more than half of it is coloured."""
    found = _panels(cells, style)
    if by == "full":
        return np.where((found != style.background).mean((2, 3)) > 0.5, colour, style.background)
    if found.shape[0] * found.shape[1] < 3:
        raise Unfit("too few panels")
    shown = np.where(found == style.background, -1, found).max((2, 3))
    return np.where(shown < 0, style.background, shown)


def _panels(cells: Cells, style: Style) -> Cells:
    """Panels [rows, columns, height, width] between lines of the mark; `Unfit` where they are not of one size."""
    lines = cells == style.mark
    rows, columns = lines.all(1), lines.all(0)
    down, across = int(rows.sum()) + 1, int(columns.sum()) + 1
    kept = cells[~rows][:, ~columns]
    if down * across < 2 or kept.shape[0] % down or kept.shape[1] % across:
        raise Unfit("no panels of one size")
    parted: Cells = kept.reshape(down, kept.shape[0] // down, across, kept.shape[1] // across).swapaxes(1, 2)
    return parted


def _contents(cells: Cells, style: Style) -> Cells:
    """The same, [panels, height, width]."""
    found = _panels(cells, style)
    return found.reshape(-1, *found.shape[2:])


@transformation("maze", colour=SPARE)
def shortest_path(cells: Cells, style: Style, colour: int) -> Cells:
    """Draw the way between the two cells of colour."""
    walled = np.pad(cells, 1, constant_values=style.mark)
    ends = [(int(y), int(x)) for y, x in np.argwhere((walled != style.mark) & (walled != style.background))]
    if len(ends) != 2:
        raise Unfit("not two ends")
    came = {ends[0]: ends[0]}
    queue = [ends[0]]
    for y, x in queue:  # grows meanwhile
        for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if place not in came and walled[place] != style.mark:
                came[place] = (y, x)
                queue.append(place)
    place = came.get(ends[1], ends[0])
    while place != ends[0]:
        walled[place] = colour
        place = came[place]
    return walled[1:-1, 1:-1]


@transformation("maze", colour=SPARE)
def dead_ends(cells: Cells, style: Style, colour: int) -> Cells:
    """Colour the free cells that have one free cell beside them."""
    free = cells != style.mark
    beside = sum((moved(1 * free, step, 0) for step in DIRECTIONS), np.zeros_like(cells))
    return np.where((beside == 1) & (cells == style.background), colour, cells)
