"""The bundle for Kaggle: its parts, and all of it in a bare environment that stands in for Kaggle's image."""

import json
import os
import re
import subprocess
import sys
import time
import venv
from contextlib import suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.requirements import Requirement

from arc_seal import kaggle
from arc_seal.arc.datasets import load_tasks
from arc_seal.config import KaggleConfig
from arc_seal.errors import InputError
from arc_seal.kaggle import main, metadata, pinned

ROOT = Path(__file__).parents[1]

CONFIG = KaggleConfig(
    folder="x", user="me", competition="arc-prize-2026-arc-agi-2", machine="NvidiaL4", hours=11.5, draft_minutes=10,
    passes=2, settings=("samples=2", "self_edit.json='{}'"), pythons=("3.12",),
)  # fmt: skip


def code_cells(notebook: Any) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_of_jupyters_form_and_its_code_compiles() -> None:
    notebook = json.loads(json.dumps(metadata(CONFIG)["notebook/solve.ipynb"]))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5) and notebook["metadata"]["kernelspec"]
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[-\w]{1,64}", each) for each in ids)
    for cell in notebook["cells"]:
        own = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | own and cell["source"]
    for code in code_cells(notebook):
        compile(code, "cell", "exec")


def test_the_notebook_has_what_was_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_cells(metadata(CONFIG)["notebook/solve.ipynb"])[0]
    saved: dict[str, Any] = {}
    scored: dict[str, Any] = {}
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    exec(code, saved)
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    exec(code, scored)
    assert (saved["SECONDS"], scored["SECONDS"], saved["PASSES"]) == (600, 41400, 2)
    assert saved["SETTINGS"] == ["samples=2", "self_edit.json='{}'"]


def test_kaggles_metadata_turn_the_network_off_and_name_what_belongs_together() -> None:
    files = metadata(CONFIG)
    kernel, dataset = files["notebook/kernel-metadata.json"], files["dataset/dataset-metadata.json"]
    assert kernel["enable_internet"] is False and kernel["enable_gpu"] is True
    assert kernel["dataset_sources"] == [dataset["id"]] and kernel["competition_sources"] == [CONFIG.competition]
    assert f"notebook/{kernel['code_file']}" in files
    assert kernel["id"] == f"me/{kernel['title'].lower().replace(' ', '-')}"  # as Kaggle makes one of the other
    assert dataset["id"] == f"me/{dataset['title'].lower().replace(' ', '-')}" and 6 <= len(dataset["title"]) <= 50


def test_what_is_pinned_is_all_that_is_needed_but_torch_and_what_it_alone_needs() -> None:
    pins = pinned(ROOT)
    assert {"transformers", "tokenizers", "hydra-core", "omegaconf", *kaggle.NO_WHEEL} <= pins.keys()
    assert not {"torch", "numpy", "sympy", "triton", "pytest"} & pins.keys()
    assert all(distribution(name).version == version for name, version in pins.items())


def test_what_pip_says_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^pip download: expected wheels .*ERROR: .*no-such-package"):
        kaggle._pip("download", "--no-index", "no-such-package")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["there"], "there: expected a folder that is not there yet"),
        (["nowhere/new"], "nowhere/new"),
        ([], "folder"),
        (["new", "user=a/b"], "user"),
        (["new", "hours=0"], "hours"),
        (["new", "pythons=[3.1x]"], "pythons"),
        (["new", "--", "sampels=2"], "samples"),
        (["new", "user=me", "--", "samples=0"], "samples"),
        (["new", "other"], "other"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_a_policy_that_is_on_kaggle_alone_is_not_looked_for_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(kaggle, "make_bundle", made.append)
    argv = [str(tmp_path / "bundle"), "user=me", "--", "self_edit=default"]
    assert kaggle.main([*argv, "policy=/kaggle/input/mine"]) == 0 and len(made) == 1
    assert kaggle.main([*argv, f"policy={tmp_path / 'mine'}"]) == 2 and len(made) == 1


def test_a_bundle_without_its_wheels_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: str) -> None:
        raise InputError("pip", "", "wheels", "no network")

    monkeypatch.setattr(kaggle, "_pip", fail)
    assert main([str(tmp_path / "new")]) == 2
    assert "no network" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_whole_bundle_is_put_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(kaggle, "_pip", lambda *arguments: asked.append(arguments))
    assert main([str(tmp_path / "new"), "user=me", 'pythons=["3.12","3.13"]']) == 0
    files = {path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.*")}
    assert files == set(metadata(CONFIG))
    assert [each[0] for each in asked] == ["wheel", "wheel", "download", "download"]
    for arguments in asked:
        assert "--no-deps" in arguments and not any(re.match("(torch|numpy|nvidia)", each) for each in arguments)


@pytest.mark.slow
@pytest.mark.parametrize("network", [False, True], ids=["own_wheel", "all_wheels"])
def test_the_notebook_runs_through_in_a_bare_environment(network: bool, tmp_path: Path) -> None:
    """Without a network the libraries are those of this environment; with one all but torch's own are installed."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if network:
        try:
            kaggle._pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(tmp_path / "try"), "mdurl")
        except InputError as error:
            pytest.skip(f"no network: {error}")
    tiny = ("--", "ttt.token_budget=2000", "decode.views=2")
    pythons = f'pythons=["{python}"]' if network else "pythons=[]"
    top = tmp_path / "kaggle" / "input"
    data, competition = top / "datasets" / "me", top / "competitions" / "arc-prize-2026-arc-agi-2"
    for folder in (data, competition, tmp_path / "kaggle" / "working"):
        folder.mkdir(parents=True)
    assert main([str(data / "bundle"), pythons, "draft_minutes=3", "passes=1", *tiny]) == 0
    queries = write_challenges(competition / "arc-agi_test_challenges.json")

    notebook = json.loads((data / "bundle" / "notebook" / "solve.ipynb").read_text())
    code = "\n".join(code_cells(notebook)).replace("/kaggle/", f"{tmp_path}/kaggle/")
    (tmp_path / "cells.py").write_text(code)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP", "OMP"))}
    environment = {**clean, "PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(tmp_path)}
    with (tmp_path / "said").open("w") as said:
        command = [bare_environment(tmp_path / "image", whole=not network), tmp_path / "cells.py"]
        with subprocess.Popen(
            list(map(str, command)), cwd=tmp_path, env=environment, stdout=said, stderr=subprocess.STDOUT
        ) as process:
            try:
                killed = kill_a_solver(process.pid)
                code_of_exit = process.wait(200)
            finally:
                process.kill()
    text = (tmp_path / "said").read_text()
    assert code_of_exit == 0, text
    assert killed and "ended with -9" in text, text
    submission = json.loads((tmp_path / "kaggle" / "working" / "submission.json").read_text())
    assert {name: len(each) for name, each in submission.items()} == queries
    for attempts in (each for made in submission.values() for each in made):
        assert attempts.keys() == {"attempt_1", "attempt_2"} and attempts["attempt_1"] != [[0]], text


def write_challenges(path: Path) -> dict[str, int]:
    """Write two small tasks in Kaggle's form, without solutions; how many queries each has."""
    tasks = [load_tasks(f"arcagi1/training/{name}")[0][0] for name in ("25ff71a9", "6150a2bd")]
    form = {
        task.id: {
            "train": [{"input": demo.input.rows, "output": demo.output.rows} for demo in task.demos],
            "test": [{"input": query.rows} for query in task.queries],
        }
        for task in tasks
    }
    path.write_text(json.dumps(form))
    return {task.id: len(task.queries) for task in tasks}


def bare_environment(folder: Path, whole: bool) -> Path:
    """The interpreter of an environment with pip, and this one's torch and numpy with what they need, or all it has."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    if whole:
        (site / "libraries.pth").write_text(
            f"{Path(json.__file__).parents[1]}\n{distribution('torch').locate_file('')}\n"
        )
        return folder / "bin" / "python"
    wanted, done = [Requirement(name) for name in ("torch", "numpy", "pip")], set[str]()
    while wanted:
        one = wanted.pop()
        found = distribution(one.name)
        if str(one) not in done:
            done.add(str(one))
            for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                if not (site / top).exists():  # the libraries of torch for CUDA lie in one folder
                    (site / top).symlink_to(str(found.locate_file(top)))
            extras = {"", *one.extras}
            needed = map(Requirement, found.requires or ())
            wanted += [
                each for each in needed
                if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
            ]  # fmt: skip
    return folder / "bin" / "python"


def kill_a_solver(pid: int) -> bool:
    """Kill the first `arc_seal.solve` that the notebook starts, before it can have done anything."""
    notebook, ends = psutil.Process(pid), time.monotonic() + 120
    while time.monotonic() < ends and notebook.is_running() and notebook.status() != psutil.STATUS_ZOMBIE:
        with suppress(psutil.NoSuchProcess):  # a child that has ended since it was listed, pip's for one
            for child in notebook.children():
                if "arc_seal.solve" in child.cmdline():
                    child.kill()
                    return True
        time.sleep(0.05)
    return False
