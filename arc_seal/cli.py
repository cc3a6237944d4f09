"""The command line: what people type, turned into what Hydra reads; help, version, errors in one line, exit codes.

Hydra 1.3 takes no positional argument and reads a task id such as `25e02866` as the number 25e02866. `rewrite` is the
one place that knows this.
"""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from arc_seal import __version__
from arc_seal.errors import Diverged, FinetuningFailed, InputError, suggestion
from arc_seal.files import conf_dir

if TYPE_CHECKING:
    from arc_seal.config import Composed

FLAGS = ("-m", "--multirun", "-cd", "--config-dir", "-c", "--cfg", "--resolve", "-h", "--help", "--version")
"""What may stand beside tasks and settings."""

SHOWN = ("job", "hydra", "all")
"""What `--cfg` can show."""

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


@dataclass
class Arguments:
    """What was typed."""

    overrides: list[str] = field(default_factory=list)  # for Hydra: what is loaded, then the tasks, then the rest
    sweep: bool = False  # whether they make several jobs
    folders: list[str] = field(default_factory=list)  # more folders of configuration
    show: str | None = None  # what of the configuration is to be shown instead of running; None to run
    resolve: bool = False  # whether it is shown with its interpolations resolved


def command(
    name: str,
    usage: str,
    argv: Sequence[str],
    work: "Callable[[list[Composed]], int]",
    *,
    takes_tasks: bool = False,
    interrupted: str = "interrupted; the same command goes on from here",
) -> int:
    """Run a command that does `work` on its composed configurations, one or those of a sweep.

    The exit code is what `work` returns, 1 when training failed, 2 for bad input, 130 when interrupted.
    """
    main = threading.current_thread() is threading.main_thread()  # which alone may handle signals
    before = {number: signal.getsignal(number) for number in ((signal.SIGTERM, signal.SIGHUP) if main else ())}
    try:
        for number in (each for each, handler in before.items() if handler is signal.SIG_DFL):  # else as nohup says
            signal.signal(number, signal.default_int_handler)
        flags = set(argv[: argv.index("--")] if "--" in argv else argv)
        if flags & {"-h", "--help"}:
            print(help_text(name, usage, conf_dir()), end="")
            return 0
        if "--version" in flags:
            print(f"arc-seal {__version__}")
            return 0
        typed = rewrite(argv)
        tasks = (each.removeprefix("task=").strip("'") for each in typed.overrides if each.startswith("task="))
        task = next(tasks, None)
        if task is not None and not takes_tasks:
            raise InputError(task, "", "settings as NAME=VALUE (or --help)", "a bare argument")
        added = any(each.startswith("+") for each in typed.overrides)  # perhaps by a file of -cd
        if takes_tasks and task is None and not added and typed.show is None:
            expected = "a task: a file, a folder, arcagi1/ID or arcagi2/ID (or --help)"
            raise InputError("arguments", "", expected, "none")

        from arc_seal.config import compose, shown  # Hydra and pydantic, which --help does without

        if typed.show is not None:
            print(shown(name, typed.overrides, typed.folders, typed.show, resolve=typed.resolve), end="")
            return 0
        return work(compose(name, typed.overrides, sweep=typed.sweep, folders=typed.folders))
    except (InputError, Diverged, FinetuningFailed, OSError) as error:
        if isinstance(error, OSError):  # a place that cannot be read or written, a full disk
            found = (error.strerror or str(error)).lower()
            error = InputError(str(error.filename or name), "", "a place that can be read and written", found)
        print("error:", error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rewrite(
    argv: Sequence[str],
    exists: Callable[[str], bool] = lambda path: os.path.exists(path) or os.path.isfile(os.path.dirname(path)),
) -> Arguments:
    """Turn the arguments people type into overrides that Hydra reads as they were meant.

    An argument is, in this order: a path that exists, FILE/ID too; a flag; an override such as `seed=1`, `+a.b=c` or
    `~group`; otherwise the name of a task. Several tasks make a sweep. After `--` all are tasks. InputError on a flag
    that does not exist or lacks its value, or an override of `_target_`.
    """
    typed, rest = Arguments(), list(argv)
    tasks: list[str] = []
    overrides: list[tuple[str, str | None]] = []
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            tasks += rest
            break
        if argument.startswith("-") and not exists(argument):
            _take_flag(argument, rest, typed)
        elif not exists(argument) and (match := _OVERRIDE.fullmatch(argument)):
            key, value = match["key"], match["value"]
            name = key.lstrip("+")
            if name == "task":
                tasks.append(value)
            elif "_target_" in key or ("_target_" in value and name not in _TEXT_KEYS):
                raise InputError(argument, "", "an override that leaves _target_ to conf/", "_target_")
            else:
                overrides.append((key, value))
        elif not exists(argument) and _DELETION.fullmatch(argument):
            overrides.append((argument, None))
        else:
            tasks.append(argument)
    values = [value for text in tasks for value in _task_values(text, typed.sweep, exists)]
    if typed.show is not None:
        values = values[:1]
    typed.sweep = typed.show is None and (typed.sweep or len(values) > 1)
    others = [_override(key, value, typed.sweep) for key, value in overrides]
    loaded = [each for each in others if each.lstrip("+").startswith(_LOADED_ONCE)]
    named = [f"task={','.join(values)}"] if values else []
    typed.overrides = [*loaded, *named, *(each for each in others if each not in loaded)]
    return typed


def quote(text: str) -> str:
    """The text as a quoted Hydra value that is read back as exactly this text, never as a number or a sweep."""
    from hydra.core.override_parser.types import Quote, QuotedString  # kept out of --help's way

    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # `${` begins an OmegaConf interpolation
    return QuotedString(literal, Quote.single).with_quotes()


def help_text(command: str, usage: str, conf: Path) -> str:
    """What `--help` prints: usage, then every group and setting as the command's file in `conf` describes them."""
    text = (conf / f"{command}.yaml").read_text("utf-8")
    chosen = dict(re.findall(r"^  - (\w+): ([\w$][\w.{}-]*)$", text, re.MULTILINE))
    groups, sources = "", [text]
    for group, option in chosen.items():
        default = chosen.get(option.removeprefix("${").removesuffix("}"), option)  # a group may follow another's
        path = conf / group / f"{default}.yaml"
        if path.is_file() and path.read_text("utf-8").startswith("# @package _global_"):
            sources.append(path.read_text("utf-8"))  # settings of the command's own that it shares with others
            continue
        names = sorted(each.stem for each in path.parent.glob("*.yaml"))
        groups += f"  {group:<10} {' '.join(f'{name}*' if name == default else name for name in names)}\n"
    settings = ""
    for comment, name, value in (found for source in sources for found in _SETTING.findall(source)):
        lines = (f"      {line.removeprefix('#').strip()}\n" for line in comment.splitlines())
        settings += f"  {name}={value}\n{''.join(lines)}"
    return (
        f"{usage}\nFlags: -m sweeps over values with commas, -cd DIR adds a folder of configuration, --cfg job shows\n"
        "the configuration instead of running (--resolve with its interpolations resolved), --version.\n\n"
        f"Groups, chosen as GROUP=OPTION (* is the default). {conf}/GROUP/OPTION.yaml describes their\n"
        f"settings, which are set as GROUP.NAME=VALUE.\n{groups}\nSettings, each with its default:\n{settings}"
    )


def _take_flag(flag: str, rest: list[str], typed: Arguments) -> None:
    """Note a flag with its value, which is taken off `rest` where it does not stand behind `=`."""
    name, equals, value = flag.partition("=")
    if name in ("-cd", "--config-dir", "-c", "--cfg") and not equals:
        if not rest:
            raise InputError(flag, "", "a value after it", "nothing")
        value = rest.pop(0)
    match name:
        case "-m" | "--multirun":
            typed.sweep = True
        case "-cd" | "--config-dir":
            typed.folders.append(value)
        case "-c" | "--cfg" if value in SHOWN:
            typed.show = value
        case "-c" | "--cfg":
            raise InputError(name, "", f"one of {', '.join(SHOWN)}", repr(value))
        case "--resolve":
            typed.resolve = True
        case _:
            known = f"a flag that --help lists{suggestion(name, FLAGS)}"
            raise InputError(flag, "", known, "an unknown flag")


def _task_values(text: str, sweep: bool, exists: Callable[[str], bool]) -> list[str]:
    """The tasks that one argument names, quoted: several only in a sweep, `a,b`."""
    parts = [text] if not sweep or exists(text) else [part.strip() for part in _SWEPT.findall(text)]
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
