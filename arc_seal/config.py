"""The configuration of the commands: composed by Hydra, read into types, and what is said when it is wrong."""

import multiprocessing
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, ValidationError

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Entry
from arc_seal.errors import InputError, one_line, suggestion
from arc_seal.files import conf_dir, file_name
from arc_seal.outer_loop.author import RolloutSettings
from arc_seal.outer_loop.evaluate import RowName
from arc_seal.outer_loop.lessons import RestemSettings
from arc_seal.outer_loop.solve import SolveSettings
from arc_seal.settings import Settings, first_fault

C = TypeVar("C", bound=BaseModel)

OUTPUT = "output.txt"
"""In a run's folder: what a job showed that a launcher had done elsewhere."""

_MODELS = ("weights.GridSource", "weights.ChatSource", "scripted.ScriptedSource", "grid_network.GridConfig")
_EXECUTORS = "worker.InlineExecutor", "process.ProcessExecutor", "stacked.StackedExecutor", "ray.RayExecutor"
TARGETS = (
    *(f"arc_seal.models.{name}" for name in _MODELS),
    *(f"arc_seal.sandbox.{name}.from_settings" for name in _EXECUTORS),
)
"""What a configuration may have made: model sources, executors, sizes of a network. Folders of `-cd` are foreign."""


class DataSettings(Settings):
    """conf/data/; each setting is described in seal.yaml there."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    limit: int | None = Field(ge=1)
    seed: int = Field(ge=0)

    def entries(self, specs: Sequence[str]) -> list[Entry]:
        """The tasks that the specs name, at most `limit`, in their own order; InputError where one names none."""
        found = load_tasks(*specs)
        if not found:
            raise InputError("data", "", "at least one task", "none")
        if self.limit is None or self.limit >= len(found):
            return found
        chosen = random.Random(f"{self.seed} tasks").sample(range(len(found)), self.limit)
        return [found[index] for index in sorted(chosen)]


class SolveConfig(SolveSettings):
    """conf/solve.yaml; each setting is described there, where the defaults are too."""

    task: str = Field(min_length=1)
    palette: Literal["arc", "colour_blind"]
    save_svg: str | None
    resume: str | None = Field(min_length=1)

    @property
    def recorded(self) -> dict[str, Any]:
        """What a run may not change when it goes on: all but where it runs, how long, and what is shown of it."""
        return self.model_dump(
            mode="json", by_alias=True, exclude={"task", "executor", "palette", "save_svg", "resume", "deadline_s"}
        )


class TrainConfig(RolloutSettings):
    """conf/train.yaml; each setting is described there, where the defaults are too."""

    name: str = Field(pattern=r"^[-.\w]+$")
    seed: int = Field(ge=0, lt=2**63)
    data: DataSettings
    restem: RestemSettings


class EvaluateConfig(RolloutSettings):
    """conf/evaluate.yaml; each setting is described there, where the defaults are too."""

    name: str = Field(pattern=r"^[-.\w]+$")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(min_length=1)
    rows: tuple[RowName, ...] = Field(min_length=1)
    samples: int = Field(ge=1)
    round: int | None = Field(ge=1)
    data: DataSettings
    restem: RestemSettings


class KaggleConfig(Settings):
    """conf/kaggle.yaml; each setting is described there, where the defaults are too."""

    folder: str = Field(min_length=1)
    user: str = Field(pattern=r"^[-\w]+$")
    competition: str = Field(pattern=r"^[-\w]+$")
    machine: str = Field(pattern=r"^\w+$")
    hours: float = Field(gt=0)
    draft_minutes: float = Field(gt=0)
    passes: int = Field(ge=1)
    settings: tuple[str, ...]
    pythons: tuple[Annotated[str, Field(pattern=r"^3\.\d+$")], ...]


@dataclass(frozen=True, slots=True)
class Composed:
    """One configuration that Hydra has composed."""

    values: dict[str, Any]  # the settings, plain values
    folder: Path  # where this run is kept
    sweep: Path | None  # where the sweep is kept that the run belongs to; None without one
    overrides: tuple[str, ...] = ()  # what it was composed with
    choices: Mapping[str, str] = field(default_factory=dict)  # the option of each group
    launcher: str | None = None  # what has the jobs of the sweep done elsewhere; None: this process does them


def compose(command: str, overrides: Sequence[str], *, sweep: bool, folders: Sequence[str] = ()) -> list[Composed]:
    """Compose conf/COMMAND.yaml, and what `folders` add, with overrides as `cli.rewrite` returns them.

    With `sweep`, values with commas, and other sweeps of Hydra's, make several jobs. InputError for a wrong override.
    """
    jobs: list[Composed] = []
    with _hydra(command):
        for number, job in enumerate(_jobs(overrides) if sweep else [list(overrides)]):
            job += _search_path(folders)
            composed = _composed(command, [*job, f"hydra.job.num={number}"])
            own = OmegaConf.masked_copy(composed, _own(composed))
            values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
            assert isinstance(values, dict)
            kept = composed.hydra
            top = Path(str(values.get("resume") or (kept.sweep.dir if sweep else kept.run.dir))).expanduser().absolute()
            top = (jobs[0].sweep if jobs else None) or top  # one for all, whatever the time is now
            folder = top / kept.sweep.subdir if sweep else top
            choices = {str(group).split("@")[0]: str(option) for group, option in kept.runtime.choices.items()}
            launcher = None if choices["hydra/launcher"] == "basic" else choices["hydra/launcher"]
            if choices["hydra/sweeper"] != "basic":
                raise InputError("hydra/sweeper", "", "basic, which -m is done by", repr(choices["hydra/sweeper"]))
            if launcher and not sweep:
                raise InputError(
                    "hydra/launcher", "", "-m or several tasks, for it launches the jobs of a sweep", "one job"
                )
            own_values = {str(name): value for name, value in values.items()}
            jobs.append(Composed(own_values, folder, top if sweep else None, tuple(job), choices, launcher))
    return jobs


def shown(command: str, overrides: Sequence[str], folders: Sequence[str], part: str, *, resolve: bool) -> str:
    """A configuration as YAML: `part` is `job`, `hydra` or `all`; InputError when an override is wrong."""
    with _hydra(command):
        composed = _composed(command, [*overrides, *_search_path(folders), "hydra.job.num=0"])
        names = {"job": _own(composed), "hydra": ["hydra"], "all": list(composed)}[part]
        values = OmegaConf.masked_copy(composed, names)
        if resolve:
            OmegaConf.resolve(values)
        return OmegaConf.to_yaml(values)


def launch(command: str, jobs: Sequence[Composed], sweep: Path) -> list[Exception | None]:
    """Have a sweep's jobs done by its launcher, such as joblib or submitit, and wait; what each has raised, if it has.

    Each is done by a process of its own, which calls the command's `work` on it alone. What it shows goes into
    OUTPUT in its folder. InputError where the launcher itself fails.
    """
    with _hydra(command):
        kept = [f"hydra.sweep.dir={_quoted(sweep)}", "hydra.output_subdir=null"]
        master = _composed(command, [*jobs[0].overrides, *kept])
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(GlobalHydra.instance().config_loader(), Callbacks()),
            task_function=partial(_work_on_one, command, jobs),
            config=master,
        )
        places = [[f"hydra.sweep.subdir={_quoted(job.folder.relative_to(sweep))}"] for job in jobs]
        try:
            returned = launcher.launch(places, initial_job_idx=0)
        except Exception as error:  # of many kinds, such as a process that was killed
            raise InputError(f"hydra/launcher={jobs[0].launcher}", "", "jobs that end", one_line(error)) from error
    return [each._return_value if each.status is JobStatus.FAILED else None for each in returned]  # the error unraised


def make(settings: Mapping[str, Any]) -> Any:
    """Make what a group's settings describe; InputError when the settings are not as they must be."""
    from hydra.utils import instantiate  # half of Hydra's own start-up time

    try:
        return instantiate(OmegaConf.create(dict(settings)), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        found = _first_line(cause or error)
        raise InputError("configuration", "", f"settings that {settings.get('_target_')} takes", found) from error


def read_config(values: Mapping[str, Any], kind: type[C]) -> C:
    """Read a configuration; InputError on a setting unknown, missing or out of bounds, or a foreign `_target_`."""
    for place, value in _paths(values):
        if place.rpartition(".")[2] == "_target_" and value not in TARGETS:
            raise InputError("configuration", place, f"one of {', '.join(TARGETS)}", repr(value))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        place, expected, found = first_fault(error)
    if expected == "a setting that there is":
        expected += suggestion(place, _names(kind))
    if expected.startswith("'"):  # one of some words
        expected += suggestion(found.strip('"'), re.findall(r"'([^']+)'", expected))
    if place == "task":
        expected, found = "a task: a file, a folder, arcagi1/ID or arcagi2/ID", "none"
    raise InputError("configuration", place, expected, found)


def run_name(task: str | None, seed: int) -> str:
    """A folder's name for a task and a seed, another for every other: `0d3d703e-seed0`."""
    name = str(task or "no-task").rstrip("/").rpartition("/")[2].removesuffix(".json")
    return f"{file_name(name)}-seed{seed}"


@contextmanager
def _hydra(command: str) -> Iterator[None]:
    """Hydra at work on conf/ for as long as the context lasts; its errors become InputErrors of one line."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            known = [place for place, _ in _paths(OmegaConf.to_container(hydra.compose(command)))]
            raise _explained(error, known) from error


def _jobs(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep, the first one varying slowest."""
    loader = GlobalHydra.instance().config_loader()  # knows the options that a glob(*) stands for
    parsed: list[Override] = OverridesParser.create(loader).parse_overrides(list(overrides))
    choices = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [each.input_line or ""]
        for each in parsed
    ]
    return map(list, product(*choices))


def _composed(command: str, overrides: Sequence[str]) -> DictConfig:
    return hydra.compose(command, list(overrides), return_hydra_config=True)


def _search_path(folders: Sequence[str]) -> list[str]:
    """The override that adds folders of configuration."""
    for folder in folders:
        if not Path(folder).is_dir():  # of which Hydra only warns
            raise InputError(folder, "", "a folder of configuration", "no such folder")
    return [f"hydra.searchpath=[{','.join(_quoted(Path(each).absolute()) for each in folders)}]"] if folders else []


def _quoted(path: Path) -> str:
    return QuotedString(str(path), Quote.single).with_quotes()


def _work_on_one(command: str, jobs: Sequence[Composed], _: DictConfig) -> None:
    """Do the job whose number a launcher has given this process."""
    multiprocessing.set_start_method("spawn", force=True)  # joblib's own would not start the executor's workers
    job = jobs[HydraConfig.get().job.num]
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / OUTPUT).open("a", encoding="utf-8") as file, redirect_stdout(file):
        import_module(f"arc_seal.{command}").work([replace(job, sweep=None, launcher=None)])


def _own(composed: DictConfig) -> list[str]:
    return [str(name) for name in composed if name != "hydra"]


def _explained(error: Exception, known: Sequence[str]) -> InputError:
    """What an error of Hydra's or OmegaConf's says, in one line: which argument, what was expected, what was found."""
    message = _first_line(error)
    match error:
        case OverrideParseException():
            found = _first_line(Exception(error.message.removeprefix(f"Error parsing override '{error.override}'")))
            return InputError(error.override, "", "NAME=VALUE, quoted if need be: NAME=\"'VALUE'\"", found)
        case MissingConfigException(missing_cfg_file=str(missing)) if error.options:
            group, _, option = missing.removesuffix(".yaml").rpartition("/")
            options = f"one of {', '.join(error.options)}{suggestion(option, error.options)}"
            if group == "hydra/launcher":
                options += " (pip install 'arc-seal[sweep]' for joblib, submitit_local and submitit_slurm)"
            return InputError(group, "", options, repr(option))
    if match := re.match(r"Could not override '([^']+)'", message):
        near = suggestion(match[1], [place for place in known if place != match[1]])  # another option may have it
        return InputError(match[1], "", f"a setting that there is{near}", "an unknown one")
    if match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", message):
        return InputError(match[1], "", "one value, or -m for a sweep over several", "several")
    cause = error.__cause__
    found = f"{message}: {_first_line(cause)}" if cause is not None and message else message or _first_line(cause)
    return InputError("configuration", "", "settings that Hydra can compose", found)


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__ if error else ""


def _paths(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its full path, those of lists by their index."""
    members = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for name, value in members:
        yield f"{prefix}{name}", value
        yield from _paths(value, f"{prefix}{name}.")


def _names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, known in kind.model_fields.items():
        names.append(prefix + (known.alias or name))
        if isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
            names += _names(known.annotation, f"{prefix}{name}.")
    return names
