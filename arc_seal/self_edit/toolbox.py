"""A view: what a tool makes of a task, and the way back."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError, create_model

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.errors import InputError
from arc_seal.self_edit.edit import RESERVED, ToolCall, plain_schema, refuse

Inverse = Callable[[Grid], Grid]
"""Turns an output grid of the view into an output grid of the task; raises GridError where it cannot."""


@dataclass(frozen=True, slots=True)
class View:
    """A task as a tool shows it.

    Attributes:
        task: The changed task.
        invert: The way back for an output predicted in this view; None where a tool has no way back.
    """

    task: Task
    invert: Inverse | None


def unchanged(grid: Grid) -> Grid:
    """The inverse of a tool that leaves grids as they are."""
    return grid


# The agent's toolbox: folders of Python files, one tool a file.
#
# A tool is one function of the file's name. Its signature, its bounds and its docstring are the only source of its
# JSON schema, its line in the prompt's menu and its property tests; nothing else is edited to add one:
#
#     def rotate(task: Task, rng: Random, *, quarter_turns: Literal["any", 1, 2, 3] = "any") -> View:
#         \"\"\"Rotate every grid clockwise by quarter turns.\"\"\"

BoundCall = Callable[[Task, Random], View]
"""A tool with its arguments filled in."""

Step = TypeVar("Step", bound=BoundCall)
"""Marks a parameter that takes calls of other tools, as in `steps: list[Step]`.

In the schema it stands for a call of any tool that takes no steps itself; the function is given `BoundCall`s.
"""

_NAME = "tool"
"""The key of a call that holds the tool's name."""

_CALL_CONFIG = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, as its file declares it.

    Attributes:
        name: Name of the file, the function and the tool.
        summary: First line of the docstring.
        function: What to call.
        takes_steps: Whether a parameter takes calls of other tools.
        call: The model of a call's JSON, arguments sorted by name.
    """

    name: str
    summary: str
    function: Callable[..., View]
    takes_steps: bool
    call: type[BaseModel]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of a call."""
        return plain_schema(self.call)

    @property
    def menu_line(self) -> str:
        """The tool in one line: name, arguments with what they allow, summary."""
        arguments = [f"{name}: {_allowed(kind)}" for name, kind in self.schema["properties"].items() if name != _NAME]
        return f"{self.name}({', '.join(arguments)}): {self.summary}"


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Every tool that a self-edit may call.

    Attributes:
        tools: At least one, sorted by name.
        call: The pydantic type of a call's JSON: a union over the tools.
    """

    tools: tuple[Tool, ...]
    call: Any = field(repr=False)

    @classmethod
    def load(cls, folders: Sequence[Path | str]) -> "Toolbox":
        """Load every tool of some folders. Files whose name starts with an underscore are no tools.

        Loading again is free as long as no file has changed.

        Raises:
            InputError: Naming the file, when a folder is missing, a tool is malformed or two have one name.
        """
        files = [
            file for folder in dict.fromkeys(Path(folder).resolve() for folder in folders) for file in _files(folder)
        ]
        if not files:
            raise InputError(", ".join(map(str, folders)) or "toolbox", "", "at least one tool file", "none")
        return _load(tuple((file, file.stat().st_mtime_ns) for file in files))

    @property
    def call_schema(self) -> dict[str, Any]:
        """JSON schema of one call of any tool."""
        return plain_schema(self.call)

    def menu(self) -> str:
        """One line a tool, as the prompt lists them."""
        return "\n".join(tool.menu_line for tool in self.tools)

    def bind(self, call: ToolCall) -> BoundCall:
        """The call with its arguments filled in; arguments left out take their defaults.

        Bounds are the schema's business and are not checked again.

        Raises:
            InvalidSelfEdit: When there is no such tool.
        """
        tool = next((tool for tool in self.tools if tool.name == call.tool), None)
        if tool is None:
            refuse("tool", f"one of {', '.join(tool.name for tool in self.tools)}", call.tool)
        arguments = {name: self._filled(value) for name, value in call.arguments}
        function = tool.function
        return lambda task, rng: function(task, rng, **arguments)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return [self._filled(item) for item in value]
        return self.bind(value) if isinstance(value, ToolCall) else value


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(str(folder), "", "a folder of tools", "a file" if folder.exists() else "nothing there")
    return sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))


@lru_cache(maxsize=8)
def _load(files: tuple[tuple[Path, int], ...]) -> Toolbox:
    drafts: dict[str, _Draft] = {}
    for file, _ in files:
        draft = _read(file)
        if draft.name in drafts:
            _malformed(file, "", "a name that no other tool has", f"that of {drafts[draft.name].file}")
        drafts[draft.name] = draft
    ordered = [drafts[name] for name in sorted(drafts)]
    simple = [_tool(draft, None) for draft in ordered if not draft.takes_steps]
    step = _one_of(simple)
    tools = sorted(simple + [_tool(draft, step) for draft in ordered if draft.takes_steps], key=lambda tool: tool.name)
    return Toolbox(tuple(tools), _one_of(tools))


@dataclass(frozen=True, slots=True)
class _Draft:
    """A tool file as it was read; what its steps may be is not known yet."""

    file: Path
    name: str
    summary: str
    function: Callable[..., View]
    parameters: dict[str, tuple[Any, Any]]

    @property
    def takes_steps(self) -> bool:
        return any(_takes_steps(annotation) for annotation, _ in self.parameters.values())


def _read(file: Path) -> _Draft:
    name = file.stem
    function = vars(_module(file)).get(name)
    if not inspect.isfunction(function):
        _malformed(file, "", f"a function {name}", "none" if function is None else type(function).__name__)
    documentation = inspect.getdoc(function)
    if not documentation:
        _malformed(file, name, "a docstring, whose first line goes into the prompt's menu", "none")
    return _Draft(file, name, documentation.splitlines()[0].strip(), function, _parameters(file, function))


def _module(file: Path) -> ModuleType:
    """Run a tool file as a module of its own name."""
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"arc_seal_tool_{file.stem}_{digest}", file)
    assert spec is not None and spec.loader is not None  # a .py file has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        _malformed(file, f"line {error.lineno}", "Python", error.msg)
    except Exception as error:
        _malformed(file, "", "a file that can be imported", f"{type(error).__name__}: {error}")
    return module


def _parameters(file: Path, function: Callable[..., View]) -> dict[str, tuple[Any, Any]]:
    """Annotation and default (or `Parameter.empty`) of each argument of a tool, sorted by name."""
    name = function.__name__
    parameters = list(inspect.signature(function).parameters.values())
    if [parameter.name for parameter in parameters[:2]] != ["task", "rng"]:
        _malformed(file, name, "task and rng as the first parameters", str(inspect.signature(function)))
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:
        _malformed(file, name, "annotations that can be resolved", f"{type(error).__name__}: {error}")
    for parameter in parameters[2:]:
        place = f"{name}, parameter {parameter.name}"
        if parameter.kind is not parameter.KEYWORD_ONLY:
            _malformed(file, place, "a keyword-only parameter, after a *", str(parameter))
        if parameter.name in RESERVED:
            _malformed(file, place, f"a name other than {' and '.join(RESERVED)}", parameter.name)
        if parameter.name not in hints:
            _malformed(file, place, "an annotation such as Literal['a', 'b']", "none")
    return {each.name: (hints[each.name], each.default) for each in sorted(parameters[2:], key=lambda each: each.name)}


def _takes_steps(annotation: Any) -> bool:
    return annotation is Step or Step in getattr(annotation, "__parameters__", ())


def _tool(draft: _Draft, step: Any) -> Tool:
    """Finish a tool: `step` is what its steps may be, None when there is no tool that could be one."""
    if draft.takes_steps and step is None:
        _malformed(draft.file, draft.name, "other tools to take as steps", "none in the toolbox")
    fields: dict[str, Any] = {_NAME: (Literal[draft.name], ...)}
    for index, (name, (annotation, default)) in enumerate(draft.parameters.items()):
        if _takes_steps(annotation):
            annotation = step if annotation is Step else annotation[step]
        _check_argument(draft, name, annotation, default)
        # Fields are numbered and named by alias, for an argument may have a name that pydantic keeps for itself.
        fields[f"argument_{index}"] = (
            annotation,
            Field(... if default is inspect.Parameter.empty else default, alias=name),
        )
    call = create_model(draft.name, __config__=_CALL_CONFIG, **fields)
    return Tool(draft.name, draft.summary, draft.function, draft.takes_steps, call)


def _check_argument(draft: _Draft, name: str, annotation: Any, default: Any) -> None:
    """Refuse an argument that the grammar could not write, and a default out of its own bounds."""
    place = f"{draft.name}, parameter {name}"
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True))
        kinds = _leaves(plain_schema(annotation))
    except (PydanticUserError, TypeError) as error:
        _malformed(draft.file, place, "an annotation with a JSON schema", str(error).splitlines()[0])
    if not kinds or any(kind not in ("boolean", "integer", "number", "string", "choice", "call") for kind in kinds):
        _malformed(draft.file, place, "choices, numbers, strings, booleans or lists of them", str(annotation))
    if default is not inspect.Parameter.empty:
        try:
            adapter.validate_python(default)
        except ValidationError as error:
            expected = error.errors()[0]["msg"].removeprefix("Input should be ")
            _malformed(draft.file, place, f"a default that is {expected}", repr(default))


def _leaves(schema: dict[str, Any]) -> list[str]:
    """What the values of a plain schema are made of; `call` for a call of another tool."""
    if "anyOf" in schema:
        return [leaf for branch in schema["anyOf"] for leaf in _leaves(branch)]
    if "enum" in schema or "const" in schema:
        return ["choice"]
    if schema.get("type") == "array" and "items" in schema:
        return _leaves(schema["items"])
    return ["call" if _NAME in schema.get("properties", {}) else str(schema.get("type"))]


def _one_of(tools: Sequence[Tool]) -> Any:
    """The pydantic type of a call of one of some tools; None when there are none."""
    calls = tuple(tool.call for tool in tools)
    return Annotated[Union[calls], Field(discriminator=_NAME)] if len(calls) > 1 else next(iter(calls), None)  # noqa: UP007


def _allowed(schema: dict[str, Any]) -> str:
    """What a value may be, in as few characters as a small model can still read."""
    if "anyOf" in schema:
        branches = schema["anyOf"]
        is_call = all(_NAME in branch.get("properties", {}) for branch in branches)
        return "tool call" if is_call else "|".join(map(_allowed, branches))
    if "enum" in schema or "const" in schema:
        return "|".join(str(choice) for choice in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        bounds = f"{schema.get('minItems', 0)}-{schema.get('maxItems', '')}"
        return f"{bounds} of [{_allowed(schema['items'])}]"
    if schema.get("type") == "boolean":
        return "true|false"
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    return "tool call" if _NAME in schema.get("properties", {}) else str(schema["type"])


def _malformed(file: Path, place: str, expected: str, found: str) -> NoReturn:
    raise InputError(str(file), place, expected, found)
