"""A task, its solution, and what may come of solving it."""

from dataclasses import replace
from typing import Any

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Solution, Task
from arc_seal.errors import Status
from arc_seal.inner_loop.job import Attempt, Candidate, Examination, Result, TrainingRecord
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


def rollout(sample: int = 0, **changes: Any) -> Rollout:
    """A roll-out of TASK that went well, without a result."""
    values: dict[str, Any] = {
        "run": "", "round": 0, "task": TASK.id, "sample": sample, "seed": 0, "completion": COMPLETION,
        "self_edit": SELF_EDIT, "status": Status.OK, "message": "", "writing_s": 8.0, "examination": None,
        "result": None, "reward": None, "score": None, "model": "smollm2", "versions": {"arc-seal": "0.1.0"},
        "git_commit": None, "finished_at": None,
    }  # fmt: skip
    return Rollout(**{**values, **changes})


def solved(*attempts: Attempt, reward: int | None = 1, seed: int = 0, status: Status = Status.OK) -> Solved:
    """What came of solving TASK with one self-edit."""
    result = Result(
        attempts=(attempts,),
        candidates=(Candidate(0, "rotate 1", RIGHT.grid, -0.01), Candidate(0, "flip", None, -2.0)),
        training=TrainingRecord(120, 1, 60, 30_000, 2_000, 0.04, (1.5, 0.75, 0.03125)),
        seconds={"train": 60.5, "predict": 4.25},
    )
    ok = status is Status.OK
    made = rollout(
        seed=seed, self_edit=SELF_EDIT if ok else None, status=status, message="" if ok else "why",
        result=result if ok else None, reward=reward,
    )  # fmt: skip
    return Solved(
        task_id="5582e5ca", seed=seed, rollouts=(made,), attempts=(attempts,), reward=reward,
        score=None if reward is None else float(reward), model="smollm2", versions={"arc-seal": "0.1.0"},
        seconds={"load": 2.5, "write": 8.0, "train": 60.5, "predict": 4.25},
    )  # fmt: skip


def without_times(solved: Solved) -> Solved:
    """The result without its times, which alone differ between two runs with one seed."""
    rollouts = []
    for rollout in solved.rollouts:
        examination = rollout.examination and replace(rollout.examination, seconds={})
        result = rollout.result and replace(rollout.result, seconds={})
        untimed = {"writing_s": 0.0, "examination": examination, "result": result, "finished_at": None}
        rollouts.append(rollout.model_copy(update=untimed))
    return solved.model_copy(update={"rollouts": tuple(rollouts), "seconds": {}})


def later(one: Solved) -> Solved:
    """The same run on a slower machine."""
    rollouts = []
    for each in one.rollouts:
        result = each.result and replace(each.result, seconds={"train": 1e3})
        examination = Examination(-1.0, 2, 900, {"train": 1e3}) if each.examination else None
        times = {"writing_s": 9.0, "finished_at": "2025-01-01T00:00:00.000+00:00"}
        rollouts.append(each.model_copy(update={**times, "result": result, "examination": examination}))
    return one.model_copy(update={"rollouts": tuple(rollouts), "seconds": {"load": 9.0}})
