"""A run: it goes on from wherever it was stopped as if it had not been, and stops where it must."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from arc_seal.errors import Diverged, InputError
from arc_seal.files import UNFINISHED
from arc_seal.pretraining.loop import LATEST, STABLE, PretrainingProgress
from arc_seal.pretraining.optim import OptimizerSettings
from arc_seal.pretraining.stream import Chunks, DataSettings
from tests.models.builders import grid_network
from tests.pretraining.tiny import (
    BATCH_TOKENS,
    STEPS,
    TOKENS,
    interruptible,
    is_same,
    read_clock,
    state_of,
    tiny_pool,
    train,
    train_apart,
    write_number,
)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimisers and place bit for bit, and all that was written down but for times."""
    assert is_same(state_of(one / LATEST), state_of(other / LATEST))
    assert (one / "losses.jsonl").read_text() == (other / "losses.jsonl").read_text()
    measured = [[{**row, "seconds": None} for row in rows(folder / "unseen.jsonl")] for folder in (one, other)]
    assert measured[0] == measured[1]


def test_a_run_that_is_killed_again_and_again_is_the_undisturbed_one(tmp_path: Path) -> None:
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    assert train_apart(plain) == 0
    for moment, number, saved in (("update", 1, None), ("open", 3, 2), ("os.rename", 2, 3), ("update", 6, 5)):
        assert train_apart(killed, moment=moment, number=number) == -signal.SIGKILL
        clock = read_clock(killed / LATEST)
        assert (clock and clock.step) == saved
        assert any(killed.glob(f"{LATEST}.*{UNFINISHED}")) == (moment == "os.rename")
    assert train_apart(killed, workers=1) == 0
    assert_same_run(plain, killed)
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in plain.iterdir())


def test_what_is_written_down(tmp_path: Path) -> None:
    told: list[PretrainingProgress] = []
    clock = train(tmp_path, watch=told.append)
    assert clock.step == STEPS == len(told) and clock.tokens >= TOKENS > told[-2].clock.tokens
    losses = rows(tmp_path / "losses.jsonl")
    assert [row["step"] for row in losses] == list(range(1, STEPS + 1))
    for row, progress in zip(losses, told, strict=True):
        assert row == {
            "step": progress.clock.step, "tokens": progress.clock.tokens, "loss": round(progress.loss, 5),
            "accuracy": round(progress.accuracy, 5),
        }  # fmt: skip
    measured = [progress for progress in told if progress.scores]
    assert [progress.clock.tokens // 600 for progress in measured[:-1]] == [1, 2] and measured[-1] is told[-1]
    kept = rows(tmp_path / "unseen.jsonl")
    assert [(row["step"], row["loss"]) for row in kept] == [
        (progress.clock.step, progress.scores["unseen"].loss) for progress in measured
    ]
    assert set(kept[0]) == {"step", "tokens", "seconds", "set", "contexts", "loss", "accuracy", "exact"}
    assert all(progress.total == TOKENS and progress.tokens_per_s > 0 for progress in told)
    assert read_clock(tmp_path / LATEST) == clock


def test_a_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    clock = train(tmp_path)
    before = state_of(tmp_path / LATEST)
    told: list[PretrainingProgress] = []
    assert train(tmp_path, watch=told.append, workers=1) == clock
    assert train(tmp_path, tokens=TOKENS // 2, watch=told.append) == clock
    assert told == [] and is_same(state_of(tmp_path / LATEST), before)


class Stop(Exception):
    """What stops a run here as a kill would: nothing is saved after it."""


def stop_at(step: int) -> Any:
    def watch(progress: PretrainingProgress) -> None:
        if progress.clock.step == step:
            raise Stop

    return watch


@pytest.mark.parametrize("more", [1.2, 2])
def test_a_longer_run_goes_on_from_before_the_decay(tmp_path: Path, more: float) -> None:
    tokens = int(more * TOKENS)
    train(tmp_path / "long", tokens)
    train(tmp_path / "short")
    stable = read_clock(tmp_path / "short" / STABLE)
    assert stable is not None and 0.6 * TOKENS < stable.tokens < TOKENS
    with pytest.raises(Stop):  # before anything is saved
        train(tmp_path / "short", tokens, watch=stop_at(stable.step + 1))
    train(tmp_path / "short", tokens)
    assert_same_run(tmp_path / "short", tmp_path / "long")


def test_a_run_that_is_stopped_within_the_decay_may_become_longer(tmp_path: Path) -> None:
    train(tmp_path / "long", 2 * TOKENS)
    with pytest.raises(Stop):
        train(tmp_path / "short", watch=stop_at(STEPS - 1), save_every_s=0)
    assert (tmp_path / "short" / STABLE).exists()
    train(tmp_path / "short", 2 * TOKENS)
    assert_same_run(tmp_path / "short", tmp_path / "long")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_first(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(progress: PretrainingProgress) -> None:
        if progress.clock.step == 3:
            os.kill(os.getpid(), number)

    with interruptible():
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "interrupted", watch=interrupt)
        assert signal.getsignal(number) == before
    clock = read_clock(tmp_path / "interrupted" / LATEST)
    assert clock is not None and clock.step == 3
    train(tmp_path / "interrupted")
    train(tmp_path / "plain")
    assert_same_run(tmp_path / "interrupted", tmp_path / "plain")


def test_another_run_in_the_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    train(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    network = grid_network(layers=1)
    for tokens in (TOKENS, 2 * TOKENS):
        for name in (LATEST, STABLE):
            state = torch.load(tmp_path / name, weights_only=True)
            torch.save({**state, "identity": {**state["identity"], "seed": 1}}, tmp_path / name)
        with pytest.raises(InputError, match=r"seed: expected 1, as the run has it that goes on here"):
            train(tmp_path, tokens, network=network)
        assert {path.name for path in tmp_path.iterdir()} == set(files)
        assert (tmp_path / "losses.jsonl").read_bytes() == files["losses.jsonl"]


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    network = grid_network(layers=1)
    torch.nn.init.constant_(network.lm_head.weight, float("nan"))
    with pytest.raises(Diverged, match=r"^the loss became nan$"):
        train(tmp_path, network=network)
    assert not (tmp_path / LATEST).exists() and rows(tmp_path / "losses.jsonl") == []


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_is_taken(tmp_path: Path) -> None:
    network = grid_network(layers=1)
    network.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Diverged, match=r"^the gradient's norm became (nan|inf)$"):
        train(tmp_path, network=network)
    assert is_same(network.state_dict(), grid_network(layers=1).state_dict())


def test_the_loss_falls(tmp_path: Path) -> None:
    settings = DataSettings(max_tokens=100, most_pairs=3, self_edit_share=0.0, new_rule_share=0.0)
    chunks = Chunks([(tiny_pool(tasks=1, pairs=3), 1.0)], settings, BATCH_TOKENS, 0, write_number)
    train(tmp_path, 12_000, network=grid_network(), chunks=chunks, optimization=OptimizerSettings(warmup_tokens=500))
    losses = [row["loss"] for row in rows(tmp_path / "losses.jsonl")]
    assert sum(losses[:3]) / 3 > 5  # 272 tokens, all as likely
    assert sum(losses[-5:]) / 5 < 2.2  # at least which tokens are colours
    measured = [row["loss"] for row in rows(tmp_path / "unseen.jsonl")]
    assert measured[-1] < measured[0]
