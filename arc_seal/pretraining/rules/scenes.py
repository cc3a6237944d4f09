"""Scenes: families of inputs."""

from random import Random

import numpy as np

from arc_seal.pretraining.rules.catalogue import Cells, Mask, Style, scene

KINDS = ("blob", "rectangle", "hollow", "line", "cross", "holed", "symmetric")
"""Kinds of shapes; "mixed" draws one of them for each object."""


@scene(least=8, kind=(*KINDS, "mixed", "mixed", "mixed"), count=((2, 4), (3, 6), (4, 8)), plain=(False, False, True))
def objects(rng: Random, style: Style, kind: str, count: tuple[int, int], plain: bool) -> Cells:
    """Separate shapes, each of one colour; all of the same where `plain`."""
    cells = style.empty(rng)
    colours = style.colours[:1] if plain else style.colours
    for _ in range(rng.randint(*count)):
        _place(rng, cells, style, shape(rng, kind, _side(cells)), rng.choice(colours))
    return cells


@scene(least=9, kind=("blob", "mixed", "symmetric"), plain=(False, True))
def repeated(rng: Random, style: Style, kind: str, plain: bool) -> Cells:
    """Two or three shapes, one of which occurs once and the others more often."""
    cells = style.empty(rng)
    colours = style.colours[:1] if plain else style.colours
    for copies in (1, rng.randint(2, 3), rng.choice((0, 2))):
        mask = shape(rng, kind, 3)
        for _ in range(copies):
            _place(rng, cells, style, mask, rng.choice(colours))
    return cells


@scene(least=8, kind=("hollow", "holed"), dots=(False, True))
def frames(rng: Random, style: Style, kind: str, dots: bool) -> Cells:
    """Hollow rectangles, some with a gap, and dots anywhere."""
    cells = style.empty(rng)
    for _ in range(rng.randint(2, 4)):
        mask = shape(rng, kind, _side(cells) + 1)
        if rng.random() < 0.3:
            mask[0, mask.shape[1] // 2] = False
        _place(rng, cells, style, mask, style.colours[0])
    for _ in range(rng.randint(2, 4) if dots else 0):
        y, x = rng.randrange(cells.shape[0]), rng.randrange(cells.shape[1])
        if (cells[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] == style.background).all():
            cells[y, x] = style.mark
    return cells


@scene(least=9, speckles=((3, 6), (5, 12)))
def speckled(rng: Random, style: Style, speckles: tuple[int, int]) -> Cells:
    """Rectangles under single cells of noise, each with all its neighbours alike."""
    cells = style.empty(rng)
    for _ in range(rng.randint(1, 3)):
        mask = np.ones((rng.randint(3, 6), rng.randint(3, 6)), bool)
        _place(rng, cells, style, mask, rng.choice(style.colours))
    for _ in range(rng.randint(*speckles)):
        y, x = rng.randrange(1, cells.shape[0] - 1), rng.randrange(1, cells.shape[1] - 1)
        if (cells[y - 1 : y + 2, x - 1 : x + 2] == cells[y, x]).all():
            cells[y, x] = style.mark
    return cells


@scene(least=3, density=(0.15, 0.3, 0.5))
def noise(rng: Random, style: Style, density: float) -> Cells:
    """Cells drawn one by one."""
    return _random_cells(rng, style, style.drawn_shape(rng), density)


@scene(least=2, density=(0.5, 0.75, 1.0))
def blocks(rng: Random, style: Style, density: float) -> Cells:
    """A small grid, mostly coloured."""
    shape = style.shape or (rng.randint(style.least, 5), rng.randint(style.least, 5))
    return _random_cells(rng, style, (min(shape[0], 6), min(shape[1], 6)), density)


@scene(least=4, factor=(2, 3))
def scaled(rng: Random, style: Style, factor: int) -> Cells:
    """Cells drawn one by one, each a square of cells."""
    height, width = style.drawn_shape(rng)
    small = (min(5, max(2, height // factor)), min(5, max(2, width // factor)))
    return _random_cells(rng, style, small, 0.7).repeat(factor, 0).repeat(factor, 1)


@scene(
    least=3, layout=((1, 2), (2, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (3, 3)), side=(2, 3, 4, 5), plain=(0, 1)
)
def panels(rng: Random, style: Style, layout: tuple[int, int], side: int, plain: int) -> Cells:
    """Panels of equal size between lines, each with cells of one colour, the same where `plain`."""
    sides = _panel_sides(rng, style, layout, side)
    colours = [style.colours[0] if plain else rng.choice(style.colours) for _ in range(layout[0] * layout[1])]
    if len(style.colours) >= len(colours) and not plain:
        colours = list(style.colours[: len(colours)])  # the colour tells the panel
    density = rng.uniform(0.3, 0.6)
    return _joined([_random_cells(rng, style, sides, density, colour) for colour in colours], style, layout)


@scene(least=3, layout=((1, 3), (3, 1), (2, 2), (1, 4), (4, 1), (3, 3)), side=(2, 3, 4))
def alike(rng: Random, style: Style, layout: tuple[int, int], side: int) -> Cells:
    """Panels between lines, all the same but one."""
    sides = _panel_sides(rng, style, layout, side)
    common, odd = (_random_cells(rng, style, sides, 0.5) for _ in range(2))
    contents = [common] * (layout[0] * layout[1])
    contents[rng.randrange(len(contents))] = odd
    return _joined(contents, style, layout)


@scene(least=5, fold=("rows", "columns", "both", "both"))
def symmetric(rng: Random, style: Style, fold: str) -> Cells:
    """A pattern that is its own mirror image."""
    cells = _random_cells(rng, style, style.drawn_shape(rng), 0.7)
    height, width = cells.shape
    if fold != "columns":
        cells[height - height // 2 :] = cells[: height // 2][::-1]
    if fold != "rows":
        cells[:, width - width // 2 :] = cells[:, : width // 2][:, ::-1]
    return cells


@scene(least=7, fold=("rows", "columns", "both"), covers=(1, 2))
def covered_symmetric(rng: Random, style: Style, fold: str, covers: int) -> Cells:
    """A pattern that is its own mirror image, parts of which are hidden."""
    return _covered(rng, symmetric(rng, style, fold), style, covers)


@scene(least=6, period=((1, 2), (2, 2), (2, 3), (3, 2), (3, 3), (1, 3), (4, 2)), slant=(0, 0, 1))
def tiling(rng: Random, style: Style, period: tuple[int, int], slant: int) -> Cells:
    """A small block again and again, each row of blocks moved sideways by `slant`."""
    height, width = style.drawn_shape(rng)
    tile = _random_cells(rng, style, period, 0.8)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    cells: Cells = tile[rows % period[0], (columns + rows // period[0] * slant) % period[1]]
    return cells


@scene(least=8, period=((2, 2), (2, 3), (3, 2), (3, 3), (1, 3)), covers=(1, 2, 3))
def covered_tiling(rng: Random, style: Style, period: tuple[int, int], covers: int) -> Cells:
    """A tiling, parts of which are hidden."""
    return _covered(rng, tiling(rng, style, period, 0), style, covers)


@scene(least=8, period=(1, 2, 3, 4), turns=(0, 1, 2, 3))
def sequence(rng: Random, style: Style, period: int, turns: int) -> Cells:
    """Rows that repeat, from one side on, and background behind them."""
    cells = np.rot90(style.empty(rng), -turns).copy()
    block = _random_cells(rng, style, (period, cells.shape[1]), 0.4)
    shown = rng.randint(2 * period, 2 * period + 1)
    cells[:shown] = np.tile(block, (3, 1))[:shown][: len(cells)]
    return np.rot90(cells, turns).copy()


@scene(least=5, count=((1, 1), (1, 3), (2, 4), (3, 6)))
def points(rng: Random, style: Style, count: tuple[int, int]) -> Cells:
    """Single cells that do not touch."""
    cells = style.empty(rng)
    for _ in range(rng.randint(*count)):
        _place(rng, cells, style, np.ones((1, 1), bool), rng.choice(style.colours))
    return cells


@scene(least=7, straight=(True, True, False))
def couples(rng: Random, style: Style, straight: bool) -> Cells:
    """Two cells of each colour, in one row or column where `straight`."""
    cells = style.empty(rng)
    height, width = cells.shape
    for colour in style.colours:
        y, x, other_y, other_x = (
            rng.randrange(height),
            rng.randrange(width),
            rng.randrange(height),
            rng.randrange(width),
        )
        if straight:
            other_y, other_x = (y, other_x) if rng.random() < 0.5 else (other_y, x)
        free = cells[y, x] == cells[other_y, other_x] == style.background
        if free and max(abs(y - other_y), abs(x - other_x)) > 1:
            cells[y, x] = cells[other_y, other_x] = colour
    return cells


@scene(least=8, turns=(0, 1, 2, 3), kind=("dot", "dot", "blob", "rectangle"))
def walled(rng: Random, style: Style, turns: int, kind: str) -> Cells:
    """A wall along one side, and dots or shapes away from it."""
    cells = np.rot90(style.empty(rng), -turns).copy()
    cells[-1 - rng.randint(0, 1) :] = style.mark
    for _ in range(rng.randint(2, 4)):
        mask = np.ones((1, 1), bool) if kind == "dot" else shape(rng, kind, 3)
        _place(rng, cells[: len(cells) * 2 // 3], style, mask, rng.choice(style.colours))
    return np.rot90(cells, turns).copy()


@scene(least=7, kind=("line", "diagonal", "diagonal"))
def segments(rng: Random, style: Style, kind: str) -> Cells:
    """Short straight or diagonal lines."""
    cells = style.empty(rng)
    for _ in range(rng.randint(1, 3)):
        mask = shape(rng, "line", 3) if kind == "line" else np.eye(rng.randint(2, 3), dtype=bool)
        _place(rng, cells, style, np.rot90(mask, rng.randrange(4)), rng.choice(style.colours))
    return cells


@scene(least=6, gap=(0, 1), turns=(0, 1, 2, 3), plain=(False, True))
def bars(rng: Random, style: Style, gap: int, turns: int, plain: bool) -> Cells:
    """Bars of different lengths that stand on one side."""
    cells = np.rot90(style.empty(rng), -turns).copy()
    height, width = cells.shape
    for column in range(0, width, 1 + gap):
        colour = style.colours[0] if plain else rng.choice(style.colours)
        cells[height - rng.randint(1, height - 1) :, column] = colour
    return np.rot90(cells, turns).copy()


@scene(least=7, across=((1, 1), (1, 2), (2, 3)), down=((1, 1), (1, 2)))
def lines(rng: Random, style: Style, across: tuple[int, int], down: tuple[int, int]) -> Cells:
    """Lines from side to side, across and down."""
    cells = style.empty(rng)
    cells[rng.sample(range(1, cells.shape[0] - 1, 2), rng.randint(*across))] = style.colours[0]
    cells[:, rng.sample(range(1, cells.shape[1] - 1, 2), rng.randint(*down))] = style.colours[-1]
    return cells


@scene(least=5, turns=(0, 1))
def stripes(rng: Random, style: Style, turns: int) -> Cells:
    """Bands of colour, one behind another."""
    height, width = style.drawn_shape(rng)
    bands: list[int] = []
    for _ in range(rng.randint(2, 5)):
        bands.append(rng.choice([colour for colour in (*style.colours, style.mark) if colour not in bands[-1:]]))
    column = np.repeat(bands, [rng.randint(1, 3) for _ in bands])
    return np.rot90(np.repeat(column[:, None], (height, width)[turns], 1), turns).copy()


@scene(least=7, rings=((2, 2), (2, 4), (3, 4)))
def nested(rng: Random, style: Style, rings: tuple[int, int]) -> Cells:
    """Rectangles one in another, no colour twice."""
    cells = style.empty(rng)
    colours = [*style.colours, style.mark]
    rng.shuffle(colours)
    height, width = rng.randint(6, cells.shape[0]), rng.randint(6, cells.shape[1])
    top, left = rng.randint(0, cells.shape[0] - height), rng.randint(0, cells.shape[1] - width)
    for ring, colour in zip(range(min(rng.randint(*rings), (min(height, width) + 1) // 2)), colours, strict=False):
        cells[top + ring : top + height - ring, left + ring : left + width - ring] = colour
    return cells


@scene(least=8, kind=(*KINDS, "mixed"), corner=(0, 1, 2, 3))
def legend(rng: Random, style: Style, kind: str, corner: int) -> Cells:
    """Objects of the mark's colour, and one cell of another colour in a corner."""
    cells = np.rot90(style.empty(rng), -corner).copy()
    cells[0, 0] = rng.choice((*style.colours, *style.spare[:3]))
    for _ in range(rng.randint(1, 4)):
        _place(rng, cells, style, shape(rng, kind, _side(cells)), style.mark)
    return np.rot90(cells, corner).copy()


@scene(least=9, side=(3, 3, 5))
def stamp(rng: Random, style: Style, side: int) -> Cells:
    """A shape around a marked cell, and marked cells alone."""
    cells = style.empty(rng)
    pattern = _random_cells(rng, style, (side, side), 0.45)
    pattern[side // 2, side // 2] = style.mark
    _place(rng, cells, style, pattern != style.background, pattern)
    for _ in range(rng.randint(1, 3)):
        _place(rng, cells, style, np.ones((1, 1), bool), style.mark, margin=side // 2 + 1)
    return cells


@scene(least=6, turns=(0, 1, 2, 3))
def half(rng: Random, style: Style, turns: int) -> Cells:
    """A pattern that fills one half of the grid."""
    cells = np.rot90(style.empty(rng), -turns).copy()
    height, width = cells.shape
    cells[: height // 2] = _random_cells(rng, style, (height // 2, width), 0.45)
    return np.rot90(cells, turns).copy()


@scene(least=7)
def rooms(rng: Random, style: Style) -> Cells:
    """Rooms between walls, in some of them a cell of colour."""
    cells = style.empty(rng)
    height, width = cells.shape
    cells[:, cut := rng.randint(2, width - 3)] = style.mark
    cells[rng.randint(2, height - 3), :cut] = style.mark
    cells[rng.randint(2, height - 3), cut:] = style.mark
    for _ in range(rng.randint(2, 4)):
        y, x = rng.randrange(height), rng.randrange(width)
        if cells[y, x] == style.background:
            cells[y, x] = rng.choice(style.colours)
    return cells


@scene(least=7)
def maze(rng: Random, style: Style) -> Cells:
    """Corridors between walls without circles, and two cells of colour in them."""
    height, width = (side - 1 + side % 2 for side in style.drawn_shape(rng))
    cells = np.full((height, width), style.mark)
    stack = [(1, 1)]
    cells[1, 1] = style.background
    while stack:
        y, x = stack[-1]
        steps = [(y + dy, x + dx) for dy, dx in ((2, 0), (-2, 0), (0, 2), (0, -2))]
        steps = [(v, u) for v, u in steps if 0 < v < height and 0 < u < width and cells[v, u] == style.mark]
        if not steps:
            stack.pop()
            continue
        v, u = rng.choice(steps)
        cells[v, u] = cells[(y + v) // 2, (x + u) // 2] = style.background
        stack.append((v, u))
    free = np.argwhere(cells == style.background).tolist()
    for y, x in rng.sample(free, 2):
        cells[y, x] = style.colours[0]
    return cells


def shape(rng: Random, kind: str, side: int) -> Mask:
    """A shape of one of the `KINDS` or "mixed", in a box [height, width] of at most about `side` each."""
    kind = rng.choice(KINDS) if kind == "mixed" else kind
    height, width = rng.randint(2, max(2, side)), rng.randint(2, max(2, side))
    if kind == "rectangle":
        return np.ones((height, width), bool)
    if kind == "hollow":
        mask = np.ones((max(3, height), max(3, width)), bool)
        mask[1:-1, 1:-1] = False
        return mask
    if kind == "line":
        return np.ones((1, height + 1) if rng.random() < 0.5 else (height + 1, 1), bool)
    if kind == "cross":
        arm = 1 if side < 5 else rng.randint(1, 2)
        reach = np.abs(np.arange(-arm, arm + 1))
        plus: Mask = (reach[:, None] == 0) | (reach[None] == 0)
        diagonal: Mask = reach[:, None] == reach[None]
        return plus if rng.random() < 0.5 else diagonal
    if kind == "holed":
        holes = rng.randint(1, max(1, min(3, side // 2)))
        mask = np.ones((3, 2 * holes + 1), bool)
        mask[1, 1::2] = False
        return mask if rng.random() < 0.5 else mask.T.copy()
    mask = _blob(rng, height, width)
    return mask | mask[:, ::-1] if kind == "symmetric" else mask


def _blob(rng: Random, height: int, width: int) -> Mask:
    """Cells that hang together by their sides, grown one by one, without empty rows and columns."""
    grown = {(height // 2, width // 2)}
    wanted = rng.randint(max(height, width), max(2, height * width - 1))
    for _ in range(4 * wanted):
        y, x = rng.choice(sorted(grown))
        dy, dx = rng.choice(((0, 1), (1, 0), (0, -1), (-1, 0)))
        if 0 <= y + dy < height and 0 <= x + dx < width:
            grown.add((y + dy, x + dx))
        if len(grown) == wanted:
            break
    mask = np.zeros((height, width), bool)
    mask[tuple(zip(*grown, strict=True))] = True
    return mask[mask.any(1)][:, mask.any(0)]


def _side(cells: Cells) -> int:
    return min(5, int(min(cells.shape)) // 3 + 1)


def _place(rng: Random, cells: Cells, style: Style, mask: Mask, paint: int | Cells, margin: int = 1) -> None:
    """Put a shape somewhere into `cells` with so many cells of background around it; nowhere if no place is found."""
    height, width = mask.shape
    if height > cells.shape[0] or width > cells.shape[1]:
        return
    for _ in range(8):
        top, left = rng.randint(0, cells.shape[0] - height), rng.randint(0, cells.shape[1] - width)
        around = cells[max(top - margin, 0) : top + height + margin, max(left - margin, 0) : left + width + margin]
        if (around == style.background).all():
            box = cells[top : top + height, left : left + width]
            box[mask] = paint if isinstance(paint, int) else paint[mask]
            return


def _random_cells(
    rng: Random, style: Style, sides: tuple[int, int], density: float, colour: int | None = None
) -> Cells:
    """Cells [height, width] of the style's colours, or of one, with that probability, else of background."""
    colours = style.colours if colour is None else (colour,)
    weights = [1 - density, *[density / len(colours)] * len(colours)]
    return np.array(rng.choices((style.background, *colours), weights, k=sides[0] * sides[1])).reshape(sides)


def _panel_sides(rng: Random, style: Style, layout: tuple[int, int], side: int) -> tuple[int, int]:
    sides = (side, side) if style.shape else (rng.randint(2, 5), rng.randint(2, 5))
    most = [20 // number for number in layout]
    return min(sides[0], most[0]), min(sides[1], most[1])


def _joined(contents: list[Cells], style: Style, layout: tuple[int, int]) -> Cells:
    """Panels of one size, row by row, with lines of the mark between them."""
    (rows, columns), (height, width) = layout, contents[0].shape
    cells = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), style.mark)
    for index, content in enumerate(contents):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        cells[top : top + height, left : left + width] = content
    return cells


def _covered(rng: Random, cells: Cells, style: Style, covers: int) -> Cells:
    """The cells under so many rectangles of the mark."""
    cells = cells.copy()
    for _ in range(covers):
        height, width = rng.randint(2, 3), rng.randint(2, 4)
        top, left = rng.randint(0, cells.shape[0] - height), rng.randint(0, cells.shape[1] - width)
        cells[top : top + height, left : left + width] = style.mark
    return cells
