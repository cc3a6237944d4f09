"""Rules of our own: a scene and one to three transformations, all their parameters drawn once a rule.

Nothing is taken from ARC's tasks but the priors that ARC names: objects, counting, symmetry, geometry, containment,
contact, lines with a goal (arXiv 1911.01547, section III.1.2). A rule is kept when its pairs are soon made and show it.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any

import numpy as np

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.arc.splits import never_trained
from arc_seal.arc.task import Demonstration
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.re_arc import PairLimits
from arc_seal.pretraining.rules import on_grids, on_objects, on_patterns, scenes
from arc_seal.pretraining.rules.catalogue import (
    SCENES,
    TRANSFORMATIONS,
    Cells,
    Scene,
    Style,
    Transformation,
    Unfit,
    parameters,
)

LICENCE = "Apache-2.0"
WHERE = "arc_seal/pretraining/rules"

FORMAT = 2
"""Goes up whenever a seed makes other pairs."""

RULES = 300
"""Rules of a group, about a second's work."""

FAILURES = 10
"""A rule is dropped once twice its pairs and so many more tries failed: grids often have two largest objects."""

DRAWS = 12
"""How often a transformation's parameters and scene are drawn anew when they gave no rule that is kept."""

STEPS = (1, 1, 1, 1, 2, 3)
"""How many transformations a rule has, each as likely."""

LAST = ("rotate", "flip", "transpose", "frame", "replace_colours", "mirror_tile", "tile", "crop_content", "drop_empty")
"""Transformations that can follow any other."""

REGISTERED = (on_grids, on_objects, on_patterns, scenes)
"""The modules whose functions are in the registers."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A scene and transformations with their parameters."""

    style: Style
    scene: Scene
    drawn: dict[str, Any]
    steps: tuple[tuple[Transformation, dict[str, Any]], ...]

    def __str__(self) -> str:
        parts: list[tuple[Scene | Transformation, dict[str, Any]]] = [(self.scene, self.drawn), *self.steps]
        return " > ".join(f"{part.name}({', '.join(f'{k}={v}' for k, v in drawn.items())})" for part, drawn in parts)

    def pair(self, rng: Random) -> Demonstration:
        """A pair that would be another one without any of the transformations; `Unfit` when this draw gives none."""
        cells = self.scene.draw(rng, self.style, **self.drawn)
        output = self._applied(cells, self.steps)
        if cells.size + output.size > PairLimits().max_cells or max(output.shape) > MAX_SIDE:
            raise Unfit("too large")
        for index in range(len(self.steps) - 1):
            try:
                shorter = self._applied(cells, self.steps[:index] + self.steps[index + 1 :])
            except Unfit:
                continue
            if np.array_equal(shorter, output):
                raise Unfit("a transformation does not show")
        return Demonstration(_grid(cells), _grid(output))

    def _applied(self, cells: Cells, steps: tuple[tuple[Transformation, dict[str, Any]], ...]) -> Cells:
        """What the steps make of a grid; `Unfit` where one of them changes nothing or undoes others."""
        stages = [cells]
        for transformation, drawn in steps:
            new = transformation.apply(stages[-1], self.style, **drawn)
            if not new.size or any(np.array_equal(new, stage) for stage in stages):
                raise Unfit("nothing is changed")
            stages.append(new)
        return stages[-1]


def version() -> str:
    """What changes when the same seed would make other pairs; an InputError as `re_arc.rules` raises."""
    left_out = sha256(" ".join(_asked()).encode()).hexdigest()[:8]
    return f"form {FORMAT}, {re_arc.PACKAGE} {re_arc.version()}, without the rules of {left_out}"


def groups(count: int) -> list[str]:
    """The groups in which about `count` rules are made, `RULES` in each."""
    return [f"rules-{number:04}" for number in range(-(-count // RULES))]


def make(group: str, seed: int, pairs: int) -> dict[str, list[Demonstration]]:
    """The group's rules by name, nearly always `RULES` of them, each with so many distinct pairs.

    By these arguments alone. A rule whose outputs the verifier of a task gives that must not be trained on is left out,
    one in twenty: ARC has flipping, tiling and rays too. A rule's first transformation and number of steps are chosen
    before it is known what will be kept, so that what often fails is about as frequent as the rest.
    """
    made: dict[str, list[Demonstration]] = {}
    asked = _asked()
    weights = [1 + len(one.values) for one in TRANSFORMATIONS.values()]  # more parameters make more rules
    for number in range(RULES):
        rng = Random(f"{seed}/{group}/{number}")
        first, steps = rng.choices(list(TRANSFORMATIONS.values()), weights)[0], rng.choice(STEPS)
        for _ in range(DRAWS):
            rule = draw(rng, first, steps)
            if rule and (shown := pairs_of(rule, rng, pairs)) and not re_arc.solved_by(asked, shown):
                made[f"{group}/{number:03} {rule}"] = shown
                break
    return made


@cache
def _asked() -> tuple[str, ...]:
    """The tasks of RE-ARC that must not be trained on, but for those whose verifiers are slow."""
    return tuple(sorted((re_arc.rules().keys() & never_trained()) - re_arc.SLOW))


def pairs_of(rule: Rule, rng: Random, count: int) -> list[Demonstration] | None:
    """So many distinct pairs of a rule; None when it is not kept, see `FAILURES` and `_tells`."""
    found: dict[Demonstration, None] = {}
    failures = 0
    while len(found) < count:
        try:
            pair = rule.pair(rng)
            if pair in found:
                raise Unfit("again")
            found[pair] = None
        except Unfit:
            failures += 1
            if failures > 2 * len(found) + FAILURES:
                return None
    return list(found) if _tells(list(found)) else None


def draw(rng: Random, first: Transformation, count: int = 1) -> Rule | None:
    """A rule, good or not, of so many transformations and its first; None where the parts drawn do not go together."""
    scene = SCENES[rng.choice(first.scenes)]
    others = [one for one in TRANSFORMATIONS.values() if scene.name in one.scenes or one.name in LAST]
    chosen = [first, *rng.sample(others, count - 1)]
    area = min(one.area for one in chosen)
    if scene.least**2 > area:
        return None
    style = draw_style(rng, scene.least, area)
    try:
        steps = tuple((one, parameters(rng, style, one.values)) for one in chosen)
        return Rule(style, scene, parameters(rng, style, scene.values), steps)
    except Unfit:
        return None


def draw_style(rng: Random, least: int, area: int) -> Style:
    """Colours and sizes of a rule whose scenes have sides and areas in these limits; in two of five one shape."""
    colours = list(range(1, COLOURS))
    rng.shuffle(colours)
    colours.insert(0 if rng.random() < 0.8 else rng.randint(1, 9), 0)
    shown = rng.choice((1, 2, 2, 3, 3, 4))
    background, scene, mark, spare = colours[0], colours[1 : 1 + shown], colours[1 + shown], colours[2 + shown :]
    style = Style(background, tuple(scene), mark, tuple(spare), least, min(20, least + rng.randint(1, 9)), area, None)
    if rng.random() < 0.6:
        return style
    fixed = style.drawn_shape(rng)
    return Style(background, tuple(scene), mark, tuple(spare), least, style.most, area, fixed)


def _tells(pairs: list[Demonstration]) -> bool:
    """Whether outputs are not mostly the same, nor of one colour and about one size."""
    outputs = [pair.output for pair in pairs]
    colours = {colour for output in outputs for colour in output.cells}
    shapes = {(output.height, output.width) for output in outputs}
    return Counter(outputs).most_common(1)[0][1] <= 0.6 * len(outputs) and (len(colours) > 1 or len(shapes) > 2)


def _grid(cells: Cells) -> Grid:
    return Grid.from_array(np.ascontiguousarray(cells))
