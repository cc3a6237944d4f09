"""Sweeps whose jobs Hydra's launchers have done by processes of their own, on this machine."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from arc_seal.outer_loop.ledger import Ledger
from arc_seal.train import main as train
from arc_seal.ui.run_folder import load_result
from tests.smoke import SMOKE, run
from tests.test_solve import EDIT, TASKS, TINY
from tests.ui.builders import without_times

needs_sweep = pytest.mark.skipif(
    find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="needs the launchers: pip install 'arc-seal[sweep]'",
)
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
}


@needs_sweep
@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_sweep_is_what_it_is_without_a_launcher(name: str, tmp_path: Path) -> None:
    """One summary and one submission, whoever did the jobs; bad input is recorded, and nothing is done twice."""
    argv = ("-m", str(TASKS / "5582e5ca.json"), "arcagi1/25ff71a9", "missing.json", f"self_edit.json={EDIT}")
    plain = run(tmp_path, "solve", *TINY, *argv, "hydra.sweep.dir=plain")
    launched = run(tmp_path, "solve", *TINY, *argv, "hydra.sweep.dir=launched", *LAUNCHERS[name], "executor=process")
    assert (plain.returncode, launched.returncode) == (2, 2), launched.stderr
    assert f"2 jobs by {name}; each shows in launched/*/output.txt" in launched.stdout
    assert launched.stdout.count("Self-edit: ") == 1 and "\n3/3  " in launched.stdout
    for file in ("submission.json", "submission/5582e5ca.json", "submission/25ff71a9.json"):
        assert (tmp_path / "launched" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    both = [json.loads((tmp_path / each / "summary.json").read_text()) for each in ("plain", "launched")]
    for lines in both:
        lines.sort(key=lambda line: str(line["folder"]))
    assert [{**line, "seconds": 0} for line in both[0]] == [{**line, "seconds": 0} for line in both[1]]
    folders = [line["folder"] for line in both[0] if line["status"] != "bad_input"]
    for folder in folders:
        one, other = (load_result(tmp_path / each / folder) for each in ("plain", "launched"))
        assert without_times(one) == without_times(other)
        assert "Reward" in (tmp_path / "launched" / folder / "output.txt").read_text()
    before = {folder: (tmp_path / "launched" / folder / "result.json").stat().st_mtime_ns for folder in folders}
    again = run(tmp_path, "solve", *TINY, *argv, "resume=launched", *LAUNCHERS[name])
    assert again.returncode == 2 and "jobs by" not in again.stdout
    assert before == {folder: (tmp_path / "launched" / folder / "result.json").stat().st_mtime_ns for folder in folders}


@needs_sweep
@pytest.mark.slow
def test_what_a_job_cannot_do_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    models = "model.location=./nowhere,package:arc_seal/weights/grid"
    argv = ("arcagi1/25ff71a9", "-m", "model=grid", models, f"self_edit.json={EDIT}", "hydra.sweep.dir=sweep")
    done = run(tmp_path, "solve", *TINY, *argv, *LAUNCHERS["joblib"])
    assert done.returncode == 2, done.stderr
    assert "bad input   ./nowhere: expected a folder, a .gguf file or a hub id" in done.stdout
    assert [line["status"] for line in json.loads((tmp_path / "sweep" / "summary.json").read_text())] == [
        "bad_input",
        ["ok"],
    ]


@needs_sweep
@pytest.mark.slow
def test_each_seed_of_a_policy_is_trained_by_a_process_of_its_own(tmp_path: Path) -> None:
    done = run(tmp_path, "train", *SMOKE, "-m", "seed=0,1", "restem.samples=1", "data.limit=1", *LAUNCHERS["joblib"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 jobs by joblib; each shows in output.txt in its folder\n"
    for seed in (0, 1):
        place = tmp_path / "runs" / "restem" / f"smoke-seed{seed}"
        with Ledger.read_only(place / "ledger.sqlite") as ledger:
            assert len(ledger.rollouts("train")) == 1
        assert f"Training smoke-seed{seed}\n" in (place / "output.txt").read_text()


@needs_sweep
def test_a_launcher_without_a_sweep_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train([*SMOKE, f"hydra.run.dir={tmp_path}", *LAUNCHERS["joblib"]]) == 2
    assert "hydra/launcher: expected -m or several tasks" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_glob_is_every_option_that_it_fits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What the sweep would be is shown by the tasks that it cannot find, one for each."""
    sweep = (*TINY[:2], "-m", "missing.json", "ttt=glob(*)", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    from arc_seal.solve import main

    assert main(list(sweep)) == 2
    assert "\n2/2  missing.json" in capfd.readouterr().out
