"""ARC-GEN as a source: only what may be trained on is run, and by the seed alone. Most of it on a made clone."""

import os
import random
import sys
from pathlib import Path

import pytest

from arc_seal.arc.splits import pretraining_tasks, untrained
from arc_seal.errors import InputError
from arc_seal.pretraining import arc_gen
from arc_seal.pretraining.arc_gen import ArcGen

COMMON = """\
import random


def randint(start, stop):
  return random.randint(start, stop)
"""
RULE = """\
import common


def generate(size=None):
  if size is None: size = common.randint(1, 9)
  row = [common.randint(0, 9) for _ in range(size)]
  return {"input": [row], "output": [row[::-1]] * 2}
"""

LEARNT = ("a5f85a15", "d0f5fe59")
"""Tasks that may be trained on."""


def clone(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str = RULE, *more: str) -> ArcGen:
    """A folder in the form of ARC-GEN's, with one body for all generators, taken for the commit that was tested."""
    (folder / "tasks").mkdir(parents=True)
    (folder / "common.py").write_text(COMMON)
    for task_id in (*LEARNT, *more):
        (folder / "tasks" / f"task_{task_id}.py").write_text(body)
    sources = {path.stem.removeprefix("task_"): path.read_text() for path in folder.rglob("*.py")}
    monkeypatch.setattr(arc_gen, "DIGEST", arc_gen.digest(sources))
    return ArcGen(folder)


def test_only_what_may_be_trained_on_is_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = ("00576224", "1bfc4729", "44f52bb0", "3aa6fb7a", "ffffffff")  # evaluation, dev, SEAL's, dev, unknown
    source = clone(tmp_path, monkeypatch, RULE, *left_out)
    assert source.groups() == sorted(LEARNT)
    for task_id in left_out:
        with pytest.raises(InputError, match=f"ARC-GEN: {task_id}: expected a task that may be pretrained on"):
            source.make(task_id, 0, 1)


def test_pairs_are_distinct_and_by_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clone(tmp_path, monkeypatch)
    made = source.make("a5f85a15", 0, 40)["a5f85a15"]
    assert len(set(made)) == 40
    assert all(pair.output.rows == (pair.input.rows[0][::-1],) * 2 for pair in made)
    random.seed(1)
    before = random.getstate()
    assert source.make("a5f85a15", 0, 40) == {"a5f85a15": made}
    assert random.getstate() == before
    assert source.make("a5f85a15", 0, 10)["a5f85a15"] == made[:10]
    others = [*source.make("a5f85a15", 1, 40).values(), *source.make("d0f5fe59", 0, 40).values()]
    assert made not in others and others[0] != others[1]


def test_no_module_of_the_clone_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = type(sys)("common")
    monkeypatch.setitem(sys.modules, "common", own)
    clone(tmp_path, monkeypatch).make("a5f85a15", 0, 1)
    assert sys.modules["common"] is own
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".pyc"]
    monkeypatch.delitem(sys.modules, "common")
    ArcGen(tmp_path).make("a5f85a15", 0, 1)
    assert "common" not in sys.modules


@pytest.mark.parametrize(
    "made",
    [
        '{"input": [[1]], "output": [[1]]}',  # changes nothing
        '{"input": [[1] * 30] * 15, "output": [[1]]}',  # too large
        '{"input": [[1], [1, 2]], "output": [[1]]}',
        '{"input": [[1]], "output": [[10]]}',
        '{"input": [[1]]}',
        "None",
        "1 / 0",
        "[common.randint(0, 9) for _ in iter(int, 1)]",  # draws for ever
    ],
)
def test_a_generator_that_makes_no_pair_is_given_up(made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    body = f"import common\ndef generate():\n  with open({str(calls)!r}, 'a') as f: f.write('.')\n  return {made}\n"
    assert clone(tmp_path / "clone", monkeypatch, body).make("a5f85a15", 0, 5) == {"a5f85a15": []}
    assert len(calls.read_text()) == arc_gen.PATIENCE


def test_a_call_that_hangs_comes_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = RULE.replace("  row =", "  while size == 9: pass\n  row =")
    source = clone(tmp_path, monkeypatch, hangs)
    monkeypatch.setattr(arc_gen, "CPU_S", 0.05)
    made = source.make("a5f85a15", 0, 20)["a5f85a15"]
    assert len(made) == 20 and all(pair.input.width != 9 for pair in made)
    assert made == source.make("a5f85a15", 0, 20)["a5f85a15"]


def test_few_distinct_pairs_are_all_that_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = 'import common\ndef generate(): return {"input": [[common.randint(0, 2)]], "output": [[9]]}\n'
    assert len(clone(tmp_path, monkeypatch, body).make("a5f85a15", 0, 100)["a5f85a15"]) == 3


def test_another_commit_is_refused_before_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clone(tmp_path / "clone", monkeypatch)
    (tmp_path / "clone/tasks/task_a5f85a15.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{RULE}")
    for ask in (source.version, source.groups, lambda: source.make("a5f85a15", 0, 1)):
        with pytest.raises(InputError, match=f"as they are at {arc_gen.COMMIT}"):
            ask()
    assert not (tmp_path / "ran").exists()


def test_line_ends_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clone(tmp_path, monkeypatch)
    for path in tmp_path.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert source.groups() == sorted(LEARNT)


@pytest.mark.parametrize("made", [False, True])
def test_what_is_no_clone_is_one_clear_line(made: bool, tmp_path: Path) -> None:
    folder = tmp_path / "nothing"
    if made:
        folder.mkdir()
    with pytest.raises(InputError, match=r"expected a clone of github\.com/google/ARC-GEN, found no such file"):
        ArcGen(folder).version()


@pytest.mark.skipif("ARC_GEN" not in os.environ, reason="needs a clone of github.com/google/ARC-GEN, ARC_GEN=FOLDER")
def test_the_real_one_makes_pairs_that_the_gate_lets_through() -> None:
    source = ArcGen(Path(os.environ["ARC_GEN"]))
    groups = source.groups()
    assert set(groups) <= {task.id for task, _ in pretraining_tasks()}
    assert not set(groups) & untrained().ids.keys()
    for task_id in groups[::50]:
        for pair in source.make(task_id, 0, 5)[task_id]:
            assert len(pair.input.cells) + len(pair.output.cells) <= 450 and pair.input != pair.output
