"""One job from self-edit to attempts: fixed by its seed, its failures recorded, the model left as it was."""

import weakref
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import Diverged, InvalidSelfEdit, OverBudget, Status
from arc_seal.inner_loop.adapt import adapt, training_set
from arc_seal.inner_loop.job import DecodeSettings, Progress, Result, TrainingSettings, vote
from arc_seal.models.model import Model
from arc_seal.models.prompt import demonstrations_prompt
from arc_seal.models.scripted import ScriptedSource
from arc_seal.models.weights import GridSource, ModelSource
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.worker import InlineExecutor, Limits, ProcessSettings
from arc_seal.self_edit.edit import SelfEdit, ToolCall
from tests.inner_loop.builders import TURNS, copying_task, ignore, job
from tests.models.builders import MODELS, MakeModel, grid_model, grid_network
from tests.self_edit.builders import TOOLBOX, edit, random_task

TASK = copying_task()
TIMEOUT_S = 120.0


@pytest.fixture(params=MODELS)
def make(request: pytest.FixtureRequest) -> MakeModel:
    make: MakeModel = request.param
    return make


@pytest.fixture
def model(make: MakeModel) -> Model:
    return make(0)


@pytest.fixture
def source(make: MakeModel, tmp_path: Path) -> ModelSource:
    """Where a worker finds the same model."""
    if make is not grid_model:
        return ScriptedSource()
    grid_network().save_pretrained(tmp_path)
    return GridSource("grid", str(tmp_path), device="cpu")


def untimed(result: Result | None) -> Result:
    assert result is not None
    return replace(result, seconds={})


def weights(model: Model) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.network.state_dict().items()}


def test_seed_fixes_everything_but_the_time(make: MakeModel, model: Model) -> None:
    first = adapt(job(TASK), model, ignore)
    assert untimed(adapt(job(TASK), model, ignore)) == untimed(first)
    assert untimed(adapt(job(TASK), make(0), ignore)) == untimed(first)
    assert untimed(adapt(job(TASK, seed=1), model, ignore)) != untimed(first)
    assert first.seconds.keys() == {"train", "predict"}


def test_worker_process_comes_to_the_same(model: Model, source: ModelSource) -> None:
    # As many threads as here: sums of floating-point numbers depend on how they are split.
    executor = ProcessExecutor(source, ProcessSettings(timeout_s=TIMEOUT_S, threads=torch.get_num_threads()))
    try:
        outcome = executor.run(job(TASK), ignore)
    finally:
        executor.close()
    assert outcome.status is Status.OK, outcome.message
    assert untimed(outcome.result) == untimed(adapt(job(TASK), model, ignore))


def test_result_is_complete(model: Model) -> None:
    task = random_task(3, queries=2)
    seen: list[Progress] = []
    result = adapt(job(task, TURNS, decode=DecodeSettings(views=3)), model, seen.append)
    assert [candidate.query for candidate in result.candidates] == [0, 0, 0, 1, 1, 1]
    assert result.candidates[0].view == result.candidates[3].view == "as given"
    assert any("rotate" in candidate.view for candidate in result.candidates)
    assert result.attempts == vote(result.candidates, 2)
    assert result.training is not None
    assert (result.training.examples, result.training.updates) == (6, len(result.training.losses))
    assert {progress.stage for progress in seen} == {"train", "predict"}


@pytest.mark.parametrize("score", [False, True])
def test_what_was_read_for_a_query_is_let_go_before_the_next(model: Model, score: bool) -> None:
    """Keys and values of all views are most of the memory that predicting takes."""
    caches: list[weakref.ref[Any]] = []

    def note(decoder: torch.nn.Module, inputs: object, given: dict[str, Any], output: Any) -> None:
        if given["use_cache"] and given["past_key_values"] is None:
            assert [cache for cache in caches if cache() is not None] == []
            caches.append(weakref.ref(output.past_key_values))

    model.network.get_decoder().register_forward_hook(note, with_kwargs=True)
    adapt(job(random_task(3, queries=3), None, decode=DecodeSettings(views=3, score=score)), model, ignore)
    assert len(caches) == 3
    assert [cache for cache in caches if cache() is not None] == []


def test_views_are_predicted_back_in_the_tasks_own_frame(model: Model) -> None:
    """Every output is a 1x3 row, which a quarter turn shows as a column: what comes back is a row again."""
    row = Grid.from_rows([[1, 2, 3]])
    task = Task(
        "row", tuple(Demonstration(Grid.from_rows([[colour]]), row) for colour in range(4)), (Grid.from_rows([[5]]),)
    )
    quarter = edit(ToolCall.of("rotate", quarter_turns=1), learning_rate=0.02, epochs=50, batch_size=2, max_examples=8)
    result = adapt(job(task, quarter, decode=DecodeSettings(views=2)), model, ignore)
    assert [candidate.view.partition(",")[0] for candidate in result.candidates] == [
        "as given",
        "rotate(quarter_turns=1)",
    ]
    assert [candidate.grid for candidate in result.candidates] == [row, row]
    assert [(attempt.grid, attempt.votes) for attempt in result.attempts[0]] == [(row, 2)]


def test_in_context_only_trains_nothing(model: Model) -> None:
    before, seen = weights(model), list[Progress]()
    result = adapt(job(TASK, None), model, seen.append)
    assert result.training is None
    assert result.seconds.keys() == {"predict"}
    assert {progress.stage for progress in seen} == {"predict"}
    assert len(result.candidates) == 3
    assert weights(model) == before


@pytest.mark.parametrize(
    ("changes", "failure", "message"),
    [
        ({"max_training_tokens": 100}, OverBudget, r"^\d+ training tokens planned, 100 allowed$"),
        ({"self_edit": edit(learning_rate=1e30, epochs=3)}, Diverged, "^the loss became"),
        ({"self_edit": edit(learning_rate=1e30, max_examples=1)}, Diverged, "^the network's outputs are not finite$"),
        ({"self_edit": edit(ToolCall.of("spin"))}, InvalidSelfEdit, "found spin$"),
        (
            {"training": TrainingSettings(max_tokens=10)},
            OverBudget,
            "^no training example fits into 10 tokens$",
        ),
    ],
)
def test_failure_has_a_type_and_leaves_the_model_as_it_was(
    changes: dict[str, Any], failure: type[Exception], message: str, model: Model
) -> None:
    before = weights(model)
    with pytest.raises(failure, match=message):
        adapt(replace(job(TASK), **changes), model, ignore)
    assert weights(model) == before
    adapt(job(TASK), model, ignore)


def test_deadline_leaves_the_model_as_it_was(source: ModelSource) -> None:
    executor = InlineExecutor(source, Limits(timeout_s=0.2))
    before = weights(executor.load())
    outcome = executor.run(job(TASK, edit(epochs=10_000), max_training_tokens=10**9), ignore)
    assert (outcome.status, outcome.message) == (Status.TIMEOUT, "not done within 0.2 s")
    assert weights(executor.load()) == before


def test_long_examples_lose_their_first_demonstrations(model: Model) -> None:
    task = copying_task((5, 5, 1, 1))
    lengths = {shown: len(model.codec.encode(demonstrations_prompt(task.demos[-shown:])).ids) for shown in (2, 3, 4)}
    plain = edit(max_examples=1)  # the task as given, its last demonstration last but for one turn
    whole = adapt(job(task, plain), model, ignore).training
    assert whole is not None and whole.tokens == lengths[4]
    short = job(task, plain, training=TrainingSettings(max_tokens=lengths[4] - 1))
    cut = adapt(short, model, ignore).training
    assert cut is not None and (cut.examples, cut.skipped) == (1, 0)
    assert lengths[2] < cut.tokens < lengths[4]


def test_the_budget_cuts_the_training_set(model: Model) -> None:
    task, turns = copying_task(), edit(ToolCall.of("rotate", quarter_turns="any"), epochs=2, max_examples=6)
    whole = adapt(job(task, turns), model, ignore).training
    assert whole is not None and whole.examples == 6
    for budget in (1, whole.tokens // 2, whole.tokens - 1, whole.tokens):
        cut = adapt(job(task, turns, training=TrainingSettings(token_budget=budget)), model, ignore).training
        assert cut is not None and cut.examples + cut.skipped == whole.examples + whole.skipped
        assert cut.examples == 1 or cut.tokens <= budget
        assert (cut.examples == 6) is (budget >= whole.tokens)
        if 1 < cut.examples < 6:
            assert cut.tokens > budget / 2


def test_of_the_budget_and_the_tokens_that_the_self_edit_wants_the_fewer_count(model: Model) -> None:
    task, turn = copying_task(), ToolCall.of("rotate", quarter_turns="any")
    plain, wants = edit(turn, epochs=2, max_examples=6), edit(turn, epochs=2, max_examples=6, tokens=200)

    def trained(self_edit: SelfEdit, budget: int | None) -> Result:
        return untimed(adapt(job(task, self_edit, training=TrainingSettings(token_budget=budget)), model, ignore))

    few = trained(plain, 200)
    assert few.training is not None and 1 < few.training.examples < 6 and few.training.tokens <= 200
    assert trained(wants, None) == trained(wants, 10**6) == few
    assert trained(wants, 100) == trained(plain, 100) != few


def test_contexts_keep_their_last_demonstrations(model: Model) -> None:
    task, order = copying_task((1, 2, 3, 4)), ToolCall.of("shuffle_demos")
    examples, wants = 64, edit(order, max_examples=64, demonstrations=2)
    whole = contexts_of(model, task, edit(order, max_examples=examples))
    short = contexts_of(model, task, wants)
    assert ({len(demos) for demos in whole}, {len(demos) for demos in short}) == ({4}, {2})
    assert short == list(dict.fromkeys(demos[-2:] for demos in whole)) and len(short) < len(whole)
    assert contexts_of(model, task, edit(order, max_examples=examples, demonstrations=9)) == whole
    most = max(len(model.codec.encode(demonstrations_prompt(demos)).ids) for demos in whole)
    result = adapt(job(task, wants, training=TrainingSettings(max_tokens=most)), model, ignore)
    assert result.training is not None and (result.training.examples, result.training.skipped) == (len(short), 0)


def contexts_of(model: Model, task: Task, self_edit: SelfEdit) -> list[tuple[Demonstration, ...]]:
    """The demonstrations of each training context, told by their tokens."""
    found, _ = training_set(job(task), self_edit, TOOLBOX, model)
    known = {
        model.codec.encode(demonstrations_prompt(demos)).ids.tobytes(): demos
        for count in range(1, len(task.demos) + 1)
        for demos in permutations(task.demos, count)
    }
    return [known[example.ids.tobytes()] for example in found]


def test_examples_that_cannot_fit_are_counted(model: Model) -> None:
    task = copying_task((9, 9, 1, 1))
    pair = len(model.codec.encode(demonstrations_prompt(task.demos[-2:])).ids)
    result = adapt(job(task, edit(), training=TrainingSettings(max_tokens=pair)), model, ignore)
    assert result.training is not None
    assert result.training.examples + result.training.skipped == 4
    assert result.training.examples == 1
    assert len(result.candidates) == 3


def test_a_task_of_one_demonstration_trains_on_it(model: Model) -> None:
    task = copying_task((2,))
    result = adapt(job(task), model, ignore)
    assert result.training is not None
    assert result.training.examples > 1  # as given and turned
    assert result.training.targets >= 3 * result.training.examples  # two cells, a row end or not, the end
    assert len(result.candidates) > 1


def test_result_reads_back_from_json(model: Model) -> None:
    adapter = TypeAdapter(Result)
    for made in (adapt(job(TASK), model, ignore), adapt(job(TASK, None), model, ignore)):
        assert adapter.validate_json(adapter.dump_json(made)) == made


def test_a_training_goes_on_where_another_ended(make: MakeModel) -> None:
    """A step of no size leaves what was kept, and the task is predicted as before; the model is as it was."""
    model = make(0)
    before = weights(model)
    first = adapt(replace(job(TASK), keep=True), model, ignore)
    assert first.adapter is not None and first.training is not None
    assert (first.training.before, first.adapter.tokens) == (0, first.training.tokens)
    still = edit(learning_rate=1e-12, lora_rank=TURNS.training.lora_rank)
    second = adapt(replace(job(TASK, still), begin=first.adapter, keep=True), model, ignore)
    assert second.adapter is not None and second.training is not None
    assert second.training.before == first.training.tokens and second.adapter.tokens == second.training.total
    ours, theirs = load(second.adapter.weights), load(first.adapter.weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    assert any(bool(each.any()) for name, each in ours.items() if name.endswith(".B"))
    assert weights(model) == before
    assert adapt(job(TASK), model, ignore).adapter is None
