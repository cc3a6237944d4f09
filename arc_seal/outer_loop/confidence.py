"""How probable an attempt is to be right: logistic regressions on what a task's roll-outs say of it.

They are fitted on roll-outs whose answers are known (benchmarks/calibrate.py) and kept beside the weights whose
roll-outs they were, for they hold for these and the settings alone.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from arc_seal.errors import InputError
from arc_seal.inner_loop.job import Attempt, Result
from arc_seal.settings import Settings, first_fault

CALIBRATION = "calibration.json"
"""The file beside a model's weights."""

FEATURES = ("constant", "score", "share", "margin")
"""Of an attempt at a query; see `features`. The agreement of two stages, and the tokens read, add nothing to these."""

LEAST_SCORE, MOST_MARGIN = -30.0, 10.0
"""In nats; what is beyond says no more."""


class Calibration(Settings):
    """Weights of the regressions, one for each of FEATURES, and what more training is worth."""

    first: tuple[float, ...] = Field(min_length=len(FEATURES), max_length=len(FEATURES))  # attempt 1 is right
    either: tuple[float, ...] = Field(min_length=len(FEATURES), max_length=len(FEATURES))  # one of the two is
    gain: float = Field(ge=0, le=1)  # share of the queries without a right attempt that have one after another stage

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read one; InputError where the file holds none."""
        try:
            return cls.model_validate(json.loads(path.read_text("utf-8")))
        except ValidationError as error:
            raise InputError(str(path), *first_fault(error)) from None
        except (OSError, ValueError) as error:
            raise InputError(str(path), "", "a calibration", str(error)) from None

    def judged(
        self, attempts: Sequence[Sequence[Attempt]], results: Sequence[Result]
    ) -> tuple[tuple[Attempt, ...], ...]:
        """The attempts at each query with their confidence, in the order given."""
        judged = []
        for query, made in enumerate(attempts):
            chances: list[float] = []
            if made:
                found = features(query, made, results)
                first, either = (_probability(weights, found) for weights in (self.first, self.either))
                chances = [first, max(0.0, either - first)]
            judged.append(tuple(replace(each, confidence=chance) for each, chance in zip(made, chances, strict=False)))
        return tuple(judged)


def features(query: int, attempts: Sequence[Attempt], results: Sequence[Result]) -> NDArray[np.float64]:
    """What a task's roll-outs say of the attempts at a query, at least one, [features].

    `score` is the first attempt's mean log-probability over the last roll-out's views, its votes left out of its
    weight; `share` that of the last roll-out's views that predict it; `margin` how far its weight is above the second
    attempt's.
    """
    best, last = attempts[0], results[-1]
    score = max(LEAST_SCORE, best.log_weight - math.log(best.votes))
    views = [each for each in last.candidates if each.query == query]
    share = sum(each.grid == best.grid for each in views) / max(1, len(views))
    margin = MOST_MARGIN if len(attempts) < 2 else min(MOST_MARGIN, best.log_weight - attempts[1].log_weight)
    return np.array([1.0, score, share, margin])


def fit(rows: NDArray[np.float64], right: NDArray[np.bool_], ridge: float = 5.0) -> tuple[float, ...]:
    """Logistic regression by Newton's method: rows [examples, features], whether each was right [examples].

    The squares of all weights but the constant's are held down by `ridge`.
    """
    weights, hold = np.zeros(rows.shape[1]), ridge * np.eye(rows.shape[1])
    hold[0, 0] = 1e-6
    for _ in range(50):
        chance = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (chance - right) + hold @ weights
        bend = (rows * (chance * (1 - chance))[:, None]).T @ rows + hold
        weights = weights - np.linalg.solve(bend, slope)
    return tuple(float(weight) for weight in weights)


def _probability(weights: Sequence[float], found: NDArray[np.float64]) -> float:
    return float(1 / (1 + np.exp(-np.clip(np.dot(weights, found), -30, 30))))
