"""A sweep with a deadline: its files are whole at any moment, and it can be gone on with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from arc_seal.arc.grid import Grid
from arc_seal.errors import Status
from arc_seal.outer_loop.rollout import grids
from arc_seal.solve import main
from arc_seal.ui.run_folder import Kept, read_folder, read_result
from tests.test_solve import EDIT, TINY
from tests.ui.builders import without_times

NAMES = ("x", "y")
TASK = {
    "train": [{"input": [[1, 2]], "output": [[1]]}, {"input": [[3, 4]], "output": [[3]]}],
    "test": [{"input": [[5]]}],
}
ARGV = (*TINY, "x.json", "y.json", f"self_edit.json={EDIT}", "stages=[0]", "ttt.token_budget=300")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tasks that the commands are started in."""
    for name in NAMES:
        (tmp_path / f"{name}.json").write_text(json.dumps(TASK))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(folder: Path) -> list[Kept]:
    return [read_result(folder / f"{number}-{name}-seed0") for number, name in enumerate(NAMES)]


def budgets(folder: Path) -> list[list[int | None]]:
    return [[each.token_budget for each in kept.solved.rollouts] for kept in results(folder)]


def submitted(folder: Path) -> Any:
    return json.loads((folder / "submission.json").read_text())


def test_a_sweep_whose_time_was_up_goes_on_to_what_is_undisturbed(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    late, whole = here / "late", here / "whole"
    assert main([*ARGV, "hydra.sweep.dir=late", "deadline_s=0.000001"]) == 1
    said = capfd.readouterr().out
    assert said.count("not begun") == 2 and "time was up" in said and "loading" not in said
    assert [kept.solved.open for kept in results(late)] == [True, True] and budgets(late) == [[], []]
    assert [line["status"] for line in json.loads((late / "summary.json").read_text())] == [[], []]
    assert submitted(late) == {name: [{"attempt_1": [[0]], "attempt_2": [[0]]}] for name in NAMES}
    assert main([*ARGV, "resume=late", "deadline_s=600"]) == 0
    assert main([*ARGV, "hydra.sweep.dir=whole", "deadline_s=600"]) == 0
    assert budgets(late) == budgets(whole) == [[0, *(300 * 2**doubled for doubled in range(3))]] * 2
    for one, other in zip(results(late), results(whole), strict=True):
        assert without_times(one.solved) == without_times(other.solved) and not one.solved.open
        assert one.configuration == other.configuration
    assert submitted(late) == submitted(whole)
    capfd.readouterr()
    assert main([*ARGV, "resume=late", "deadline_s=600"]) == 0
    assert "2/2" in capfd.readouterr().out


def test_an_interrupted_sweep_has_a_whole_submission_from_the_beginning(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import arc_seal.outer_loop.stages as stages

    def interrupted(ends: float | None, tasks: Sequence[stages.Staged], *_: object) -> None:
        assert [line["task"] for line in json.loads((here / "run" / "summary.json").read_text())] == list(NAMES)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "solve_until", interrupted)
    assert main([*ARGV, "hydra.sweep.dir=run", "deadline_s=600"]) == 130
    assert submitted(here / "run").keys() == set(NAMES)
    assert read_folder(here / "run").kept == ()  # as a killed one is, too
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert main([*ARGV, "resume=run", "deadline_s=600"]) == 0
    run = read_folder(here / "run")
    assert [kept.solved.task_id for kept in run.kept] == list(NAMES)
    answers = {kept.solved.task_id: grids(kept.solved.attempts) for kept in run.kept}
    for name, ((best, *_),) in answers.items():
        assert Grid.from_rows(submitted(here / "run")[name][0]["attempt_1"]) == best


def test_one_task_alone_keeps_to_its_deadline_too(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = (*TINY, "x.json", f"self_edit.json={EDIT}", "stages=[0]", "ttt.token_budget=300")
    assert main([*argv, "hydra.run.dir=run", "deadline_s=0.000001"]) == 1
    assert "no attempt" in capfd.readouterr().out
    assert main([*argv, "resume=run"]) == 0
    solved = read_result(here / "run").solved
    assert [each.status for each in solved.rollouts] == [Status.OK, Status.OK] and not solved.open
    assert "Roll-out 2 of 2: ok" in capfd.readouterr().out


def test_bad_input_is_recorded_and_the_others_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from arc_seal.errors import InputError
    from arc_seal.outer_loop.solve import Solving

    advance = Solving.advance

    def advanced(solving: Solving, *arguments: Any) -> None:
        if solving.task.id == "x":
            raise InputError("tools/x.py", "", "a tool", "none")
        advance(solving, *arguments)

    monkeypatch.setattr(Solving, "advance", advanced)
    assert main([*ARGV, "hydra.sweep.dir=run", "deadline_s=600"]) == 2
    lines = json.loads((here / "run" / "summary.json").read_text())
    assert [line["status"] for line in lines] == ["bad_input", ["ok"] * 4] and "a tool" in lines[0]["message"]
