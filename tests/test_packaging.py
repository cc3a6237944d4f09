"""The wheel, built and installed elsewhere, and run from there."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from arc_seal import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with ZipFile(wheel) as content:
        metadata = content.read(f"arc_seal-{__version__}.dist-info/METADATA").decode()
        names = content.namelist()
    fields = Parser().parsestr(metadata)
    assert (fields["Name"], fields["Version"], fields["License-Expression"]) == ("arc-seal", __version__, "Apache-2.0")
    assert {"arc_seal/py.typed", "arc_seal/ui/report.html"} <= set(names)
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


@pytest.mark.parametrize("folder", ["conf", "tools"])
def test_the_wheel_holds_every_file_of(wheel: Path, folder: str) -> None:
    with ZipFile(wheel) as content:
        shipped = {name for name in content.namelist() if name.startswith(f"arc_seal/_share/{folder}/")}
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert files and shipped == {f"arc_seal/_share/{path.relative_to(ROOT).as_posix()}" for path in files}


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as content:
        tops = {name.split("/")[0] for name in content.namelist()}
    assert tops == {"arc_seal", f"arc_seal-{__version__}.dist-info"}


def test_installed_elsewhere_it_finds_conf_and_tools(python: Path, tmp_path: Path) -> None:
    code = "import arc_seal.files as p; print(p.__file__); print(p.conf_dir()); print(p.tools_dir())"
    file, conf, tools = run(python, tmp_path, "-c", code).splitlines()
    share = Path(file).parent / "_share"
    assert share.is_relative_to(python.parents[1]) and (Path(conf), Path(tools)) == (share / "conf", share / "tools")
    assert Path(conf, "solve.yaml").is_file() and Path(tools, "rotate.py").is_file()


def test_installed_elsewhere_it_shows_its_help(python: Path, tmp_path: Path) -> None:
    assert "arc_seal.solve" in run(python, tmp_path, "-m", "arc_seal.solve", "--help")


def test_installed_elsewhere_it_writes_a_report(python: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("[]")
    assert run(python, tmp_path, "-m", "arc_seal.report", ".") == "Written to report.html\n"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_every_dependency_is_constrained_to_a_version_that_it_allows() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (Requirement(line) for line in (ROOT / "constraints.txt").read_text().split())
    tested = {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in lines}
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)]), text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(Path(sys.executable), ROOT, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel in it; the libraries are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    interpreter = folder / "bin" / "python"
    pip = ["-m", "pip", "--python", str(interpreter), "install", "--no-index", "--no-deps", "--quiet"]
    run(Path(sys.executable), ROOT, *pip, str(wheel))
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def run(python: Path, folder: Path, *arguments: str) -> str:
    """What a command prints, run in a folder; nothing of this checkout is on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
