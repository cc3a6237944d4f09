"""Inner loops side by side: each comes to what it comes to alone, whatever its neighbours are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch

from arc_seal.arc.datasets import load_tasks
from arc_seal.errors import Diverged, JobFailure, OverBudget
from arc_seal.inner_loop.adapt import adapt
from arc_seal.inner_loop.job import AdaptJob, DecodeSettings, Progress, Report, Result, TrainingSettings
from arc_seal.inner_loop.lora import MergingLinear, with_fresh_adapter
from arc_seal.inner_loop.stack import Shapes, Stack, prepare
from arc_seal.inner_loop.stacked_adapters import AdapterRows, fresh_adapter
from arc_seal.models.model import Model, load
from arc_seal.models.weights import GridSource
from arc_seal.self_edit.edit import ToolCall
from tests.inner_loop.builders import copying_task, ignore, job
from tests.models.builders import MODELS, grid_model
from tests.self_edit.builders import edit

TOLERANCE = 1e-5
"""Of a loss, in nats a target token: rounding errors of a whole training."""

SHAPES = Shapes(tokens=4096, max_padding=0.25, length_bucket=1)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    model: Model = request.param(0)
    return model


def different(number: int, **training: Any) -> AdaptJob:
    """A job unlike those of other numbers: in its task, rank, rate, lengths, batches, updates and views."""
    settings = {
        "learning_rate": 0.003 * (1 + number % 4),
        "batch_size": 1 + number % 3,
        "max_examples": 4 + number,
        "lora_rank": (4, 32, 8, 16, 2)[number % 5],
        "epochs": 1 + number % 2,
        "loss_on": "all" if number % 4 == 3 else "outputs",
        **training,
    }
    heights = (2 + number % 3, 3, 4 + number % 4)[: 2 + number % 2]
    return job(
        copying_task(heights, seed=number),
        edit(ToolCall.of("rotate", quarter_turns="any"), **settings),
        seed=number,
        training=TrainingSettings(
            precision="float32",
            lora_alpha=None if number % 3 else 8.0,
            max_gradient_norm=1.0 if number % 2 else 0.1,
            warmup_share=0.2,
        ),
        decode=DecodeSettings(views=2 + number % 3, score=number % 2 == 0),
    )


def side_by_side(
    model: Model, jobs: Sequence[AdaptJob], width: int = 8, shapes: Shapes = SHAPES, reports: Mapping[int, Report] = {}
) -> list[Result | Exception]:
    """What comes of jobs in a stack of some width that others join as soon as there is room."""
    stack, done = Stack(model, width, shapes), dict[int, Result | Exception]()
    waiting = list(enumerate(jobs))
    while waiting or len(stack):
        while waiting and len(stack) < width:
            number, one = waiting.pop(0)
            try:
                stack.add(number, prepare(one, model), reports.get(number, ignore))
            except JobFailure as failure:
                done[number] = failure
        done.update(stack.advance() if len(stack) else ())
    return [done[number] for number in range(len(jobs))]


def assert_same(one: Result | Exception, other: Result) -> None:
    """Equal but for rounding errors and seconds."""
    assert isinstance(one, Result) and one.training is not None and other.training is not None
    assert one.training.losses == pytest.approx(other.training.losses, abs=TOLERANCE)
    assert replace(one.training, losses=()) == replace(other.training, losses=())
    for ours, theirs in zip(one.candidates, other.candidates, strict=True):
        assert (ours.query, ours.view, ours.grid) == (theirs.query, theirs.view, theirs.grid)
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-3)
        assert ours.score == pytest.approx(theirs.score, abs=1e-3)
    assert [each.grid for each in one.known] == [each.grid for each in other.known]
    assert [each.score for each in one.known] == pytest.approx([each.score for each in other.known], abs=1e-3)
    grids = [[[attempt.grid for attempt in query] for query in result.attempts] for result in (one, other)]
    assert grids[0] == grids[1]
    assert one.seconds.keys() == other.seconds.keys()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_neighbours_change_nothing(model: Model, count: int) -> None:
    jobs = [different(number) for number in range(count)]
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    for one, found in zip(jobs, side_by_side(model, jobs), strict=True):
        assert_same(found, adapt(one, model, ignore))
    after = model.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(isinstance(layer, MergingLinear) for layer in model.network.modules())


@pytest.mark.parametrize("shapes", [Shapes(1, 0.25, 1), Shapes(4096, 1.0, 1), Shapes(4096, 0.0, 64)])
def test_neither_does_what_is_computed_together(shapes: Shapes) -> None:
    """One job at a time; all at once, whatever the padding; in buckets of 64 tokens."""
    model, jobs = grid_model(), [different(number) for number in range(3)]
    for one, found in zip(jobs, side_by_side(model, jobs, shapes=shapes), strict=True):
        assert_same(found, adapt(one, model, ignore))


def test_a_job_that_is_done_makes_room_at_once() -> None:
    model, jobs = grid_model(), [different(number) for number in range(6)]
    for one, found in zip(jobs, side_by_side(model, jobs, width=2), strict=True):
        assert_same(found, adapt(one, model, ignore))


def test_several_queries_are_predicted_each() -> None:
    model = grid_model()
    task = copying_task()
    more = replace(different(1), task=replace(task, queries=(task.demos[0].input, *task.queries)))
    jobs = [different(0), more]
    for one, found in zip(jobs, side_by_side(model, jobs), strict=True):
        assert_same(found, adapt(one, model, ignore))


def test_adapters_are_gone_on_with_and_kept_as_alone() -> None:
    model = grid_model()
    kept = [adapt(replace(different(number), keep=True), model, ignore).adapter for number in range(3)]
    jobs = [replace(different(number), begin=kept[number], keep=number != 1, seed=9) for number in range(3)]
    for one, found in zip(jobs, side_by_side(model, jobs), strict=True):
        alone = adapt(one, model, ignore)
        assert_same(found, alone)
        assert isinstance(found, Result) and (found.adapter is None) == (alone.adapter is None) == (not one.keep)
        if found.adapter is not None and alone.adapter is not None:
            ours, theirs = (safetensors.torch.load(each.adapter.weights) for each in (found, alone))  # type: ignore[union-attr]
            assert found.adapter.tokens == alone.adapter.tokens and ours.keys() == theirs.keys()
            assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)


def test_grids_known_before_are_scored_beside_others_that_know_none() -> None:
    """Of three that ask for scores two know grids, one of them for the second query alone; another asks for none."""
    model, task = grid_model(), copying_task()
    asks = (task.queries[0], task.demos[0].output, task.demos[1].output)
    two = replace(different(4), task=replace(task, queries=(task.demos[0].input, *task.queries)), known=((), asks[:1]))
    jobs = [replace(different(0), known=(asks,)), replace(different(1), known=(asks,)), different(2), two]
    found = side_by_side(model, jobs)
    for one, made in zip(jobs, found, strict=True):
        assert_same(made, adapt(one, model, ignore))
    assert [len(each.known) for each in found if isinstance(each, Result)] == [3, 0, 0, 1]


def test_one_that_diverges_is_taken_out(model: Model) -> None:
    wild = different(1, learning_rate=1e30, epochs=3)
    found = side_by_side(model, [different(0), wild, different(2)])
    with pytest.raises(Diverged) as alone:
        adapt(wild, model, ignore)
    assert isinstance(found[1], Diverged) and str(found[1]) == str(alone.value)
    for number in (0, 2):
        assert_same(found[number], adapt(different(number), model, ignore))


def test_one_whose_last_update_goes_astray_is_taken_out(model: Model) -> None:
    """Its losses are finite, its outputs are not."""
    wild = replace(
        different(1, learning_rate=1e30, epochs=1, max_examples=1), decode=DecodeSettings(views=4, score=True)
    )
    found = side_by_side(model, [different(0), wild, different(2)])
    with pytest.raises(Diverged) as alone:
        adapt(wild, model, ignore)
    assert isinstance(found[1], Diverged) and str(found[1]) == str(alone.value)
    for number in (0, 2):
        assert_same(found[number], adapt(different(number), model, ignore))


def test_one_over_budget_never_joins() -> None:
    model, greedy = grid_model(), replace(different(1), max_training_tokens=10)
    found = side_by_side(model, [different(0), greedy])
    with pytest.raises(OverBudget) as alone:
        adapt(greedy, model, ignore)
    assert isinstance(found[1], OverBudget) and str(found[1]) == str(alone.value)
    assert_same(found[0], adapt(different(0), model, ignore))


@pytest.mark.parametrize("stage", ["train", "predict"])
def test_one_whose_report_raises_is_taken_out(stage: str) -> None:
    def stop(progress: Progress) -> None:
        if (progress.stage, progress.step) == (stage, 2):
            raise JobFailure("enough")

    model = grid_model()
    found = side_by_side(model, [different(number) for number in range(3)], reports={1: stop})
    assert isinstance(found[1], JobFailure) and str(found[1]) == "enough"
    for number in (0, 2):
        assert_same(found[number], adapt(different(number), model, ignore))


@pytest.mark.parametrize("updates", [0, 2])
def test_one_may_be_made_to_fail_at_any_time(updates: int) -> None:
    """In training, and trained, when it waits for others that predict with it."""
    model, short, long = grid_model(), different(1, epochs=1, max_examples=2), different(2)
    stack, found = Stack(model, 8, SHAPES), dict[int, Result | Exception]()
    for number, one in enumerate((short, long)):
        stack.add(number, prepare(one, model), ignore)
    for _ in range(updates):
        assert not stack.advance()
    stack.fail(0, JobFailure("enough"))
    assert [(key, str(failure)) for key, failure in stack.advance()] == [(0, "enough")]
    while len(stack):
        found.update(stack.advance())
    assert_same(found[1], adapt(long, model, ignore))


def test_each_hears_of_its_own_updates() -> None:
    model, jobs = grid_model(), [different(number) for number in range(3)]
    seen: dict[int, list[Progress]] = {number: [] for number in range(3)}
    side_by_side(model, jobs, reports={number: each.append for number, each in seen.items()})
    for number, one in enumerate(jobs):
        alone: list[Progress] = []
        adapt(one, model, alone.append)
        ours = [(each.step, each.total) for each in seen[number] if each.stage == "train"]
        assert ours == [(each.step, each.total) for each in alone if each.stage == "train"]
        assert any(each.stage == "predict" for each in seen[number])


def test_adapters_may_be_on_other_layers() -> None:
    model = grid_model()
    some = replace(
        different(1),
        training=TrainingSettings(lora_modules=r".*q_proj|.*down_proj", lora_layers=1, precision="float32"),
    )
    jobs = [some, different(2)]
    for one, found in zip(jobs, side_by_side(model, jobs), strict=True):
        assert_same(found, adapt(one, model, ignore))


def test_products_may_be_of_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a CPU is faster at it; jobs that want 32 bits beside them have them."""
    monkeypatch.setattr("arc_seal.models.model.multiplies_bfloat16", lambda device: True)
    model, jobs = grid_model(), [different(number) for number in range(3)]
    jobs[1] = replace(jobs[1], training=TrainingSettings())
    found = side_by_side(model, jobs)
    alone = adapt(jobs[1], model, ignore)
    assert isinstance(found[1], Result) and found[1].training is not None and alone.training is not None
    assert found[1].training.losses == pytest.approx(alone.training.losses, abs=0.05)
    for number in (0, 2):
        assert_same(found[number], adapt(jobs[number], model, ignore))


def test_weights_of_16_bits_have_adapters_of_32() -> None:
    model = grid_model()
    model.network.to(torch.bfloat16)
    jobs = [different(number) for number in range(3)]
    for one, found in zip(jobs, side_by_side(model, jobs), strict=True):
        alone = adapt(one, model, ignore)
        assert isinstance(found, Result) and found.training is not None and alone.training is not None
        assert found.training.losses == pytest.approx(alone.training.losses, abs=0.05)


def test_a_fresh_adapter_is_the_one_that_is_trained_alone(model: Model) -> None:
    ours = fresh_adapter(model, 4, 8.0, 3, "all-linear")
    with with_fresh_adapter(model, 4, 8.0, 3):
        theirs = {name: each for name, each in model.network.named_modules() if isinstance(each, MergingLinear)}
        assert ours.weights.keys() == theirs.keys() and ours.scale == 2.0
        for name, (down, up) in ours.weights.items():
            assert torch.equal(down, theirs[name].lora_A["default"].weight)
            assert torch.equal(up, theirs[name].lora_B["default"].weight.t())


def test_a_step_is_that_of_torch() -> None:
    """Clipping and AdamW, with a rate and a number of steps of each adapter's own."""
    model = grid_model()
    rows = AdapterRows(model.network)
    optimizers = []
    for number, (rank, rate, most) in enumerate([(2, 0.1, 1e9), (4, 0.01, 0.5)]):
        rows.add(fresh_adapter(model, rank, rank, number, "all-linear"))
        given = [torch.nn.Parameter(each.clone()) for both in rows.trained(number).weights.values() for each in both]
        optimizers.append((torch.optim.AdamW(given, lr=rate, weight_decay=0.0), given, rate, most))
        generator = torch.Generator().manual_seed(number)
        for _ in range(3):  # the first adapter has done three steps when the second joins
            for row, (optimizer, own, _, limit) in enumerate(optimizers):
                rows.gradients[row] = 0
                parts = rows._layout.split(rows.gradients[row : row + 1])
                places = [each[0] for part in parts.values() for each in part[:2]]
                for weight, place in zip(own, places, strict=True):
                    weight.grad = torch.randn(weight.shape, generator=generator)
                    place[: weight.shape[0]] = weight.grad
                torch.nn.utils.clip_grad_norm_(own, limit)
                optimizer.step()
            rows.step([each[2] for each in optimizers], [each[3] for each in optimizers])
    for row, (_, own, _, _) in enumerate(optimizers):
        found = [each for both in rows.trained(row).weights.values() for each in both]
        assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(found, own, strict=True))


@pytest.mark.slow
def test_attempts_of_ten_tasks_are_those_of_each_alone() -> None:
    """The shipped weights on real tasks: losses to 1e-5 over a whole training, attempts equal."""
    model = load(GridSource("grid", "package:arc_seal/weights/grid", device="cpu", dtype="float32"))
    colours, order = ToolCall.of("permute_colors", keep_background=True), ToolCall.of("shuffle_demos")
    chosen = edit(
        ToolCall.of("chain", steps=(colours, order)), learning_rate=0.003, batch_size=4, lora_rank=16, max_examples=32
    )
    tasks = [task for task, _ in load_tasks("seal/training")][:10]
    jobs = [
        job(
            task,
            chosen,
            training=TrainingSettings(token_budget=8000, precision="float32"),
            decode=DecodeSettings(views=2),
        )
        for task in tasks
    ]
    for one, found in zip(jobs, side_by_side(model, jobs, width=8), strict=True):
        assert_same(found, adapt(one, model, ignore))
