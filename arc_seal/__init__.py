"""arc-seal: an ARC few-shot reasoning agent that teaches itself how to learn.

What is exported here is loaded when it is first used: `import arc_seal` itself loads no library.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "ArcSealError",
    "Attempt",
    "Demonstration",
    "Grid",
    "GridError",
    "InputError",
    "SelfEdit",
    "Solution",
    "Solved",
    "Solver",
    "Task",
    "__version__",
    "load_task",
    "load_tasks",
    "solve",
]

if TYPE_CHECKING:
    from arc_seal.api import Solver, solve
    from arc_seal.arc.datasets import load_task, load_tasks
    from arc_seal.arc.grid import Grid
    from arc_seal.arc.task import Demonstration, Solution, Task
    from arc_seal.errors import ArcSealError, GridError, InputError
    from arc_seal.inner_loop.job import Attempt
    from arc_seal.outer_loop.solve import Solved
    from arc_seal.self_edit.edit import SelfEdit
else:  # a type checker would take any name for one of the package's
    _MODULES = {
        "api": ("Solver", "solve"),
        "arc.datasets": ("load_task", "load_tasks"),
        "arc.grid": ("Grid",),
        "arc.task": ("Demonstration", "Solution", "Task"),
        "errors": ("ArcSealError", "GridError", "InputError"),
        "inner_loop.job": ("Attempt",),
        "outer_loop.solve": ("Solved",),
        "self_edit.edit": ("SelfEdit",),
    }

    def __getattr__(name):
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f"arc_seal.{module}"), name)
                return found
        raise AttributeError(f"module 'arc_seal' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
