"""Commands killed at 25 random moments and gone on with each time: they come to what undisturbed ones come to."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from arc_seal.arc.datasets import load_tasks
from arc_seal.ui.run_folder import load_result
from tests.forked import Forks, forks
from tests.smoke import LABEL_FREE, Finished, events, kept, rows
from tests.test_solve import EDIT, TINY
from tests.ui.builders import without_times

pytestmark = pytest.mark.slow

KILLS = 25
IN_PROCESSES = ("executor=process", "executor.workers=2", "executor.threads=1")


@pytest.fixture(scope="module")
def commands() -> Iterator[Forks]:
    with forks() as found:
        yield found


def write_kaggle(path: Path, count: int) -> list[str]:
    """A Kaggle file of the smallest tasks of ARC-AGI-1, under ids that folders cannot have; the ids."""
    entries = sorted(load_tasks("arcagi1/training"), key=lambda each: (_cells(each[0]), each[0].id))[:count]
    tasks = {
        f"{task.id} {number}=": {
            "train": [{"input": demo.input.rows, "output": demo.output.rows} for demo in task.demos],
            "test": [{"input": query.rows} for query in task.queries],
        }
        for number, (task, _) in enumerate(entries)
    }
    path.write_text(json.dumps(tasks))
    return list(tasks)


def _cells(task: Any) -> int:
    return sum(grid.height * grid.width for demo in task.demos for grid in (demo.input, demo.output))


def end_state(place: Path) -> tuple[Any, ...]:
    """What a sweep keeps, without times."""
    lines = json.loads((place / "summary.json").read_text())
    results = [without_times(load_result(place / line["folder"])) for line in lines]
    made = [each.model_copy(update={"git_commit": None}) for result in results for each in result.rollouts]
    answers = [(place / line["folder"] / "submission.json").read_bytes() for line in lines]
    untimed = [{**line, "seconds": {}} for line in lines]
    return untimed, made, answers, (place / "submission.json").read_bytes()


def done(place: Path) -> dict[Path, int]:
    """When each result was written that is there."""
    return {path: path.stat().st_mtime_ns for path in place.rglob("result.json")}


def test_a_sweep_of_solve(commands: Forks, tmp_path: Path) -> None:
    ids = write_kaggle(tmp_path / "x_challenges.json", 30)
    argv = (*TINY, "x_challenges.json", f"self_edit.json={EDIT}", "hydra.run.dir=whole")
    began = time.monotonic()
    commands.start(tmp_path, "solve", *argv)
    assert commands.code() == 0, (tmp_path / "said").read_text()
    row_s = (time.monotonic() - began) / len(ids)
    whole, place, rng = end_state(tmp_path / "whole"), tmp_path / "killed", Random(0)
    before: dict[Path, int] = {}
    moments = sorted(rng.choices(range(len(ids) - 2), k=KILLS))
    for number, least in enumerate(moments):
        to = "resume=killed" if place.is_dir() else "hydra.run.dir=killed"
        commands.start(tmp_path, "solve", *argv[:-1], to, *(IN_PROCESSES if number % 5 == 4 else ()))
        assert commands.wait(lambda least=least: len(done(place)) >= least), (tmp_path / "said").read_text()
        time.sleep(rng.uniform(0, row_s))
        commands.kill()
        assert commands.code() == -9, (tmp_path / "said").read_text()
        found = done(place)
        assert before.items() <= found.items()  # nothing is done twice
        before = found
        if (place / "summary.json").is_file():
            lines, answers = (json.loads((place / name).read_text()) for name in ("summary.json", "submission.json"))
            assert len(found) - len(lines) in (0, 1, 2)  # one a worker, between its own files and those of all
            assert {line["task"] for line in lines} - answers.keys() == set()
    commands.start(tmp_path, "solve", *argv[:-1], "resume=killed")
    assert commands.code() == 0
    assert end_state(place) == whole
    assert before.items() <= done(place).items()


def test_training(commands: Forks, smoke_run: Finished, tmp_path: Path) -> None:
    """Moments are rows of the undisturbed run and parts of the time that a row takes there."""
    place, rng, whole = tmp_path / "runs" / "restem" / "smoke-seed0", Random(0), events(smoke_run.place)
    before: list[object] = []
    for number, least in enumerate(sorted(rng.choices(range(whole - 3), k=KILLS))):
        commands.start(tmp_path, "train", *LABEL_FREE, *(IN_PROCESSES if number % 5 == 4 else ()))
        assert commands.wait(lambda least=least: events(place) >= least), (tmp_path / "said").read_text()
        time.sleep(rng.uniform(0, 0.3))
        commands.kill()
        assert commands.code() == -9, (tmp_path / "said").read_text()
        found = rows(place)
        assert all(row in found for row in before) and events(place) < whole
        before = list(found)
    commands.start(tmp_path, "train", *LABEL_FREE)
    assert commands.code() == 0
    assert kept(place) == kept(smoke_run.place)
    assert all(row in rows(place) for row in before)
