"""What the policy is asked, and what it is not shown."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from pytest import approx

from arc_seal.arc.grid import SYMMETRIES, Grid, apply
from arc_seal.arc.task import Demonstration, Task
from arc_seal.inner_loop.job import FinetuneJob, FinetuneSettings, Progress, RewardedEdit, WriteJob
from arc_seal.inner_loop.lora import with_fresh_adapter
from arc_seal.inner_loop.policy import MAX_PROMPT_TOKENS, difficulty, finetune, self_edit_prompt, write
from arc_seal.models.prompt import Prompt, Sampling
from arc_seal.models.scripted import ScriptedModel
from arc_seal.self_edit.edit import canonical
from arc_seal.self_edit.paper import ORACLE, PaperBounds, PaperSchema, compiled
from arc_seal.self_edit.schema import Bounds, ChoiceEdit, ChoiceSchema, SelfEditSchema
from tests.inner_loop.builders import copying_task, examples_of, ignore, learn
from tests.models.builders import MODELS, SMALL, MakeModel, grid_model
from tests.self_edit.builders import TOOLBOX, edit, random_task
from tests.self_edit.test_choices import WIDE

GOLDEN = Path(__file__).parent / "golden" / "policy_prompt.txt"
SCHEMA = SelfEditSchema(TOOLBOX, Bounds())
EXAMPLE = SCHEMA.canonical(edit())


def rendered(prompt: Prompt) -> str:
    """Who speaks, then what is said."""
    return "\n".join(f"[{turn.role}]\n{''.join(map(str, turn.content))}" for turn in prompt.turns) + "\n"


def asked(task: Task, count: int = 1, menu: str = SCHEMA.menu()) -> tuple[ScriptedModel, list[Progress]]:
    """A model that was asked for self-edits, and what was reported."""
    model, seen = ScriptedModel(["{}"]), list[Progress]()
    sampling = Sampling(count, 1.0, seed=0, max_tokens=9)
    write(WriteJob(task, menu, EXAMPLE, SCHEMA.json_schema(), sampling), model, seen.append)
    return model, seen


def test_prompt_is_as_it_was() -> None:
    """Set UPDATE_GOLDEN=1 to write the file anew, then read the difference."""
    text = rendered(self_edit_prompt(SMALL, SCHEMA.menu(), EXAMPLE))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, "utf-8", newline="\n")
    assert text == GOLDEN.read_text("utf-8")


def test_queries_are_not_shown() -> None:
    shown = [part for turn in self_edit_prompt(SMALL, "", "").turns for part in turn.content if isinstance(part, Grid)]
    assert shown == [grid for demo in SMALL.demos for grid in (demo.input, demo.output)]
    other = Task(SMALL.id, SMALL.demos, (Grid.from_rows([[9]]), Grid.from_rows([[8]])))
    assert self_edit_prompt(other, "menu", EXAMPLE) == self_edit_prompt(SMALL, "menu", EXAMPLE)


def test_nothing_said_is_a_target() -> None:
    prompt = self_edit_prompt(SMALL, SCHEMA.menu(), EXAMPLE)
    assert not ScriptedModel().codec.encode(prompt).target.any()


def test_job_asks_for_the_whole_prompt_and_reports() -> None:
    model, seen = asked(SMALL, count=2)
    assert model.prompts == [self_edit_prompt(SMALL, SCHEMA.menu(), EXAMPLE)]
    assert seen == [Progress("write", 1, 9)]


@pytest.mark.parametrize(("side", "kept"), [(10, 6), (20, 3), (30, 1)])
def test_demonstrations_are_left_out_from_the_end_until_the_prompt_fits(side: int, kept: int) -> None:
    task = random_task(1, demos=6, sides=(side,))
    (prompt,) = asked(task)[0].prompts
    assert prompt == self_edit_prompt(task.with_demos(task.demos[:kept]), SCHEMA.menu(), EXAMPLE)
    codec = ScriptedModel().codec
    assert len(codec.encode(prompt).ids) <= MAX_PROMPT_TOKENS
    if kept < 6:
        more = self_edit_prompt(task.with_demos(task.demos[: kept + 1]), SCHEMA.menu(), EXAMPLE)
        assert len(codec.encode(more).ids) > MAX_PROMPT_TOKENS


def test_the_first_demonstration_stays_however_long() -> None:
    huge = random_task(1, demos=1, sides=(30,)).demos[0]
    task = Task("huge", (Demonstration(huge.input, huge.output),) * 3, (huge.input,))
    (prompt,) = asked(task, menu="menu " * 1000)[0].prompts
    assert [part for part in prompt.turns[0].content if isinstance(part, Grid)] == [huge.input, huge.output]


@pytest.mark.parametrize("make", MODELS)
def test_a_policy_learns_what_to_choose(make: MakeModel, tmp_path: Path) -> None:
    """What the grammar forces carries no loss, and the whole text comes out all the same."""
    model, schema = make(0), PaperSchema(PaperBounds())
    learnt = RewardedEdit(SMALL, schema.canonical(compiled(ORACLE)))
    settings = FinetuneSettings(targets="choices", learning_rate=0.02, epochs=30, variants=2, batch_size=2)
    job = FinetuneJob((learnt,), "", "", schema.json_schema(), settings, 0, str(tmp_path / "policy"))
    record = finetune(job, model, ignore)
    assert 30 * 2 * 7 <= record.targets < 30 * 2 * 20 and record.losses[-1] < 0.1
    wanted = WriteJob(SMALL, "", "", schema.json_schema(), Sampling(2, 0.0, 0, 400), job.folder)
    assert [each.text for each in write(wanted, model, ignore)] == [learnt.self_edit] * 2
    assert write(replace(wanted, policy=None), model, ignore)[0].text != learnt.self_edit


def test_every_token_of_a_self_edit_is_a_target_where_that_is_wanted(tmp_path: Path) -> None:
    model, text = ScriptedModel(), '{"tools":[]}'
    settings = FinetuneSettings(targets="text", epochs=1)
    job = FinetuneJob((RewardedEdit(SMALL, text),), "", "", SCHEMA.json_schema(), settings, 0, str(tmp_path / "policy"))
    assert finetune(job, model, ignore).targets == len(text) + 1  # and the end marker


def test_a_task_looks_easier_the_better_its_demonstrations_are_known() -> None:
    model, task = grid_model(0), copying_task((1, 2, 3, 4))
    before = difficulty(task, model)
    turned = [task.map_grids(lambda grid, way=way: Grid.from_array(apply(grid.array, way))) for way in SYMMETRIES]
    with with_fresh_adapter(model, 8, 16.0, seed=0):
        learn(model, examples_of(model, turned), training={"epochs": 20, "learning_rate": 0.02})
        after = difficulty(task, model)
    assert 0 <= after < before <= 9
    assert before == difficulty(task, model)


def test_how_hard_a_task_looks_is_said_of_its_demonstrations_alone() -> None:
    model, task = grid_model(0), copying_task((1, 2, 3, 4))
    other = Task(task.id, task.demos, (Grid.from_rows([[4] * 30]),))
    single = task.with_demos(task.demos[:1])
    assert difficulty(task, model) == difficulty(other, model)
    assert 0 <= difficulty(single, model) <= 9  # looked at behind itself


@pytest.mark.parametrize("make", MODELS)
def test_the_policy_is_told_how_hard_a_task_looks_to_the_model_without_it(make: MakeModel, tmp_path: Path) -> None:
    model, schema = make(0), PaperSchema(PaperBounds())
    level, learnt = difficulty(SMALL, model), RewardedEdit(SMALL, schema.canonical(compiled(ORACLE)))
    settings = FinetuneSettings(targets="choices", learning_rate=0.02, epochs=2, variants=2, batch_size=2)
    job = FinetuneJob((learnt,), "", "", schema.json_schema(), settings, 0, str(tmp_path / "policy"), difficulty=True)
    finetune(job, model, ignore)
    plain = WriteJob(SMALL, "", "", schema.json_schema(), Sampling(1, 0.0, 0, 400), job.folder)
    (told,), (untold,) = (write(replace(plain, difficulty=each), model, ignore) for each in (True, False))
    assert (told.difficulty, untold.difficulty) == (level, None)
    *_, words, bar = self_edit_prompt(SMALL, "", "", level).turns[0].content
    assert f"{level} of 9" in str(words) and bar == Grid.from_rows([[5] * level + [0] * (9 - level)])


@pytest.mark.parametrize("make", MODELS)
def test_what_was_chosen_comes_with_its_probabilities(make: MakeModel) -> None:
    model, schema = make(0), ChoiceSchema(WIDE)
    asked = WriteJob(SMALL, "", "", schema.json_schema(), Sampling(3, 1.0, 0, 400))
    for each in write(asked, model, ignore):
        found, chosen = schema.alternatives(each.text, each.choices), json.loads(each.text)
        assert list(found) == list(ChoiceEdit.model_fields)
        for name, chances in found.items():
            assert canonical(chosen[name]) in chances and 0 < sum(chances.values()) <= 1 + 1e-6
        assert set(found["symmetries"]) == {"true", "false"} and sum(found["symmetries"].values()) == approx(1.0)
        assert set(found["tokens"]) == {"8000", "30000", "60000", "120000"}
