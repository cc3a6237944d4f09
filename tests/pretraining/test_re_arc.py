"""RE-ARC's generators: one pair at a time, within limits, and nothing but the random generator decides it."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Demonstration
from arc_seal.errors import InputError
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.re_arc import TOO_LARGE, UNCHANGED, PairLimits, generate
from tests.pretraining.builders import TASK_IDS, needs_re_arc

Generator = Callable[[Random, float, float], Any]

SMALL = {"input": ((1, 2), (3, 4)), "output": ((5,),)}


@needs_re_arc
def test_every_training_task_has_a_generator() -> None:
    assert set(re_arc.rules()) == {task.id for task, _ in load_tasks("arcagi1/training")}


@needs_re_arc
@settings(max_examples=30, deadline=None)
@given(task_id=st.sampled_from(TASK_IDS), seed=st.integers(0, 2**32), max_cells=st.integers(200, 450))
def test_a_pair_is_within_the_limits_and_depends_on_the_seed_alone(task_id: str, seed: int, max_cells: int) -> None:
    limits = PairLimits(max_cells=max_cells, tries=50)
    pair = made(task_id, seed, limits)
    assert len(pair.input.cells) + len(pair.output.cells) <= max_cells
    assert generate(task_id, Random(seed), limits) == pair


@needs_re_arc
def test_seeds_make_different_pairs_small_and_large() -> None:
    pairs = {made("a5f85a15", seed) for seed in range(30)}
    sizes = [len(pair.input.cells) for pair in pairs]
    assert len(pairs) > 20
    assert min(sizes) < 50 < 100 < max(sizes)


@needs_re_arc
def test_a_pair_follows_the_rule_of_its_task() -> None:
    """d0f5fe59 counts objects: n of them make an n by n diagonal."""
    for seed in range(10):
        output = made("d0f5fe59", seed).output.array
        colours = [output[place, place] for place in range(len(output))]
        assert output.shape == (len(colours), len(colours))
        assert len(set(colours)) == 1


@needs_re_arc
def test_too_small_a_limit_gives_no_pair() -> None:
    assert generate("a5f85a15", Random(0), PairLimits(max_cells=1)) is None


@needs_re_arc
def test_an_unknown_task_is_the_callers_error() -> None:
    with pytest.raises(InputError, match="expected a task of arcagi1/training, found 00000000"):
        generate("00000000", Random(0))


def test_a_missing_package_is_one_clear_line() -> None:
    done = isolated("sys.modules['reasoning_gym'] = None; re_arc.generate('44f52bb0', Random(0))")
    said = done.stderr.strip().splitlines()[-1]
    expected = (
        "expected the package reasoning-gym (pip install --no-deps reasoning-gym==0.1.25), found it is not installed"
    )
    assert said == f"arc_seal.errors.InputError: RE-ARC's generators: {expected}"


@needs_re_arc
def test_the_package_itself_stays_unloaded() -> None:
    done = isolated("re_arc.generate('44f52bb0', Random(0)); print('reasoning_gym' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr


def isolated(code: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a fresh interpreter that has imported the module."""
    start = "import sys; from random import Random; from arc_seal.pretraining import re_arc; "
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=60)


def test_an_attempt_gives_the_generators_grids() -> None:
    pair = attempted(lambda rng, least, greatest: SMALL)
    assert pair.input.rows == SMALL["input"] and pair.output.rows == SMALL["output"]


def test_a_generator_is_given_the_difficulty() -> None:
    given_: list[tuple[float, float]] = []

    def note(rng: Random, least: float, greatest: float) -> dict[str, Any]:
        given_.append((least, greatest))
        return SMALL

    attempted(note)
    assert given_ == [(0.0, 0.5)]


def raise_an_error(rng: Random, least: float, greatest: float) -> Any:
    return rng.sample(range(3), 4)


def draw_for_ever(rng: Random, least: float, greatest: float) -> Any:
    while True:
        rng.choice((1, 2))


def hang(rng: Random, least: float, greatest: float) -> Any:
    while True:
        pass


@pytest.mark.parametrize(
    ("generator", "fault"),
    [
        (raise_an_error, "raised an error"),
        (draw_for_ever, "drew too often"),
        (hang, "took too long"),
        (lambda *_: None, "made no grids"),
        (lambda *_: {"input": ((1, 2), (3,)), "output": ((1,),)}, "made no grids"),
        (lambda *_: {"input": ((1,),), "output": ((10,),)}, "made no grids"),
        (lambda *_: {"input": ((1,),), "output": ((0,) * 31,)}, "made no grids"),
        (lambda *_: {"input": ((1,),), "output": ((0,) * 30,) * 20}, TOO_LARGE),
        (lambda *_: {"input": ((1, 2),), "output": ((1, 2),)}, UNCHANGED),
    ],
)
def test_an_attempt_that_fails_says_why(generator: Generator, fault: str) -> None:
    with pytest.raises(re_arc.Failed) as caught:
        attempted(generator, PairLimits(draws=1000, cpu_s=0.5))
    assert str(caught.value) == fault


def hang_again(shown: Any) -> Any:
    while True:
        pass


@pytest.mark.parametrize(
    ("verifier", "fault"),
    [
        (lambda shown: ((6,),), "failed the task's verifier"),
        (lambda shown: shown[7], "raised an error"),
        (hang_again, "took too long"),
    ],
)
def test_a_pair_that_the_verifier_solves_otherwise_is_none(verifier: Callable[[Any], Any], fault: str) -> None:
    with pytest.raises(re_arc.Failed) as caught:
        attempted(lambda *_: SMALL, PairLimits(cpu_s=0.5), verifier)
    assert str(caught.value) == fault


@needs_re_arc
def test_a_rule_that_leaves_easy_grids_as_they_are_is_drawn_harder() -> None:
    limits = PairLimits(max_cells=1800, hardest=(0.1, 0.1), tries=30)
    for seed in range(10):
        pair = made("11852cab", seed, limits)
        assert pair.input != pair.output
    assert generate("11852cab", Random(0), replace(limits, easing=1.0)) is None


def test_the_clock_is_off_after_an_attempt() -> None:
    attempted(lambda *_: SMALL, PairLimits(cpu_s=0.02))
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass


def test_attempts_run_outside_the_main_thread_too() -> None:
    pairs: list[Demonstration] = []
    thread = threading.Thread(target=lambda: pairs.append(attempted(lambda *_: SMALL)))
    thread.start()
    thread.join()
    assert len(pairs) == 1


def test_draws_are_those_of_an_unlimited_generator() -> None:
    def spread(rng: Random, least: float, greatest: float) -> dict[str, Any]:
        row = tuple(rng.randint(0, 9) for _ in range(10))
        return {"input": (row,), "output": (tuple(rng.sample(row, 10)),)}

    plain = spread(Random(7), 0.0, 0.5)
    limited = attempted(spread)
    assert (limited.input.rows, limited.output.rows) == (plain["input"], plain["output"])


def made(task_id: str, seed: int, limits: PairLimits | None = None) -> Demonstration:
    """The pair that a seed makes; there has to be one."""
    pair = generate(task_id, Random(seed), limits)
    assert pair is not None
    return pair


def attempted(
    generator: Generator, limits: PairLimits | None = None, verifier: Callable[[Any], Any] | None = None
) -> Demonstration:
    """An attempt of a generator; the verifier, where none is given, agrees with whatever it made."""
    outputs: list[Any] = []

    def noted(rng: Random, least: float, greatest: float) -> Any:
        made = generator(rng, least, greatest)
        outputs.append(made and made["output"])
        return made

    rule = (noted, verifier or (lambda shown: outputs[-1]))
    return re_arc._attempt(rule, 7, 0.5, limits or PairLimits())
