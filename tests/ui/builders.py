"""A task, its solution, and what may come of solving it."""

import dataclasses

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Solution, Task
from arc_seal.errors import Status
from arc_seal.inner_loop.job import Attempt, Candidate, Result, TrainingRecord
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.outer_loop.solve import Solved
from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training

SELF_EDIT = SelfEdit(
    tools=(
        ToolCall.of("rotate", quarter_turns=1),
        ToolCall.of("chain", steps=[ToolCall.of("flip"), ToolCall.of("tile")]),
    ),
    training=Training(loss_on="outputs", learning_rate=0.0005, epochs=2, batch_size=2, lora_rank=32, max_examples=120),
)  # fmt: skip

COMPLETION = (
    '{"tools":[{"tool":"rotate","quarter_turns":1},{"tool":"chain","steps":[{"tool":"flip"},{"tool":"tile"}]}],'
    '"training":{"loss_on":"outputs","learning_rate":0.0005,"epochs":2,"batch_size":2,"lora_rank":32,"max_examples":120}}'
)


def grid(*rows: str) -> Grid:
    """A grid from rows of digits."""
    return Grid.from_rows([[int(digit) for digit in row] for row in rows])


TASK = Task(
    "5582e5ca",
    (
        Demonstration(grid("468", "630", "468"), grid("444", "444", "444")),
        Demonstration(grid("689", "138", "954"), grid("888", "888", "888")),
        Demonstration(grid("01", "23", "45", "67", "89"), grid("9")),
    ),
    (grid("881", "611", "899"),),
)
SOLUTION = Solution("5582e5ca", (grid("888", "888", "888"),))
RIGHT = Attempt(grid("888", "888", "888"), 6, -0.01, 6.0)
WRONG = Attempt(grid("881", "888", "188"), 2, -0.4, 2.0)
OTHER_SIZE = Attempt(grid("88", "88"), 1, -0.9, 1.0)


def solved(*attempts: Attempt, reward: int | None = 1, seed: int = 0, status: Status = Status.OK) -> Solved:
    """What came of solving TASK with one self-edit."""
    result = Result(
        attempts=(attempts,),
        candidates=(Candidate(0, "rotate 1", RIGHT.grid, -0.01), Candidate(0, "flip", None, -2.0)),
        training=TrainingRecord(120, 1, 60, 30_000, 2_000, 0.04, (1.5, 0.75, 0.03125)),
        seconds={"train": 60.5, "predict": 4.25},
    )
    ok = status is Status.OK
    rollout = Rollout(
        0, seed, COMPLETION, SELF_EDIT if ok else None, status, "" if ok else "why", result if ok else None, reward
    )
    return Solved(
        task_id="5582e5ca", seed=seed, rollouts=(rollout,), attempts=(attempts,), reward=reward,
        score=None if reward is None else float(reward), model="smollm2", versions={"arc-seal": "0.1.0"},
        seconds={"load": 2.5, "write": 8.0, "train": 60.5, "predict": 4.25},
    )  # fmt: skip


def later(one: Solved) -> Solved:
    """The same run on a slower machine."""
    rollouts = tuple(
        dataclasses.replace(each, result=each.result and dataclasses.replace(each.result, seconds={"train": 1e3}))
        for each in one.rollouts
    )
    return dataclasses.replace(one, rollouts=rollouts, seconds={"load": 9.0})
