"""The scripts that measured what benchmarks/README.md says still fit the package that they measure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*arguments: str) -> str:
    """What Python says when it is called so in benchmarks/."""
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=BENCHMARKS, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_finds_what_it_imports() -> None:
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    assert len(names) > 10
    run("-c", f"import {', '.join(names)}")


@pytest.mark.slow
def test_roll_outs_are_counted_beside_the_plain_loop(tmp_path: Path) -> None:
    said = run("rollouts_per_hour.py", str(tmp_path / "out.jsonl"), "--tiny", "--executors", "plain,inline")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    made = {(row["executor"], row["edit"], row["task"]) for row in rows}
    assert len(made) == len(rows) == 8 and {row["status"] for row in rows} == {"ok"}
    assert "| plain | 1 x " in said and "| inline | 1 x " in said
