"""The agent's toolbox: folders of Python files, each of them one tool that makes a view of a task.

A tool is one function of the file's name. Its signature, its bounds and its docstring are the only source of its JSON
schema, its line in the prompt's menu and its property tests; nothing else is edited to add one:

    def rotate(task: Task, rng: Random, *, quarter_turns: Literal["any", 1, 2, 3] = "any") -> View:
        \"\"\"Rotate every grid clockwise by quarter turns.\"\"\"

What a tool draws may not depend on the queries: training examples are made without them.
"""

import inspect
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal, TypeVar, Union

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, PydanticUserError, TypeAdapter, ValidationError, create_model

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.errors import GridError, InputError
from arc_seal.self_edit.edit import RESERVED, Strict, ToolCall, plain_schema, refuse
from arc_seal.settings import first_fault

Change = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""What is done to the cells of a grid: [height, width] to the height and width of the new grid."""

Inverse = Callable[[Grid], Grid]
"""Turns an output grid of the view into an output grid of the task; raises GridError where it cannot."""


@dataclass(frozen=True, slots=True)
class View:
    """A task as a tool shows it."""

    task: Task  # the changed task
    invert: Inverse | None  # the way back for an output predicted in this view; None where a tool has no way back

    @classmethod
    def mapped(cls, task: Task, change: Change, undo: Change) -> "View":
        """The view with every grid's cells changed, or a GridError; the inverse refuses what `change` never makes."""

        def invert(grid: Grid) -> Grid:
            original = grid.mapped(undo)
            if original.mapped(change) != grid:
                raise GridError(f"these {grid.height}x{grid.width} cells are none that the view could show")
            return original

        return cls(task.map_grids(lambda grid: grid.mapped(change)), invert)


def unchanged(grid: Grid) -> Grid:
    """The inverse of a tool that leaves grids as they are."""
    return grid


BoundCall = Callable[[Task, Random], View]
"""A tool with its arguments filled in."""

Step = TypeVar("Step", bound=BoundCall)
"""Marks a parameter that takes calls of other tools, as in `steps: list[Step]`.

In the schema it stands for a call of any tool that takes no steps itself; the function is given `BoundCall`s.
"""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, as its file declares it."""

    name: str  # name of the file, the function and the tool
    function: Callable[..., View]  # the function in the file
    call: type[BaseModel]  # the model of a call's JSON, arguments sorted by name
    schema: dict[str, Any] = field(repr=False, compare=False)  # JSON schema of a call
    menu_line: str  # for the prompt: name, arguments with what they allow, first line of the docstring


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Every tool that a self-edit may call."""

    tools: tuple[Tool, ...]  # at least one, sorted by name
    call: Any = field(repr=False)  # the pydantic type of a call's JSON: a union over the tools

    @classmethod
    def load(cls, folders: Sequence[Path | str]) -> "Toolbox":
        """Load every tool of some folders, from memory as long as no file has changed; `_*.py` are no tools.

        InputError names the file where a folder is missing, a tool is malformed or two have one name.
        """
        files: list[Path] = []
        for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
            if not folder.is_dir():
                raise InputError(str(folder), "", "a folder of tools", "a file" if folder.exists() else "nothing there")
            files += sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))
        if not files:
            raise InputError(", ".join(map(str, folders)) or "toolbox", "", "at least one tool file", "none")
        return _load(tuple((file, file.stat().st_mtime_ns) for file in files))

    def bind(self, call: ToolCall) -> BoundCall:
        """The call with its arguments filled in; InvalidSelfEdit where there is no such tool.

        Arguments left out take their defaults; bounds are not checked again.
        """
        functions = {tool.name: tool.function for tool in self.tools}
        if call.tool not in functions:
            refuse("tool", f"one of {', '.join(functions)}", call.tool)
        arguments = {name: self._filled(value) for name, value in call.arguments}
        return lambda task, rng: functions[call.tool](task, rng, **arguments)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return [self._filled(item) for item in value]
        return self.bind(value) if isinstance(value, ToolCall) else value


@lru_cache(maxsize=8)
def _load(files: tuple[tuple[Path, int], ...]) -> Toolbox:
    found: dict[str, tuple[Path, Callable[..., View], list[inspect.Parameter]]] = {}
    for file, _ in files:
        if file.stem in found:
            raise InputError(str(file), "", "a name that no other tool has", f"that of {found[file.stem][0]}")
        found[file.stem] = (file, *_read(file))
    simple = {
        name: _tool(*found[name], None)
        for name in sorted(found)
        if not any(_takes_steps(argument.annotation) for argument in found[name][2])
    }
    step = _one_of(tuple(simple.values()))
    tools = tuple(simple.get(name) or _tool(*found[name], step) for name in sorted(found))
    return Toolbox(tools, _one_of(tools))


def _read(file: Path) -> tuple[Callable[..., View], list[inspect.Parameter]]:
    """Run a tool file, and check how its function is declared; the function, and its arguments sorted by name."""
    name = file.stem
    try:
        function = runpy.run_path(str(file), run_name=f"arc_seal_tool_{name}").get(name)
    except SyntaxError as error:
        raise InputError(str(file), f"line {error.lineno}", "Python", error.msg) from None
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise InputError(str(file), "", "a file that can be imported", found) from error
    if not inspect.isfunction(function):
        raise InputError(str(file), "", f"a function {name}", "none" if function is None else type(function).__name__)
    if not inspect.getdoc(function):
        raise InputError(str(file), name, "a docstring, whose first line goes into the prompt's menu", "none")
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise InputError(str(file), name, "annotations that can be resolved", found) from None
    parameters = list(signature.parameters.values())
    if [parameter.name for parameter in parameters[:2]] != ["task", "rng"]:
        raise InputError(str(file), name, "task and rng as the first parameters", str(signature))
    for parameter in parameters[2:]:
        place = f"{name}, parameter {parameter.name}"
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise InputError(str(file), place, "a keyword-only parameter, after a *", str(parameter))
        if parameter.name in RESERVED:
            raise InputError(str(file), place, f"a name other than {' and '.join(RESERVED)}", parameter.name)
        if parameter.annotation is parameter.empty:
            raise InputError(str(file), place, "an annotation such as Literal['a', 'b']", "none")
    return function, sorted(parameters[2:], key=lambda parameter: parameter.name)


def _takes_steps(annotation: Any) -> bool:
    return annotation is Step or Step in getattr(annotation, "__parameters__", ())


def _tool(file: Path, function: Callable[..., View], parameters: list[inspect.Parameter], step: Any) -> Tool:
    """Finish a tool: `step` is what its steps may be, None when there is no tool that could be one."""
    name, summary = file.stem, (inspect.getdoc(function) or "").splitlines()[0].strip()
    fields: dict[str, Any] = {"tool": (Literal[name], ...)}
    arguments = []
    for index, parameter in enumerate(parameters):
        kind = parameter.annotation
        if _takes_steps(kind):
            if step is None:
                raise InputError(str(file), name, "other tools to take as steps", "none in the toolbox")
            kind = step if kind is Step else kind[step]
        default = ... if parameter.default is parameter.empty else parameter.default
        # Fields are numbered and named by alias, for an argument may have a name that pydantic keeps for itself.
        fields[f"argument_{index}"] = (kind, Field(default, alias=parameter.name))
        allowed = _checked(str(file), f"{name}, parameter {parameter.name}", kind, default)
        arguments.append(f"{parameter.name}: {allowed}")
    call = create_model(name, __base__=Strict, **fields)
    return Tool(name, function, call, plain_schema(call), f"{name}({', '.join(arguments)}): {summary}")


def _checked(file: str, place: str, kind: Any, default: Any) -> str:
    """What an argument may be. One that the grammar could not write, or a default out of its bounds, is refused."""
    try:
        allowed = _allowed(plain_schema(kind))
        if default is not ...:
            TypeAdapter(kind).validate_python(default, strict=True)
    except (PydanticUserError, TypeError) as error:
        raise InputError(file, place, "an annotation with a JSON schema", str(error).splitlines()[0]) from None
    except ValidationError as error:
        _, expected, found = first_fault(error)
        raise InputError(file, place, f"a default that is {expected}", found) from None
    except LookupError:
        raise InputError(file, place, "choices, numbers, strings, booleans or lists of them", str(kind)) from None
    return allowed


def _allowed(schema: dict[str, Any]) -> str:
    """What a value may be, in few characters that a small model can still read; LookupError where there is no text."""
    match schema:
        case {"anyOf": branches}:
            return "|".join(dict.fromkeys(map(_allowed, branches)))
        case {"enum": choices}:
            return "|".join(map(str, choices))
        case {"const": choice}:
            return str(choice)
        case {"type": "array", "items": items}:
            return f"{schema.get('minItems', 0)}-{schema.get('maxItems', '')} of [{_allowed(items)}]"
        case {"type": "boolean"}:
            return "true|false"
        case {"properties": {"tool": _}}:
            return "tool call"
        case {"minimum": low, "maximum": high}:
            return f"{low} to {high}"
        case {"type": "integer" | "number" | "string" as kind}:
            return str(kind)
    raise LookupError


def _one_of(tools: tuple[Tool, ...]) -> Any:
    """The pydantic type of a call of one of some tools; None when there are none."""
    calls = tuple(tool.call for tool in tools)
    return Annotated[Union[calls], Field(discriminator="tool")] if len(calls) > 1 else next(iter(calls), None)  # noqa: UP007
