"""Contexts: what is drawn, what augmentation may do to it, what is to be learnt of it."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import SYMMETRIES, Grid, apply, grid_tokens
from arc_seal.arc.splits import fingerprint
from arc_seal.arc.task import Demonstration
from arc_seal.models.grid_codec import ASK, FIRST_BYTE, INPUT, OUTPUT, GridCodec
from arc_seal.models.prompt import END, Encoded, demonstrations_prompt
from arc_seal.pretraining.pool import Pair, Pool
from arc_seal.pretraining.stream import (
    DataSettings,
    augmented,
    draw_change,
    draw_context,
    draw_pairs,
    encode,
    is_drawable,
)
from tests.arc.strategies import grids
from tests.pretraining.tiny import SETTINGS, tiny_pool, write_number

SEEDS = st.integers(0, 2**32)
DEMOS = st.lists(st.builds(Demonstration, grids(), grids()), min_size=1, max_size=4)
POOL = tiny_pool(tasks=3, sides=(1, 2, 3))
SQUARE = Grid.from_rows([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
ALL = {demo.input for task_id in POOL.task_ids for demo in POOL.pairs(task_id)}


def arrays(demos: list[Demonstration]) -> list[Pair]:
    return [(demo.input.array, demo.output.array) for demo in demos]


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def segments(context: Encoded) -> Iterator[tuple[list[int], list[bool]]]:
    """Tokens and targets of each grid and text."""
    starts = [*np.flatnonzero(context.positions[1:].max(axis=0) == 0).tolist(), len(context.ids)]
    for start, end in pairwise(starts):
        yield context.ids[start:end].tolist(), context.target[start:end].tolist()


def of_one_task(pairs: list[Pair], pool: Pool) -> bool:
    """Whether pairs are different ones of one task."""
    drawn = {Grid.from_array(shown) for shown, _ in pairs}
    tasks = [{demo.input for demo in pool.pairs(task_id)} for task_id in pool.task_ids]
    return len(drawn) == len(pairs) and any(drawn <= task for task in tasks)


@given(demos=DEMOS)
def test_a_context_is_read_as_a_prompt_is(demos: list[Demonstration]) -> None:
    ours, prompts = encode(arrays(demos)), GridCodec().encode(demonstrations_prompt(tuple(demos)))
    for name in ("ids", "positions", "target"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(prompts, name))


@given(demos=DEMOS)
def test_targets_are_the_outputs_after_the_first(demos: list[Demonstration]) -> None:
    parts = list(segments(encode(arrays(demos))))
    assert [ids[0] for ids, _ in parts] == [INPUT, OUTPUT] * len(demos)
    for number, (ids, target) in enumerate(parts):
        said = number % 2 == 1 and (number > 1 or len(demos) == 1)
        assert target == [False] + [said] * (len(ids) - 1)


@given(demos=DEMOS, text=st.text(max_size=20))
def test_a_self_edit_alone_is_target(demos: list[Demonstration], text: str) -> None:
    *grids_, (ids, target) = segments(encode(arrays(demos), text))
    assert ids == [ASK, *(FIRST_BYTE + byte for byte in text.encode()), END]
    assert target == [False] + [True] * (len(ids) - 1)
    assert len(grids_) == 2 * len(demos) and not any(any(target) for _, target in grids_)


@given(demos=DEMOS)
def test_tokens_of_grids_are_counted_as_they_are_encoded(demos: list[Demonstration]) -> None:
    pairs = arrays(demos)
    assert len(encode(pairs).ids) == sum(grid_tokens(*cells.shape) for pair in pairs for cells in pair)


@given(seed=SEEDS, max_tokens=st.integers(10, 120))
def test_pairs_are_different_ones_of_one_task_and_within_the_budget(seed: int, max_tokens: int) -> None:
    pairs = draw_pairs(POOL, SETTINGS, max_tokens, rng_of(seed))
    assert of_one_task(pairs, POOL)
    assert sum(grid_tokens(*cells.shape) for pair in pairs for cells in pair) <= max_tokens
    assert len(pairs) <= SETTINGS.most_pairs


def test_a_pair_that_does_not_fit_keeps_out_none_that_does() -> None:
    small, large = Grid.from_rows([[1]]), Grid.from_rows([[0] * 30] * 30)
    pairs = [*(Demonstration(small, Grid.from_rows([[colour]])) for colour in range(5)), Demonstration(large, large)]
    pool = Pool.from_pairs({"task": pairs})
    settings = DataSettings(fewest_pairs=6, most_pairs=6)  # all six are drawn, in any order
    for seed in range(50):
        drawn = draw_pairs(pool, settings, 5 * 6, rng_of(seed))
        assert sorted(int(answer[0, 0]) for _, answer in drawn) == [0, 1, 2, 3, 4]


def test_every_number_of_pairs_every_task_and_every_order_comes() -> None:
    rng = rng_of(0)
    drawn = [draw_pairs(POOL, SETTINGS, 10**6, rng) for _ in range(400)]
    assert {len(pairs) for pairs in drawn} == {2, 3, 4}
    assert {Grid.from_array(pairs[0][0]) for pairs in drawn} == ALL
    assert {Grid.from_array(pairs[-1][0]) for pairs in drawn} == ALL


@given(demos=DEMOS, seed=SEEDS)
def test_augmentation_is_one_symmetry_and_one_relabelling_for_all(demos: list[Demonstration], seed: int) -> None:
    changed = augmented(arrays(demos), SETTINGS.model_copy(update={"new_rule_share": 0.0}), rng_of(seed))
    assert flat(changed) == flat(arrays(demos))


@given(demos=DEMOS, seed=SEEDS)
def test_a_new_rule_changes_the_outputs_alone_and_all_alike(demos: list[Demonstration], seed: int) -> None:
    """With one seed the inputs' change is the same, whatever then happens to the outputs."""
    plain = augmented(arrays(demos), SETTINGS.model_copy(update={"new_rule_share": 0.0}), rng_of(seed))
    ruled = augmented(arrays(demos), SETTINGS.model_copy(update={"new_rule_share": 1.0}), rng_of(seed))
    for (shown, _), (same, _) in zip(plain, ruled, strict=True):
        np.testing.assert_array_equal(shown, same)
    outputs = [Grid.from_array(answer) for _, answer in ruled]
    assert fingerprint(*outputs) == fingerprint(*(demo.output for demo in demos))


def test_a_new_rule_is_new() -> None:
    pair = arrays([Demonstration(SQUARE, SQUARE)])
    settings = SETTINGS.model_copy(update={"new_rule_share": 1.0})
    made = [flat(augmented(pair, settings, rng_of(seed))) == flat(pair) for seed in range(200)]
    assert sum(made) < 5


def flat(pairs: list[Pair]) -> bytes:
    """What stays of all grids together when one symmetry and relabelling is forgotten."""
    return fingerprint(*(Grid.from_array(cells) for pair in pairs for cells in pair))


def test_every_symmetry_comes() -> None:
    def pattern(cells: np.ndarray) -> tuple[tuple[int, ...], bytes]:
        return cells.shape, (cells == cells[0, 0]).tobytes()

    corner, rng = np.array([[0, 0, 1], [1, 1, 1]], np.uint8), rng_of(0)
    images = {pattern(apply(corner, symmetry)) for symmetry in SYMMETRIES}
    assert len(images) == 8
    assert {pattern(draw_change(SETTINGS, rng)(corner)) for _ in range(200)} == images


def test_colours_are_permuted_and_the_background_stays_as_often_as_asked() -> None:
    colours = np.arange(10, dtype=np.uint8)[None]
    for share, least, most in ((0.0, 0, 60), (0.5, 150, 250), (1.0, 300, 300)):
        rng, settings = rng_of(1), SETTINGS.model_copy(update={"keep_background_share": share})
        changes = [draw_change(settings, rng) for _ in range(300)]
        assert all(sorted(change(colours).ravel()) == list(range(10)) for change in changes)
        assert len({change(colours).tobytes() for change in changes}) > 290
        assert least <= sum(change(colours[:, :1])[0, 0] == 0 for change in changes) <= most


@given(seed=SEEDS, share=st.sampled_from([0.0, 1.0]))
def test_a_context_is_one_to_learn_outputs_or_a_self_edit_from(seed: int, share: float) -> None:
    context = draw_context(POOL, SETTINGS.model_copy(update={"self_edit_share": share}), write_number, rng_of(seed))
    assert context is not None
    parts = list(segments(context))
    assert (parts[-1][0][0] == ASK) == bool(share)
    said = [ids[0] for ids, target in parts if any(target)]
    assert said == ([ASK] if share else [OUTPUT] * (len(parts) // 2 - 1))
    shown = [len(ids) for ids, _ in parts if ids[0] != ASK]
    assert len(shown) >= 2 * SETTINGS.fewest_pairs


@given(seed=SEEDS)
def test_a_context_depends_on_its_generator_alone(seed: int) -> None:
    one, other = (draw_context(POOL, SETTINGS, write_number, rng_of(seed)) for _ in range(2))
    assert one is not None and other is not None
    for name in ("ids", "positions", "target"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_pairs_that_are_too_long_together_are_no_context() -> None:
    settings = DataSettings(max_tokens=32, self_edit_share=0.0)
    assert all(draw_context(tiny_pool(sides=(3,)), settings, write_number, rng_of(seed)) is None for seed in range(20))


@given(
    seed=st.integers(0, 50),
    fewest=st.integers(1, 4),
    max_tokens=st.integers(32, 110),
    share=st.sampled_from([0.0, 1.0]),
)
def test_what_is_drawable_is_drawn(seed: int, fewest: int, max_tokens: int, share: float) -> None:
    pool = tiny_pool(tasks=2, pairs=3, sides=(1, 2, 3), seed=seed)
    budget = {"self_edit_max_tokens": max_tokens} if share else {"max_tokens": max_tokens}
    settings = DataSettings(fewest_pairs=fewest, most_pairs=4, self_edit_share=share, **budget)
    rng = rng_of(seed)
    drawn = any(draw_context(pool, settings, write_number, rng) is not None for _ in range(150))
    assert drawn == is_drawable(pool, settings)


def test_nothing_is_drawable_from_an_empty_pool() -> None:
    assert not is_drawable(Pool.from_pairs({}), SETTINGS)
    assert not is_drawable(Pool.from_pairs({"none": []}), SETTINGS)
