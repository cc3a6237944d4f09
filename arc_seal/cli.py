"""The command line: what people type, turned into what Hydra reads; help, version, errors in one line, exit codes.

Hydra 1.3 takes no positional argument and reads a task id such as `25e02866` as the number 25e02866. `rewrite` is the
one place that knows this.
"""

import itertools
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from arc_seal import __version__
from arc_seal.errors import Diverged, FinetuningFailed, InputError, plural, suggestion
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

_FLAGS = (
    "Flags: -m sweeps over values with commas, -cd DIR adds a folder of configuration, --cfg job shows the "
    "configuration instead of running (--resolve with its interpolations resolved), --help GROUP describes a group and "
    "its settings, --version. Settings of a group are set as GROUP.NAME=VALUE."
)

_OFTEN = (
    r"executor\.(workers|threads|timeout_s|memory_gib)|ttt\.(token_budget|method)|decode|model\.(location|device)"
    r"|restem\.(?!finetune)|data|run|self_edit\.json"
)
"""Settings of groups that `--help` lists."""

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
        asked = next((each for each in argv if each in ("-h", "--help") or each.startswith("--help=")), None)
        if asked is not None and asked in flags:
            after = "".join(argv[argv.index(asked) + 1 :][:1])
            topic = asked.partition("=")[2] or (after if re.fullmatch(r"[a-z_][\w.]*", after) else "")
            print(help_text(name, usage, conf_dir(), topic), end="")
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

        from arc_seal.config import OUTPUT, compose, launch, shown  # Hydra and pydantic, which --help does without

        if typed.show is not None:
            print(shown(name, typed.overrides, typed.folders, typed.show, resolve=typed.resolve), end="")
            return 0
        jobs = compose(name, typed.overrides, sweep=typed.sweep, folders=typed.folders)
        if takes_tasks or not jobs[0].launcher or jobs[0].sweep is None:
            return work(jobs)  # what works on tasks has files of them all, and so launches its jobs itself
        print(f"{plural(len(jobs), 'job')} by {jobs[0].launcher}; each shows in {OUTPUT} in its folder", flush=True)
        for error in launch(name, jobs, jobs[0].sweep):
            if error is not None:
                raise error
        return 0
    except (InputError, Diverged, FinetuningFailed, OSError) as error:
        said = _as_input_error(error, name)
        print("error:", said, file=sys.stderr)
        return 2 if isinstance(said, InputError) else 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plain_command(name: str, usage: str, argv: Sequence[str], work: Callable[[Sequence[str]], int]) -> int:
    """Run a command without configuration: what `work` returns, 2 and one line for bad input, 130 when interrupted."""
    if {"-h", "--help"} & set(argv):
        print(usage, end="")
        return 0
    if "--version" in argv:
        print(f"arc-seal {__version__}")
        return 0
    try:
        code = work(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError) as error:
        print("error:", _as_input_error(error, name), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _as_input_error(error: Exception, name: str) -> Exception:
    """What is said of an error: of a place that cannot be read or written, or a full disk, which one."""
    if not isinstance(error, OSError):
        return error
    found = (error.strerror or str(error)).lower()
    return InputError(str(error.filename or name), "", "a place that can be read and written", found)


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


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting as conf/ describes it."""

    default: str
    about: str  # the comment above it, or above those that it stands together with


def help_text(command: str, usage: str, conf: Path, topic: str = "") -> str:
    """What `--help` prints: usage, groups, and the settings that are often changed, a sentence each.

    Of a topic (a group, a setting, or all) every setting with all that the files in `conf` say of it. InputError when
    there is none of that name.
    """
    knobs, chosen = knobs_of(command, conf)
    width = max(60, min(120, shutil.get_terminal_size().columns))
    if topic:
        return "\n".join([*_topic(topic, knobs, chosen, conf, width), ""])
    parts = usage.strip().split("\n\n")  # prose is wrapped; what is indented, such as examples, stays as it is
    prose = [part if "\n " in part or part[0] == " " else textwrap.fill(part, width) for part in parts]
    lines = [
        "\n\n".join([*prose, textwrap.fill(_FLAGS, width)]),
        "",
        "Groups, chosen as GROUP=OPTION (* is the default)",
    ]
    for group, default in chosen.items():
        options = (f"{option}*" if option == default else option for option in _options(conf / group))
        lines += _entry(group, " ".join(options), width)
    lines += ["", "Settings that are often changed, with their defaults (--help all: every setting)"]
    often = [each for each in knobs if "." not in each or re.match(_OFTEN, each)]
    for name in sorted(often, key=lambda each: "." in each):  # the command's own first
        sentence = re.split(r"(?<=[.;])\s", knobs[name].about)[0].rstrip(".;")
        lines += _entry(f"{name}={knobs[name].default}", sentence, width)
    return "\n".join([*lines, ""])


def _topic(topic: str, knobs: Mapping[str, Knob], chosen: Mapping[str, str], conf: Path, width: int) -> list[str]:
    """Everything on a topic, in lines."""
    found = [each for each in knobs if topic == "all" or each == topic or each.startswith(f"{topic}.")]
    groups = [each for each in chosen if topic in ("all", each)]
    if not found and not groups:
        expected = f"all, a group or a setting{suggestion(topic, ['all', *chosen, *knobs])}"
        raise InputError("--help", "", expected, repr(topic))
    lines: list[str] = []
    for group in groups:
        lines += [f"{group}=OPTION (* is the default)"]
        for option in _options(conf / group):
            about = _comment((conf / group / f"{option}.yaml").read_text("utf-8"))
            lines += _entry(f"{option}*" if option == chosen[group] else option, about, width)
        lines += [""]
    lines += ["Settings, with their defaults"] if found else []
    for name in found:
        lines += _entry(f"{name}={knobs[name].default}", knobs[name].about, width)
    return lines


def _entry(name: str, text: str, width: int) -> list[str]:
    """A name, and beside it or below it what there is to say, in lines."""
    wrapped = textwrap.wrap(text, width - 32, break_on_hyphens=False, break_long_words=False) or [""]
    first = f"  {name:<29} {wrapped.pop(0)}" if len(name) < 30 else f"  {name}"
    return [first, *(f"{' ' * 32}{line}" for line in wrapped)]


def knobs_of(command: str, conf: Path) -> tuple[dict[str, Knob], dict[str, str]]:
    """Every setting of a command by its full name, and the option of each group, with nothing chosen by hand.

    Read from the files' text, for Hydra alone takes longer to load than `--help` may take.
    """
    own = (conf / f"{command}.yaml").read_text("utf-8")
    chosen = dict(re.findall(r"^  - (\w+): ([\w$][\w.{}-]*)$", own, re.MULTILINE))
    model = conf / "model" / f"{chosen.get('model')}.yaml"
    if model.is_file():  # it may bring options along
        brought = re.findall(r"^  - override /(\w+)@\S+: (\S+)$", model.read_text("utf-8"), re.MULTILINE)
        chosen |= {group: option for group, option in brought if group in chosen}
    chosen = {group: chosen.get(option.strip("${}"), option) for group, option in chosen.items()}  # restem: ${model}
    knobs: dict[str, Knob] = {}
    for group, option in list(chosen.items()):
        if (conf / group / f"{option}.yaml").is_file():
            text = (conf / group / f"{option}.yaml").read_text("utf-8")
            shared = text.startswith("# @package _global_")  # settings of the command's own that it shares with others
            prefix = "" if shared else f"{group}."
            knobs |= {f"{prefix}{name}": knob for name, knob in _read_knobs(conf / group, option).items()}
            if shared:
                del chosen[group]
    merged = _with(_parse(own), knobs)
    return {**{name: merged[name] for name in _parse(own)}, **merged}, chosen


def _read_knobs(folder: Path, option: str) -> dict[str, Knob]:
    """The settings of an option, those included that it takes over from the option that it begins with."""
    text = (folder / f"{option}.yaml").read_text("utf-8")
    first = re.search(r"^defaults:\n  - ([\w.-]+)$", text, re.MULTILINE)
    knobs = _read_knobs(folder, first[1]) if first else {}
    return _with(_parse(text), knobs)


def _with(own: Mapping[str, Knob], others: Mapping[str, Knob]) -> dict[str, Knob]:
    """Both, with the defaults of the first, and what the second says of a setting: that is where it is described."""
    told = {
        name: Knob(knob.default, others[name].about if name in others else knob.about) for name, knob in own.items()
    }
    return {**others, **told}


def _parse(text: str) -> dict[str, Knob]:
    """The settings in a file of conf/, each with its comment; Hydra's own are left out."""
    knobs: dict[str, Knob] = {}
    above: list[tuple[int, str]] = []  # the names that a setting stands under, with their indents
    comment: list[str] = []
    for line in text.splitlines():
        place = len(line) - len(line.lstrip())
        if line.lstrip().startswith("#"):
            comment.append(line.strip(" #"))
        elif found := re.match(r" *(\w+):(?: (.*))?$", line):
            above = [each for each in above if each[0] < place]
            path = [*(name for _, name in above), found[1]]
            if path[0] not in ("defaults", "hydra") and not found[1].startswith("_"):
                knobs[".".join(path)] = Knob((found[2] or "").replace(">-", "..."), " ".join(comment))
            above.append((place, found[1]))
        elif line.lstrip().startswith("- ") and above and above[0][1] not in ("defaults", "hydra"):
            knobs[".".join(name for _, name in above)] = Knob("[...]", knobs[".".join(name for _, name in above)].about)
        elif not line.strip():
            comment = []
    return {name: knob for name, knob in knobs.items() if knob.default}


def _options(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _comment(text: str) -> str:
    """What a file says of itself, in its first lines."""
    lines = (line for line in text.splitlines() if line != "# @package _global_")
    return " ".join(line.strip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))


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
