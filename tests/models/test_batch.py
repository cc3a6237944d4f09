"""A batch holds its contexts, side by side, and says where each target is predicted."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.models.model import collate
from arc_seal.models.prompt import Encoded

SEEDS = st.integers(0, 2**32)


def context(rng: np.random.Generator, axes: int) -> Encoded:
    """Random tokens at random positions, some of them targets; the first is none."""
    length = int(rng.integers(1, 12))
    target = rng.random(length) < rng.random()
    target[0] = False
    return Encoded(rng.integers(1, 99, length), rng.integers(0, 30, (axes, length)), target)


@settings(max_examples=30)
@given(seed=SEEDS, count=st.integers(1, 6), axes=st.sampled_from([1, 3]), pad=st.sampled_from([0, 15]))
def test_a_batch_holds_its_contexts_and_their_targets(seed: int, count: int, axes: int, pad: int) -> None:
    rng = np.random.default_rng(seed)
    contexts = [context(rng, axes) for _ in range(count)]
    longest = max(len(each.ids) for each in contexts)
    batch = collate(contexts, pad)
    assert batch.tokens == sum(len(each.ids) for each in contexts)
    assert batch.ids.shape == (count, longest) and batch.positions.shape == (axes, count, longest)
    expected = []
    for row, each in enumerate(contexts):
        length = len(each.ids)
        np.testing.assert_array_equal(batch.ids[row, :length], each.ids)
        np.testing.assert_array_equal(batch.positions[:, row, :length], each.positions)
        assert (batch.ids[row, length:] == pad).all() and not batch.positions[:, row, length:].any()
        expected += [(row, index - 1, int(each.ids[index])) for index in np.flatnonzero(each.target).tolist()]
    assert list(zip(*batch.where.tolist(), batch.labels.tolist(), strict=True)) == expected


def limited(rng: np.random.Generator, vocabulary: int) -> Encoded:
    """One whose targets could be some tokens only."""
    own = context(rng, 1)
    return replace(own, allowed=np.packbits(rng.random((own.target.sum(), vocabulary)) < 0.5, axis=1))


@settings(max_examples=30)
@given(seed=SEEDS, count=st.integers(1, 4), vocabulary=st.integers(1, 20))
def test_a_batch_takes_out_what_could_not_stand_there(seed: int, count: int, vocabulary: int) -> None:
    rng = np.random.default_rng(seed)
    contexts = [limited(rng, vocabulary) for _ in range(count)]
    rows = [np.unpackbits(each.allowed, axis=1)[:, :vocabulary] for each in contexts if each.allowed is not None]
    logits = torch.randn(sum(map(len, rows)), vocabulary)
    found = collate(contexts).limited(logits)
    allowed = torch.from_numpy(np.concatenate(rows)).bool()
    assert torch.equal(found.isfinite(), allowed) and torch.equal(found[allowed], logits[allowed])
    free = collate([context(rng, 1)])
    assert free.limited(logits) is logits


def test_a_batch_is_moved_whole() -> None:
    batch = collate([limited(np.random.default_rng(seed), 9) for seed in range(3)])
    moved = batch.to(torch.device("meta"))
    assert moved.tokens == batch.tokens
    for name in ("ids", "positions", "where", "labels", "allowed"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
