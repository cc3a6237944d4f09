"""The stream: the same from anywhere and with any workers, in batches that hold what they say and little padding."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_seal.arc.datasets import load_tasks
from arc_seal.models.grid_codec import PAD
from arc_seal.models.grid_network import positions_of
from arc_seal.models.model import Batch
from arc_seal.models.prompt import Encoded
from arc_seal.pretraining.stream import Chunks, DataSettings, Position, cut, draw_context, read_stream
from tests.pretraining.tiny import BATCH_TOKENS, SETTINGS, is_same, pool_of, tiny_chunks, tiny_pool, write_number

ROOT = Path(__file__).parents[2]

Read = list[tuple[Batch, Position]]

SEEDS = st.integers(0, 2**32)


def read(count: int, begin: Position | None = None, workers: int = 0, chunks: Chunks | None = None) -> Read:
    return list(islice(read_stream(chunks or tiny_chunks(), begin or Position(), workers), count))


def same(one: Read, other: Read) -> bool:
    names = ("ids", "positions", "where", "labels", "tokens")
    return len(one) == len(other) and all(
        first[1] == second[1] and all(is_same(getattr(first[0], name), getattr(second[0], name)) for name in names)
        for first, second in zip(one, other, strict=True)
    )


def contexts_of(seed: int, count: int) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    drawn = (draw_context(tiny_pool(), SETTINGS, write_number, rng) for _ in range(count))
    return [context for context in drawn if context is not None]


def test_the_stream_goes_on_from_any_place() -> None:
    whole = read(30)
    assert len({position.chunk for _, position in whole}) >= 3
    assert same(whole, read(30))
    for index, (_, position) in enumerate(whole[:25]):
        assert same(read(5, position), whole[index + 1 : index + 6])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_stream(workers: int) -> None:
    whole = read(24)
    assert same(read(24, workers=workers), whole)
    assert same(read(10, whole[11][1], workers), whole[12:22])


def test_many_workers_do_with_few_open_files() -> None:
    script = (
        "import resource; from itertools import islice\n"
        "from arc_seal.pretraining.stream import Position, read_stream\n"
        "from tests.pretraining.tiny import tiny_chunks\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "print(sum(1 for _ in islice(read_stream(tiny_chunks(chunk_batches=64), Position(), 2), 130)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout == "130\n", done.stderr


def test_a_stream_is_its_seeds() -> None:
    assert not same(read(3), read(3, chunks=tiny_chunks(seed=1)))


def test_every_pool_has_its_share() -> None:
    small, large = tiny_pool(sides=(1,)), tiny_pool(sides=(3,))
    for share in (0.2, 0.8):
        chunks = Chunks([(small, share), (large, 1 - share)], DataSettings(self_edit_share=0.0), 4096, 0, write_number)
        batches = chunks[0]
        rows = torch.cat([(batch.ids != PAD).sum(1) for batch in batches])
        assert (rows < 40).float().mean() == pytest.approx(share, abs=0.05)  # six pairs of 1x1 are 36 tokens


@settings(max_examples=10)
@given(seed=SEEDS)
def test_batches_are_filled_with_padding_and_real_tokens_stand_where_they_should(seed: int) -> None:
    for batch in tiny_chunks(seed=seed)[0]:
        real = batch.ids != PAD
        assert batch.tokens == int(real.sum())
        assert torch.equal(batch.positions[:, real], positions_of(batch.ids)[:, real])


@given(seed=SEEDS, budget=st.integers(50, 500))
def test_batches_are_within_the_budget_and_lose_nothing(seed: int, budget: int) -> None:
    contexts = contexts_of(seed, 20)
    groups = list(cut(contexts, budget))
    assert sorted(map(id, contexts)) == sorted(id(context) for group in groups for context in group)
    for group in groups:
        assert len(group) == 1 or len(group) * max(len(context.ids) for context in group) <= budget


@settings(max_examples=10)
@given(seed=SEEDS)
def test_batches_of_the_stream_are_within_the_budget(seed: int) -> None:
    for batch in tiny_chunks(seed=seed)[0]:
        assert batch.ids.numel() <= BATCH_TOKENS and len(batch.labels) > 0


def test_little_of_a_real_stream_is_padding() -> None:
    pool = pool_of(load_tasks("arcagi1/training"))
    batches = Chunks([(pool, 1.0)], DataSettings(), 8192, 0, write_number)[0]
    read_, padded = sum(batch.tokens for batch in batches), sum(batch.ids.numel() for batch in batches)
    assert read_ >= 32 * 8192 and 1 - read_ / padded < 0.05
