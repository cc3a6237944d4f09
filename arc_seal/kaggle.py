"""Solve a competition's file on Kaggle: `python -m arc_seal.kaggle FOLDER` makes what is uploaded.

The notebook that it makes installs arc-seal without a network and calls `competition.solve_competition`.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from arc_seal.cli import command, quote, rewrite
from arc_seal.errors import InputError

if TYPE_CHECKING:
    from arc_seal.config import Composed, KaggleConfig

USAGE = """\
Make what solves a competition's file on Kaggle without a network: wheels, a notebook, and Kaggle's metadata of both.

Usage: python -m arc_seal.kaggle FOLDER [NAME=VALUE...] [-- SETTINGS OF arc_seal.solve]

Examples:
  python -m arc_seal.kaggle bundle user=my-name
  python -m arc_seal.kaggle bundle user=my-name machine=NvidiaTeslaT4 hours=8 -- samples=4 decode.views=16

Exit code: 0 when the folder is made, 2 for bad input, 130 when interrupted.
"""

LEFT_OUT = ("torch", "numpy")
"""Not in the bundle, nor what they alone need: Kaggle's own fit its GPUs and its other libraries."""

NO_WHEEL = ("antlr4-python3-runtime",)
"""Of these PyPI has the source alone, and Kaggle unpacks archives: their wheels are built here."""

NOTEBOOK = (
    """\
# arc-seal: solves {competition}

Made by `python -m arc_seal.kaggle`; needs the data set `{dataset}` and the competition's data. No network is used.""",
    """\
import os, subprocess, sys, time
from glob import glob  # which follows links
from pathlib import Path

BEGAN = time.monotonic()
SCORED = bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))  # else the notebook is only saved
SECONDS = {scored_s} if SCORED else {draft_s}
PASSES = {passes}  # times that the file is solved, if there is time
SETTINGS = {settings}  # of python -m arc_seal.solve""",
    """\
wheel = max(glob("/kaggle/input/**/arc_seal-*.whl", recursive=True))
pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-compile", "--find-links", os.path.dirname(wheel)]
subprocess.run([*pip, wheel], check=True)""",
    """\
from arc_seal.competition import solve_competition

challenges = Path(min(glob("/kaggle/input/**/arc-prize-*/arc-agi_test_challenges.json", recursive=True)))
submission = Path("/kaggle/working/submission.json")
solve_competition(challenges, submission, SECONDS - (time.monotonic() - BEGAN), SETTINGS, passes=PASSES)""",
)
"""The notebook's cells, with names in braces for what is filled in; the first is text."""


def main(argv: Sequence[str]) -> int:
    """Run the command on arguments without the program's name; returns the exit code."""
    own, solves = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    given = [*own]
    if own and "=" not in own[0] and not own[0].startswith("-"):
        given[0] = f"folder={quote(own[0])}"
    given += [f"settings=[{','.join(map(quote, solves))}]"] if solves else []
    return command("kaggle", USAGE, given, _work, interrupted="interrupted; nothing was kept")


def _work(jobs: "list[Composed]") -> int:
    from arc_seal.config import KaggleConfig, SolveConfig, compose, read_config

    if len(jobs) > 1:
        raise InputError("-m", "", "one bundle", f"{len(jobs)}")
    config = read_config(jobs[0].values, KaggleConfig)
    for job in compose("solve", rewrite(["a_task", *config.settings]).overrides, sweep=False):
        solving = read_config(job.values, SolveConfig)  # before anything is uploaded
        if not str(solving.policy or "").startswith("/kaggle/"):  # what is there alone cannot be looked at here
            solving.check()
    make_bundle(config)
    wheels = list(Path(config.folder, "dataset").glob("*.whl"))
    size_mb = sum(each.stat().st_size for each in wheels) / 1e6
    print(f"wheels: {len(wheels)}, {size_mb:.0f} MB. Next, with the command kaggle (pip install kaggle):")
    print(f"  kaggle datasets create -p {config.folder}/dataset")
    print(f"  kaggle kernels push -p {config.folder}/notebook")
    return 0


def make_bundle(config: "KaggleConfig") -> None:
    """Make the folder of a bundle, whole or not at all; InputError where it is there, or pip cannot get a wheel."""
    folder, root = Path(config.folder), Path(__file__).resolve().parents[1]
    if folder.exists():
        raise InputError(str(folder), "", "a folder that is not there yet", "one that is")
    if not (root / "pyproject.toml").is_file():
        raise InputError("arc-seal", "", "a checkout, of which a wheel can be built", f"an installation in {root}")
    made = Path(mkdtemp(dir=folder.absolute().parent, prefix=f"{folder.name}."))
    try:
        (made / "dataset").mkdir()
        (made / "notebook").mkdir()
        get_wheels(made / "dataset", root, config.pythons)
        for name, value in metadata(config).items():
            (made / name).write_text(json.dumps(value, indent=1) + "\n")
        made.chmod(0o755)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def get_wheels(folder: Path, root: Path, pythons: Sequence[str]) -> None:
    """Put arc-seal's own wheel into a folder, and of all it needs those for Linux on x86-64 and some Pythons.

    They are of the versions that are installed here, with which arc-seal was tested. On Kaggle pip takes those of which
    the image has none or too old a version.
    """
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    _pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(folder), str(root))
    pins = pinned(root) if pythons else {}
    built = [f"{name}=={pins.pop(name)}" for name in NO_WHEEL if name in pins]
    if built:
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), *built)
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)]  # Ubuntu 22.04 has glibc 2.35
    for python in pythons:
        kind = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
        names = [f"{name}=={version}" for name, version in pins.items()]
        _pip("download", "--no-deps", *kind, "--dest", str(folder), *names)


def pinned(root: Path) -> dict[str, str]:
    """The version that is installed of everything that a checkout needs, `LEFT_OUT` aside, by normalised name."""
    import tomllib
    from importlib.metadata import requires, version

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins: dict[str, str] = {}
    todo = [
        Requirement(line) for line in tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    while todo:
        name = canonicalize_name(todo.pop().name)
        if name not in pins and name not in LEFT_OUT:
            pins[name] = version(name)
            needed = map(Requirement, requires(name) or ())
            todo += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return pins


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        error = next((line for line in said if line.startswith("ERROR:")), said[-1])
        raise InputError(f"pip {arguments[0]}", "", "wheels of all that arc-seal needs", error)


def metadata(config: "KaggleConfig") -> dict[str, Any]:
    """The notebook and Kaggle's metadata (its formats: github.com/Kaggle/kaggle-cli, docs/), by their files."""
    dataset = f"{config.user}/arc-seal-offline"
    kernel = {
        "id": f"{config.user}/arc-seal-solve", "title": "arc-seal solve", "code_file": "solve.ipynb",
        "language": "python", "kernel_type": "notebook", "is_private": True, "enable_gpu": True,
        "enable_internet": False, "machine_shape": config.machine, "dataset_sources": [dataset],
        "competition_sources": [config.competition], "kernel_sources": [], "model_sources": [],
    }  # fmt: skip
    licences = [{"name": "Apache 2.0"}]
    return {
        "dataset/dataset-metadata.json": {"title": "arc-seal offline", "id": dataset, "licenses": licences},
        "notebook/kernel-metadata.json": kernel,
        "notebook/solve.ipynb": notebook(config, dataset),
    }


def notebook(config: "KaggleConfig", dataset: str) -> dict[str, Any]:
    """The notebook, in Jupyter's form 4.5."""
    filled = {
        "competition": config.competition, "dataset": dataset, "passes": config.passes,
        "settings": list(config.settings), "scored_s": round(3600 * config.hours),
        "draft_s": round(60 * config.draft_minutes),
    }  # fmt: skip
    text, *code = (cell.format_map(filled).splitlines(keepends=True) for cell in NOTEBOOK)
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "id": "cell-0", "metadata": {}, "source": text}]
    for number, source in enumerate(code, 1):
        ran: dict[str, Any] = {"execution_count": None, "outputs": []}
        cells.append({"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "source": source, **ran})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    form = {"nbformat": 4, "nbformat_minor": 5}
    return {"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}, **form}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
