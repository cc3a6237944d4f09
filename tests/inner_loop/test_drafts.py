"""Drafts change nothing: what is decoded with them, whatever they are, is what is decoded side by side."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.grid import Grid
from arc_seal.errors import Diverged, GridError
from arc_seal.files import tools_dir
from arc_seal.inner_loop.adapt import _adapted, drawn_views, query_prompts
from arc_seal.inner_loop.drafts import decode_views
from arc_seal.inner_loop.job import AdaptJob, DecodeSettings, TrainingSettings
from arc_seal.inner_loop.predict import (
    Decoded,
    Greedy,
    GridGrammar,
    _allowed_behind,
    decode,
    decode_along,
    decode_on,
    score,
)
from arc_seal.models.generate import CachedContext
from arc_seal.models.model import Model, load
from arc_seal.models.prompt import ROW_END, grid_symbols
from arc_seal.models.weights import GridSource
from arc_seal.self_edit.augment import NamedView
from arc_seal.self_edit.edit import ToolCall
from arc_seal.self_edit.toolbox import Toolbox
from tests.arc.strategies import grids
from tests.inner_loop.builders import TURNS, adapted, copying_task, ignore, job
from tests.models.builders import MODELS, MakeModel, grid_model
from tests.self_edit.builders import edit

TASK = copying_task((1, 3, 2, 4))
TURNED = job(TASK, TURNS, decode=DecodeSettings(views=6, score=True))


def shown_of(job: AdaptJob) -> tuple[NamedView, ...]:
    return drawn_views(job, Toolbox.load([tools_dir()]))


def context_of(model: Model, job: AdaptJob, shown: Sequence[NamedView]) -> CachedContext:
    return CachedContext(model, query_prompts(job, model, shown, 0))


def assert_alike(found: Sequence[Decoded], other: Sequence[Decoded]) -> None:
    """Equal but for rounding errors."""
    assert [(each.grid, each.symbols) for each in found] == [(each.grid, each.symbols) for each in other]
    assert [each.log_probability for each in found] == pytest.approx([each.log_probability for each in other], abs=1e-4)


def assert_drafts_change_nothing(model: Model, job: AdaptJob, shown: Sequence[NamedView]) -> list[Decoded]:
    """What is decoded is what is decoded side by side, and what is scored on the way has the score that it has."""
    context = context_of(model, job, shown)
    found, scores = decode_views(context, shown, 0, lambda step, rate: None)
    assert_alike(found, decode(context_of(model, job, shown), lambda step, rate: None))
    for grid, each in scores.items():
        assert each == pytest.approx(score(context, [view.show(grid) for view in shown]), abs=1e-3)
    return found


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("views", [1, 2, 6])
def test_views_that_disagree(make: MakeModel, views: int) -> None:
    """Untrained networks, of whose grids some are void."""
    turned = replace(TURNED, decode=DecodeSettings(views=views))
    found = [each for seed in range(4) for each in assert_drafts_change_nothing(make(seed), turned, shown_of(turned))]
    assert any(each.grid is None for each in found)
    assert len({each.grid for each in found}) > 1


@pytest.mark.parametrize("make", MODELS)
def test_views_that_agree_in_part(make: MakeModel) -> None:
    model = make(0)
    with adapted(model, TASK):
        found = assert_drafts_change_nothing(model, TURNED, shown_of(TURNED))
    assert any(each.grid is not None for each in found)


@pytest.mark.parametrize("make", MODELS)
def test_views_that_agree_are_not_decoded(make: MakeModel) -> None:
    """No step says a symbol anew, however many views there are."""
    model, steps = make(0), list[int]()
    with adapted(model, TASK):
        shown = shown_of(replace(TURNED, decode=DecodeSettings(views=1))) * 5
        found, scores = decode_views(context_of(model, TURNED, shown), shown, 0, lambda step, rate: steps.append(step))
    assert len({each.grid for each in found}) == 1 and list(scores) == [found[0].grid]
    assert steps == sorted(set(steps)) and steps[-1] == found[0].symbols


def test_views_that_cannot_show_a_draft_are_decoded() -> None:
    """Nor is a grid a draft that has no way back; such a view has no candidate, as ever."""

    def no_way_back(grid: Grid) -> Grid:
        raise GridError("no way back")

    model = grid_model()
    with adapted(model, TASK):
        shown = list(shown_of(TURNED))
        shown[0] = replace(shown[0], invert=no_way_back, show=lambda grid: None)
        shown[3] = replace(shown[3], show=lambda grid: None)
        assert_drafts_change_nothing(model, TURNED, shown)
        assert_drafts_change_nothing(model, TURNED, [replace(view, invert=no_way_back) for view in shown])


@pytest.mark.parametrize("make", MODELS)
@given(draft=grids(6), known=st.integers(0, 40), least=st.sampled_from([0.0, 2.0]))
def test_any_draft_may_be_followed(make: MakeModel, draft: Grid, known: int, least: float) -> None:
    """From any place on, whatever has been read before; and what is given up may be gone on with."""
    model, shown = make(1), shown_of(TURNED)[:2]
    context = context_of(model, TURNED, shown)
    expected, texts = decode(context, lambda step, rate: None), [Greedy(), Greedy()]
    score(context, [draft, draft])
    for row, text in enumerate(texts):  # each is known to another place
        alone = Greedy()
        decode_on(context.part([row]), [alone], lambda step, rate: None)
        for symbol in alone.symbols[: max(0, known - row)]:
            text.take(symbol, 0.0)
    symbols = grid_symbols(draft.array).tolist()
    if texts[0].open:
        decode_along(context.part([0]), texts[0], symbols, lambda step, rate: None, least)
        assert least or not texts[0].open
    if left := [row for row, text in enumerate(texts) if text.open]:
        decode_on(context.part(left), [texts[row] for row in left], lambda step, rate: None)
    assert [text.decoded.grid for text in texts] == [each.grid for each in expected]
    assert [text.decoded.symbols for text in texts] == [each.symbols for each in expected]


@given(grid=grids(), draft=grids())
def test_a_draft_is_taken_as_far_as_it_is_right_and_a_symbol_more(grid: Grid, draft: Grid) -> None:
    greedy, guess = grid_symbols(grid.array).tolist(), grid_symbols(draft.array).tolist()
    text = Greedy()
    likeliest = [*greedy, *greedy][: len(guess)]  # once the draft is wrong, or the grid has ended, these mean nothing
    text.take_along(guess, likeliest, [-1.0] * len(likeliest))
    pairs = enumerate(zip(greedy, guess, strict=False))
    common = next((place for place, (own, other) in pairs if own != other), len(greedy))
    assert text.symbols == greedy[: common + 1]
    assert text.open == (len(text.symbols) < len(greedy))
    assert text.decoded.log_probability == -1.0


@given(grid=grids())
def test_what_is_allowed_follows_from_the_symbol_before(grid: Grid) -> None:
    symbols, grammar = grid_symbols(grid.array), GridGrammar()
    behind = _allowed_behind(np.append(ROW_END, symbols[:-1]))
    for symbol, allowed in zip(symbols.tolist(), behind, strict=True):
        assert (grammar.allowed() == allowed).all()
        grammar.take(symbol)


def test_network_without_finite_outputs_is_a_failure() -> None:
    model = grid_model()
    torch.nn.init.constant_(model.network.get_decoder().norm.weight, float("nan"))
    shown = shown_of(TURNED)
    with pytest.raises(Diverged, match=r"^the network's outputs are not finite$"):
        decode_views(context_of(model, TURNED, shown), shown, 0, lambda step, rate: None)


@pytest.mark.slow
@pytest.mark.parametrize("token_budget", [500, 8000])
def test_shipped_weights_decode_real_tasks_the_same(token_budget: int) -> None:
    """Views mostly disagree after the first budget, and agree more after the second."""
    model = load(GridSource("grid", "package:arc_seal/weights/grid", device="cpu", dtype="float32"))
    turns, colours = ToolCall.of("rotate", quarter_turns="any"), ToolCall.of("permute_colors", keep_background=True)
    chosen = edit(ToolCall.of("chain", steps=(turns, colours)), learning_rate=0.002, batch_size=4, max_examples=32)
    for task in [task for task, _ in load_tasks("seal/training")][:4]:
        training = TrainingSettings(token_budget=token_budget)
        one = job(task, chosen, training=training, decode=DecodeSettings(views=8))
        with _adapted(one, model, ignore, defaultdict(float)) as (_, shown):
            assert_drafts_change_nothing(model, one, shown)
