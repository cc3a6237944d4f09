"""Runs listed, and two of them compared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from arc_seal.outer_loop.table import to_json
from arc_seal.runs import main
from arc_seal.ui.run_folder import changed, compare, read_folder, run_folders
from tests.outer_loop.table_builders import evaluation
from tests.ui.builders import RIGHT, WRONG
from tests.ui.test_report import sweep, training


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Two sweeps of which the second is better on the tasks they share, a training run and an evaluation."""
    sweep(tmp_path / "before", [("aa", 0, [WRONG], 0), ("bb", 0, [WRONG], 0), ("cc", 0, [RIGHT], 1)])
    sweep(tmp_path / "after", [("aa", 1, [RIGHT], 1), ("bb", 1, [RIGHT], 1), ("dd", 1, [RIGHT], 1)])
    (tmp_path / "restem" / "seal-seed0").mkdir(parents=True)
    training(tmp_path / "restem" / "seal-seed0")
    (tmp_path / "restem" / "seal-evaluation").mkdir()
    (tmp_path / "restem" / "seal-evaluation" / "table.json").write_text(to_json(evaluation()))
    (tmp_path / "latest").symlink_to("after")
    return tmp_path


def test_runs_are_listed_once_and_a_broken_one_too(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kept / "broken").mkdir()
    (kept / "broken" / "result.json").write_text("{")
    assert len(run_folders(kept)) == 5
    assert main(["list", str(kept)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["run", "kind", "changed", "model", "tasks", "solved", "time"]
    found = {line.split()[0]: line for line in lines}
    assert set(found) == {"before", "after", "broken", "restem/seal-seed0", "restem/seal-evaluation"}
    assert "cannot be read" in found["broken"] and "JSON" in found["broken"]
    assert " sweep " in found["before"] and "1/3" in found["before"] and "3/3" in found["after"]
    assert "7/9 in SEAL" in found["restem/seal-evaluation"]
    assert "1/3 in round 2" in found["restem/seal-seed0"]


def test_to_look_at_runs_does_not_make_them_new(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("before", "after", "restem/seal-seed0", "restem/seal-evaluation"):
        for file in (kept / folder).rglob("*"):
            os.utime(file, (0, 86400 * (1 + len(folder))))
    for _ in range(2):
        assert main(["list", str(kept)]) == 0
        (kept / "before" / "report.html").write_text("")
        assert capsys.readouterr().out.count(" 1970-01-") == 4
    assert [folder.name for folder in run_folders(kept)] == ["seal-evaluation", "seal-seed0", "before", "after"]


def test_who_has_read_enough_is_no_error(kept: Path) -> None:
    argv = [sys.executable, "-m", "arc_seal.runs", "list", str(kept)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_two_runs_are_compared_on_the_tasks_they_share(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (read_folder(kept / name) for name in ("before", "after"))
    (found,) = compare(one, other, ("before", "after"))
    assert (found["mean"], found["tasks"], found["left_out"]) == (1.0, 2, 2)
    assert changed(one, other) == [("seed", "0", "1")]
    assert main(["compare", str(kept / "before"), str(kept / "latest")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"solved: {kept / 'latest'} minus {kept / 'before'}: +100.0 points;")
    assert "bootstrap over 2 of 4 tasks" in shown and shown.endswith("  seed: 0 -> 1\n")


def test_the_configuration_of_a_sweep_is_what_its_results_share(tmp_path: Path) -> None:
    both = read_folder(sweep(tmp_path, [("aa", 0, [RIGHT], 1), ("aa", 1, [RIGHT], 1)]))
    assert both.configuration["seed"] == "several values" and "note" in both.configuration


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "arguments: expected list or compare (or --help), found none"),
        (["lst"], "lst: expected list or compare (did you mean 'list'?), found another command"),
        (["list", "a", "b"], "list: expected at most one folder (or --help), found 2"),
        (["compare", "a"], "compare: expected two folders (or --help), found 1"),
        (["list", "nowhere"], "nowhere: expected a folder with runs in it, found no such folder"),
        (
            ["compare", "{here}/before", "{here}/restem/seal-evaluation"],
            "{here}/restem/seal-evaluation: expected",
        ),
    ],
)
def test_bad_input_is_one_line(argv: list[str], message: str, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([each.format(here=kept) for each in argv]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {message.format(here=kept)}") and said.err.count("\n") == 1
    assert said.out == ""
