"""Training: the right loss on the right tokens, whatever stands beside them."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from arc_seal.errors import Diverged, OverBudget
from arc_seal.inner_loop.job import Progress
from arc_seal.inner_loop.lora import with_fresh_adapter
from arc_seal.inner_loop.train import _schedule
from arc_seal.models import model as models
from arc_seal.models.generate import model_positions
from arc_seal.models.model import Model
from arc_seal.models.prompt import Encoded
from tests.inner_loop.builders import copying_task, examples_of, learn
from tests.models.builders import MODELS, MakeModel

TASKS = [copying_task((6, 7, 7)), copying_task((8, 5, 8), seed=1), copying_task((7, 7, 8), seed=2)]
"""Lengths within 10 % of one another, so that they may share a batch."""


@pytest.fixture(params=MODELS)
def make(request: pytest.FixtureRequest) -> MakeModel:
    make: MakeModel = request.param
    return make


@pytest.fixture
def model(make: MakeModel) -> Iterator[Model]:
    """A model with an adapter that already does something."""
    model = make(0)
    with with_fresh_adapter(model, 8, 16.0, seed=3):
        torch.manual_seed(4)
        for name, weight in model.network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        yield model


def reference_losses(model: Model, examples: Sequence[Encoded]) -> list[torch.Tensor]:
    """The loss of each target of each example, from the network's own logits of all tokens, one example at a time."""
    targets = [example.ids[example.target] for example in examples]
    alphabet = torch.tensor(sorted({*model.codec.symbols, *np.concatenate(targets).tolist()}))
    losses = []
    for example in examples:
        positions = model_positions(torch.from_numpy(example.positions)[:, None])
        logits = model.network(input_ids=torch.from_numpy(example.ids)[None], position_ids=positions).logits[0]
        log_probabilities = torch.log_softmax(logits[:, alphabet], dim=-1)
        where = np.flatnonzero(example.target)
        chosen = torch.searchsorted(alphabet, torch.from_numpy(example.ids[where]))
        losses.append(-log_probabilities[where - 1, chosen])
    return losses


@pytest.mark.parametrize("target_all", [False, True])
def test_the_softmax_may_run_over_the_whole_vocabulary(model: Model, target_all: bool) -> None:
    """The loss is torch's own, over the network's own logits of every token."""
    examples = examples_of(model, TASKS, target_all=target_all)
    logits, labels = [], []
    for example in examples:
        positions = model_positions(torch.from_numpy(example.positions)[:, None])
        own = model.network(input_ids=torch.from_numpy(example.ids)[None], position_ids=positions).logits[0].detach()
        where = np.flatnonzero(example.target)
        logits.append(own[where - 1])
        labels.append(torch.from_numpy(example.ids[where]))
    expected = float(torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(labels)))
    alone, whole = (
        learn(model, examples, symbols=symbols, training={"batch_size": 3, "learning_rate": 1e-9}).losses[0]
        for symbols in ("seen", "vocabulary")
    )
    assert whole == pytest.approx(expected, abs=1e-5)
    assert whole > alone + 0.01  # there are more tokens to be wrong about


def snapshot(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("target_all", [False, True])
def test_loss_is_the_mean_over_targets_alone(model: Model, target_all: bool) -> None:
    examples = examples_of(model, TASKS, target_all=target_all)
    lengths, counts = [len(example.ids) for example in examples], [int(example.target.sum()) for example in examples]
    assert len(set(lengths)) == len(set(counts)) == 3  # so that padding and means of means would show
    own = [losses.detach() for losses in reference_losses(model, examples)]
    record = learn(model, examples, training={"batch_size": 3})
    assert record.updates == 1
    assert record.losses[0] == pytest.approx(float(torch.cat(own).mean()), abs=1e-5)
    assert record.losses[0] != pytest.approx(float(torch.stack([each.mean() for each in own]).mean()), abs=1e-4)


def test_record_counts_what_was_read(model: Model) -> None:
    examples = examples_of(model, TASKS)
    lengths = [len(example.ids) for example in examples]
    record = learn(model, examples, skipped=5, training={"batch_size": 3, "epochs": 2})
    assert (record.examples, record.skipped, record.updates, len(record.losses)) == (3, 5, 2, 2)
    assert record.tokens == 2 * sum(lengths)
    assert record.targets == 2 * sum(int(example.target.sum()) for example in examples)
    assert record.padding == pytest.approx(1 - sum(lengths) / (3 * max(lengths)))


def test_padding_changes_no_gradient(make: MakeModel) -> None:
    """One step on two examples of unequal length is one step on their weighted gradients."""
    changed = []
    for padded in (True, False):
        model = make(0)
        with with_fresh_adapter(model, 4, 8.0, seed=0):
            examples = examples_of(model, TASKS[:2])
            weights = [weight for weight in model.network.parameters() if weight.requires_grad]
            if padded:
                learn(model, examples, training={"batch_size": 2, "learning_rate": 1e-3})
            else:
                optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
                torch.cat(reference_losses(model, examples)).mean().backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
            changed.append(torch.cat([weight.detach().flatten() for weight in weights]))
    assert torch.allclose(changed[0], changed[1], atol=1e-5)


def test_learning_lowers_the_loss_and_touches_the_adapter_alone(model: Model) -> None:
    before = snapshot(model)
    seen: list[Progress] = []
    record = learn(model, examples_of(model, TASKS), report=seen.append, training={"epochs": 40, "learning_rate": 0.02})
    assert record.losses[-1] < 0.5 * record.losses[0]
    after = snapshot(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if "lora_" in name
    }
    assert [(each.stage, each.step, each.total, each.loss) for each in seen] == [
        ("train", step + 1, 120, loss) for step, loss in enumerate(record.losses)
    ]
    assert all(each.tokens_per_s is not None and each.tokens_per_s > 0 for each in seen)


def test_seed_fixes_the_order(model: Model) -> None:
    before = snapshot(model)
    losses = []
    for seed in (0, 0, 1):
        model.network.load_state_dict(before)
        losses.append(learn(model, examples_of(model, TASKS), seed=seed, training={"epochs": 3}).losses)
    assert losses[0] == losses[1] != losses[2]


def test_over_budget_is_refused_before_anything_is_trained(model: Model) -> None:
    examples, before = examples_of(model, TASKS), snapshot(model)
    planned = 2 * sum(len(example.ids) for example in examples)
    seen: list[Progress] = []
    with pytest.raises(OverBudget, match=rf"^{planned} training tokens planned, {planned - 1} allowed$"):
        learn(model, examples, max_tokens=planned - 1, report=seen.append, training={"epochs": 2})
    assert seen == []
    assert same(before, snapshot(model))
    assert learn(model, examples, max_tokens=planned, training={"epochs": 2}).tokens == planned


def test_nan_ends_training_at_once(model: Model) -> None:
    for name, weight in model.network.named_parameters():
        if "lora_A" in name:
            torch.nn.init.constant_(weight, float("nan"))
    before, seen = snapshot(model), list[Progress]()
    with pytest.raises(Diverged, match=r"^the loss became nan$"):
        learn(model, examples_of(model, TASKS), report=seen.append)
    assert seen == []
    untouched = {name: value for name, value in snapshot(model).items() if "lora_A" not in name}
    assert all(torch.equal(before[name], value) for name, value in untouched.items())


def test_learning_rate_that_is_far_too_high_ends_after_one_update(model: Model) -> None:
    seen: list[Progress] = []
    with pytest.raises(Diverged, match=r"^the loss became (nan|inf)$"):
        learn(model, examples_of(model, TASKS), report=seen.append, training={"learning_rate": 1e30, "epochs": 5})
    assert len(seen) == 1


def test_gradients_are_clipped(make: MakeModel) -> None:
    """With a norm of nothing allowed AdamW takes no step."""
    model = make(0)
    with with_fresh_adapter(model, 4, 8.0, seed=0):
        before = snapshot(model)
        learn(model, examples_of(model, TASKS), max_gradient_norm=1e-60)  # 0 as a 32-bit number
        assert same(before, snapshot(model))
        learn(model, examples_of(model, TASKS), max_gradient_norm=1.0)
        assert not same(before, snapshot(model))


@pytest.mark.parametrize(("updates", "share", "warmup"), [(100, 0.1, 10), (40, 0.5, 20), (7, 0.0, 1), (1, 0.1, 1)])
def test_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine(updates: int, share: float, warmup: int) -> None:
    factors = [_schedule(update, updates, share) for update in range(updates)]
    assert factors[:warmup] == pytest.approx([(update + 1) / warmup for update in range(warmup)])
    decay = factors[warmup:]
    assert decay == pytest.approx(
        [0.5 + 0.5 * math.cos(math.pi * step / (updates - warmup)) for step in range(updates - warmup)]
    )
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1


def test_warm_up_takes_small_first_steps(make: MakeModel) -> None:
    """Adam's first step is the learning rate itself in every weight that has a gradient."""
    steps = []
    for share in (0.0, 0.5):
        model = make(0)
        with with_fresh_adapter(model, 4, 8.0, seed=0):
            before = snapshot(model)
            with pytest.raises(InterruptedError):
                learn(
                    model,
                    examples_of(model, TASKS),
                    report=stop,
                    warmup_share=share,
                    training={"learning_rate": 1e-3, "epochs": 4},
                )
            steps.append(max(float((value - before[name]).abs().max()) for name, value in snapshot(model).items()))
    assert steps == pytest.approx([1e-3, 1e-3 / 6], rel=1e-2)


def stop(progress: Progress) -> None:
    raise InterruptedError


@pytest.mark.parametrize("faster", [True, False])
def test_precision_auto_takes_bfloat16_where_that_is_faster(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    """Losses are alike, and all that is kept is in float32."""
    monkeypatch.setattr(models, "multiplies_bfloat16", lambda device: faster)
    losses = {}
    for precision in ("auto", "float32"):
        model = make(0)
        with with_fresh_adapter(model, 16, 16.0, seed=3):
            training = {"epochs": 4, "batch_size": 3}
            losses[precision] = learn(model, examples_of(model, TASKS), training=training, precision=precision).losses
            assert {weight.dtype for weight in model.network.parameters()} == {torch.float32}
    assert losses["auto"] == pytest.approx(losses["float32"], rel=0.05)
    assert (losses["auto"] != losses["float32"]) is faster
