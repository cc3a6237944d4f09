"""What the commands have in common: help, version, errors in one line, exit codes."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from arc_seal import __version__
from arc_seal.__main__ import COMMANDS
from arc_seal.__main__ import main as arc_seal
from arc_seal.cli import command
from arc_seal.config import Composed
from arc_seal.errors import Diverged, FinetuningFailed, InputError
from arc_seal.train import main as train


class Job:
    """A job that remembers what it was called with, then does what it is to do."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.seen = list(errors), list[Composed]()

    def __call__(self, jobs: list[Composed]) -> int:
        self.seen += jobs
        if self.errors:
            raise self.errors.pop(0)
        return 0


def call(job: Job, folder: Path, *argv: str) -> int:
    return command("train", "USAGE\n", [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}", *argv], job)


def test_a_job_is_done_under_its_configuration(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = Job()
    assert call(job, tmp_path, "seed=3", "restem.rounds=2") == 0
    (composed,) = job.seen
    assert (composed.values["seed"], composed.values["restem"]["rounds"]) == (3, 2)
    assert composed.folder == tmp_path
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_and_version_do_nothing_else(flag: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = Job()
    assert call(job, tmp_path, "seed=3", flag) == 0
    shown = capfd.readouterr().out
    assert shown.startswith("USAGE\n") and "\n  seed=0 " in shown and "\n  folds=2 " in shown
    assert call(job, tmp_path, "--version") == 0
    assert capfd.readouterr().out == f"arc-seal {__version__}\n"
    assert job.seen == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.json", "", "one\n  line", "two"), 2, "error: a.json: expected one line, found two\n"),
        (Diverged("the loss\nbecame nan"), 1, "error: the loss became nan\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(Job(error), tmp_path) == code
    assert capfd.readouterr() == ("", line)


def test_a_programming_error_stays_one(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        call(Job(ZeroDivisionError()), tmp_path)


@pytest.mark.parametrize(
    ("argument", "said"),
    [("25ff71a9", "25ff71a9"), ("task=a.json", "a.json"), ("--nonsense", "--nonsense"), ("sede=1", "sede")],
)
def test_arguments_that_no_command_takes_are_refused(
    argument: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = Job()
    assert call(job, tmp_path, argument) == 2
    assert capfd.readouterr().err.startswith(f"error: {said}: expected ")
    assert job.seen == []


def test_a_sweep_is_all_its_jobs(tmp_path: Path) -> None:
    work = Job()
    assert call(work, tmp_path, "-m", "seed=0,1") == 0
    assert [composed.values["seed"] for composed in work.seen] == [0, 1]
    assert [composed.folder for composed in work.seen] == [tmp_path / "seal-seed0", tmp_path / "seal-seed1"]


def test_fine_tuning_that_failed_is_exit_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(Job(FinetuningFailed("fine-tuning failed: timeout")), tmp_path) == 1
    assert capfd.readouterr().err == "error: fine-tuning failed: timeout\n"


@pytest.mark.parametrize("part", ["job", "hydra", "all"])
def test_the_configuration_can_be_shown_instead(part: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work = Job()
    assert call(work, tmp_path, "--cfg", part, "seed=7") == 0
    shown = OmegaConf.create(capfd.readouterr().out)
    assert work.seen == []
    assert ("seed" in shown and shown.seed == 7) == (part != "hydra")
    assert ("hydra" in shown) == (part != "job")


@pytest.mark.parametrize("asked", [["--help", "restem"], ["-h", "restem.rounds"], ["seed=1", "--help=restem", "-m"]])
def test_help_takes_a_topic(asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(Job(), tmp_path, *asked) == 0
    shown = capfd.readouterr().out
    assert "\n  restem.rounds=1 " in shown and "USAGE" not in shown


def test_an_unknown_topic_is_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(Job(), tmp_path, "--help", "executer") == 2
    assert "(did you mean 'executor'?), found 'executer'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["hydra/launcher=nonsense", "-m", "seed=0,1"], "hydra/launcher: expected one of "),
        (["hydra/sweeper=nonsense"], "hydra/sweeper: expected one of "),
        (["restem.reward=solutoin"], "(did you mean 'solution'?), found \"solutoin\""),
    ],
)
def test_what_hydra_cannot_do_and_wrong_words_are_refused(
    argv: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train([f"hydra.run.dir={tmp_path}", f"hydra.sweep.dir={tmp_path}", *argv]) == 2
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1


class TestAllCommands:
    def test_each_has_a_line_and_is_there(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert arc_seal([]) == 0
        shown = capfd.readouterr().out
        for name, about in COMMANDS.items():
            assert f"\n  {name} " in shown and about in shown

    @pytest.mark.parametrize("name", [name for name in COMMANDS if find_spec(f"arc_seal.{name}")])
    def test_the_first_argument_names_the_command(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[list[str]] = []
        module = import_module(f"arc_seal.{name}")  # by its path `arc_seal.solve` may be the function
        monkeypatch.setattr(module, "main", lambda argv: seen.append(list(argv)) or 7)
        assert (arc_seal([name, "a.json", "--help"]), seen) == (7, [["a.json", "--help"]])

    def test_version_and_unknown_names(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert arc_seal(["--version"]) == 0
        assert capfd.readouterr().out == f"arc-seal {__version__}\n"
        assert arc_seal(["slove"]) == 2
        assert capfd.readouterr().err.startswith("error: slove: expected one of solve, train, ")
        assert arc_seal(["slove"]) == 2
        assert "(did you mean 'solve'?)" in capfd.readouterr().err
