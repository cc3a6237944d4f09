"""What is on disk: whole, another run's refused, and nothing left of what was killed."""

import json
import multiprocessing.synchronize
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from arc_seal.errors import InputError
from arc_seal.files import UNFINISHED, write_whole
from arc_seal.models.grid_network import GridForCausalLM
from arc_seal.pretraining.loop import Checkpoint, Clock, claimed, opened_log, read_checkpoint
from arc_seal.pretraining.optim import OptimizerSettings, make_optimizers
from arc_seal.pretraining.stream import Position
from tests.models.builders import grid_network
from tests.pretraining.tiny import PROCESSES, die, is_same, read_clock

IDENTITY = {"seed": 0, "data.max_tokens": 900, "weights": None}
AS_BEFORE = ", as the run has it that goes on here (or another folder)"
CLOCK = Clock(7, 1234, 5.5, Position(2, 3))

Trained = tuple[GridForCausalLM, tuple[Optimizer, ...]]


def trained(seed: int, updates: int) -> Trained:
    """A network and its optimisers after some updates."""
    network = grid_network(seed, layers=1)
    optimizers = make_optimizers(network, OptimizerSettings())
    for _ in range(updates):
        learn(network, optimizers)
    return network, optimizers


def learn(network: GridForCausalLM, optimizers: tuple[Optimizer, ...]) -> None:
    ids = torch.arange(40)[None]
    network(input_ids=ids, labels=ids).loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, *trained(0, updates=2), IDENTITY).save(CLOCK)
    return path


def test_a_state_comes_back_and_goes_on_as_it_would_have(path: Path) -> None:
    first, second = trained(0, updates=2), trained(1, updates=0)
    assert Checkpoint(path, *second, IDENTITY).restore() == read_clock(path) == CLOCK
    for _ in range(2):
        assert is_same(first[0].state_dict(), second[0].state_dict())
        for one, other in zip(first[1], second[1], strict=True):
            assert is_same(one.state_dict(), other.state_dict())
        learn(*first)
        learn(*second)


def test_where_there_is_none_nothing_is_touched(tmp_path: Path) -> None:
    network, optimizers = trained(0, updates=0)
    none = Checkpoint(tmp_path / "none.pt", network, optimizers, IDENTITY)
    assert none.restore() is read_clock(tmp_path / "none.pt") is None
    assert is_same(network.state_dict(), grid_network(0, layers=1).state_dict())


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({**IDENTITY, "seed": 1}, f"configuration: seed: expected 0{AS_BEFORE}, found 1"),
        ({**IDENTITY, "weights": "w"}, f'configuration: weights: expected null{AS_BEFORE}, found "w"'),
        ({**IDENTITY, "new": 2.5}, f"configuration: new: expected null{AS_BEFORE}, found 2.5"),
        ({"seed": 0, "weights": None}, f"configuration: data.max_tokens: expected 900{AS_BEFORE}, found null"),
    ],
)  # fmt: skip
def test_another_run_is_refused_in_one_line(path: Path, identity: dict[str, Any], message: str) -> None:
    network, optimizers = trained(1, updates=0)
    with pytest.raises(InputError) as caught:
        Checkpoint(path, network, optimizers, identity).restore()
    assert str(caught.value) == message
    assert is_same(network.state_dict(), grid_network(1, layers=1).state_dict())


def cut(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


@pytest.mark.parametrize(
    "spoil",
    [
        cut(0),
        cut(0.01),
        cut(0.5),
        cut(0.99),
        lambda path: path.write_text("something else"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"identity": IDENTITY}, path),
        lambda path: torch.save(Clock, path),  # would run code when it is read
    ],
)
def test_a_torn_or_foreign_file_is_refused_in_one_line(path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(path)
    for reading in (Checkpoint(path, *trained(0, updates=0), IDENTITY).restore, lambda: read_checkpoint(path)):
        with pytest.raises(InputError, match=r"checkpoint\.pt: expected a checkpoint, found \S") as caught:
            reading()
        assert "\n" not in str(caught.value)


def claim(folder: Path, ready: multiprocessing.synchronize.Event, file: str = "") -> None:
    """Have a folder until killed; with a file, be killed while it is being written."""
    with claimed(folder):
        ready.set()
        if file:
            write_whole(folder / file, lambda opened: (opened.write(b"half"), opened.flush(), die()))
        signal.pause()


def test_a_folder_has_one_run_at_a_time_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ready = PROCESSES.Event()
    process = PROCESSES.Process(target=claim, args=(folder, ready))
    process.start()
    assert ready.wait(240)
    with pytest.raises(InputError, match=r"run: expected a run that nobody else works on, found a process that does$"):
        claimed(folder).__enter__()
    process.kill()
    process.join()
    half = PROCESSES.Process(target=claim, args=(folder, ready, "checkpoint.pt"))
    half.start()
    half.join()
    assert half.exitcode == -9
    lock, left = sorted(each.name for each in folder.iterdir())
    assert lock == ".lock" and left.startswith("checkpoint.pt.") and left.endswith(UNFINISHED)
    with claimed(folder):
        assert [each.name for each in folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/run: expected a folder that can be written to, found Not a directory$"):
        claimed(tmp_path / "file" / "run").__enter__()


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_after_the_last_checkpoint_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with opened_log(path, 0) as log:
        for step in (1, 1, 2, 3, 4):
            log(step=step, loss=step / 2)
    with path.open("a") as file:
        file.write('{"step": 2, "lo')  # killed while it wrote
    with opened_log(path, 2) as log:
        assert rows(path) == [{"step": 1, "loss": 0.5}, {"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]
        log(step=3, loss=9.0)
    assert rows(path)[-1] == {"step": 3, "loss": 9.0}
    with opened_log(path, 0):
        assert path.read_text() == ""


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"loss": 1}', '{"step": null}', "\0\0", "", '{"step": "x"}'])
def test_a_line_that_is_no_row_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    text = f'{{"step": 1}}\n{line}\n{{"step": 2}}\n'
    path.write_text(text)
    with pytest.raises(InputError, match=r"log\.jsonl: line 2: expected a row of a run's log, found '"):
        opened_log(path, 5).__enter__()
    assert path.read_text() == text


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    with opened_log(tmp_path / "log.jsonl", 0) as log:
        log(step=1)
        assert rows(tmp_path / "log.jsonl") == [{"step": 1}]
