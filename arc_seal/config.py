"""The configuration of the commands: its types, how it is read from Hydra, and what is said when it is wrong."""

import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, ValidationError

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import Contamination
from arc_seal.arc.task import Entry
from arc_seal.errors import InputError, InvalidSelfEdit, suggestion
from arc_seal.files import conf_dir, tools_dir
from arc_seal.inner_loop.job import DecodeSettings, FinetuneSettings, TrainingSettings
from arc_seal.outer_loop.evaluate import RowName
from arc_seal.outer_loop.restem import RestemSettings
from arc_seal.outer_loop.rollout import RolloutSettings
from arc_seal.outer_loop.solve import SelectSettings, SolveSettings
from arc_seal.self_edit.schema import Schema, make_schema
from arc_seal.self_edit.toolbox import Toolbox
from arc_seal.settings import Settings

C = TypeVar("C", bound=BaseModel)


class SelfEditConfig(Settings):
    """conf/self_edit/; each setting is described in default.yaml there. The bounds are checked by `make_schema`."""

    written: str | None = Field(alias="json")
    example: str
    candidates: tuple[str, ...]
    bounds: dict[str, Any]


class RolloutConfig(Settings):
    """What the commands that try self-edits have in common: conf/rollouts/ and the groups.

    `model` and `executor` are checked by what is made of them.
    """

    temperature: float = Field(ge=0)
    max_tokens: int = Field(ge=1)
    max_resamples: int = Field(ge=0)
    max_training_tokens: int = Field(ge=1)
    toolbox: tuple[str, ...]
    folds: int = Field(ge=1)
    model: dict[str, Any]
    executor: dict[str, Any]
    ttt: TrainingSettings
    decode: DecodeSettings
    self_edit: SelfEditConfig

    @property
    def toolbox_folders(self) -> tuple[str, ...]:
        """arc-seal's own toolbox, then the folders named in the configuration."""
        return (str(tools_dir()), *(str(Path(folder).expanduser().absolute()) for folder in self.toolbox))


class SolveConfig(RolloutConfig):
    """conf/solve.yaml; each setting is described there, where the defaults are too."""

    task: str = Field(min_length=1)
    seed: int = Field(ge=0, lt=2**63)
    samples: int = Field(ge=1)
    select: Literal["all", "held_out"]
    margin: float = Field(ge=0)
    deadline_s: float | None = Field(gt=0)
    policy: str | None = Field(min_length=1)
    train: bool
    save_svg: str | None


class DataConfig(Settings):
    """conf/data/; each setting is described in seal.yaml there."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    limit: int | None = Field(ge=1)
    seed: int = Field(ge=0)


class RestemConfig(Settings):
    """conf/restem/; each setting is described in default.yaml there."""

    rounds: int = Field(ge=1)
    samples: int = Field(ge=0)
    reward: Literal["solution", "gain", "held_out_demo"]
    examine: bool
    margin: float = Field(ge=0)
    per_task: int | None = Field(ge=1)
    contrast: bool
    adapt_from: Literal["base", "policy"]
    reuse: tuple[str, ...]
    finetune: FinetuneSettings


class TrainConfig(RolloutConfig):
    """conf/train.yaml; each setting is described there, where the defaults are too."""

    name: str = Field(pattern=r"^[-.\w]+$")
    seed: int = Field(ge=0, lt=2**63)
    data: DataConfig
    restem: RestemConfig


class EvaluateConfig(RolloutConfig):
    """conf/evaluate.yaml; each setting is described there, where the defaults are too."""

    name: str = Field(pattern=r"^[-.\w]+$")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(min_length=1)
    rows: tuple[RowName, ...] = Field(min_length=1)
    samples: int = Field(ge=1)
    round: int | None = Field(ge=1)
    data: DataConfig
    restem: RestemConfig


@dataclass(frozen=True, slots=True)
class Composed:
    """One configuration that Hydra has composed.

    Attributes:
        values: The settings, plain values.
        folder: Where this run is kept.
        sweep: Where the sweep is kept that the run belongs to; None without one.
    """

    values: dict[str, Any]
    folder: Path
    sweep: Path | None


def launch(command: str, arguments: Sequence[str], job: Callable[[Composed], None]) -> None:
    """Have Hydra compose conf/COMMAND.yaml with the arguments and call `job` with it, once or for each job of a sweep.

    Args:
        command: The command's name, which is its configuration's too.
        arguments: Arguments as `cli.rewrite` returns them.
        job: What to do. The first `InputError` that it raises is raised here when all jobs have run.

    Raises:
        InputError: When an argument is wrong.
    """
    refused: list[Exception] = []

    def run(composed: DictConfig) -> None:
        try:
            job(_composed(composed))
        except (InputError, OmegaConfBaseException) as error:  # Hydra would print more than the one line
            refused.append(error)

    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    typed, sys.argv = sys.argv, [f"arc_seal.{command}", *arguments]
    try:
        with env_override({"HYDRA_FULL_ERROR": "1"}):  # Hydra is to raise its errors, not to print them and leave
            hydra.main(config_path=str(conf_dir()), config_name=command, version_base="1.3")(run)()
    except (HydraException, OmegaConfBaseException) as error:
        refused.append(error)
    finally:
        sys.argv = typed
    if refused:
        raise refused[0] if isinstance(refused[0], InputError) else explain(refused[0], command) from refused[0]


def make(settings: Mapping[str, Any]) -> Any:
    """Make what a group's settings describe.

    Raises:
        InputError: When the settings are not as they must be.
    """
    from hydra.utils import instantiate  # half of Hydra's own start-up time

    try:
        return instantiate(OmegaConf.create(dict(settings)), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        found = _first_line(cause or error)
        raise InputError("configuration", "", f"settings that {settings.get('_target_')} takes", found) from error


def explain(error: Exception, command: str) -> InputError:
    """What an error of Hydra's or OmegaConf's says, in one line: which argument, what was expected, what was found."""
    message = _first_line(error)
    match error:
        case OverrideParseException():
            found = _first_line(Exception(error.message.removeprefix(f"Error parsing override '{error.override}'")))
            return InputError(error.override, "", "NAME=VALUE, quoted if need be: NAME=\"'VALUE'\"", found)
        case MissingConfigException(missing_cfg_file=str(missing)) if error.options:
            group, _, option = missing.removesuffix(".yaml").rpartition("/")
            options = f"one of {', '.join(error.options)}{suggestion(option, error.options)}"
            return InputError(group, "", options, repr(option))
    if match := re.match(r"Could not override '([^']+)'", message):
        known = f"a setting that there is{suggestion(match[1], _known_names(command))}"
        return InputError(match[1], "", known, "an unknown one")
    if match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", message):
        return InputError(match[1], "", "one value, or -m for a sweep over several", "several")
    cause = error.__cause__
    found = f"{message}: {_first_line(cause)}" if cause is not None and message else message or _first_line(cause)
    return InputError("configuration", "", "settings that Hydra can compose", found)


def run_name(task: str | None, seed: int) -> str:
    """A folder's name for a task and a seed: `0d3d703e-seed0`."""
    name = str(task or "no-task").rstrip("/").rpartition("/")[2].removesuffix(".json")
    return f"{re.sub(r'[^-.0-9A-Z_a-z]+', '_', name)[:80].lstrip('.') or 'task'}-seed{seed}"


def read_config(values: Mapping[str, Any], kind: type[C]) -> C:
    """Read a composed configuration.

    Raises:
        InputError: On a setting that is unknown, missing or out of bounds, or a `_target_` outside arc_seal.
    """
    _check_targets(values)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explained(error, kind) from None


def _composed(composed: DictConfig) -> Composed:
    values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    run = HydraConfig.get()
    sweep = Path(run.sweep.dir).absolute() if run.mode == RunMode.MULTIRUN else None
    return Composed({str(name): value for name, value in values.items()}, Path(run.runtime.output_dir), sweep)


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__ if error else ""


def _known_names(command: str) -> list[str]:
    """Every setting of a command, by its full path."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = OmegaConf.to_container(hydra.compose(command), resolve=False)
    return list(_paths(composed))


def _paths(values: Any, prefix: str = "") -> Iterator[str]:
    for name, value in _members(values):
        if not name.startswith("_"):
            yield prefix + name
            yield from _paths(value, f"{prefix}{name}.")


def _check_targets(values: Any, place: str = "") -> None:
    for name, value in _members(values):
        here = f"{place}.{name}" if place else name
        if name == "_target_" and not str(value).startswith("arc_seal."):
            raise InputError("configuration", here, "a class of arc_seal", repr(value))
        _check_targets(value, here)


def _members(values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        yield from ((str(name), value) for name, value in values.items())
    elif isinstance(values, list):
        yield from ((str(index), value) for index, value in enumerate(values))


def _explained(error: ValidationError, kind: type[BaseModel]) -> InputError:
    """The first fault: place, expected, found."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        known = f"a setting that there is{suggestion(place, _names(kind))}"
        return InputError("configuration", place, known, "an unknown one")
    if place == "task":
        return InputError("configuration", "task", "a task: a file, a folder, arcagi1/ID or arcagi2/ID", "none")
    expected = fault["msg"].removeprefix("Input should be ")
    return InputError("configuration", place, expected, repr(fault["input"]))


def _names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in kind.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _names(field.annotation, f"{prefix}{name}.")
    return names


# What the configuration says to the solver and the outer loop.


def solve_settings(config: SolveConfig) -> SolveSettings:
    """How to solve.

    Raises:
        InputError: On a tool or a bound of the self-edit that makes no sense, or settings that contradict one another.
    """
    by_hand = config.self_edit.written is not None
    if config.policy is not None and by_hand:
        raise InputError(
            "policy", "", "self_edit=default, for the policy to write its own", "a self-edit given by hand"
        )
    author: Literal["policy", "hand", "none"] = "none" if not config.train else "hand" if by_hand else "policy"
    return SolveSettings(
        rollouts=rollout_settings(config, config.seed, author, policy=config.policy),
        samples=config.samples,
        select=config.select,
        selection=SelectSettings(config.margin, config.deadline_s),
    )


def rollout_settings(
    config: RolloutConfig,
    seed: int,
    author: Literal["policy", "random", "hand", "none"],
    *,
    policy: str | None = None,
) -> RolloutSettings:
    """How self-edits are proposed and tried.

    Raises:
        InputError: On a tool or a bound of the self-edit that makes no sense, or one by hand that nobody would try.
    """
    if author == "policy" and config.self_edit.written is not None:
        raise InputError("self_edit.json", "", "null, for the policy writes its own", "a self-edit given by hand")
    folders = config.toolbox_folders
    schema = make_schema(config.self_edit.bounds, Toolbox.load([Path(folder) for folder in folders]))
    return RolloutSettings(
        model=str(config.model.get("name", config.model["_target_"])),
        seed=seed,
        author=author,
        by_hand=config.self_edit.written,
        schema=schema,
        example=_example(config.self_edit.example, schema),
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        max_resamples=config.max_resamples,
        training=config.ttt,
        decode=config.decode,
        toolbox=folders,
        max_training_tokens=config.max_training_tokens,
        policy=None if policy is None else str(Path(policy).expanduser().absolute()),
        folds=config.folds,
    )


def restem_settings(config: RestemConfig) -> RestemSettings:
    """How to train the policy."""
    return RestemSettings(
        rounds=config.rounds,
        samples=config.samples,
        reward=config.reward,
        examine=config.examine,
        margin=config.margin,
        per_task=config.per_task,
        contrast=config.contrast,
        adapt_from=config.adapt_from,
        finetune=config.finetune,
    )


def entries(specs: Sequence[str], data: DataConfig) -> list[Entry]:
    """The tasks that the specs name, or as many of them as `limit` allows, in their own order.

    Raises:
        InputError: When a spec names no task, or there is none.
    """
    found = load_tasks(*specs)
    if not found:
        raise InputError("data", "", "at least one task", "none")
    if data.limit is None or data.limit >= len(found):
        return found
    chosen = random.Random(f"{data.seed} tasks").sample(range(len(found)), data.limit)
    return [found[index] for index in sorted(chosen)]


def check_apart(training: Sequence[Entry], held_out: Sequence[Entry]) -> None:
    """Check that no task, and no pair of one under any symmetry and relabelling of colours, is in both.

    Raises:
        InputError: When one is: what was rewarded by a solution would be measured on it.
    """
    known = Contamination.of({"data.train": training})
    for entry in held_out:
        task_id = entry[0].id
        shared = f"it is {known.ids[task_id]}" if task_id in known.ids else known.shared_pair(entry)
        if shared:
            raise InputError("data.held_out", task_id, "a task that data.train knows nothing of", shared)


def _example(text: str, schema: Schema) -> str:
    """The example in the form that the model is to write."""
    try:
        return schema.canonical(schema.parse(text))
    except InvalidSelfEdit as error:
        raise InputError("configuration", "self_edit.example", "a valid self-edit", str(error)) from None
