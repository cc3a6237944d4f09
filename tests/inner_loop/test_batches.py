"""Batches by length: everything once, little padding."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from arc_seal.inner_loop.train import MAX_PADDING, make_batches

lengths = st.lists(st.integers(1, 5000) | st.integers(400, 440), min_size=1, max_size=60) | st.lists(
    st.integers(80, 125), min_size=10, max_size=60
)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32)


@given(lengths=lengths, size=sizes, seed=seeds)
def test_each_example_comes_once_in_batches_with_little_padding(lengths: list[int], size: int, seed: int) -> None:
    batches = make_batches(lengths, size, Random(seed))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= size
        computed = max(lengths[index] for index in batch) * len(batch)
        padding = computed - sum(lengths[index] for index in batch)
        assert padding < MAX_PADDING * computed
    assert batches == make_batches(lengths, size, Random(seed))


@given(count=st.integers(1, 60), size=sizes, seed=seeds)
def test_batches_of_like_examples_are_full(count: int, size: int, seed: int) -> None:
    batches = make_batches([300 + index % 20 for index in range(count)], size, Random(seed))
    assert sorted(map(len, batches), reverse=True) == [size] * (count // size) + [count % size] * (count % size > 0)


def test_order_is_drawn() -> None:
    orders = {str(make_batches([100] * 6, 2, Random(seed))) for seed in range(20)}
    assert len(orders) > 10
    lengths = [100, 100, 500, 500, 900, 900]
    first = {lengths[make_batches(lengths, 2, Random(seed))[0][0]] for seed in range(20)}
    assert first == {100, 500, 900}  # not from short to long
