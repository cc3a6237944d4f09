import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arc_seal.outer_loop.provenance import git_commit, recorded_model, utc_now


def git(folder: Path, *words: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
    done = subprocess.run(["git", "-C", folder, *who, *words], env=own, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a checkout of its own."""
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("1\n")
    git(folder.parent, "init", "--quiet")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "--quiet", "--message", "first")
    git(folder.parent, "tag", "-a", "v1", "-m", "first")
    return folder


def test_the_commit_and_whether_tracked_files_differ(package: Path) -> None:
    commit = git(package, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert git_commit(package) == commit
    (package / "untracked").touch()
    assert git_commit(package) == commit
    (package / "code.py").write_text("2\n")
    assert git_commit(package) == f"{commit}+changes"


def test_a_worktree_is_a_checkout(package: Path, tmp_path: Path) -> None:
    git(package, "worktree", "add", "--quiet", str(tmp_path / "other"))
    (package / "code.py").write_text("2\n")
    assert git_commit(tmp_path / "other" / "package") == git(package, "rev-parse", "HEAD")


def test_a_package_installed_inside_another_checkout_has_no_commit(package: Path) -> None:
    installed = package.parent / ".venv" / "package"
    installed.mkdir(parents=True)
    assert git_commit(installed) is None


def test_a_broken_checkout_has_no_commit(package: Path) -> None:
    broken = package.parent / "inner" / "package"
    broken.mkdir(parents=True)
    (broken.parent / ".git").mkdir()
    assert git_commit(broken) is None


def test_without_git_there_is_no_commit(package: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from arc_seal.outer_loop.provenance import git_commit; "
        "print(git_commit(Path(sys.argv[1])))"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PATH": str(package), "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code, package], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == "None\n"


def test_the_time_says_that_it_is_utc() -> None:
    now = datetime.fromisoformat(utc_now())
    assert now.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=5)


def test_a_model_is_recorded_with_its_weights(tmp_path: Path) -> None:
    settings = {"name": "grid", "location": str(tmp_path)}
    assert recorded_model(settings) == {**settings, "weights": None}
    (tmp_path / "model.safetensors").write_bytes(b"a")
    first = recorded_model(settings)["weights"]
    (tmp_path / "model.safetensors").write_bytes(b"b")
    assert first and recorded_model(settings)["weights"] not in (first, None)
    assert recorded_model({"seed": 0}) == {"seed": 0}
