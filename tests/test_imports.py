"""The layers: imports go one way, without circles, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "arc_seal"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "files"}),
    frozenset({"settings"}),
    frozenset({"arc"}),
    frozenset({"self_edit"}),
    frozenset({"models"}),
    frozenset({"inner_loop"}),
    frozenset({"pretraining"}),
    frozenset({"sandbox"}),
    frozenset({"outer_loop"}),
    frozenset({"ui"}),
    frozenset({"config"}),
    frozenset({"cli", "session"}),
    frozenset({"api"}),
    frozenset({"solve", "train", "evaluate", "pretrain", "report", "runs", "kaggle", "competition", "contamination"}),
    frozenset({"__main__"}),
)
"""Lowest first. A part imports from parts in lower layers and from itself."""

COMMANDS = LAYERS[-2]

ALLOWED: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("torch", "transformers", "peft", "accelerate"), frozenset({"models", "inner_loop", "pretraining"})
    ),
    **dict.fromkeys(("hydra", "omegaconf"), frozenset({"config", "cli"}) | COMMANDS),
    "rich": frozenset({"ui"}),
    "jinja2": frozenset({"ui"}),
    "ray": frozenset(),
}
"""Where a library may be imported when a module loads; inside a function, and for the type checker, anywhere."""


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        line: Where.
        target: The module's full name.
        loads: Whether it is imported when the importing module loads.
    """

    line: int
    target: str
    loads: bool


def modules() -> dict[str, Path]:
    """The package's modules by full name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    own = part(name)
    for one in imports(MODULES[name].read_text()):
        other = part(one.target)
        if name == "arc_seal" and not one.loads:  # what the package exports is above it, and loaded when it is used
            continue
        assert not other or other == own or layer(other) < layer(own), f"{name}:{one.line} imports {one.target}"


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_stay_where_they_belong(name: str) -> None:
    for one in imports(MODULES[name].read_text()):
        places = ALLOWED.get(one.target.split(".")[0])
        assert not one.loads or places is None or part(name) in places, f"{name}:{one.line} loads {one.target}"


def test_no_module_loads_itself_by_a_detour() -> None:
    graph = {
        name: {module(one.target) for one in imports(path.read_text()) if one.loads} - {None, name}
        for name, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_only_models_the_inner_loop_and_pretraining_load_torch() -> None:
    light = [name for name in MODULES if part(name) not in ("models", "inner_loop", "pretraining")]
    light += ["arc_seal.models.prompt", "arc_seal.models.weights", "arc_seal.inner_loop.job"]
    light += ["arc_seal.models.grid_codec", "arc_seal.pretraining.pool"]  # what its worker processes need
    assert loaded_by(light) == []


def test_import_arc_seal_loads_no_library_at_all() -> None:
    assert loaded_by(["arc_seal"], *ALLOWED, "numpy", "pydantic") == []


def loaded_by(names: list[str], *libraries: str) -> list[str]:
    """Which of the libraries a fresh interpreter has loaded after importing the modules."""
    wanted = libraries or ("torch", "transformers", "peft", "accelerate")
    code = f"import sys, {', '.join(names)}; print(*[name for name in {wanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SAMPLE = """
import torch.nn, json
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from peft import LoraModel
else:
    import rich
from arc_seal.arc import grid
try:
    import hydra
except ImportError:
    pass
class Lazy:
    import numpy
    def load(self):
        from transformers import AutoModel
"""


def test_every_form_of_import_is_seen() -> None:
    seen = {one.target: one.loads for one in imports(SAMPLE)}
    assert {target for target, loads in seen.items() if not loads} == {"peft", "peft.LoraModel"} | {
        "transformers",
        "transformers.AutoModel",
    }
    assert {"torch.nn", "json", "rich", "hydra", "numpy", "arc_seal.arc", "arc_seal.arc.grid"} <= {
        target for target, loads in seen.items() if loads
    }


def imports(source: str) -> list[Import]:
    """Every import of a module; `from a import b` counts as `a` and as `a.b`, which may be a module too."""
    return list(_imports(ast.parse(source), loads=True))


def _imports(node: ast.AST, loads: bool) -> Iterator[Import]:
    match node:
        case ast.Import(names=names):
            yield from (Import(node.lineno, alias.name, loads) for alias in names)
        case ast.ImportFrom(module=str(origin), names=names, level=0):
            yield Import(node.lineno, origin, loads)
            yield from (Import(node.lineno, f"{origin}.{alias.name}", loads) for alias in names)
        case ast.ImportFrom():
            raise AssertionError(f"line {node.lineno}: a relative import")
        case ast.FunctionDef(body=body) | ast.AsyncFunctionDef(body=body):
            yield from (one for child in body for one in _imports(child, loads=False))
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=orelse):
            yield from (one for child in body for one in _imports(child, loads=False))
            yield from (one for child in orelse for one in _imports(child, loads))
        case _:
            yield from (one for child in ast.iter_child_nodes(node) for one in _imports(child, loads))


def part(name: str) -> str:
    """The part of the package that a module belongs to; empty for the package itself and for everything else."""
    first, _, rest = name.partition(".")
    known = rest.split(".")[0]
    return known if first == "arc_seal" and any(each.split(".")[1:2] == [known] for each in MODULES) else ""


def module(target: str) -> str | None:
    """The module of the package that an import loads, if it is one."""
    return target if target in MODULES else None


def layer(name: str) -> int:
    """The layer of a part. The package itself is under all of them."""
    found = [index for index, parts in enumerate(LAYERS) if name in parts]
    assert found or not name, f"arc_seal.{name} has no place in LAYERS yet"
    return found[0] if found else -1
