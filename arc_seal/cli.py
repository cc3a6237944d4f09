"""The command line: what people type, turned into what Hydra reads.

Hydra 1.3 takes no positional argument, wants its flags together, and reads a task id such as `25e02866` as
the number 25e02866. `rewrite` is the one place that knows this.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from arc_seal import __version__, cli
from arc_seal.errors import Diverged, InputError, suggestion
from arc_seal.files import conf_dir

if TYPE_CHECKING:
    from arc_seal.config import Composed

SWITCHES = frozenset({"-m", "--multirun", "-r", "--run", "--resolve", "--hydra-help", "-sc", "--shell-completion"})
"""Hydra's flags without a value."""

OPTIONS = frozenset(
    {"-c", "--cfg", "-p", "--package", "-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path"}
)
"""Hydra's flags with a value."""

INFO = {"-i", "--info"}
INFO_TOPICS = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
"""Hydra's one flag whose value may be left out, and the values it takes."""

SWEEP = {"-m", "--multirun"}
SHOW = {"-c", "--cfg", *INFO, "--hydra-help", "-sc", "--shell-completion"}
"""Flags that show something instead of running, so that a sweep makes no sense with them."""

OWN_FLAGS = {"-h", "--help", "--version"}
"""Flags that arc-seal answers itself, before Hydra is loaded."""

_OVERRIDE = re.compile(r"(?P<key>[+~]{0,2}[A-Za-z_][\w./@-]*)=(?P<value>.*)", re.DOTALL)
_DELETION = re.compile(r"~[A-Za-z_][\w./@-]*")
_QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
_SWEPT = re.compile(rf"(?:{_QUOTED}|[^,])+", re.DOTALL)
_SETTING = re.compile(r"^((?:#.*\n)+)([a-z]\w*): (.+)$", re.MULTILINE)
"""In a configuration file: a setting at the margin, with the comment above it."""

_LOADED_ONCE = ("model", "executor")
"""Groups that decide what is loaded; swept outermost, so that a model is loaded once a sweep."""

_TEXT_KEYS = {"self_edit.json", "save_svg"}
"""Settings whose value is text to be taken as it stands, whatever it looks like to Hydra."""


def rewrite(argv: Sequence[str], is_file: Callable[[str], bool] = os.path.isfile) -> list[str]:
    """Turn the arguments people type into arguments that Hydra reads as they were meant.

    An argument is, in this order: a flag; the name of a file; an override such as `seed=1`, `+a.b=c` or
    `~group`; otherwise the path or name of a task. Several tasks make a sweep. After `--` all are tasks.

    Args:
        argv: Arguments without the program's name.
        is_file: Says whether a file of that name exists.

    Returns:
        Overrides (what is loaded, then the tasks, then the rest), then flags.

    Raises:
        InputError: On a flag that does not exist or lacks its value, or an override of `_target_`.
    """
    typed = _sort_out(argv, is_file)
    sweep = bool(SWEEP & set(typed.flags))
    tasks = [quoted for text in typed.tasks for quoted in _task_values(text, sweep, is_file)]
    if SHOW & set(typed.flags):
        tasks = tasks[:1]
    elif len(tasks) > 1 and not sweep:
        typed.flags.append("--multirun")
    overrides = [_override(key, value, sweep) for key, value in typed.overrides]
    loaded = [override for override in overrides if override.lstrip("+").startswith(_LOADED_ONCE)]
    others = [override for override in overrides if override not in loaded]
    return [*loaded, *([f"task={','.join(tasks)}"] if tasks else []), *others, *typed.flags]


def names_task(arguments: Sequence[str]) -> bool:
    """Whether arguments that `rewrite` returned say what to work on, or need not."""
    flags = {argument.partition("=")[0] for argument in arguments}
    return bool(flags & {"task", *SHOW}) or any(argument.startswith("+") for argument in arguments)


def quote(text: str) -> str:
    """The text as a quoted Hydra value that is read back as exactly this text, never as a number or a sweep."""
    from hydra.core.override_parser.types import Quote, QuotedString  # kept out of --help's way

    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # `${` begins an OmegaConf interpolation
    return QuotedString(literal, Quote.single).with_quotes()


def help_text(command: str, usage: str, conf: Path) -> str:
    """What `--help` prints: usage, then every group and setting as the configuration itself describes them.

    Args:
        command: The command's name, which is its configuration's too.
        usage: What stands above the settings.
        conf: The folder of the configuration.
    """
    text = (conf / f"{command}.yaml").read_text("utf-8")
    chosen = dict(re.findall(r"^  - (?:optional )?(\w+): ([\w$][\w.{}-]*)$", text, re.MULTILINE))
    files = {group: conf / group / f"{_resolved(option, chosen)}.yaml" for group, option in chosen.items()}
    shared = [path for path in files.values() if _is_shared(path)]
    groups = "".join(
        f"  {group:<10} {_options(path.parent, path.stem)}\n" for group, path in files.items() if path not in shared
    )
    found = [
        setting
        for source in (text, *(path.read_text("utf-8") for path in shared))
        for setting in _SETTING.findall(source)
    ]
    settings = "".join(f"  {name}={value}\n{_indented(comment)}" for comment, name, value in found)
    return (
        f"{usage}\nGroups, chosen as GROUP=OPTION (* is the default). {conf}/GROUP/OPTION.yaml describes their\n"
        f"settings, which are set as GROUP.NAME=VALUE.\n{groups}\nSettings, each with its default:\n{settings}"
    )


def _resolved(option: str, chosen: dict[str, str]) -> str:
    """The option itself, or that of the group which it follows, written `${group}`."""
    return chosen.get(option.removeprefix("${").removesuffix("}"), option)


def _is_shared(path: Path) -> bool:
    """Whether a group's settings stand among the command's own: one option, there so that commands can share it."""
    return path.is_file() and path.read_text("utf-8").startswith("# @package _global_")


def _options(folder: Path, default: str) -> str:
    return " ".join(f"{path.stem}*" if path.stem == default else path.stem for path in sorted(folder.glob("*.yaml")))


def _indented(comment: str) -> str:
    return "".join(f"      {line.removeprefix('#').strip()}\n" for line in comment.splitlines())


@dataclass
class _Typed:
    """Arguments by kind, in the order they were typed."""

    tasks: list[str] = field(default_factory=list)
    overrides: list[tuple[str, str | None]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def _sort_out(argv: Sequence[str], is_file: Callable[[str], bool]) -> _Typed:
    typed, rest = _Typed(), list(argv)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            typed.tasks += rest
            break
        if argument.startswith("-") and not is_file(argument):
            typed.flags += _flag(argument, rest)
        elif is_file(argument):
            typed.tasks.append(argument)
        elif match := _OVERRIDE.fullmatch(argument):
            _sort_override(match["key"], match["value"], typed)
        elif _DELETION.fullmatch(argument):
            typed.overrides.append((argument, None))
        else:
            typed.tasks.append(argument)
    return typed


def _flag(flag: str, rest: list[str]) -> list[str]:
    """The flag with its value, which is taken off `rest`."""
    name, equals, _ = flag.partition("=")
    if name in OPTIONS and not equals:
        if not rest:
            raise InputError(flag, "", "a value after it", "nothing")
        return [flag, rest.pop(0)]
    if name in INFO and not equals:
        return [f"--info={rest.pop(0) if rest and rest[0] in INFO_TOPICS else 'all'}"]
    if name in SWITCHES | OPTIONS | INFO:
        return [flag]
    known = sorted(SWITCHES | OPTIONS | INFO | OWN_FLAGS)
    raise InputError(flag, "", f"a flag that --help lists{suggestion(name, known)}", "an unknown flag")


def _sort_override(key: str, value: str, typed: _Typed) -> None:
    name = key.lstrip("+")
    if name == "task":
        typed.tasks.append(value)
    elif "_target_" in key or ("_target_" in value and name not in _TEXT_KEYS):
        raise InputError(f"{key}={value}", "", "an override that leaves _target_ to conf/", "_target_")
    else:
        typed.overrides.append((key, value))


def _task_values(text: str, sweep: bool, is_file: Callable[[str], bool]) -> list[str]:
    """The tasks that one argument names, quoted: several only in a sweep, `a,b`."""
    parts = [text] if not sweep or is_file(text) else [part.strip() for part in _SWEPT.findall(text)]
    return [part if re.fullmatch(_QUOTED, part, re.DOTALL) else quote(part) for part in parts or [text]]


def _override(key: str, value: str | None, sweep: bool) -> str:
    if value is None:
        return key
    if key.lstrip("+") not in _TEXT_KEYS or value in ("", "null") or re.fullmatch(_QUOTED, value, re.DOTALL):
        return f"{key}={value}"
    return f"{key}={','.join(map(quote, _json_values(value) if sweep else [value]))}"


def _json_values(text: str) -> list[str]:
    """The JSON values that a comma-separated text is made of, or the text itself where it is not made so."""
    values, start = [], 0
    while start < len(text):
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except json.JSONDecodeError:
            return [text]
        if text[end : end + 1] not in ("", ","):
            return [text]
        values.append(text[start:end])
        start = end + 1
    return values


# What the commands that take no task have in common: help, version, errors in one line, exit codes.


def command(name: str, usage: str, argv: Sequence[str], job: "Callable[[Composed], None]") -> int:
    """Run a command whose runs can be gone on with.

    Args:
        name: The command's name, which is its configuration's too.
        usage: What `--help` prints first.
        argv: Arguments without the program's name.
        job: The work on one composed configuration.

    Returns:
        0 when all is done, 1 when training diverged, 2 for bad input, 130 when interrupted.
    """
    try:
        return _run(name, usage, argv, job)
    except (InputError, Diverged) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, Diverged) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(name: str, usage: str, argv: Sequence[str], job: "Callable[[Composed], None]") -> int:
    if {"-h", "--help"} & set(argv):
        print(cli.help_text(name, usage, conf_dir()), end="")
        return 0
    if "--version" in argv:
        print(f"arc-seal {__version__}")
        return 0
    arguments = cli.rewrite(argv)
    stranger = next((argument for argument in arguments if argument.startswith("task=")), None)
    if stranger is not None:
        typed = stranger.removeprefix("task=").strip("'")
        raise InputError(typed, "", "settings as NAME=VALUE (or --help)", "a bare argument")

    from arc_seal.config import launch  # Hydra and pydantic, which --help does without

    diverged: list[Diverged] = []

    def once(composed: "Composed") -> None:
        try:
            job(composed)
        except Diverged as error:  # Hydra would print more than the one line
            diverged.append(error)

    launch(name, arguments, once)
    if diverged:
        raise diverged[0]
    return 0
