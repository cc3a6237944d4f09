"""The configuration: read from Hydra as it was meant, and refused in one line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from arc_seal.cli import rewrite
from arc_seal.config import (
    Composed,
    SolveConfig,
    TrainConfig,
    compose,
    make,
    read_config,
    run_name,
)
from arc_seal.errors import InputError
from arc_seal.inner_loop.job import DecodeSettings, TrainingSettings


@pytest.fixture(autouse=True)
def hydra_is_left_clean() -> Iterator[None]:
    yield
    assert not GlobalHydra.instance().is_initialized()


def composed(tmp_path: Path, *argv: str, command: str = "solve") -> list[Composed]:
    """What Hydra makes of a command line, one for each job."""
    typed = rewrite([f"hydra.run.dir={tmp_path}/run", f"hydra.sweep.dir={tmp_path}/sweep", *argv])
    return compose(command, typed.overrides, sweep=typed.sweep, folders=typed.folders)


def read(tmp_path: Path, *argv: str) -> SolveConfig:
    return read_config(composed(tmp_path, *argv)[0].values, SolveConfig)


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    config = read(tmp_path, "a.json")
    assert (config.task, config.seed, config.samples, config.temperature) == ("a.json", 0, 1, 0.8)
    assert config.ttt == TrainingSettings(token_budget=120_000)
    assert config.decode == DecodeSettings(score=True)
    assert config.model["name"] == "grid"
    assert config.executor["_target_"] == "arc_seal.sandbox.process.ProcessExecutor.from_settings"
    assert Path(config.toolbox_folders[0], "rotate.py").is_file()


def test_a_model_brings_its_self_edit_along_and_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    written = read(tmp_path, "a.json").self_edit
    assert (written.by_hand, written.policy, written.difficulty) == (None, "package:arc_seal/weights/policy-grid", True)
    fixed = read(tmp_path, "a.json", "self_edit=fixed").self_edit
    assert fixed.by_hand is not None and "permute_colors" in fixed.by_hand
    assert (fixed.policy, fixed.difficulty) == (None, False)
    for others in (("model=smollm2",), ("self_edit=default",), ("self_edit=fixed", "self_edit.json=null")):
        found = read(tmp_path, "a.json", *others).self_edit
        assert (found.by_hand, found.policy) == (None, None)
    assert read(tmp_path, "a.json", "model=smollm2", "self_edit=fixed").self_edit == fixed


def test_the_grid_model_alone_brings_scores_along(tmp_path: Path) -> None:
    assert read(tmp_path, "a.json").decode.score
    assert not read(tmp_path, "a.json", "decode=default").decode.score
    assert not read(tmp_path, "a.json", "decode.score=false").decode.score
    assert not read(tmp_path, "a.json", "model=smollm2").decode.score


def test_settings_reach_their_fields(tmp_path: Path) -> None:
    config = read(
        tmp_path, "seed=3", "a.json", "samples=5", "ttt.lora_alpha=16", "decode.views=4", "train=false",
        "toolbox=[more]", "executor=inline", 'self_edit.json={"tools": [], "x": "a, b"}',
    )  # fmt: skip
    assert (config.seed, config.samples, config.train) == (3, 5, False)
    assert config.ttt == TrainingSettings(lora_alpha=16.0, token_budget=120_000)
    assert config.decode == DecodeSettings(views=4, score=True)
    assert config.toolbox_folders[1:] == (str(Path("more").absolute()),)
    assert config.self_edit.by_hand == '{"tools": [], "x": "a, b"}'


@pytest.mark.parametrize("model", ["smollm2", "llama-3.2-1b", "qwen3-0.6b"])
def test_chat_models_are_kept_from_rates_that_the_grid_model_alone_stands(tmp_path: Path, model: str) -> None:
    chat, grid = (read(tmp_path, "a.json", *which) for which in ((f"model={model}",), ("self_edit=default",)))
    rates = [config.self_edit.bounds["learning_rate"]["high"] for config in (chat, grid)]
    assert rates == [0.002, 0.01]
    assert chat.self_edit.candidates != grid.self_edit.candidates


@pytest.mark.parametrize(("model", "form"), [("grid", "choices"), ("smollm2", "default")])
def test_a_policy_to_train_writes_within_what_its_model_brings_along(tmp_path: Path, model: str, form: str) -> None:
    (job,) = composed(tmp_path, f"model={model}", command="train")
    edit = read_config(job.values, TrainConfig).self_edit
    assert (edit.by_hand, edit.policy, edit.bounds["form"]) == (None, None, form)


def test_the_papers_self_edit_brings_the_papers_training(tmp_path: Path) -> None:
    paper = read(tmp_path, "a.json", "self_edit=paper")
    assert (paper.ttt.targets, paper.ttt.lora_alpha) == ("last", 16.0)
    assert read(tmp_path, "a.json", "self_edit=paper", "ttt=default").ttt == read(tmp_path, "a.json").ttt


def test_the_papers_form_can_be_had_with_higher_rates_and_our_own_training(tmp_path: Path) -> None:
    own, paper = read(tmp_path, "a.json", "self_edit=paper_wide"), read(tmp_path, "a.json", "self_edit=paper")
    assert own.ttt == read(tmp_path, "a.json").ttt
    rates = {**own.self_edit.bounds["learning_rate"], "high": paper.self_edit.bounds["learning_rate"]["high"]}
    assert {**own.self_edit.bounds, "learning_rate": rates} == paper.self_edit.bounds
    assert own.self_edit.bounds["learning_rate"]["high"] == 10 * rates["high"]


def test_a_configuration_can_be_kept_and_read_again(tmp_path: Path) -> None:
    config = read(tmp_path, "a.json", "self_edit.json={}")
    assert read_config(config.model_dump(mode="json", by_alias=True), SolveConfig) == config


@pytest.mark.parametrize("task", ["25e02866", "a b/${x}.json", "it's,[1]{2}=3.json", "007e+10"])
def test_awkward_tasks_reach_the_job(task: str, tmp_path: Path) -> None:
    jobs = composed(tmp_path, "--", task, "other")
    assert [job.values["task"] for job in jobs] == [task, "other"]


def test_a_sweep_has_a_folder_for_each_job_of_a_task_and_seed(tmp_path: Path) -> None:
    jobs = composed(tmp_path, "-m", "tasks/a.json", "arcagi1/25e02866", "seed=1,2")
    assert [(job.values["task"], job.values["seed"]) for job in jobs] == [
        ("tasks/a.json", 1),
        ("tasks/a.json", 2),
        ("arcagi1/25e02866", 1),
        ("arcagi1/25e02866", 2),
    ]
    assert [job.folder.name for job in jobs] == ["0-a-seed1", "1-a-seed2", "2-25e02866-seed1", "3-25e02866-seed2"]
    assert {job.sweep for job in jobs} == {tmp_path / "sweep"}
    assert {job.folder.parent for job in jobs} == {tmp_path / "sweep"}


def test_one_run_is_no_sweep_and_makes_no_folder(tmp_path: Path) -> None:
    (job,) = composed(tmp_path, "a.json")
    assert job.sweep is None
    assert job.folder == tmp_path / "run"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "name"),
    [("tasks/5582e5ca.json", "5582e5ca-seed0"), ("arcagi1/0d3d703e", "0d3d703e-seed0"), ("tasks/", "tasks-seed0"),
     (None, "no-task-seed0"), ("x" * 80, "x" * 80 + "-seed0")],
)  # fmt: skip
def test_harmless_names_are_folders_as_they_are(task: str | None, name: str) -> None:
    assert run_name(task, 0) == name


AWKWARD = [
    "a b",
    "a,b",
    "a=b",
    "a:b",
    "a_b",
    "任务一",
    "任务二",
    "ü",
    "x",
    ".x",
    "..",
    "x" * 81,
    "x" * 82,
    "a~b",
    "A",
    "a\x1b[31mb",
]


def test_no_two_tasks_share_a_folder_s_name() -> None:
    names = [run_name(task, seed) for task in AWKWARD for seed in (0, 1)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[-_0-9A-Za-z][-._~0-9A-Za-z]{0,99}", name) for name in names)
    assert run_name("a b/ü c.json", 0).startswith("_c~")
    assert run_name("../..", 0).startswith("task~")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sampels=3", "sampels: expected a setting that there is (did you mean 'samples'?), found an unknown one"),
        ("ttt.lora_alfa=3", "ttt.lora_alfa: expected a setting that there is (did you mean 'ttt.lora_alpha'?)"),
        ("moddel=x", "moddel: expected a setting that there is (did you mean 'model'?), found an unknown one"),
        ("model=smolm2", "(did you mean 'smollm2'?), found 'smolm2'"),
        ("+sampels=3", "sampels: expected a setting that there is (did you mean 'samples'?), found an unknown one"),
        ("samples=0", "configuration: samples: expected greater than or equal to 1, found 0"),
        ("samples=few", "configuration: samples: expected a valid integer"),
        ("seed=-1", "configuration: seed: expected greater than or equal to 0, found -1"),
        ("temperature=nan", "configuration: temperature: expected a finite number, found NaN"),
        ("train=maybe", "configuration: train: expected a valid boolean"),
        ("ttt.targets=first", "configuration: ttt.targets: expected 'all' or 'last', found \"first\""),
        ("ttt.warmup_share=2", "configuration: ttt.warmup_share: expected less than or equal to 1, found 2"),
        ("decode.views=0", "configuration: decode.views: expected greater than or equal to 1, found 0"),
        (
            "+decode.vews=0",
            "configuration: decode.vews: expected a setting that there is (did you mean 'decode.views'?)",
        ),
        ("seed=1,2", "seed=1,2: expected one value, or -m for a sweep over several, found several"),
        ("seed=range(1,3)", "seed=range(1,3): expected one value, or -m for a sweep over several"),
        ("ttt.targets=[", "ttt.targets=[: expected NAME=VALUE, quoted if need be"),
        ("samples=${nowhere}", "configuration: expected settings that Hydra can compose, found"),
        ("~nothing", "nothing"),
    ],
)
def test_refuses_in_one_line(argument: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        read(tmp_path, "a.json", argument)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("argument", ["task=", "samples=1"])
def test_refuses_no_task(argument: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"configuration: task: expected a task: a file, .*, found none"):
        read(tmp_path, argument)


def test_a_class_outside_arc_seal_is_never_made(tmp_path: Path) -> None:
    values = composed(tmp_path, "a.json")[0].values
    for target in ("os.system", "arc_sealed.Evil", "arc_seal.self_edit.toolbox.Toolbox.load", None):
        with pytest.raises(InputError, match=r"model\._target_: expected one of arc_seal\.models\..*, found"):
            read_config({**values, "model": {"_target_": target}}, SolveConfig)
    with pytest.raises(InputError, match=r"executor\.a\.0\._target_"):
        read_config({**values, "executor": {"a": [{"_target_": "os.system"}]}}, SolveConfig)


@dataclass
class Thing:
    """Something to make."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise InputError("thing.number", "", "0 or more", str(self.number))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": -1}, "thing.number: expected 0 or more, found -1"),
        ({"nummer": 1}, "configuration: expected settings that tests.test_config.Thing takes, found"),
    ],
)
def test_what_cannot_be_made_is_bad_input(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make({"_target_": "tests.test_config.Thing", **settings})


def test_what_can_be_made_is_made() -> None:
    assert make({"_target_": "tests.test_config.Thing", "number": 1}) == Thing(1)
