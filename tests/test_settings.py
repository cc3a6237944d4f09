"""What the configuration says to the solver and the outer loop."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.grid import Grid
from arc_seal.arc.splits import context_tokens, pretraining_tasks
from arc_seal.arc.task import Demonstration, Entry, Solution, Task
from arc_seal.cli import rewrite
from arc_seal.config import (
    Composed,
    DataConfig,
    EvaluateConfig,
    FinetuneSettings,
    RestemConfig,
    SolveConfig,
    TrainConfig,
    check_apart,
    entries,
    launch,
    read_config,
    restem_settings,
    rollout_settings,
    solve_settings,
)
from arc_seal.errors import InputError
from arc_seal.inner_loop.job import FinetuneSettings
from arc_seal.outer_loop.restem import RestemSettings
from arc_seal.self_edit.schema import PaperSchema, SelfEditSchema

EDIT = (
    '{"tools":[],"training":{"loss_on":"outputs","learning_rate":0.001,"epochs":1,"batch_size":1,"lora_rank":8,'
    '"max_examples":16}}'
)


def composed(folder: Path, command: str, *argv: str) -> Composed:
    jobs: list[Composed] = []
    launch(command, rewrite([f"hydra.run.dir={folder}", *argv]), jobs.append)
    return jobs[0]


def solving(folder: Path, *argv: str) -> SolveConfig:
    return read_config(composed(folder, "solve", "a.json", "model=smollm2", *argv).values, SolveConfig)


def test_the_defaults_of_solve_reach_the_solver(tmp_path: Path) -> None:
    settings = solve_settings(solving(tmp_path))
    rollouts = settings.rollouts
    assert (settings.samples, settings.select, settings.selection.margin) == (1, "all", 0.02)
    assert settings.selection.deadline_s is None
    assert (rollouts.author, rollouts.by_hand, rollouts.policy, rollouts.adapt_from) == ("policy", None, None, None)
    assert (rollouts.model, rollouts.seed, rollouts.folds, rollouts.max_resamples) == ("smollm2", 0, 2, 3)
    assert isinstance(rollouts.schema, SelfEditSchema)
    assert rollouts.schema.canonical(rollouts.schema.parse(rollouts.example)) == rollouts.example
    assert Path(rollouts.toolbox[0], "rotate.py").is_file()


def test_settings_of_solve_reach_the_solver(tmp_path: Path) -> None:
    config = solving(
        tmp_path, "samples=4", "select=held_out", "margin=0.1", "deadline_s=60", "policy=mine/round-1", "seed=5",
        "temperature=0.5", "self_edit=paper", "folds=3", "ttt.token_budget=7", "decode.views=3",
    )  # fmt: skip
    settings = solve_settings(config)
    rollouts = settings.rollouts
    assert (settings.samples, settings.select) == (4, "held_out")
    assert (settings.selection.margin, settings.selection.deadline_s) == (0.1, 60.0)
    assert rollouts.policy == str(Path("mine/round-1").absolute())  # for workers elsewhere
    assert (rollouts.seed, rollouts.temperature, rollouts.folds) == (5, 0.5, 3)
    assert isinstance(rollouts.schema, PaperSchema)
    assert (rollouts.training.token_budget, rollouts.decode.views) == (7, 3)


def test_who_writes_is_decided_by_what_is_given(tmp_path: Path) -> None:
    config = solving(tmp_path)
    by_hand = config.model_copy(update={"self_edit": config.self_edit.model_copy(update={"written": EDIT})})
    in_context = by_hand.model_copy(update={"train": False})
    authors = [solve_settings(each).rollouts.author for each in (config, by_hand, in_context)]
    assert authors == ["policy", "hand", "none"]
    assert solve_settings(by_hand).rollouts.by_hand == EDIT
    with pytest.raises(InputError, match=r"^policy: expected self_edit=default, .*, found a self-edit given by hand$"):
        solve_settings(by_hand.model_copy(update={"policy": "mine"}))
    with pytest.raises(InputError, match=r"^self_edit\.json: expected null, for the policy writes its own"):
        rollout_settings(by_hand, 0, "policy")


def test_an_example_that_is_no_self_edit_is_refused(tmp_path: Path) -> None:
    config = solving(tmp_path)
    broken = config.model_copy(update={"self_edit": config.self_edit.model_copy(update={"example": "{}"})})
    with pytest.raises(InputError, match=r"^configuration: self_edit\.example: expected a valid self-edit, found"):
        solve_settings(broken)


def test_training_has_the_papers_settings_and_the_grid_model_its_own(tmp_path: Path) -> None:
    paper, grid = (
        read_config(composed(tmp_path, "train", *argv).values, TrainConfig)
        for argv in (("experiment=seal_arc", "model=llama-3.2-1b"), ("experiment=seal_arc",))
    )
    assert restem_settings(paper.restem).finetune == FinetuneSettings()
    assert (paper.restem.rounds, paper.restem.samples, paper.restem.reward) == (1, 15, "solution")
    assert restem_settings(grid.restem).finetune.learning_rate > FinetuneSettings().learning_rate
    assert grid.model["name"] == "grid" and grid.self_edit.written is None
    assert rollout_settings(grid, grid.seed, "policy").author == "policy"
    assert (len(entries(paper.data.train, paper.data)), len(entries(paper.data.held_out, paper.data))) == (12, 8)


def test_evaluation_and_training_ask_the_same(tmp_path: Path) -> None:
    """Else a policy would be measured under another prompt than it was trained on."""
    training = read_config(composed(tmp_path, "train", "experiment=seal_arc").values, TrainConfig)
    measuring = read_config(composed(tmp_path, "evaluate", "experiment=seal_arc").values, EvaluateConfig)
    assert measuring.name == training.name == "seal_arc"
    measured, trained = (rollout_settings(config, 1, "policy") for config in (measuring, training))
    assert measured.schema.json_schema() == trained.schema.json_schema()
    assert measured.schema.menu() == trained.schema.menu()
    assert replace(measured, schema=trained.schema) == trained
    assert measuring.data == training.data and measuring.restem == training.restem


@pytest.mark.parametrize(("form", "count"), [("default", 4), ("chat", 4), ("paper", 2), ("paper_wide", 3)])
def test_the_candidates_for_the_fixed_self_edit_are_valid_and_no_two_equal(
    form: str, count: int, tmp_path: Path
) -> None:
    argv = ("experiment=seal_arc", f"self_edit={form}")
    config = read_config(composed(tmp_path, "evaluate", *argv).values, EvaluateConfig)
    schema = rollout_settings(config, 0, "policy").schema
    edits = [schema.canonical(schema.parse(candidate)) for candidate in config.self_edit.candidates]
    assert len(set(edits)) == len(edits) == count


def test_every_setting_of_the_contract_can_be_configured() -> None:
    assert set(RestemConfig.model_fields) - {"reuse"} == {field.name for field in fields(RestemSettings)}
    assert set(FinetuneSettings.model_fields) - {"timeout_s"} == {field.name for field in fields(FinetuneSettings)}


def data(limit: int | None = None, seed: int = 0) -> DataConfig:
    return DataConfig(train=(), held_out=(), limit=limit, seed=seed)


def test_tasks_are_limited_by_chance_and_keep_their_order() -> None:
    every = [task.id for task, _ in entries(["seal/training"], data())]
    assert len(every) == 12
    draws = [[task.id for task, _ in entries(["seal/training"], data(4, seed))] for seed in range(9)]
    assert all(len(draw) == 4 and draw == [name for name in every if name in draw] for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 5
    assert draws[3] == [task.id for task, _ in entries(["seal/training"], data(4, 3))]
    assert len(entries(["seal/training"], data(99))) == 12


def test_no_task_at_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"^data: expected at least one task, found none$"):
        entries([], data())


def test_what_is_measured_on_is_apart_from_what_was_trained_on() -> None:
    check_apart(entries(["seal/training"], data()), entries(["seal/held_out"], data()))
    training = entries(["arcagi1/25ff71a9"], data())
    with pytest.raises(InputError, match=r"data\.held_out: 25ff71a9: expected .*, found it is data\.train/25ff71a9"):
        check_apart(training, entries(["seal/held_out", "arcagi1/25ff71a9"], data()))
    (task, solution), turned = training[0], rotate_task(training[0])
    assert turned[0].demos != task.demos and solution is not None
    with pytest.raises(InputError, match=r"data\.held_out: other: .*it shares a pair with data\.train/25ff71a9"):
        check_apart(training, [turned])


def test_the_tasks_of_the_experiment_on_choosing_are_apart_from_one_another_and_from_what_is_measured_on(
    tmp_path: Path,
) -> None:
    chosen = read_config(composed(tmp_path, "train", "experiment=choice").values, TrainConfig).data
    training, held_out = (entries(specs, data()) for specs in (chosen.train, chosen.held_out))
    assert (len({task.id for task, _ in training}), len({task.id for task, _ in held_out})) == (60, 24)
    check_apart(training, held_out)
    known = {task.id for task, _ in pretraining_tasks() if context_tokens(task) <= 500}
    assert known >= {task.id for task, _ in (*training, *held_out)}


def test_the_tasks_with_room_are_apart_and_short_and_outside_every_evaluation_set(tmp_path: Path) -> None:
    chosen = read_config(composed(tmp_path, "train", "experiment=room").values, TrainConfig).data
    training, held_out = (entries(specs, data()) for specs in (chosen.train, chosen.held_out))
    assert (len({task.id for task, _ in training}), len({task.id for task, _ in held_out})) == (20, 20)
    check_apart(training, held_out)
    unseen = load_tasks("arcagi1/dev", "seal/training")
    known = {task.id for task, _ in (*pretraining_tasks(), *unseen) if context_tokens(task) <= 500}
    assert known >= {task.id for task, _ in (*training, *held_out)}
    assert not {task.id for task, _ in held_out} & {task.id for task, _ in load_tasks("seal/training")}


def rotate_task(entry: Entry) -> Entry:
    """The same task under another id, a quarter turn counter-clockwise."""
    task, solution = entry

    def turned(grid: Grid) -> Grid:
        return Grid.from_array(np.rot90(grid.array))

    demos = tuple(Demonstration(turned(demo.input), turned(demo.output)) for demo in task.demos)
    outputs = tuple(map(turned, solution.outputs)) if solution else ()
    return Task("other", demos, tuple(map(turned, task.queries))), Solution("other", outputs)
