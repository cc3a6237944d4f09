"""Scores: the probability of a grid that is given is that of decoding it."""

from collections.abc import Iterator
from dataclasses import replace
from math import exp, log

import pytest

from arc_seal.arc.grid import Grid
from arc_seal.inner_loop.adapt import adapt, score_known
from arc_seal.inner_loop.job import DecodeSettings, ScoreJob, TrainingSettings
from arc_seal.inner_loop.predict import decode, score
from arc_seal.models.generate import CachedContext
from arc_seal.models.model import Model
from arc_seal.models.prompt import query_prompt
from tests.inner_loop.builders import TURNS, adapted, copying_task, ignore, job
from tests.models.builders import MODELS, MakeModel

TASK = copying_task((1, 3, 2, 4), seed=0)
SMALL, LARGE = Grid.from_rows([[1]]), Grid.from_rows([[1, 2, 3], [3, 2, 1], [0, 0, 0], [1, 1, 1]])


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """A model that has learnt to answer."""
    make: MakeModel = request.param
    model = make(0)
    with adapted(model, TASK):
        yield model


def context(model: Model, shown: tuple[int, ...] = (4, 1, 3, 2)) -> CachedContext:
    tasks = [TASK.with_demos(TASK.demos[:count]) for count in shown]
    return CachedContext(model, [model.codec.encode(query_prompt(each, each.queries[0])) for each in tasks])


def test_what_was_decoded_scores_what_decoding_said(model: Model) -> None:
    read = context(model)
    decoded = decode(read, lambda step, rate: None)
    found = score(read, [each.grid for each in decoded])
    assert any(each.grid is not None for each in decoded)
    for each, scored in zip(decoded, found, strict=True):
        if each.grid is None:
            assert scored is None
        else:
            assert scored == pytest.approx(each.log_probability * each.symbols, abs=1e-3)


def test_neither_neighbours_nor_what_was_read_before_count(model: Model) -> None:
    read = context(model)
    decode(read, lambda step, rate: None)
    mixed = score(read, [SMALL, LARGE, None, SMALL])
    again = score(read, [SMALL, LARGE, None, SMALL])
    assert mixed == again and mixed[2] is None
    alone = context(model, (1,))
    alone.read_prompts()
    assert score(alone, [LARGE])[0] == pytest.approx(mixed[1], abs=1e-3)


def test_nothing_to_score_is_no_score(model: Model) -> None:
    read = context(model)
    read.read_prompts()
    assert score(read, [None] * 4) == [None] * 4


def test_candidates_of_a_job_are_scored_alike_where_their_grids_are(model: Model) -> None:
    settings = DecodeSettings(views=6, score=True)
    candidates = adapt(job(TASK, None, decode=settings), model, ignore).candidates
    assert len(candidates) == 6 * len(TASK.queries)
    scores: dict[tuple[int, Grid], float] = {}
    for each in candidates:
        assert (each.score is None) == (each.grid is None)
        if each.grid is not None and each.score is not None:
            assert each.score < 0
            assert scores.setdefault((each.query, each.grid), each.score) == each.score
    assert scores


@pytest.mark.parametrize("make", MODELS)
def test_scores_go_through_the_views_of_a_self_edit(make: MakeModel) -> None:
    result = adapt(job(TASK, TURNS, decode=DecodeSettings(views=4, score=True)), make(0), ignore)
    assert any("rotate" in each.view for each in result.candidates)
    for query, attempts in enumerate(result.attempts):
        for attempt in attempts:
            scores = [each.score for each in result.candidates if (each.query, each.grid) == (query, attempt.grid)]
            assert attempt.log_weight == pytest.approx(log(sum(exp(each) for each in scores if each is not None)))


def test_grids_known_before_are_scored_and_have_no_vote(model: Model) -> None:
    plain = job(TASK, None, decode=DecodeSettings(views=6, score=True))
    alone = adapt(plain, model, ignore)
    predicted = next(each for each in alone.candidates if each.grid not in (None, SMALL, LARGE))
    assert predicted.grid is not None
    asked = adapt(replace(plain, known=((SMALL, predicted.grid, LARGE),)), model, ignore)
    assert replace(asked, known=(), seconds={}) == replace(alone, seconds={})
    assert [each.grid for each in asked.known] == [SMALL, predicted.grid, LARGE]
    scores, symbols = [each.score for each in asked.known], predicted.grid.height * (predicted.grid.width + 1)
    assert scores[1] == predicted.score and all(each is not None and each < 0 for each in scores)
    assert predicted.score is not None and asked.known[1].log_probability == pytest.approx(predicted.score / symbols)


def test_without_scores_nothing_known_is_asked_about(model: Model) -> None:
    plain = replace(job(TASK, None, decode=DecodeSettings(views=2)), known=((SMALL,),))
    assert adapt(plain, model, ignore).known == ()


@pytest.mark.parametrize("make", MODELS)
def test_under_its_kept_adapter_an_inner_loop_scores_again_as_it_did(make: MakeModel) -> None:
    model = make(0)
    before = {name: weight.numpy().tobytes() for name, weight in model.network.state_dict().items()}
    exact = TrainingSettings(precision="float32")  # bfloat16 rounds what is read beside others in another way
    done = replace(job(TASK, TURNS, decode=DecodeSettings(views=4, score=True), training=exact), keep=True)
    result = adapt(done, model, ignore)
    own = tuple(tuple(attempt.grid for attempt in query) for query in result.attempts)
    known = tuple((*query, SMALL) for query in own)
    scored = score_known(ScoreJob(replace(done, known=known, begin=result.adapter)), model)
    assert [(each.query, each.grid) for each in scored] == [
        (query, grid) for query, grids in enumerate(known) for grid in grids
    ]
    found = {(each.query, each.grid): each.score for each in result.candidates}
    for each in scored:
        if each.grid != SMALL:
            assert each.score == pytest.approx(found[each.query, each.grid], abs=1e-3)
    assert {name: weight.numpy().tobytes() for name, weight in model.network.state_dict().items()} == before
