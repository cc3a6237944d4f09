"""What rules are made of: scenes, which draw an input, and transformations, which make the output of it.

Both are plain functions that a decorator puts into a register under their own names. What is fixed for all pairs of a
rule is its `Style` and its parameters: a decorator lists the values that each parameter may take, and `parameters`
draws one for a rule. A transformation is a function of the input alone, so a rule's outputs never hang on chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int64]
"""Colours [height, width]."""
Mask = NDArray[np.bool_]
"""Cells that are meant, [height, width]."""

SPARE = ("spare",)
"""Values of a parameter that is a colour no scene has; two such parameters of a transformation differ."""
USED = ("used",)
"""Values of a parameter that is a colour of the scene; two such parameters of a transformation differ."""
OWN = -1
"""In place of a colour: a new cell takes the colour of what it comes from."""


class Unfit(Exception):
    """A draw that came to nothing, or a grid that a transformation has no clear answer for: another one is tried."""


@dataclass(frozen=True, slots=True)
class Style:
    """Colours and sizes of a rule's scenes. No colour has two of the four uses."""

    background: int
    colours: tuple[int, ...]  # of what a scene shows
    mark: int  # of a scene's lines, walls, noise and covers
    spare: tuple[int, ...]  # of what transformations add
    least: int  # sides of scenes are from `least`...
    most: int  # ... to `most` cells,
    area: int  # with at most so many cells,
    shape: tuple[int, int] | None  # or always this height and width

    def drawn_shape(self, rng: Random) -> tuple[int, int]:
        """The height and width of one scene."""
        if self.shape:
            return self.shape
        one = rng.randint(self.least, max(self.least, min(self.most, self.area // self.least)))
        other = rng.randint(self.least, max(self.least, min(self.most, self.area // one)))
        return (one, other) if rng.random() < 0.5 else (other, one)

    def empty(self, rng: Random) -> Cells:
        """A grid of background."""
        return np.full(self.drawn_shape(rng), self.background)


@dataclass(frozen=True, slots=True)
class Scene:
    """A family of inputs: `draw(rng, style, **parameters)`."""

    name: str
    draw: Callable[..., Cells]
    least: int
    values: Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Transformation:
    """A family of functions from input to output: `apply(cells, style, **parameters)`, which leaves `cells` alone."""

    name: str
    apply: Callable[..., Cells]
    scenes: tuple[str, ...]
    area: int
    values: Mapping[str, Sequence[Any]]


SCENES: dict[str, Scene] = {}
TRANSFORMATIONS: dict[str, Transformation] = {}

Drawing = TypeVar("Drawing", bound=Callable[..., Cells])


def scene(least: int = 6, **values: Sequence[Any]) -> Callable[[Drawing], Drawing]:
    """Register a scene whose sides have at least so many cells, and the values of its parameters."""

    def register(function: Drawing) -> Drawing:
        SCENES[function.__name__] = Scene(function.__name__, function, least, values)
        return function

    return register


def transformation(scenes: str, area: int = 225, **values: Sequence[Any]) -> Callable[[Drawing], Drawing]:
    """Register a transformation for the scenes named, of at most `area` cells, and the values of its parameters."""

    def register(function: Drawing) -> Drawing:
        name = function.__name__
        TRANSFORMATIONS[name] = Transformation(name, function, tuple(scenes.split()), area, values)
        return function

    return register


def parameters(rng: Random, style: Style, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """One value for each parameter; `Unfit` where the style has too few colours."""
    left = {SPARE: list(style.spare), USED: list(style.colours)}
    drawn = {}
    for name, choices in values.items():
        if isinstance(choices, tuple) and choices in left:
            if not left[choices]:
                raise Unfit("too few colours")
            drawn[name] = left[choices].pop(rng.randrange(len(left[choices])))
        else:
            drawn[name] = rng.choice(choices)
    return drawn
