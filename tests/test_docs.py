"""What the documentation says can be typed: every command, every Python example, every link.

The quick tests compose each command's configuration, so that a setting that was renamed fails. The slow ones run the
commands in the order of the pages, in one folder and with small settings. `ONLY_READ` says what is not run, and why.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from glob import glob
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from arc_seal import __version__
from arc_seal.arc.datasets import load_task

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
GROUPED = ("solve", "train", "evaluate", "pretrain")
"""Commands that take a configuration."""

ONLY_READ = {
    r"git clone ": "needs a network",
    r"cd |source ": "changes the shell that it is typed in",
    r"make |pip install ": "sets up an environment from a network; .ci/run does it",
    r"pre-commit |kaggle ": "needs a program, or an account, that arc-seal does without",
    r"python -m pytest ": "runs tests",
    r"arc-seal \w+$": "the name of a command, without what it is to work on",
    r".* model=(qwen|llama)": "needs a model hub",
    r".* model.location=./my_model": "needs the files of a model",
    r".*arcagi1/evaluation_sample": "60 tasks",
    r"python -m arc_seal.solve .*arcagi1/evaluation ": "400 tasks",
    r".* executor=ray": "needs a cluster; tests/sandbox/test_ray.py makes one",
    r".* hydra/launcher=submitit_slurm": "needs a cluster's queue",
    r"python -m arc_seal.kaggle ": "needs a network, for the wheels of the bundle",
}
"""Commands, by how they begin, that are composed or looked up but not run."""

COMMON = ("ttt.token_budget=300", "decode.views=1")
SMALL = {
    "solve": COMMON,
    # The better of two self-edits is always rewarded so, and there is a policy to go on with.
    "train": (*COMMON, "data.limit=1", "restem.samples=2", "restem.rounds=1", "restem.reward=held_out_demo",
              "restem.margin=0", "restem.finetune.epochs=1", "restem.finetune.variants=1"),
    "evaluate": (*COMMON, "data.limit=1", "samples=1"),
}  # fmt: skip
"""Settings under which a command is run: before its own, which may say otherwise."""

SMALLER = (
    "network.hidden_size=32", "network.intermediate_size=64", "network.num_hidden_layers=1",
    "network.num_attention_heads=2", "data.shares={re_arc:0,compositions:0,rules:0}", "data.max_tokens=120",
    "data.self_edit_max_tokens=100",
    "run.tokens=1000", "run.batch_tokens=512", "data.rules=300", "data.pairs_per_rule=4",
    "run.workers=0", "run.compile=false", "optimizer.warmup_tokens=500",
    "measure_max_tokens=150",
)  # fmt: skip
"""The same for `pretrain`, after its own: those are what is large."""


@dataclass(frozen=True)
class Command:
    """A command as a page shows it: the words after what is set for it alone."""

    page: Path
    words: tuple[str, ...]
    environment: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def module(self) -> str | None:
        """The name of arc-seal's command, None for another program."""
        match = re.match(r"(?:python -m arc_seal\.|arc-seal )(\w+)", self.text)
        return match and match[1]

    @property
    def arguments(self) -> list[str]:
        """What follows the command's name, with files for what the shell would match."""
        after = self.words[3 if self.words[0] == "python" else 2 :]
        return [path for word in after for path in (sorted(glob(word)) if "*" in word else ()) or [word]]


def tokens(page: Path) -> Iterator[Token]:
    """Every block, and every part of a line."""
    for block in MarkdownIt().enable("table").parse(page.read_text("utf-8")):
        yield block
        yield from block.children or ()


def commands() -> Iterator[Command]:
    """What pages show indented, in fences that are not of another language, and as `python -m` within a line."""
    for page in PAGES:
        for token in tokens(page):
            if token.type == "code_block" or (token.type == "fence" and token.info in ("", "sh", "bash")):
                yield from (made(page, words) for words in typed(token.content))
            elif token.type == "code_inline" and re.match(r"(python -m|arc-seal|make|pip) \S", token.content):
                yield made(page, shlex.split(token.content))


def typed(text: str) -> Iterator[list[str]]:
    """The words of each command: one a line, or several where a line ends with a backslash or within quotes."""
    waiting = ""
    for line in text.splitlines():
        waiting += line + "\n"
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(waiting.replace("\\\n", " "), comments=True)
        except ValueError:  # a quote is open
            continue
        waiting = ""
        if words:
            yield words
    assert not waiting, f"a quote stays open: {waiting}"


def made(page: Path, words: list[str]) -> Command:
    first = next(number for number, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    return Command(page, tuple(words[first:]), tuple(words[:first]))


ALL = list(dict.fromkeys(commands()))
EXAMPLES = [
    token.content for page in PAGES for token in tokens(page) if token.type == "fence" and token.info == "python"
]


def each(chosen: Iterable[Command]) -> pytest.MarkDecorator:
    rows = [pytest.param(one, id=f"{one.page.stem}: {one.text[:70]}") for one in chosen]
    return pytest.mark.parametrize("command", rows)


def only_read(command: Command) -> bool:
    return any(re.match(start, command.text) for start in ONLY_READ)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which somebody works: what the pages presuppose is there."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("tasks", "my_tasks", "my_tools"):
        (folder / name).mkdir()
    for task in ("5582e5ca", "6150a2bd"):
        shutil.copy(ROOT / "tasks" / f"{task}.json", folder / "tasks")
    shutil.copy(ROOT / "tasks" / "5582e5ca.json", folder / "my_tasks" / "one.json")
    challenge = json.loads((ROOT / "tasks" / "6150a2bd.json").read_text())
    challenge["test"] = [{"input": pair["input"]} for pair in challenge["test"]]
    (folder / "my_challenges.json").write_text(json.dumps({"6150a2bd": challenge}))
    for example in EXAMPLES:
        if match := re.match(r"# (my_tools/\w+\.py)\n", example):
            (folder / match[1]).write_text(example)
    return folder


@each(ALL)
def test_what_a_command_says_is_there(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert command.module or only_read(command), f"{command.text} is neither run nor in ONLY_READ"
    if command.module:
        check_ours(command, capfd)
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    makefile = (ROOT / "Makefile").read_text()
    if command.words[0] == "make":
        assert re.search(rf"^{command.words[1]}:", makefile, re.MULTILINE)
    for requirement in re.findall(r"[\w-]+==\S+", command.text):
        assert requirement in makefile
    for extra in re.findall(r"\[(\w+)\]", command.text):
        assert extra in project["optional-dependencies"]
    for path in re.findall(r"\b(?:tests|benchmarks)/\S+", command.text):
        assert (ROOT / path).exists()


def check_ours(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    """Compose the configuration of one of our commands, in this process; of a sweep's values the first."""
    assert command.module
    if command.words[0] == "arc-seal":
        assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["arc-seal"]
    main = import_module(f"arc_seal.{command.module}").main
    argv = command.arguments
    if command.module not in GROUPED:
        argv = ["--help"]
    elif "--help" not in argv and "--cfg" not in argv:
        alone = [each for each in argv if each != "-m" and not each.startswith("hydra/launcher=")]
        argv = [re.sub(r"^([\w./]+=[^\[{'\",]+),.*", r"\1", each) for each in alone]
        argv += ["--cfg", "job", "--resolve"]
    assert main(argv) == 0, capfd.readouterr().err


SETTINGS = sorted(
    {
        match[0]
        for page in PAGES
        for token in tokens(page)
        if token.type == "code_inline" and (match := re.match(r"[a-z_][\w.]*=[^\s.]\S*$", token.content.strip("'")))
    }
)
"""What pages name within a line: `GROUP=OPTION`, `GROUP.NAME=VALUE`, `NAME=VALUE`."""


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """The names of all settings, every group's options, and what commands without a configuration take."""
    usages = (import_module(f"arc_seal.{name}").USAGE for name in ("report", "runs", "contamination"))
    found: set[str] = {name for usage in usages for name in re.findall(r"\b([a-z]+)=[A-Z]+", usage)}
    for path in (ROOT / "conf").rglob("*.yaml"):
        text = path.read_text("utf-8")
        group = "" if path.parent.name == "conf" or "@package _global_" in text else f"{path.parent.name}."
        found |= {f"{group}{name}" for name in names(yaml.safe_load(text))} | {f"{path.parent.name}={path.stem}"}
    return found


def names(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{below}" for below in names(value))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_is_named_is_there(setting: str, settings: set[str]) -> None:
    name = setting.partition("=")[0]
    assert (setting if (ROOT / "conf" / name).is_dir() else name) in settings


@pytest.mark.slow
@each(reversed({one.text: one for one in reversed(ALL) if not only_read(one)}.values()))  # once, where it comes last
def test_a_command_runs(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    asks = "--help" in command.words or "--cfg" in command.words
    small = () if asks else SMALL.get(command.module, ())
    smaller = SMALLER if command.module == "pretrain" and not asks else ()
    if "weights=shipped" in command.words:  # which are of one size
        smaller = tuple(setting for setting in smaller if not setting.startswith("network."))
    done = run(place, "-m", f"arc_seal.{command.module}", *small, *command.arguments, *smaller)
    found = command.module == "contamination" and done.returncode == 1 and not done.stderr  # what it looks for
    assert done.returncode == 0 or found, done.stdout[-2000:] + done.stderr[-2000:]


def run(place: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *argv], cwd=place, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.splitlines()[0] for example in EXAMPLES])
def test_what_a_python_example_imports_is_there(example: str) -> None:
    for statement in ast.walk(ast.parse(example)):
        if isinstance(statement, ast.ImportFrom):
            assert statement.module
            module = import_module(statement.module)
            assert all(hasattr(module, name.name) for name in statement.names)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=[example.splitlines()[0] for example in EXAMPLES])
def test_a_python_example_runs(example: str, place: Path) -> None:
    done = run(place, "-c", example)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_tool_of_the_example_goes_there_and_back(place: Path) -> None:
    from random import Random

    from arc_seal.self_edit.edit import ToolCall
    from arc_seal.self_edit.toolbox import Toolbox

    toolbox, (task, _) = Toolbox.load([place / "my_tools"]), load_task("arcagi1/25ff71a9")
    for tool in toolbox.tools:
        view = toolbox.bind(ToolCall.of(tool.name))(task, Random(0))
        assert view.invert and view.task != task
        assert view.invert(view.task.demos[0].output) == task.demos[0].output


LINKS = [
    (page, str(target).partition("#"))
    for page in PAGES
    for token in tokens(page)
    if (target := token.attrGet("href" if token.type == "link_open" else "src")) and "://" not in str(target)
]


@pytest.mark.parametrize(
    ("page", "link"),
    [
        pytest.param(page, link, id=f"{page.stem}: {''.join(link)}")
        for page, link in LINKS
    ],
)  # fmt: skip
def test_a_link_leads_somewhere(page: Path, link: tuple[str, str, str]) -> None:
    name, _, anchor = link
    target = page.parent / name if name else page
    assert target.exists()
    headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE) if anchor else []
    assert anchor in ["", *(re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings)]


def test_the_readme_s_figures_are_in_the_benchmarks() -> None:
    readme, measured = ((ROOT / name).read_text("utf-8") for name in ("README.md", "benchmarks/README.md"))
    figures = set(re.findall(r"\b\d+/\d+\b|(?<!\w)[+-]\d+\.\d\b", readme))
    assert len(figures) > 10
    assert {each for each in figures if each not in measured} == set()


def test_the_self_edit_that_is_shown_is_the_fixed_one() -> None:
    blocks = [token for token in tokens(ROOT / "docs" / "self-edits.md") if token.info == "json"]
    fixed = yaml.safe_load((ROOT / "conf" / "self_edit" / "fixed.yaml").read_text("utf-8"))["json"]
    assert [json.loads(block.content) for block in blocks] == [json.loads(fixed)]


def test_files_for_other_programs_hold() -> None:
    citation, hooks, workflow = (
        yaml.safe_load((ROOT / name).read_text("utf-8"))
        for name in ("CITATION.cff", ".pre-commit-config.yaml", ".github/workflows/checks.yml")
    )
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    entries = [hook["entry"].split()[0] for repository in hooks["repos"] for hook in repository["hooks"]]
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert entries == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]
    (step,) = (each["run"] for each in workflow["jobs"]["checks"]["steps"] if "run" in each)
    assert os.access(ROOT / step, os.X_OK)
