"""Solve tasks from Python: `arc_seal.solve` for one, `arc_seal.Solver` for many with a model that stays loaded.

Settings are those of conf/solve.yaml, composed as the command composes them. Nothing is written, and nothing is shown
unless a view is given.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Self

from arc_seal.arc.datasets import load_task
from arc_seal.arc.task import Entry, Solution, Task, parse_task
from arc_seal.cli import quote
from arc_seal.config import SolveConfig, compose, make, read_config
from arc_seal.errors import InputError
from arc_seal.outer_loop.rollout import View
from arc_seal.outer_loop.solve import Solved, SolveSettings, solve_task
from arc_seal.sandbox.worker import Executor
from arc_seal.settings import shortened

TaskLike = str | Path | Mapping[str, Any] | Task | Entry
"""A spec as the command takes it, a path, ARC's JSON form, a task, or a task and its solution as of `load_tasks`."""

DEFAULTS = ("executor=inline",)
"""Where this differs from the command. A worker process imports the program that started it, so that a script without
`if __name__ == "__main__":` would start itself again; a job in this process works everywhere."""

_COMPOSING = Lock()  # Hydra has one state for the whole process


def solve(task: TaskLike, *, view: View | None = None, overrides: Sequence[str] = (), **settings: Any) -> Solved:
    """Solve one task.

    Args:
        task: What to solve: a spec such as `arcagi1/0d3d703e`, a path, a `Task`, one with its solution, or ARC's JSON
            form as a dict. Only with a solution is there a reward.
        view: Shown what happens; by default nothing is.
        overrides: Settings as one types them, such as `ttt.token_budget=8000`.
        settings: Settings of conf/solve.yaml by name, such as `samples=4`.

    Returns:
        The attempts, the self-edits and what came of them.

    Raises:
        InputError: When the task or a setting is not as it must be.
    """
    with Solver(view=view, overrides=overrides, **settings) as solver:
        return solver.solve(task)


class Solver:
    """Solves many tasks with a model that is loaded once, by the first of them.

    It may be called from several threads, which take turns where the executor has one worker.

    Args:
        view: Shown what happens; by default nothing is. With several threads it is told of all their tasks.
        overrides: Settings as one types them, such as `executor.timeout_s=60`.
        settings: Settings of conf/solve.yaml by name, such as `model="grid"`.

    Raises:
        InputError: When a setting is not as it must be.
    """

    def __init__(self, *, view: View | None = None, overrides: Sequence[str] = (), **settings: Any) -> None:
        self._view: View = _Quiet() if view is None else view
        self._overrides = [*DEFAULTS, *_typed(settings), *overrides]
        self._settings = _composed(self._overrides)
        self._executor = _executor(self._settings)

    def solve(self, task: TaskLike, *, overrides: Sequence[str] = (), **changes: Any) -> Solved:
        """Solve a task, with settings changed for this one.

        Raises:
            InputError: When the task or a setting is not as it must be, or another model or executor is asked for.
            ExecutorClosed: After `close`.
        """
        entry, settings = _entry(task), self._settings
        if changes or overrides:
            settings = _composed([*self._overrides, *_typed(changes), *overrides])
        for name in ("model", "executor"):
            if getattr(settings, name) != getattr(self._settings, name):
                raise InputError(name, "", f"the {name} of this Solver", "another one, which needs a Solver of its own")
        executor = self._executor
        try:
            return solve_task(*entry, executor, settings, self._view)
        except KeyboardInterrupt:  # ends the executor; in a notebook the next cell may go on
            executor.close()
            self._executor = _executor(self._settings)
            raise

    def close(self) -> None:
        """Let the model go; a task that another thread is at ends with `ExecutorClosed`."""
        self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Quiet:
    """A view that shows nothing."""

    def note(self, *_: object, **__: object) -> None:
        """Show nothing."""

    stage = advance = progress = proposed = finished = note


def _typed(settings: Mapping[str, Any]) -> list[str]:
    """Settings as one types them; InputError for a value that cannot be one."""
    return [f"{name}={_text(name, value)}" for name, value in settings.items()]


def _text(name: str, value: Any) -> str:
    match value:
        case None | bool() | int() | float():
            return json.dumps(value)
        case str() | Path():
            return quote(str(value))
        case list() | tuple():
            return f"[{','.join(_text(name, each) for each in value)}]"
    raise InputError(name, "", "None, a truth value, a number, a text or a list of them", shortened(value))


def _composed(overrides: Sequence[str]) -> SolveSettings:
    """The settings under overrides, of which the last on a name counts."""
    latest = {each.partition("=")[0]: each for each in overrides}
    of_the_command = SolveConfig.model_fields.keys() - SolveSettings.model_fields.keys()
    for name in of_the_command & latest.keys():
        raise InputError(name, "", "a setting of how to solve, for nothing is kept or shown here", latest[name])
    with _COMPOSING:
        (composed,) = compose("solve", list(latest.values()), sweep=False)
    values = {name: value for name, value in composed.values.items() if name not in of_the_command}
    settings = read_config(values, SolveSettings)
    settings.check()
    return settings


def _executor(settings: SolveSettings) -> Executor:
    executor: Executor = make(settings.executor)(make(settings.model))
    return executor


def _entry(task: object) -> Entry:
    """The task, and its solution where there is one."""
    match task:
        case Task():
            return task, None
        case (Task() as alone, Solution() | None as solution):
            return alone, solution
        case str():
            return load_task(os.path.expanduser(task))
        case Path():
            return load_task(str(task.expanduser().absolute()))
        case Mapping():
            try:  # arrays become lists
                value = json.loads(json.dumps(dict(task), default=lambda each: each.tolist()))
            except (AttributeError, TypeError, ValueError) as error:
                raise InputError("task", "", "values that JSON has", str(error)) from None
            return parse_task(value, str(value.get("id") or "task"), "task")
    raise InputError("task", "", "a spec, a path, a Task or ARC's JSON form as a dict", shortened(task))
