"""The command line: what people type reaches Hydra as it was meant."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from arc_seal.cli import help_text, knobs_of, quote, rewrite
from arc_seal.config import compose
from arc_seal.errors import InputError, suggestion
from arc_seal.files import conf_dir

AWKWARD = st.text(st.sampled_from("a7e.+-_0\\'\"${}[](),=: \té\n?*~!#@%&|;<>/"), max_size=12).filter(
    lambda t: t != "???"
)
"""Names made of what shells, Hydra and OmegaConf give a meaning; `???` alone cannot be said in OmegaConf."""


def no_file(name: str) -> bool:
    return False


def read(argument: str) -> list[object]:
    """The values that Hydra and OmegaConf read from an override, one for each job of a sweep."""
    override = OverridesParser.create().parse_override(argument)
    if not override.is_sweep_override():
        return [OmegaConf.create({"it": override.value()}).it]
    again = [f"it={text}" for text in override.sweep_string_iterator()]
    return [value for one in again for value in read(one)]


def tasks(argv: list[str], files: frozenset[str] = frozenset()) -> list[object]:
    arguments = [one for one in rewrite(argv, files.__contains__).overrides if one.startswith("task=")]
    return [value for one in arguments for value in read(one)]


@given(AWKWARD)
def test_a_quoted_text_is_read_as_it_stands(text: str) -> None:
    override = OverridesParser.create().parse_override(f"task={quote(text)}")
    assert not override.is_sweep_override()
    assert read(f"task={override.get_value_element_as_str()}") == [text]


@pytest.mark.parametrize(
    "name",
    ["25e02866", "007e+10", "1e5", "00000000", "12345678", "true", "null", "nan", "inf", "-1.json", "arcagi1/25e02866",
     "my tasks/a b.json", "a,b.json", "é/ü.json", "it's.json", 'say "hi".json', "[a].json", "{a}.json", "(a).json",
     "${HOME}.json", r"back\slash.json", "a:b.json", "#a.json", "a=b.json", "glob(*).json", "~/a.json", "%s.json"],
)  # fmt: skip
def test_a_task_reaches_the_command_unharmed(name: str) -> None:
    files = frozenset({name})
    assert tasks([name], files) == [name]
    assert tasks([f"task={name}"], files) == [name]
    assert tasks(["-m", name, "seed=1,2"], files) == [name]
    assert tasks([name, "arcagi1/4be741c5"], files) == [name, "arcagi1/4be741c5"]


def test_overrides_stand_on_either_side_of_the_task() -> None:
    assert rewrite(["seed=1", "a.json", "samples=2"], no_file).overrides == ["task='a.json'", "seed=1", "samples=2"]


def test_flags_may_stand_anywhere() -> None:
    typed = rewrite(["a.json", "-cd", "mine", "-m", "seed=1,2", "--config-dir=more"], no_file)
    assert (typed.overrides, typed.sweep, typed.folders) == (["task='a.json'", "seed=1,2"], True, ["mine", "more"])


def test_what_is_loaded_is_swept_outermost() -> None:
    typed = rewrite(["-m", "a.json", "seed=1,2", "model=a,b", "executor.timeout_s=5"], no_file)
    assert typed.overrides == ["model=a,b", "executor.timeout_s=5", "task='a.json'", "seed=1,2"]


def test_several_tasks_are_a_sweep() -> None:
    for argv, tasks in ((["a.json", "b.json"], "'a.json','b.json'"), (["task=a", "b"], "'a','b'")):
        typed = rewrite(argv, no_file)
        assert (typed.overrides, typed.sweep) == ([f"task={tasks}"], True)
    assert not rewrite(["a.json"], no_file).sweep


def test_commas_separate_tasks_only_in_a_sweep() -> None:
    assert tasks(["-m", "task=25e02866, 4be741c5"]) == ["25e02866", "4be741c5"]
    assert tasks(["task=a,b"]) == ["a,b"]
    assert tasks(["-m", "task='a,b',c"]) == ["a,b", "c"]


def test_a_task_that_is_quoted_for_hydra_already_stays_so() -> None:
    assert tasks(["task='25e02866'"]) == ["25e02866"]
    assert tasks(['task="a b"']) == ["a b"]


def test_an_existing_file_is_a_task_and_not_an_override() -> None:
    assert rewrite(["seed=1"], no_file).overrides == ["seed=1"]
    assert tasks(["seed=1"], frozenset({"seed=1"})) == ["seed=1"]
    assert tasks(["-x.json"], frozenset({"-x.json"})) == ["-x.json"]


def test_a_path_that_exists_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("arc=2,3").mkdir()
    for name in ("arc=2,3/a.json", "v=1,2_challenges.json", "seed=1"):
        Path(name).touch()
    names = ["arc=2,3", "arc=2,3/", "arc=2,3/a.json", "v=1,2_challenges.json/aa", "v=1,2_challenges.json", "seed=1"]
    for name in names:
        for argv in ([name], ["-m", name], ["-m", f"task={name}"]):
            (argument,) = (one for one in rewrite(argv).overrides if one.startswith("task="))
            assert read(argument) == [name]
    assert rewrite(["seed=2", "a.json", "seed=1/x/y"]).overrides == ["task='a.json'", "seed=2", "seed=1/x/y"]


def test_after_two_dashes_all_are_tasks() -> None:
    assert tasks(["seed=1", "--", "seed=2", "--help"]) == ["seed=2", "--help"]


@pytest.mark.parametrize("argument", ["+a.b=1", "++seed=2", "~ttt", "~a.b", "hydra/launcher=basic", "hydra.run.dir=x"])
def test_hydras_own_overrides_pass(argument: str) -> None:
    assert rewrite([argument, "a.json"], no_file).overrides == ["task='a.json'", argument]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_self_edit_passes_unharmed(prefix: str) -> None:
    text = '{"tools": [{"tool": "rotate", "quarter_turns": 1}], "training": {"learning_rate": 0.0003}}'
    assert read(rewrite([f"{prefix}self_edit.json={text}", "a.json"], no_file).overrides[1]) == [text]


def test_self_edits_can_be_swept_over() -> None:
    one, other = '{"tools": [1, 2], "x": "a,b"}', '{"tools": []}'
    arguments = rewrite(["-m", "a.json", f"self_edit.json={one},{other}"], no_file)
    assert read(arguments.overrides[1]) == [one, other]


def test_a_self_edit_that_is_no_json_is_left_for_the_schema_to_refuse() -> None:
    for text in ('{"tools": [', "{} {}", "nonsense, more", "[1],"):
        assert read(rewrite(["-m", "a.json", f"self_edit.json={text}"], no_file).overrides[1]) in (
            [text],
            [text.rstrip(",")],
        )


def test_no_self_edit_by_hand_can_be_said_too() -> None:
    assert rewrite(["self_edit.json=null", "a.json"], no_file).overrides[1] == "self_edit.json=null"


def test_values_of_flags_are_no_tasks() -> None:
    typed = rewrite(["a.json", "--cfg", "job", "--resolve"], no_file)
    assert (typed.overrides, typed.show, typed.resolve) == (["task='a.json'"], "job", True)
    assert rewrite(["--cfg=hydra"], no_file).show == "hydra"


def test_showing_the_configuration_is_no_sweep() -> None:
    typed = rewrite(["--cfg", "job", "a.json", "b.json"], no_file)
    assert (typed.overrides, typed.sweep) == (["task='a.json'"], False)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--multrun"],
            "--multrun: expected a flag that --help lists (did you mean '--multirun'?), found an unknown flag",
        ),
        (["-x"], "-x: expected a flag that --help lists"),
        (["--cfg"], "--cfg: expected a value after it, found nothing"),
        (["--cfg", "jop"], "--cfg: expected one of job, hydra, all, found 'jop'"),
        (["model._target_=os.system"], "model._target_=os.system: expected an override that leaves _target_ to conf/"),
        (["model={_target_: os.system}"], "expected an override that leaves _target_ to conf/, found _target_"),
        (["+executor._target_=x"], "expected an override that leaves _target_ to conf/"),
        (["++a={b:{_target_:x}}"], "expected an override that leaves _target_ to conf/"),
    ],
)
def test_refuses(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        rewrite(argv, no_file)


def test_suggests_the_nearest_name() -> None:
    assert suggestion("sampels", ["seed", "samples"]) == " (did you mean 'samples'?)"
    assert suggestion("xyz", ["seed", "samples"]) == ""


COMMANDS = ("solve", "train", "evaluate", "pretrain")


def flat(settings: object, prefix: str = "") -> dict[str, object]:
    """Every setting by its full name, lists as they are."""
    if not isinstance(settings, dict):
        return {prefix.removesuffix("."): settings}
    return {name: value for key, each in settings.items() for name, value in flat(each, f"{prefix}{key}.").items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_knows_every_setting_its_default_and_what_it_is(command: str) -> None:
    """What Hydra composes and what is read from the files' text are the same."""
    knobs, chosen = knobs_of(command, conf_dir())
    (job,) = compose(command, [], sweep=False)
    composed = {name: value for name, value in flat(job.values).items() if not name.rpartition(".")[2].startswith("_")}
    assert knobs.keys() == composed.keys()
    for name, value in composed.items():
        if knobs[name].default not in ("...", "[...]", '""'):
            assert read(f"it={knobs[name].default}") == [value], name
    assert [name for name, knob in knobs.items() if not knob.about] == []
    shared = {"rollouts"} & job.choices.keys()  # its settings are the command's own
    options = {group: option for group, option in job.choices.items() if not group.startswith("hydra")}
    assert chosen.keys() == options.keys() - shared
    assert {group: chosen[group] for group in chosen if group != "experiment"} == {
        group: option for group, option in options.items() if group not in (*shared, "experiment")
    }


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_what_people_change(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = help_text(command, "Usage: it is used.\n\nA line.\n", conf_dir())
    assert text.startswith("Usage: it is used.\n\nA line.\n\nFlags: ")
    own = OmegaConf.load(conf_dir() / f"{command}.yaml")
    often = {"train": ("restem.rounds=1", "data.limit=null"), "pretrain": ("run.tokens=",)}
    shared = (
        ()
        if command == "pretrain"
        else ("executor.workers=1", "executor.threads=null", "ttt.token_budget=", "decode.views=8")
    )
    names = [f"{name}=" for name in own if name not in ("defaults", "hydra", "self_edit", "run", "data", "optimizer")]
    for name in (*names, *shared, *often.get(command, ())):
        assert re.search(rf"^  {re.escape(name)}", text, re.MULTILINE), name
    assert "restem.finetune" not in text and "bounds" not in text
    assert all(len(line) <= width for line in text.splitlines())


def test_help_on_a_topic_says_everything_of_it() -> None:
    text = help_text("train", "USAGE", conf_dir(), "restem")
    assert "  grid*" in text and "  restem.finetune.warmup_share=0.1\n" in text and "executor" not in text
    words = " ".join(help_text("train", "USAGE", conf_dir(), "restem.finetune").split())
    assert "the learning rate rises; it falls along a cosine after." in words  # a comment to its end
    everything = help_text("train", "USAGE", conf_dir(), "all")
    assert all(f"\n  {name}=" in everything for name in knobs_of("train", conf_dir())[0])
    assert text.endswith("\n") and "USAGE" not in everything
    with pytest.raises(InputError, match=r"--help: expected all, a group or a setting \(did you mean 'restem'\?\)"):
        help_text("train", "USAGE", conf_dir(), "restm")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_quick_and_loads_no_heavy_library(flag: str) -> None:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "arc_seal.solve", "a.json", flag],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0
    assert "Usage: python -m arc_seal.solve" in done.stdout
    assert time.perf_counter() - started < 1.5
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"omegaconf", "numpy", "torch", "transformers", "hydra", "pydantic", "rich"}
