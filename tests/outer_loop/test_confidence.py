"""How probable an attempt is to be right: what is read of a calibration, and what it makes of a task's roll-outs."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.errors import InputError
from arc_seal.inner_loop.job import Candidate, Result, TrainingRecord, vote
from arc_seal.outer_loop.confidence import FEATURES, Calibration, features, fit
from tests.outer_loop.fakes import RIGHT, WRONG

WEIGHTS = dict.fromkeys(FEATURES, 0.0)
SANE = {"constant": 1.0, "score": 0.5, "share": 1.0, "margin": 0.2}


def calibration(first: dict[str, float] = SANE, either: dict[str, float] | None = None) -> Calibration:
    either = {**first, "constant": first["constant"] + 1} if either is None else either
    return Calibration(first=tuple(first.values()), either=tuple(either.values()), gain=0.1)


def result(*scores: float, tokens: int = 1000) -> Result:
    """One view a score; the first predicts RIGHT, the others WRONG."""
    grids = [RIGHT, *[WRONG] * (len(scores) - 1)]
    made = tuple(Candidate(0, "view", grid, -1.0, score) for grid, score in zip(grids, scores, strict=True))
    return Result(vote(made, 1), made, TrainingRecord(1, 0, 1, tokens, 1, 0.0, (1.0,)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r": expected a calibration, found "),
        ("[]", r": expected .*, found \[\]$"),
        ("{}", r": first: expected a value, found nothing$"),
        ('{"first": [1], "either": [], "gain": 0}', r": first: expected at least 4 items, found 1$"),
        (json.dumps({"first": [0] * 5, "either": [0] * 4, "gain": 0}), r": first: expected at most 4 items, found 5$"),
        (json.dumps({"first": [0] * 4, "either": [0] * 4, "gain": 2}), r": gain: expected less than or equal to 1"),
        ('{"first": [NaN,0,0,0], "either": [0,0,0,0], "gain": 0}', r"first\[0\]: expected a finite number"),
        ("\udcff", r": expected a calibration, found "),
    ],
)
def test_a_file_that_holds_none_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message) as caught:
        Calibration.load(tmp_path / "x.json")
    assert str(caught.value).startswith(str(tmp_path / "x.json")) and "\n" not in str(caught.value)


def test_a_file_that_is_none_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a calibration"):
        Calibration.load(tmp_path)


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(calibration().model_dump_json())
    assert Calibration.load(tmp_path / "x.json") == calibration()


@given(
    scores=st.lists(st.floats(-1e6, 0.0), min_size=1, max_size=4),
    weights=st.lists(st.floats(-1e6, 1e6), min_size=2 * len(FEATURES), max_size=2 * len(FEATURES)),
    tokens=st.integers(0, 10**9),
)
def test_it_is_a_probability(scores: list[float], weights: list[float], tokens: int) -> None:
    half = len(FEATURES)
    given_weights = Calibration(first=tuple(weights[:half]), either=tuple(weights[half:]), gain=1.0)
    made = [result(*scores, tokens=tokens)]
    (judged,) = given_weights.judged(made[-1].attempts, made)
    chances = [each.confidence for each in judged if each.confidence is not None]
    assert len(chances) == len(judged) and all(0 <= chance <= 1 for chance in chances) and sum(chances) <= 1 + 1e-9


@given(one=st.floats(-29.0, 0.0), other=st.floats(-29.0, 0.0))
def test_a_better_score_is_surer(one: float, other: float) -> None:
    low, high = sorted((one, other))
    chances = []
    for score in (low, high):
        made = [result(score)]
        ((best,),) = calibration().judged(made[-1].attempts, made)
        chances.append(best.confidence)
    assert chances[0] <= chances[1]  # type: ignore[operator]


def test_features_are_what_they_are_called() -> None:
    earlier, last = result(-5.0), result(-1.0, -3.0, -3.0, tokens=999)
    found = dict(zip(FEATURES, features(0, last.attempts[0], [earlier, last]), strict=True))
    margin = -1.0 - (-3.0 + math.log(2))
    assert found == pytest.approx({"constant": 1.0, "score": -1.0, "share": 1 / 3, "margin": margin})
    alone = dict(zip(FEATURES, features(0, earlier.attempts[0], [earlier]), strict=True))
    assert (alone["margin"], alone["share"]) == (10.0, 1.0)


def test_a_second_attempt_has_what_the_first_leaves_of_either() -> None:
    made = [result(-1.0, -3.0)]
    (judged,) = calibration({**WEIGHTS, "constant": 0.0}).judged(made[-1].attempts, made)
    assert [each.confidence for each in judged] == pytest.approx([0.5, 1 / (1 + math.exp(-1)) - 0.5])
    (judged,) = calibration(WEIGHTS, {**WEIGHTS, "constant": -1.0}).judged(made[-1].attempts, made)
    assert [each.confidence for each in judged] == [0.5, 0.0]


def test_a_test_without_attempts_has_no_confidence() -> None:
    assert calibration().judged(((),), [Result(((),), (), None)]) == ((),)


@pytest.mark.parametrize("seed", range(3))
def test_fit_recovers_a_known_rule(seed: int) -> None:
    rng, rule = np.random.default_rng(seed), np.array([0.5, 2.0, -1.0])
    rows = np.column_stack([np.ones(20_000), rng.normal(size=(20_000, 2))])
    right = rng.random(20_000) < 1 / (1 + np.exp(-rows @ rule))
    assert fit(rows, right) == pytest.approx(rule, abs=0.1)


@pytest.mark.parametrize("answer", [True, False])
def test_fit_stays_finite_where_all_are_alike_or_told_apart(answer: bool) -> None:
    rows = np.column_stack([np.ones(50), np.linspace(-1, 1, 50)])
    rules: list[Any] = [fit(rows, np.full(50, answer)), fit(rows, rows[:, 1] > 0)]
    assert all(math.isfinite(weight) for rule in rules for weight in rule) and rules[1][1] > 0
