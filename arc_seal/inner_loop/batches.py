"""Batches by length: contexts of like length stand together, so that little is computed for padding."""

import random
from collections.abc import Iterator, Sequence

MAX_PADDING = 0.1
"""The largest share of a batch's tokens that may be padding."""


def make_batches(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """One epoch's batches, as indices into `lengths`, in random order.

    Every index comes once. A batch is closed early where one more would bring padding to 10 %.

    Args:
        lengths: Tokens of each example.
        batch_size: Examples in a batch at most.
        rng: Decides among equal lengths, and the order of the batches.
    """
    order = list(range(len(lengths)))
    rng.shuffle(order)
    order.sort(key=lambda index: lengths[index])
    batches = list(_cut(order, lengths, batch_size))
    rng.shuffle(batches)
    return batches


def padding_share(batch: Sequence[int], lengths: Sequence[int]) -> float:
    """Share of a batch's tokens that is padding, 0 to 1."""
    longest = max(lengths[index] for index in batch)
    return 1 - sum(lengths[index] for index in batch) / (longest * len(batch))


def _cut(order: Sequence[int], lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) == batch_size or padding_share([*batch, index], lengths) >= MAX_PADDING):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
