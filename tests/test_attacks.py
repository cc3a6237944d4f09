"""The commands under attack: awkward names, bad places, foreign configuration. Nothing is lost or silent."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import pytest

from arc_seal.files import conf_dir
from arc_seal.outer_loop.solve import Solved
from arc_seal.ui.run_folder import claim, load_result
from tests.outer_loop.test_ledger_file import without_privileges
from tests.pretraining.test_run import TINY as PRETRAIN
from tests.smoke import LABEL_FREE, PATIENCE_S, SMOKE, command, environment
from tests.test_config import AWKWARD
from tests.test_solve import EDIT, TINY
from tests.ui.builders import without_times

TASK = {
    "train": [{"input": [[1, 2]], "output": [[2, 1]]}, {"input": [[3]], "output": [[3]]}],
    "test": [{"input": [[4]]}],
}
IN_CONTEXT = (*TINY, "train=false")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

COMMANDS = {
    "solve": (*IN_CONTEXT, "x.json"),
    "train": LABEL_FREE,
    "evaluate": (*SMOKE, "rows=[in_context]", "samples=1"),
    "pretrain": PRETRAIN,
}
"""A quick run of each command."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the commands are started in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def task(here: Path) -> Path:
    """A task in that folder."""
    (here / "x.json").write_text(json.dumps(TASK))
    return here / "x.json"


def call(name: str, *argv: str) -> int:
    """Run a command; its exit code."""
    return int(import_module(f"arc_seal.{name}").main(argv))


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that a command says when it ends in an error."""
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and not CONTROL.search(said), said
    return said


def kaggle(path: Path, ids: Sequence[str]) -> Path:
    """A Kaggle file; each task is another."""
    tasks = {each: {**TASK, "test": [{"input": [list(map(int, f"{index:03}"))]}]} for index, each in enumerate(ids)}
    path.write_text(json.dumps(tasks))
    return path


def result(folder: Path) -> Solved:
    """What was kept in a folder, without times and the commit, which may be made while tests run."""
    found = without_times(load_result(folder))
    rollouts = tuple(each.model_copy(update={"git_commit": None}) for each in found.rollouts)
    return found.model_copy(update={"rollouts": rollouts})


# Names


def test_each_task_has_a_folder_of_its_own_whatever_it_is_called(here: Path) -> None:
    ids = [each for each in AWKWARD if each.isprintable() and each not in ("..",)]
    ids += ["a" * 80 + "1", "a" * 80 + "2", "[red]c", "_x~0123456789ab", "a?b", "a b "]
    kaggle(here / "x_challenges.json", ids)
    assert call("solve", *IN_CONTEXT, "x_challenges.json", "hydra.run.dir=run") == 0
    results = [load_result(path) for path in (here / "run").rglob("result.json")]
    assert sorted(each.task_id for each in results) == sorted(ids)
    assert json.loads((here / "run" / "submission.json").read_text()).keys() == set(ids)
    assert [line["task"] for line in json.loads((here / "run" / "summary.json").read_text())] == ids
    for line in json.loads((here / "run" / "summary.json").read_text()):
        assert load_result(here / "run" / line["folder"]).task_id == line["task"]


def test_a_second_run_of_the_same_name_takes_another_folder(here: Path) -> None:
    for folder, ids in (("a", ["one", "two"]), ("b", ["two", "three"])):
        (here / folder).mkdir()
        path = kaggle(here / folder / "x_challenges.json", ids)
        assert call("solve", *IN_CONTEXT, str(path), "hydra.run.dir=runs/same") == 0
    for folder, ids in (("same", {"one", "two"}), ("same-2", {"two", "three"})):
        assert json.loads((here / "runs" / folder / "submission.json").read_text()).keys() == ids
        assert {load_result(path).task_id for path in (here / "runs" / folder).rglob("result.json")} == ids
    assert (here / "runs" / "latest").resolve() == here / "runs" / "same-2"


def test_bad_input_beside_a_taken_folder_is_recorded_in_the_new_one(task: Path, here: Path) -> None:
    for number in (1, 2):
        assert call("solve", *IN_CONTEXT, "x.json", "missing.json", "hydra.sweep.dir=same") == 2, number
    lines = json.loads((here / "same-2" / "summary.json").read_text())
    assert [(line["task"], line["status"]) for line in lines] == [("x", ["ok"]), ("missing.json", "bad_input")]


def test_a_folder_is_claimed_by_one_alone(here: Path) -> None:
    places: list[Path] = []
    threads = [threading.Thread(target=lambda: places.append(claim(here / "runs" / "x"))) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert {place.name for place in places} == {"x", *(f"x-{number}" for number in range(2, 17))}
    assert (here / "runs" / "latest").resolve() in places
    assert sorted(path.name for path in (here / "runs").iterdir()) == sorted([*(p.name for p in places), "latest"])


def test_a_sweep_has_one_folder_whatever_the_time_is(task: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs are composed one after another, and `now` moves on meanwhile."""
    clock = iter(range(100))
    monkeypatch.setenv("MOMENT", "0")
    original = os.environ.get

    def moving(name: str, default: str | None = None) -> str | None:
        return str(next(clock)) if name == "MOMENT" else original(name, default)

    monkeypatch.setattr(os.environ, "get", moving)
    argv = ("-m", "x.json", "seed=0,1,2", "hydra.sweep.dir=runs/${oc.env:MOMENT,none}")
    assert call("solve", *IN_CONTEXT, *argv) == 0
    (folder,) = (path for path in (here / "runs").iterdir() if path.name != "latest")
    assert len(list(folder.rglob("result.json"))) == 3


@pytest.mark.slow
def test_two_commands_started_at_the_same_time_keep_both_results(here: Path) -> None:
    started = []
    for folder, ids in (("a", ["one", "two"]), ("b", ["three", "four"])):
        (here / folder).mkdir()
        argv = (*IN_CONTEXT, str(kaggle(here / folder / "x_challenges.json", ids)))
        started.append(subprocess.Popen(command("solve", *argv), cwd=here, env=environment(), stdout=subprocess.PIPE))
    for process in started:
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    found = {
        path for path in (here / "runs").glob("*/*x_challenges-seed0*/submission.json") if "latest" not in path.parts
    }
    assert sorted(set(json.loads(path.read_text())) == {"one", "two"} for path in found) == [False, True]


# Going on


def test_a_sweep_goes_on_with_its_own_tasks_under_its_own_configuration_alone(
    task: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "y.json").write_text(json.dumps({**TASK, "test": [{"input": [[5]]}]}))
    argv = (*IN_CONTEXT, "x.json", "y.json", "missing.json")
    assert call("solve", *argv, "hydra.sweep.dir=run") == 2
    before = {path: path.read_bytes() for path in (here / "run").rglob("*.json")}
    shutil.rmtree(here / "run" / "1-y-seed0")  # as a command leaves it that was killed
    kept_result = (here / "run" / "0-x-seed0" / "result.json").stat().st_mtime_ns
    capfd.readouterr()
    refused = {
        "temperature=0.5": "found temperature: 0.8 recorded, 0.5 now",
        "decode.views=3": "found decode.views: 2 recorded, 3 now",
        "model.seed=1": "found model.seed: 0 recorded, 1 now",
        "seed=1": "resume: expected a run of the same tasks and seeds, found a result in",
    }
    for change, message in refused.items():
        assert call("solve", *argv, "resume=run", change) == 2
        assert message in one_line(capfd)
    assert call("solve", *IN_CONTEXT, "y.json", "x.json", "resume=run") == 2
    assert "resume: expected a run of the same tasks and seeds, found a result in" in one_line(capfd)
    assert call("solve", *argv, "resume=nowhere") == 2
    assert "resume: expected the folder of a run, found no folder" in one_line(capfd)
    assert not (here / "nowhere").exists()
    left = {path: path.read_bytes() for path in (here / "run").rglob("*.json")}
    assert left == {path: content for path, content in before.items() if "1-y-seed0" not in path.parts}
    assert call("solve", *argv, "resume=run") == 2  # for missing.json
    assert (here / "run" / "0-x-seed0" / "result.json").stat().st_mtime_ns == kept_result
    after = {path: path.read_bytes() for path in (here / "run").rglob("*.json")}
    assert after.keys() == before.keys()
    assert all(after[path] == before[path] for path in before if path.name == "submission.json")


def test_one_task_s_run_is_no_other_s(task: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "y.json").write_text(json.dumps(TASK))
    assert call("solve", *IN_CONTEXT, "x.json", "hydra.run.dir=run") == 0
    capfd.readouterr()
    assert call("solve", *IN_CONTEXT, "y.json", "resume=run") == 2
    assert "expected a result of task y, found one of x" in one_line(capfd)


# Nothing is made for nothing


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("solve", ["nosuch.json"]),
        ("solve", [*IN_CONTEXT, "nosuch.json"]),
        ("solve", ["-cd", "nowhere", "model=mine", "x.json"]),
        ("solve", [*IN_CONTEXT, "x.json", "sampels=2"]),
        ("solve", [*IN_CONTEXT, "x.json", "samples=0"]),
        ("solve", [*IN_CONTEXT, "broken.json"]),
        ("solve", [*IN_CONTEXT, "x.json", "toolbox=[nowhere]"]),
        ("solve", [*IN_CONTEXT, "x.json", "model=scriptd"]),
        ("train", [*SMOKE, "restem.round=1"]),
        ("train", [*SMOKE, "data.train=[nowhere]"]),
        ("train", [*SMOKE, "toolbox=[nowhere]"]),
        ("evaluate", [*SMOKE, "rows=[seal]"]),
        ("evaluate", [*SMOKE, "rows=[luck]"]),
        ("evaluate", [*SMOKE, "data.held_out=[nowhere]"]),
        ("evaluate", [*SMOKE, "rows=[ceiling]"]),
        ("pretrain", ["run.token=5"]),
        ("pretrain", ["network=4m"]),
        ("pretrain", [*PRETRAIN, "device=tpu"]),
    ],
)
def test_a_refused_command_leaves_nothing(
    name: str, argv: list[str], task: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.json").write_text("{")
    before = sorted(here.rglob("*"))
    assert call(name, *argv) == 2
    one_line(capfd)
    assert sorted(here.rglob("*")) == before


def groups() -> Iterator[tuple[str, str, str]]:
    """Every command's groups, each with an option."""
    for name in COMMANDS:
        text = (conf_dir() / f"{name}.yaml").read_text()
        for group in re.findall(r"^  - (\w+):", text, re.MULTILINE):
            yield name, group, min(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize(("name", "group", "option"), list(groups()))
def test_a_misspelt_option_is_refused_and_the_nearest_named(
    name: str, group: str, option: str, task: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = f"{option[:-2]}{option[-1]}{option[-2]}"
    assert call(name, *(["x.json"] if name == "solve" else []), f"{group}={wrong}") == 2
    assert re.search(
        rf"^error: {group}: expected one of .* \(did you mean '[\w.-]+'\?\), found '{wrong}'$", one_line(capfd)
    )
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["stages=[0,100,100]"], "stages: expected numbers of tokens that rise, 0 or more, found [0, 100, 100]"),
        (["stages=[-1,100]"], "stages: expected numbers of tokens that rise, 0 or more, found [-1, 100]"),
        (
            ["abstain_below=0.5", "+model.name=mine"],
            "abstain_below: expected a model that comes with a calibration, found mine",
        ),
        (["train=false", "policy=x"], "train: expected true, for policy is about self-edits, found false"),
        (
            ["train=false", "select=held_out"],
            "train: expected true, for select=held_out is about self-edits, found false",
        ),
    ],
)
def test_a_setting_without_effect_is_refused_for_one_reason(
    argv: list[str], message: str, task: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("solve", *TINY, "x.json", *argv) == 2
    assert one_line(capfd) == f"error: {message}\n"
    assert not (here / "runs").exists()


# Places that cannot be written

NOT_WRITABLE = (
    r"(file exists|not a directory|permission denied|read-only file system|no space left|disk is full|unable to open"
    r"|disk i/o)"
)


@contextmanager
def read_only_mount(folder: Path) -> Iterator[Path]:
    with mounted(folder, "ro,size=1m") as place:
        yield place / "run"


@contextmanager
def full_mount(folder: Path) -> Iterator[Path]:
    with mounted(folder, "size=64k") as place:
        with suppress(OSError):
            (place / "filler").write_bytes(bytes(1 << 20))
        yield place / "run"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own in a folder."""
    place = folder / "mount"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def at_a_file(folder: Path) -> Iterator[Path]:
    (folder / "file").touch()
    yield folder / "file"


@contextmanager
def under_a_file(folder: Path) -> Iterator[Path]:
    (folder / "file").touch()
    yield folder / "file" / "run" / "deep"


@contextmanager
def of_another_user(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name, without_privileges():
        yield Path(name) / "run"


@pytest.mark.parametrize("place", [read_only_mount, full_mount, at_a_file, under_a_file, of_another_user])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_is_refused_in_one_line(
    name: str, place: Callable[[Path], "os.PathLike[str]"], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:  # where another user finds the task
        Path(open_to_all).chmod(0o755)
        (Path(open_to_all) / "x.json").write_text(json.dumps(TASK))
        argv = [each.replace("x.json", f"{open_to_all}/x.json") for each in COMMANDS[name]]
        with place(tmp_path) as folder:  # type: ignore[attr-defined]
            assert call(name, *argv, f"hydra.run.dir={folder}") == 2
        said = one_line(capfd)
        assert re.search(
            NOT_WRITABLE,
            said.lower(),
        ), said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["solve", "train"])
def test_a_disk_that_fills_while_a_command_works_loses_nothing(name: str, here: Path) -> None:
    kaggle(here / "x_challenges.json", [f"t{number:02}" for number in range(40)])
    argv = (*TINY, "x_challenges.json", f"self_edit.json={EDIT}") if name == "solve" else LABEL_FREE
    with mounted(here, "size=220k") as place:
        (place / "filler").write_bytes(bytes(20_000))
        first = subprocess.run(
            command(name, *argv, f"hydra.run.dir={place}/run-seed0"),
            cwd=here, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert first.returncode == 2, first
        assert re.fullmatch(
            r"(?i)error: .*(no space left on device|disk is full|disk I/O error|cannot be written).*\n", first.stderr
        ), first.stderr
        (place / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=20m", place], check=True)
        to = f"{'resume' if name == 'solve' else 'hydra.run.dir'}={place}/run-seed0"
        again = subprocess.run(
            command(name, *argv, to), cwd=here, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert (again.returncode, again.stderr) == (0, "")
        assert not list(place.rglob("*.unfinished"))


def test_a_file_that_another_user_keeps_to_himself(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = Path(name) / "x.json"
        path.write_text(json.dumps(TASK))
        path.chmod(0o600)
        with without_privileges():
            assert call("solve", *IN_CONTEXT, str(path)) == 2
    assert one_line(capfd).endswith("x.json: expected a file that can be read, found permission denied\n")


# The terminal


ESCAPES = ["\x1b]0;title\x07", "a\rb", "a\nb", "\x9b2J", "\u202ebidi", "[red]c", "\x7f\x08"]


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "[/]", *(pytest.param(each, marks=pytest.mark.slow) for each in ESCAPES)]
)
def test_no_name_or_argument_steers_the_terminal(text: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "good.json").write_text(json.dumps(TASK))
    (here / f"{text.replace('/', '')}.json").write_text(json.dumps(TASK))
    (here / "bad.json").write_text(json.dumps({text: 1}))
    name = f"{text.replace('/', '')}.json"
    for argv in (
        [name, "good.json"], [f"./nowhere{text}", "good.json"], ["-m", name, "seed=0,1"], [name], [f"{text}.jsn"],
        ["bad.json"], [f"--{text}"], ["good.json", f"+a={text}"], ["good.json", f"model={text}"],
        ["good.json", f"self_edit.json={text}"], ["good.json", f"policy={text}"], ["good.json", f"resume={text}"],
        ["good.json", f"toolbox=['{text}']"], ["-cd", text, "good.json", "model=x"],
        ["good.json", f"hydra.run.dir='{text}'"],
    ):  # fmt: skip
        call("solve", *IN_CONTEXT, *argv)
        shown = capfd.readouterr()
        for said in (shown.out, shown.err):
            assert not CONTROL.search(said), (argv, said)
        assert "Traceback" not in shown.err and shown.err.count("\n") <= 1, argv
        if text == "[red]c" and argv == [name, "good.json"]:
            assert text in shown.out
    for command_name in ("train", "evaluate", "pretrain"):
        for argv in (
            [text],
            [f"name={text}"],
            [f"data={text}"],
            [f"+x={text}"],
            [f"--{text}"],
            ["-cd", text, "model=x"],
        ):
            assert call(command_name, *argv) == 2
            one_line(capfd)


def test_a_folder_s_name_is_no_markup(task: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("[red]c", "\x1b[31md"):
        assert call("pretrain", *PRETRAIN, f"hydra.run.dir='{name}'", "run.tokens=10") == 0
        assert call("solve", *IN_CONTEXT, "x.json", f"hydra.run.dir='{name}-solved'") == 0
        shown = " ".join(capfd.readouterr().out.split())
        assert not CONTROL.search(shown)
        assert name.replace("\x1b", "\ufffd") in shown.replace(" ", ""), shown


# Foreign configuration


@pytest.mark.parametrize(
    ("name", "group", "text"),
    [
        ("solve", "model", "_target_: os.system\ncommand: touch made"),
        ("solve", "model", "_target_: arc_seal.self_edit.toolbox.Toolbox.load\nfolders: []"),
        ("solve", "model", "_target_: arc_seal.models.scripted.ScriptedSource\nseed:\n  _target_: os.getpid"),
        ("solve", "executor", "_target_: subprocess.Popen\nargs: [touch, made]"),
        ("solve", "decode", "views: 2\nscore: {_target_: os.getpid}"),
        ("train", "executor", "_target_: builtins.exec\nsource: open('made', 'w')"),
        ("evaluate", "model", "_target_: os.system\ncommand: touch made"),
        ("pretrain", "network", "_target_: os.system\ncommand: touch made"),
        ("pretrain", "network", "_target_: arc_seal.models.grid_network.GridForCausalLM"),
    ],
)
def test_a_folder_of_configuration_makes_nothing_but_what_is_listed(
    name: str, group: str, text: str, task: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "a, b" / group).mkdir(parents=True)
    (here / "a, b" / group / "mine.yaml").write_text(text)
    argv = [each for each in COMMANDS[name] if not each.startswith(f"{group}.")]
    assert call(name, *argv, "-cd", "a, b", f"{group}=mine") == 2
    assert "_target_: expected one of arc_seal." in one_line(capfd)
    assert not (here / "made").exists() and not (here / "runs").exists()


@pytest.mark.parametrize("argument", ["model._target_=os.system", "+x={_target_:os.system}", "++decode._target_=x"])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_argument_makes_nothing(name: str, argument: str, task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(name, *COMMANDS[name], argument) == 2
    assert "expected an override that leaves _target_ to conf/" in one_line(capfd)
