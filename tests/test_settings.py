"""What the configuration says to the solver and the outer loop."""

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
    DataSettings,
    EvaluateConfig,
    SolveConfig,
    TrainConfig,
    compose,
    read_config,
)
from arc_seal.errors import InputError
from arc_seal.inner_loop.job import FinetuneSettings
from arc_seal.outer_loop.author import Author, RolloutSettings
from arc_seal.outer_loop.evaluate import check_apart
from arc_seal.self_edit.paper import PaperSchema
from arc_seal.self_edit.schema import SelfEditSchema

EDIT = (
    '{"tools":[],"training":{"loss_on":"outputs","learning_rate":0.001,"epochs":1,"batch_size":1,"lora_rank":8,'
    '"max_examples":16}}'
)


def composed(folder: Path, command: str, *argv: str) -> Composed:
    (job,) = compose(command, rewrite([f"hydra.run.dir={folder}", *argv]).overrides, sweep=False)
    return job


def solving(folder: Path, *argv: str) -> SolveConfig:
    return read_config(composed(folder, "solve", "a.json", "model=smollm2", *argv).values, SolveConfig)


def test_the_defaults_of_solve_reach_the_solver(tmp_path: Path) -> None:
    settings = solving(tmp_path)
    assert (settings.samples, settings.select, settings.margin, settings.deadline_s) == (1, "all", 0.02, None)
    assert settings.author == Author("policy", 0)
    assert (settings.model_name, settings.folds, settings.max_resamples) == ("smollm2", 2, 3)
    schema = settings.edit_schema
    assert isinstance(schema, SelfEditSchema)
    assert schema.canonical(schema.parse(settings.edit_example)) == settings.edit_example
    assert Path(settings.toolbox_folders[0], "rotate.py").is_file()


def test_settings_of_solve_reach_the_solver(tmp_path: Path) -> None:
    settings = solving(
        tmp_path, "samples=4", "select=held_out", "margin=0.1", "deadline_s=60", "policy=mine/round-1", "seed=5",
        "temperature=0.5", "self_edit=paper", "folds=3", "ttt.token_budget=7", "decode.views=3",
    )  # fmt: skip
    assert (settings.samples, settings.select) == (4, "held_out")
    assert (settings.margin, settings.deadline_s) == (0.1, 60.0)
    assert settings.author == Author("policy", 5, policy=str(Path("mine/round-1").absolute()))  # for workers elsewhere
    assert (settings.temperature, settings.folds) == (0.5, 3)
    assert isinstance(settings.edit_schema, PaperSchema)
    assert (settings.ttt.token_budget, settings.decode.views) == (7, 3)


def test_who_writes_is_decided_by_what_is_given(tmp_path: Path) -> None:
    settings, by_hand = solving(tmp_path), solving(tmp_path, f"self_edit.json={EDIT}")
    in_context = solving(tmp_path, f"self_edit.json={EDIT}", "train=false")
    assert [each.author.kind for each in (settings, by_hand, in_context)] == ["policy", "hand", "none"]
    assert by_hand.author.by_hand == (by_hand.edit_schema.parse(EDIT),)
    with pytest.raises(InputError, match=r"^policy: expected self_edit=default, .*, found a self-edit given by hand$"):
        solving(tmp_path, f"self_edit.json={EDIT}", "policy=mine").author  # noqa: B018


def test_a_self_edit_by_hand_may_be_in_the_default_form(tmp_path: Path) -> None:
    found = solving(tmp_path, "model=grid", f"self_edit.json={EDIT}")
    assert found.self_edit.bounds["form"] == "choices"
    assert found.author.by_hand == solving(tmp_path, "self_edit=default", f"self_edit.json={EDIT}").author.by_hand
    with pytest.raises(InputError, match=r"^self_edit\.json: expected a valid self-edit, found tools\[0\]"):
        solving(tmp_path, "model=grid", 'self_edit.json={"tools": [{"tool": "no"}], "training": {}}').author  # noqa: B018


def test_an_example_that_is_no_self_edit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^self_edit\.example: expected a valid self-edit, found"):
        solving(tmp_path, "self_edit.example='{}'").check()


def test_training_has_the_papers_settings_and_the_grid_model_its_own(tmp_path: Path) -> None:
    paper, grid = (
        read_config(composed(tmp_path, "train", *argv).values, TrainConfig)
        for argv in (("experiment=seal_arc", "model=llama-3.2-1b"), ("experiment=seal_arc",))
    )
    assert paper.restem.finetune == FinetuneSettings()
    assert (paper.restem.rounds, paper.restem.samples, paper.restem.reward) == (1, 15, "solution")
    assert grid.restem.finetune.learning_rate > FinetuneSettings().learning_rate
    assert grid.model["name"] == "grid" and grid.self_edit.by_hand is None
    assert (len(paper.data.entries(paper.data.train)), len(paper.data.entries(paper.data.held_out))) == (12, 8)


def test_evaluation_and_training_ask_the_same(tmp_path: Path) -> None:
    """Else a policy would be measured under another prompt than it was trained on."""
    training = read_config(composed(tmp_path, "train", "experiment=seal_arc").values, TrainConfig)
    measuring = read_config(composed(tmp_path, "evaluate", "experiment=seal_arc").values, EvaluateConfig)
    assert measuring.name == training.name == "seal_arc"
    assert measuring.edit_schema.json_schema() == training.edit_schema.json_schema()
    assert measuring.edit_schema.menu() == training.edit_schema.menu()
    for name in RolloutSettings.model_fields:
        assert getattr(measuring, name) == getattr(training, name)
    assert measuring.data == training.data and measuring.restem == training.restem


@pytest.mark.parametrize(
    ("form", "count"), [("default", 4), ("chat", 4), ("choices", 3), ("paper", 2), ("paper_wide", 3)]
)
def test_the_candidates_for_the_fixed_self_edit_are_valid_and_no_two_equal(
    form: str, count: int, tmp_path: Path
) -> None:
    argv = ("experiment=seal_arc", f"self_edit={form}")
    config = read_config(composed(tmp_path, "evaluate", *argv).values, EvaluateConfig)
    schema = config.edit_schema
    edits = [schema.canonical(schema.parse(candidate)) for candidate in config.self_edit.candidates]
    assert len(set(edits)) == len(edits) == count


def data(limit: int | None = None, seed: int = 0) -> DataSettings:
    return DataSettings(train=(), held_out=(), limit=limit, seed=seed)


def test_tasks_are_limited_by_chance_and_keep_their_order() -> None:
    every = [task.id for task, _ in data().entries(["seal/training"])]
    assert len(every) == 12
    draws = [[task.id for task, _ in data(4, seed).entries(["seal/training"])] for seed in range(9)]
    assert all(len(draw) == 4 and draw == [name for name in every if name in draw] for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 5
    assert draws[3] == [task.id for task, _ in data(4, 3).entries(["seal/training"])]
    assert len(data(99).entries(["seal/training"])) == 12


def test_no_task_at_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"^data: expected at least one task, found none$"):
        data().entries([])


def test_what_is_measured_on_is_apart_from_what_was_trained_on() -> None:
    check_apart(data().entries(["seal/training"]), data().entries(["seal/held_out"]), "data.train")
    training = data().entries(["arcagi1/25ff71a9"])
    with pytest.raises(InputError, match=r"data\.held_out: 25ff71a9: expected .*, found it is data\.train/25ff71a9"):
        check_apart(training, data().entries(["seal/held_out", "arcagi1/25ff71a9"]), "data.train")
    (task, solution), turned = training[0], rotate_task(training[0])
    assert turned[0].demos != task.demos and solution is not None
    with pytest.raises(InputError, match=r"data\.held_out: other: .*it shares a pair with data\.train/25ff71a9"):
        check_apart(training, [turned], "data.train")


def test_the_tasks_of_the_experiment_on_choosing_are_apart_from_one_another_and_from_what_is_measured_on(
    tmp_path: Path,
) -> None:
    chosen = read_config(composed(tmp_path, "train", "experiment=sixty_tasks").values, TrainConfig).data
    training, held_out = (data().entries(specs) for specs in (chosen.train, chosen.held_out))
    assert (len({task.id for task, _ in training}), len({task.id for task, _ in held_out})) == (60, 24)
    check_apart(training, held_out, "data.train")
    known = {task.id for task, _ in (*pretraining_tasks(), *load_tasks("policy")) if context_tokens(task) <= 500}
    assert known >= {task.id for task, _ in (*training, *held_out)}


def test_the_tasks_on_which_self_edits_differ_are_apart_and_short_and_outside_every_evaluation_set(
    tmp_path: Path,
) -> None:
    chosen = read_config(composed(tmp_path, "train", "experiment=differing_edits").values, TrainConfig).data
    training, held_out = (data().entries(specs) for specs in (chosen.train, chosen.held_out))
    assert (len({task.id for task, _ in training}), len({task.id for task, _ in held_out})) == (20, 20)
    check_apart(training, held_out, "data.train")
    unseen = load_tasks("arcagi1/dev", "seal/training", "policy")
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
