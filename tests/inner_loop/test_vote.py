"""The vote: most votes, then log-probability, whatever the order."""

from math import log
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx, mark

from arc_seal.arc.grid import Grid
from arc_seal.inner_loop.job import Attempt, Candidate, Result, pool_attempts, pooled, vote

A, B, C, WIDE, TALL = (Grid.from_rows(rows) for rows in ([[1]], [[2]], [[3]], [[4, 4]], [[4], [4]]))
candidates = st.lists(
    st.builds(
        Candidate,
        st.integers(0, 1),
        st.just("view"),
        st.sampled_from([None, A, B, C, WIDE, TALL]),
        st.sampled_from([-2.0, -0.5, -0.1, -1 / 3, -1e-9]),
    ),
    max_size=12,
)


def candidate(grid: Grid | None, log_probability: float = -1.0, query: int = 0) -> Candidate:
    return Candidate(query, "view", grid, log_probability)


@given(candidates=candidates, seed=st.integers(0, 2**32))
def test_order_of_the_candidates_is_nothing(candidates: list[Candidate], seed: int) -> None:
    shuffled = Random(seed).sample(candidates, len(candidates))
    assert vote(shuffled, 2) == vote(candidates, 2)


@given(candidates=candidates)
def test_attempts_are_the_best_and_distinct(candidates: list[Candidate]) -> None:
    for query, attempts in enumerate(vote(candidates, 2)):
        valid = [each for each in candidates if each.query == query and each.grid is not None]
        grids = [attempt.grid for attempt in attempts]
        assert len(set(grids)) == len(grids) == min(2, len({each.grid for each in valid}))
        for attempt in attempts:
            own = [each.log_probability for each in valid if each.grid == attempt.grid]
            assert attempt.votes == len(own)
            assert abs(attempt.log_probability - sum(own) / len(own)) < 1e-9
        standing = [(attempt.votes, attempt.log_probability) for attempt in attempts]
        assert standing == sorted(standing, reverse=True)
        left_out = {each.grid for each in valid} - set(grids)
        votes_left = [sum(each.grid == grid for each in valid) for grid in left_out]
        assert all(votes <= attempts[-1].votes for votes in votes_left)


def test_votes_come_before_log_probability() -> None:
    found = vote([candidate(A, -3.0), candidate(B, -0.1), candidate(A, -2.0)], 1)
    assert found == ((Attempt(A, 2, -2.5, log(2)), Attempt(B, 1, -0.1, 0.0)),)


def test_log_probability_decides_among_equals() -> None:
    found = vote([candidate(A, -3.0), candidate(B, -0.1), candidate(C, -2.0)], 1)
    assert [attempt.grid for attempt in found[0]] == [B, C]


def test_cells_and_shape_decide_last() -> None:
    for order in ([WIDE, TALL], [TALL, WIDE]):
        assert [attempt.grid for attempt in vote([*map(candidate, order)], 1)[0]] == [WIDE, TALL]
    assert [attempt.grid for attempt in vote([candidate(C), candidate(B), candidate(A)], 1)[0]] == [A, B]


def test_invalid_candidates_have_no_vote() -> None:
    assert vote([candidate(None), candidate(None, -0.1), candidate(A, -9.0)], 1) == ((Attempt(A, 1, -9.0, 0.0),),)
    assert vote([candidate(None)], 1) == ((),)


def test_votes_weigh_what_their_scores_stand_for() -> None:
    scored = [Candidate(0, "view", grid, -0.1, log(share)) for grid, share in ((A, 0.2), (A, 0.2), (B, 0.5), (C, 0.3))]
    best, second = vote(scored, 1)[0]
    assert (best.grid, best.votes, best.log_weight) == (B, 1, approx(log(0.5)))
    assert (second.grid, second.votes, second.log_weight) == (A, 2, approx(log(0.4)))


def test_each_query_has_a_vote_of_its_own() -> None:
    found = vote([candidate(A, query=1), candidate(B, query=0), candidate(B, query=0)], 3)
    assert [[attempt.grid for attempt in attempts] for attempts in found] == [[B], [A], []]


def test_weights_too_small_for_a_number_still_rank() -> None:
    """Below e**-745 a probability is 0 as a floating-point number; a 30x30 grid has 930 symbols."""
    scored = [
        Candidate(0, "view", grid, each, score)
        for grid, each, score in ((A, -0.1, -2000.0), (B, -0.9, -1000.0), (B, -0.9, -1000.0), (C, -0.5, -1000.5))
    ]
    best, second = vote(scored, 1)[0]
    assert (best.grid, best.log_weight) == (B, approx(-1000.0 + log(2)))
    assert (second.grid, second.log_weight) == (C, approx(-1000.5))
    pooled = pool_attempts([vote([each], 1) for each in scored])
    assert [attempt.grid for attempt in pooled[0]] == [B, C]


def test_equal_attempts_of_several_runs_add_their_votes() -> None:
    one, two, other = Attempt(A, 2, -0.5, log(2)), Attempt(B, 3, -0.25, log(3)), Attempt(WIDE, 1, -0.9, 0.0)
    assert pool_attempts([[[two, one]], [[one, other]]]) == ((Attempt(A, 4, -0.5, approx(log(4))), two),)


def test_log_probabilities_are_averaged_over_the_votes_of_several_runs() -> None:
    (pooled,) = pool_attempts([[[Attempt(A, 3, -1.0, log(3))]], [[Attempt(A, 1, -2.0, 0.0)]]])[0]
    assert pooled == Attempt(A, 4, -1.25, approx(log(4)))


def test_between_as_many_votes_of_several_runs_the_likelier_goes_first() -> None:
    one, two = Attempt(A, 3, -0.5, log(3)), Attempt(B, 3, -0.25, log(3))
    assert pool_attempts([[[one]], [[two]]]) == ((two, one),)
    assert pool_attempts([[[], [one]]]) == ((), (one,))


@given(votes=st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_as_many_votes_weigh_the_same_however_they_come(votes: list[int]) -> None:
    runs = [[[Attempt(A, count, -2.0, log(count))]] for count in votes]
    whole = Attempt(B, sum(votes), -1.0, log(sum(votes)))
    assert [each.grid for each in pool_attempts([*runs, [[whole]]])[0]] == [B, A]


def scored(grid: Grid | None, score: float | None, query: int = 0) -> Candidate:
    return Candidate(query, "view", grid, -1.0, score)


def of(*candidates: Candidate, known: tuple[Candidate, ...] = ()) -> Result:
    return Result((), candidates, None, {}, known)


@mark.parametrize(
    ("earlier", "last", "expected"),
    [
        ([], [], []),
        ([], [of(scored(A, -1.0), scored(None, None))], [(A, -1.0), (None, None)]),
        # what was scored under an earlier adapter has the last one's score: as its own candidate, or as known to it
        ([of(scored(A, -0.1))], [of(scored(A, -2.0))], [(A, -2.0), (A, -2.0)]),
        ([of(scored(A, -0.1))], [of(scored(B, -2.0), known=(scored(A, -3.0),))], [(B, -2.0), (A, -3.0)]),
        # what the last did not score has no vote any more
        ([of(scored(A, -0.1))], [of(scored(B, -2.0))], [(B, -2.0)]),
        ([of(scored(A, -0.1, query=1))], [of(scored(A, -2.0))], [(A, -2.0)]),
        # what was never scored counts as it is
        ([of(scored(A, None))], [of(scored(B, None))], [(B, None), (A, None)]),
        # several last ones: the mean over them, each of which has one say, however many of its views agree
        (
            [of(scored(A, -0.1))],
            [of(*[scored(A, -1.0)] * 3), of(scored(B, -2.0), known=(scored(A, -3.0),))],
            [(A, -2.0)] * 3 + [(B, -2.0), (A, -2.0)],
        ),
        # what only its own adapter has scored has no vote beside two grids that are compared
        (
            [],
            [
                of(scored(A, -0.1), scored(C, -0.2), known=(scored(B, -9.0),)),
                of(scored(B, -1.0), known=(scored(A, -7.0),)),
            ],
            [(A, approx(-3.55)), (B, -5.0)],
        ),
        (
            [],
            [of(scored(A, -0.1)), of(scored(A, -0.3), scored(B, -1.0)), of(scored(B, -2.0), scored(C, -0.1))],
            [(A, approx(-0.2)), (A, approx(-0.2)), (B, -1.5), (B, -1.5)],
        ),
        ([], [of(scored(A, -0.1)), of(scored(B, -1.0))], [(A, -0.1), (B, -1.0)]),
        ([of(scored(A, -0.1)), of(scored(A, -0.2), scored(B, -0.2))], [of(scored(A, -2.0))], [(A, -2.0)] * 3),
    ],
)
def test_candidates_have_the_mean_score_of_the_last_roll_outs(
    earlier: list[Result], last: list[Result], expected: list[tuple[Grid | None, float | None]]
) -> None:
    assert [(each.grid, each.score) for each in pooled(earlier, last)] == expected
