"""Tiny tasks, adapted networks and encoded examples for the tests of the inner loop."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.files import tools_dir
from arc_seal.inner_loop.job import AdaptJob, DecodeSettings, Progress, TrainingRecord, TrainingSettings
from arc_seal.inner_loop.lora import with_fresh_adapter
from arc_seal.inner_loop.train import train
from arc_seal.models.model import Model
from arc_seal.models.prompt import Encoded, demonstrations_prompt
from arc_seal.self_edit.edit import SelfEdit, ToolCall
from tests.self_edit.builders import edit, random_grid

TURNS = edit(ToolCall.of("rotate", quarter_turns="any"), learning_rate=0.01, batch_size=2, max_examples=6)


def copying_task(heights: Sequence[int] = (1, 2, 3), seed: int = 0) -> Task:
    """Outputs are the inputs' first column; one demonstration of each height."""
    rng = Random(seed)
    grids = [random_grid(rng, height, 2) for height in (*heights, 2)]
    pairs = [Demonstration(grid, Grid(grid.height, 1, grid.cells[::2])) for grid in grids]
    return Task("copying", tuple(pairs[:-1]), (pairs[-1].input,))


def ignore(progress: Progress) -> None:
    """A report that nobody reads."""


def examples_of(model: Model, tasks: Sequence[Task], *, target_all: bool = False) -> list[Encoded]:
    return [model.codec.encode(demonstrations_prompt(task.demos), target_all=target_all) for task in tasks]


def learn(model: Model, examples: Sequence[Encoded], **settings: Any) -> TrainingRecord:
    """Train what is trainable, with settings that a self-edit or the configuration would give."""
    names = "max_tokens", "seed", "report", "skipped", "symbols", "precision"
    own = {name: settings.pop(name) for name in names if name in settings}
    training = edit(**{"learning_rate": 0.01, **settings.pop("training", {})}).training
    given = {"max_tokens": 10**9, "seed": 0, "report": ignore, "skipped": 0, **own}
    return train(model, examples, training, TrainingSettings(**settings), **given)


@contextmanager
def adapted(model: Model, task: Task, updates: int = 60) -> Iterator[None]:
    """The model with an adapter that has learnt a task's form."""
    with with_fresh_adapter(model, 8, 16.0, seed=0):
        learn(model, examples_of(model, [task]), training={"epochs": updates, "learning_rate": 0.02})
        yield


def job(task: Task, self_edit: SelfEdit | None = TURNS, seed: int = 0, **settings: Any) -> AdaptJob:
    return AdaptJob(task, self_edit, (str(tools_dir()),), seed, **{"decode": DecodeSettings(views=3), **settings})
