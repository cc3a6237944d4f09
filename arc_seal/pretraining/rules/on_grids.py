"""Transformations of whole grids: geometry, colours, lines."""

from collections import Counter

import numpy as np

from arc_seal.pretraining.rules.catalogue import OWN, SPARE, USED, Cells, Mask, Style, Unfit, transformation
from arc_seal.pretraining.rules.objects import components
from arc_seal.pretraining.rules.on_objects import DIRECTIONS

ANYTHING = "objects noise blocks bars segments nested half frames tiling"
SMALL = "blocks blocks noise symmetric"
DIAGONALS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


@transformation(ANYTHING, turns=(1, 2, 3))
def rotate(cells: Cells, style: Style, turns: int) -> Cells:
    """Turn the grid to the left by so many quarters."""
    return np.rot90(cells, turns)


@transformation(ANYTHING, axis=(0, 1))
def flip(cells: Cells, style: Style, axis: int) -> Cells:
    """Mirror the grid."""
    return np.flip(cells, axis)


@transformation(ANYTHING, turns=(0, 2))
def transpose(cells: Cells, style: Style, turns: int) -> Cells:
    """Mirror the grid along a diagonal."""
    return np.rot90(cells, turns).T


@transformation("noise objects points half", step=DIRECTIONS + DIAGONALS, by=(1, 1, 2))
def roll(cells: Cells, style: Style, step: tuple[int, int], by: int) -> Cells:
    """Move all cells; what leaves the grid comes in on the other side."""
    return np.roll(cells, (by * step[0], by * step[1]), (0, 1))


@transformation(SMALL, area=45, down=(1, 2, 3), across=(1, 2, 3))
def scale_up(cells: Cells, style: Style, down: int, across: int) -> Cells:
    """Make of each cell a rectangle."""
    return cells.repeat(down, 0).repeat(across, 1)


@transformation("blocks", area=36)
def scale_by_colours(cells: Cells, style: Style) -> Cells:
    """Make of each cell a square with as many cells a side as the grid has colours that are not background."""
    factor = len(set(cells.ravel().tolist()) - {style.background})
    return cells.repeat(factor, 0).repeat(factor, 1)


@transformation("scaled stripes stripes tiling", area=330)
def drop_repeats(cells: Cells, style: Style) -> Cells:
    """Take out rows and columns that are as the one before."""
    rows = np.r_[True, (cells[1:] != cells[:-1]).any(1)]
    columns = np.r_[True, (cells[:, 1:] != cells[:, :-1]).any(0)]
    return cells[rows][:, columns]


@transformation(SMALL, area=45, down=(1, 2, 3), across=(1, 2, 3))
def tile(cells: Cells, style: Style, down: int, across: int) -> Cells:
    """Put the grid beside and under itself."""
    return np.tile(cells, (down, across))


@transformation(SMALL, area=80, corner=(0, 1, 2, 3), whole=(False, True))
def mirror_tile(cells: Cells, style: Style, corner: int, whole: bool) -> Cells:
    """Put mirror images beside the grid and, if `whole`, under it, so that all is symmetric."""
    cells = np.rot90(cells, corner)
    cells = np.concatenate((cells, cells[:, ::-1]), 1)
    return np.rot90(np.concatenate((cells, cells[::-1])) if whole else cells, -corner)


@transformation(SMALL, area=45, tops=((0, 1), (0, 3), (1, 0), (2, 1)), turns=(1, 2, 3))
def turned_tile(cells: Cells, style: Style, tops: tuple[int, int], turns: int) -> Cells:
    """Put the square grid and itself turned into a larger square."""
    if cells.shape[0] != cells.shape[1]:
        raise Unfit("no square")
    first, second = (np.rot90(cells, top) for top in tops)
    return np.block([[first, second], [np.rot90(second, turns), np.rot90(first, turns)]])


@transformation("blocks blocks noise", area=16, inverse=(False, False, True))
def fractal(cells: Cells, style: Style, inverse: bool) -> Cells:
    """Put the grid in place of each of its coloured cells, or of its empty ones."""
    shown = (cells != style.background) != inverse
    if shown.all():
        raise Unfit("a tiling")
    return np.where(np.kron(shown, np.ones_like(cells)) > 0, np.tile(cells, cells.shape), style.background)


@transformation("noise blocks objects half points tiling", colour=SPARE, grown=(False, False, True))
def frame(cells: Cells, style: Style, colour: int, grown: bool) -> Cells:
    """Draw a frame on the outermost cells, or around the grid."""
    new = np.full((cells.shape[0] + 2, cells.shape[1] + 2), colour) if grown else np.full_like(cells, colour)
    new[1:-1, 1:-1] = cells if grown else cells[1:-1, 1:-1]
    return new


@transformation("symmetric tiling half noise", area=300, part=("top", "bottom", "left", "right", "corner", "middle"))
def crop_part(cells: Cells, style: Style, part: str) -> Cells:
    """A half of the grid, its upper left quarter, or all but its outermost cells."""
    height, width = cells.shape
    middle, centre = (height + 1) // 2, (width + 1) // 2
    if part == "middle":
        return cells[1:-1, 1:-1]
    rows = slice(height - middle, None) if part == "bottom" else slice(middle if part in ("top", "corner") else None)
    columns = slice(width - centre, None) if part == "right" else slice(centre if part in ("left", "corner") else None)
    return cells[rows, columns]


@transformation("noise objects segments nested points", area=330)
def crop_content(cells: Cells, style: Style) -> Cells:
    """The box of all that is not background."""
    return cropped(cells, cells != style.background)


@transformation("noise blocks points objects objects", area=330, colour=USED)
def crop_colour(cells: Cells, style: Style, colour: int) -> Cells:
    """The box of all cells of a colour."""
    return cropped(cells, cells == colour)


@transformation("noise objects points segments", area=330)
def drop_empty(cells: Cells, style: Style) -> Cells:
    """Take out rows and columns of background."""
    shown = cells != style.background
    new: Cells = cells[shown.any(1)][:, shown.any(0)]
    return new


@transformation("lines", area=330)
def drop_lines(cells: Cells, style: Style) -> Cells:
    """Take out lines from side to side, so that only areas that other lines do not cross are left, joined."""
    rows, columns = _full(cells, style)
    return cells[~rows][:, ~columns]


def cropped(cells: Cells, meant: Mask) -> Cells:
    """The box of the cells that are meant."""
    if not meant.any():
        raise Unfit("nothing to crop")
    ys, xs = np.nonzero(meant)
    return cells[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]


def _full(cells: Cells, style: Style) -> tuple[Mask, Mask]:
    """Which rows and which columns have no background."""
    shown = cells != style.background
    return shown.all(1), shown.all(0)


@transformation("noise blocks objects stripes nested tiling symmetric", by=(1, 2, 3))
def replace_colours(cells: Cells, style: Style, by: int) -> Cells:
    """Give each colour another one, which may be one of the others'."""
    ring = [*style.colours, *style.spare[:1]]
    return _mapped(cells, {one: ring[(index + by) % len(ring)] for index, one in enumerate(ring)})


@transformation("noise blocks objects objects tiling symmetric", first=USED, second=USED)
def swap_colours(cells: Cells, style: Style, first: int, second: int) -> Cells:
    """Swap two colours."""
    return _mapped(cells, {first: second, second: first})


@transformation("noise half objects blocks frames segments points")
def invert(cells: Cells, style: Style) -> Cells:
    """Swap background and the one other colour."""
    others = set(cells.ravel().tolist()) - {style.background}
    if len(others) != 1:
        raise Unfit("not two colours")
    return _mapped(cells, {style.background: (other := others.pop()), other: style.background})


@transformation("noise objects blocks points bars", colour=USED, kept=(False, True))
def filter_colour(cells: Cells, style: Style, colour: int, kept: bool) -> Cells:
    """Take away all cells of a colour, or all others."""
    return np.where((cells == colour) == kept, cells, style.background)


@transformation("noise objects blocks bars", most=(True, False), colour=SPARE, erased=(False, False, True))
def recolour_common(cells: Cells, style: Style, most: bool, colour: int, erased: bool) -> Cells:
    """Recolour or take away the colour with most cells, or with fewest."""
    ranked = _by_cells(cells, style)
    return np.where(cells == ranked[0 if most else -1], style.background if erased else colour, cells)


@transformation("noise blocks objects", area=330, turned=(False, True), most=(True, False))
def list_colours(cells: Cells, style: Style, turned: bool, most: bool) -> Cells:
    """All colours that are not background, from that with most cells, or with fewest."""
    listed = np.array([_by_cells(cells, style)[:: 1 if most else -1]])
    return listed.T if turned else listed


@transformation("nested", area=330, turned=(False, True))
def list_rings(cells: Cells, style: Style, turned: bool) -> Cells:
    """The colours of rectangles one in another, from the outermost."""
    listed = np.array([_ring_colours(cells, style)])
    return listed.T if turned else listed


@transformation("nested")
def reverse_rings(cells: Cells, style: Style) -> Cells:
    """Rectangles one in another change colours, the outermost with the innermost and so on."""
    rings = _ring_colours(cells, style)
    return _mapped(cells, dict(zip(rings, rings[::-1], strict=True)))


def _mapped(cells: Cells, new: dict[int, int]) -> Cells:
    return np.array([new.get(colour, colour) for colour in range(10)])[cells]


def _by_cells(cells: Cells, style: Style) -> list[int]:
    """Two or more colours by their number of cells, most first; `Unfit` where two are equal."""
    counts = Counter(cells[cells != style.background].tolist()).most_common()
    numbers = [number for _, number in counts]
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise Unfit("no clear order of colours")
    return [colour for colour, _ in counts]


def _ring_colours(cells: Cells, style: Style) -> list[int]:
    found = components(cells, style.background)
    if len(found) < 2:
        raise Unfit("one rectangle")
    return [one.colour for one in sorted(found, key=lambda one: (one.top, one.left))]


@transformation("noise points couples", step=DIRECTIONS)
def gravity(cells: Cells, style: Style, step: tuple[int, int]) -> Cells:
    """Each cell falls to one side, as far as it can."""
    turns = DIRECTIONS.index(step)
    down = np.rot90(cells, -_TURNS[turns])
    order = np.argsort(down != style.background, 0, kind="stable")
    return np.rot90(np.take_along_axis(down, order, 0), _TURNS[turns])


_TURNS = (0, 2, 1, 3)
"""Quarters to the left that bring down to each of the `DIRECTIONS`."""

RAYS = (
    *[(one,) for one in DIRECTIONS + DIAGONALS],
    DIRECTIONS[:2],
    DIRECTIONS[2:],
    DIRECTIONS,
    DIAGONALS,
    DIAGONALS[::3],
)


@transformation("points points walled", steps=RAYS, colour=SPARE, own=(True, True, False))
def rays(cells: Cells, style: Style, steps: tuple[tuple[int, int], ...], colour: int, own: bool) -> Cells:
    """Draw a line from each cell in some directions, until it meets something or the border."""
    sources = (cells != style.background) & (cells != style.mark)
    return _cast(cells, style, [(step, sources) for step in steps], OWN if own else colour)


@transformation("segments", ahead=(True, True, False), colour=SPARE, own=(True, True, False))
def extend_lines(cells: Cells, style: Style, ahead: bool, colour: int, own: bool) -> Cells:
    """Make lines longer, at both ends or at the lower one, until they meet something."""
    sources = []
    for step in DIRECTIONS + DIAGONALS:
        behind = moved(cells, step, style.background)
        ahead_too = ahead or step[0] > 0 or step == (0, 1)
        sources.append((step, (behind == cells) & (cells != style.background) & ahead_too))
    return _cast(cells, style, sources, OWN if own else colour)


def _cast(cells: Cells, style: Style, sources: list[tuple[tuple[int, int], Mask]], colour: int) -> Cells:
    """Draw lines over the background from sources, each with a step; `Unfit` where two colours cross."""
    new, free = cells.copy(), cells == style.background
    for step, source in sources:
        ray = np.where(source, cells, style.background)
        while ((ray := np.where(free, moved(ray, step, style.background), style.background)) != style.background).any():
            drawn = ray != style.background
            if colour == OWN and ((new != ray) & (new != style.background) & drawn).any():
                raise Unfit("lines cross")
            new[drawn] = ray[drawn] if colour == OWN else colour
    return new


def moved(cells: Cells, step: tuple[int, int], background: int) -> Cells:
    """The cells one step on, background behind them."""
    (height, width), (dy, dx) = cells.shape, step
    new = np.full_like(cells, background)
    new[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = cells[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return new


@transformation("couples couples points noise", colour=SPARE, own=(True, False))
def connect(cells: Cells, style: Style, colour: int, own: bool) -> Cells:
    """Join two cells of a colour in one row or column by a line over background."""
    new = cells.copy()
    for source, target in ((cells, new), (cells.T, new.T)):
        for row, line in enumerate(source.tolist()):
            found: dict[int, list[int]] = {}
            for column, one in enumerate(line):
                if one != style.background:
                    found.setdefault(one, []).append(column)
            for one, columns in found.items():
                between = slice(columns[0] + 1, columns[-1])
                if len(columns) == 2 and all(cell == style.background for cell in line[between]):
                    target[row, between] = one if own else colour
    return new


@transformation("couples", colour=SPARE, own=(True, False), filled=(False, True))
def span_boxes(cells: Cells, style: Style, colour: int, own: bool, filled: bool) -> Cells:
    """Draw the rectangle that has two cells of a colour in its corners."""
    new = cells.copy()
    for one in sorted(set(cells.ravel().tolist()) - {style.background}):
        ys, xs = np.nonzero(cells == one)
        if len(ys) != 2 or ys[0] == ys[1] or xs[0] == xs[1]:
            raise Unfit("no two corners")
        box = np.zeros(cells.shape, bool)
        box[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1] = True
        if not filled:
            box[min(ys) + 1 : max(ys), min(xs) + 1 : max(xs)] = False
        if ((new != style.background) & (cells != one) & box).any():
            raise Unfit("rectangles cross")
        new[box & (cells == style.background)] = one if own else colour
    return new


@transformation(
    "points points noise", rows=((True, False), (False, True), (True, True)), colour=SPARE, own=(True, False)
)
def lines_through(cells: Cells, style: Style, rows: tuple[bool, bool], colour: int, own: bool) -> Cells:
    """Draw lines from side to side through coloured cells; `Unfit` where they would have two colours."""
    new, shown = cells.copy(), cells != style.background
    if (own and rows[0] and rows[1]) or shown.sum() > 6:
        raise Unfit("too many lines")
    for row, column in np.argwhere(shown):
        for line, meant in ((new[row], rows[0]), (new[:, column], rows[1])):
            if meant and own and not np.isin(line, (style.background, cells[row, column])).all():
                raise Unfit("two colours")
            if meant:
                line[line == style.background] = cells[row, column] if own else colour
    return new


@transformation("lines", colour=SPARE)
def mark_crossings(cells: Cells, style: Style, colour: int) -> Cells:
    """Recolour the cells at which lines cross."""
    rows, columns = _full(cells, style)
    return np.where(rows[:, None] & columns[None], colour, cells)


@transformation("lines", colour=SPARE, other=SPARE, edge=(False, True))
def colour_areas(cells: Cells, style: Style, colour: int, other: int, edge: bool) -> Cells:
    """Colour the areas between lines, the largest or those in the corners otherwise than the rest."""
    areas = components(1 * (cells == style.background), 0, diagonal=False)
    corners = {(y, x) for y in (0, cells.shape[0]) for x in (0, cells.shape[1])}
    if len(areas) < 2:
        raise Unfit("nothing is parted")
    new, most = cells.copy(), max(area.size for area in areas)
    for area in areas:
        own = {(y, x) for y in (area.top, area.bottom) for x in (area.left, area.right)}
        meant = bool(own & corners) if edge else area.size == most
        area.box(new)[area.mask] = colour if meant else other
    return new


@transformation("points walled", turns=(0, 1, 2, 3))
def project(cells: Cells, style: Style, turns: int) -> Cells:
    """Put the colour of each cell on the border cell at one end of its column or row."""
    new = np.rot90(cells, turns).copy()
    for row, column in np.argwhere((new != style.background) & (new != style.mark)):
        new[-1, column] = new[row, column]
    return np.rot90(new, -turns)


@transformation("points", metric=("square", "diamond"), period=(2, 3), back=(False, True))
def rings(cells: Cells, style: Style, metric: str, period: int, back: bool) -> Cells:
    """Colour all cells by their distance from the one cell of colour, colours taking turns."""
    places = np.argwhere(cells != style.background)
    if len(places) != 1:
        raise Unfit("one cell is the centre")
    down, across = abs(np.arange(cells.shape[0]) - places[0][0])[:, None], abs(np.arange(cells.shape[1]) - places[0][1])
    distance = np.maximum(down, across) if metric == "square" else down + across
    second = style.background if back else style.spare[0]
    new: Cells = np.array([cells[tuple(places[0])], second, style.spare[1]])[distance % period]
    return new


@transformation("points noise", kind=("cross", "corners", "row", "column"), colour=SPARE, other=SPARE)
def halo(cells: Cells, style: Style, kind: str, colour: int, other: int) -> Cells:
    """Colour the background beside each cell of the first colour, and otherwise beside each other cell."""
    steps = {"cross": DIRECTIONS, "corners": DIAGONALS, "row": DIRECTIONS[2:], "column": DIRECTIONS[:2]}[kind]
    if (cells != style.background).mean() > 0.2:
        raise Unfit("no room")
    new = cells.copy()
    for step in steps:
        behind = moved(cells, step, style.background)
        meant = (behind != style.background) & (cells == style.background)
        new[meant] = np.where(behind == style.colours[0], colour, other)[meant]
    return new


@transformation(
    "objects frames half noise nested", form=("checker", "rows", "columns"), odd=(0, 1), colour=SPARE, on=(0, 1)
)
def alternate(cells: Cells, style: Style, form: str, odd: int, colour: int, on: int) -> Cells:
    """Recolour every other cell, row or column of what is background, or of what is not."""
    rows, columns = np.arange(cells.shape[0])[:, None], np.arange(cells.shape[1])[None]
    number = {"checker": rows + columns, "rows": rows + 0 * columns, "columns": columns + 0 * rows}[form]
    return np.where((number % 2 == odd) & ((cells == style.background) == bool(on)), colour, cells)


@transformation("bars bars noise", columns=(True, False), descending=(False, True))
def sort_lines(cells: Cells, style: Style, columns: bool, descending: bool) -> Cells:
    """Sort columns or rows by their number of coloured cells."""
    numbers = (cells != style.background).sum(0 if columns else 1)
    order = np.argsort(-numbers if descending else numbers, kind="stable")
    return cells[:, order] if columns else cells[order]


@transformation("noise objects", colour=SPARE)
def fill_largest_rectangle(cells: Cells, style: Style, colour: int) -> Cells:
    """Colour the one largest rectangle of background."""
    best, found = 0, [(0, 0, 0, 0)]
    heights = [0] * cells.shape[1]
    for row, line in enumerate((cells == style.background).tolist()):
        heights = [height + 1 if free else 0 for height, free in zip(heights, line, strict=True)]
        for left in range(len(line)):
            low = heights[left]
            for right in range(left, len(line)):
                low = min(low, heights[right])
                if not low:
                    break
                if low * (right - left + 1) >= best:
                    found = found if low * (right - left + 1) == best else []
                    best = low * (right - left + 1)
                    found.append((row - low + 1, row + 1, left, right + 1))
    if len(found) != 1 or best < 4:
        raise Unfit("no one rectangle is the largest")
    new = cells.copy()
    top, bottom, left, right = found[0]
    new[top:bottom, left:right] = colour
    return new
