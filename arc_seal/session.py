"""The runs of one `solve` command: one after another in this process, on a model that stays loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Solution, Task
from arc_seal.config import Composed, SolveConfig, make, read_config, run_name, solve_settings
from arc_seal.errors import InputError, Status
from arc_seal.outer_loop.solve import solve_task
from arc_seal.sandbox.worker import Executor
from arc_seal.ui.run_folder import Run, write_run, write_sweep
from arc_seal.ui.views import View, recording_console, summary, terminal_console


@dataclass
class WarmExecutor:
    """The executor of the last run, kept with its loaded model for as long as runs ask for the same one."""

    _settings: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    _executor: Executor | None = None

    def get(self, model: Mapping[str, Any], executor: Mapping[str, Any]) -> Executor:
        """The executor for these settings of a model and an executor.

        Raises:
            InputError: When the settings are not as they must be.
        """
        if self._executor is None or self._settings != (model, executor):
            self.close()
            self._executor = make(executor)(make(model))
            self._settings = model, executor
        return self._executor

    def close(self) -> None:
        """Let the executor and its model go."""
        if self._executor is not None:
            self._executor.close()
        self._executor = None


@dataclass
class Session:
    """Works on one job of Hydra's after another, and sums a sweep up at its end.

    Attributes:
        title: The command as it was typed, for the picture.
        runs: What came of each task so far.
    """

    title: str
    runs: list[Run] = field(default_factory=list)
    _tasks: dict[str, Task] = field(default_factory=dict)
    _warm: WarmExecutor = field(default_factory=WarmExecutor)
    _view: View | None = None
    _picture: Path | None = None
    _sweep: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sum up what has been done, an interrupted sweep too, and let everything go."""
        try:
            self._warm.close()
        finally:
            if self._view is not None:
                self._finish(self._view)

    @property
    def exit_code(self) -> int:
        """0 when all jobs ran, 1 when one failed, 2 when some input was bad."""
        if any(run.solved is None for run in self.runs):
            return 2
        return int(not all(_ran(run) for run in self.runs))

    def job(self, composed: Composed) -> None:
        """Work on one composed configuration: on each task that it names.

        Raises:
            InputError: When the input is bad and this is the only run; in a sweep it is recorded and the rest goes on.
        """
        self._sweep, folder = composed.sweep, composed.folder
        if picture := composed.values.get("save_svg"):
            self._picture = Path(str(picture)).expanduser()
        try:
            config = read_config(composed.values, SolveConfig)
            entries = load_tasks(str(Path(config.task).expanduser()))
        except InputError as error:
            self._refuse(str(composed.values.get("task")), composed.values.get("seed", 0), folder, error)
            return
        if len(entries) > 1:
            self._sweep = self._sweep or folder
        for task, solution in entries:
            place = folder / run_name(task.id, config.seed) if len(entries) > 1 else folder
            self._work(task, solution, config, place)

    def _work(self, task: Task, solution: Solution | None, config: SolveConfig, folder: Path) -> None:
        try:
            if self._tasks.setdefault(task.id, task) != task:
                raise InputError(config.task, "", f"one task of the id {task.id} in a sweep", "another")
            executor = self._warm.get(config.model, config.executor)
            settings = solve_settings(config)
            with self._shown() as view:
                view.begin(task, config.seed, config.samples)
                solved = solve_task(task, solution, executor, settings, view)
                write_run(folder, solved, config.model_dump(mode="json", by_alias=True))
                view.end(task, solution, solved, folder)
        except InputError as error:
            self._refuse(task.id, config.seed, folder, error)
        else:
            self.runs.append(Run(task.id, config.seed, folder, solved))

    def _refuse(self, name: str, seed: int, folder: Path, error: InputError) -> None:
        """Record bad input; where nothing else is to be done, that is the end."""
        if self._sweep is None:
            raise error
        self.runs.append(Run(name, seed, folder, None, str(error)))
        self._shown().fail(error)

    def _shown(self) -> View:
        """The view, made when it is first needed: only a configuration says whether there will be a picture."""
        if self._view is None:
            self._view = View(terminal_console(), recording_console() if self._picture else None)
        return self._view

    def _finish(self, view: View) -> None:
        if self._sweep is not None and self.runs:
            write_sweep(self._sweep, self.runs)
            view.show(summary(self.runs))
        if self._picture is not None:
            view.save_svg(self._picture, self.title)


def _ran(run: Run) -> bool:
    return run.solved is not None and any(rollout.status is Status.OK for rollout in run.solved.rollouts)
