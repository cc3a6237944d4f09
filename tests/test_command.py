"""What the commands have in common: help, version, errors in one line, exit codes."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from arc_seal import __version__
from arc_seal.cli import command
from arc_seal.config import Composed
from arc_seal.errors import Diverged, FinetuningFailed, InputError


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
    assert shown.startswith("USAGE\n") and "  seed=0\n" in shown and "  folds=2\n" in shown
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
