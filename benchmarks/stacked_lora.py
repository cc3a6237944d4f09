"""Whether training K adapters of one task in one go pays: one forward of the frozen base, per-sample A and B.

    python benchmarks/stacked_lora.py [--adapters 2,4] [--threads 1] [--batch-size 4]
    python benchmarks/stacked_lora.py --tiny

K self-edits of one task make contexts of that task. One at a time, each adapter is trained as the package does it:
peft, batches by length, hidden states everywhere, logits where a target stands, fused AdamW. Stacked, the K batches
stand side by side in one: the frozen layers read them together, and each layer's adapters are two batched products
(`torch.bmm`) over K groups of rows. Both read the same contexts in the same batches; stacked, those of the K self-edits
are padded to the longest of them all.

First a check: K stacked adapters get the gradients that K separate ones of peft's get. Then all are measured in turn.
`ratio` is stacked tokens/s over those of one at a time, padding not counted. `ratio_without_peft` is the same where one
at a time runs on this benchmark's own layers, too: that much is due to stacking, the rest to leaving peft out.

Two workers with one thread each train two adapters at the same time without any of this. So what counts on two cores is
the ratio with `--threads 1`: it is what stacking would add to each worker.

The prototype wants one rank and one learning rate for all K. Ranks could be padded with zeros; AdamW works cell by
cell, so each adapter's learning rate could scale its own update. Self-edits of other batch sizes or epochs would leave
rows empty, which this does not measure.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rollouts_per_hour import SOURCES
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Task
from arc_seal.files import tools_dir
from arc_seal.inner_loop.lora import attached
from arc_seal.inner_loop.train import make_batches
from arc_seal.models.grid_network import GridConfig, GridForCausalLM
from arc_seal.models.model import Batch, GridModel, collate, load, logits_of, states_before_targets
from arc_seal.models.prompt import Encoded, Model, demonstrations_prompt
from arc_seal.self_edit.augment import augment
from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training
from arc_seal.self_edit.toolbox import Toolbox

LEARNING_RATE = 0.005
MAX_GRADIENT_NORM = 1.0

COLOURS = ToolCall.of("permute_colors", keep_background=True)
ORDER = ToolCall.of("shuffle_demos")
SYMMETRIES = (ToolCall.of("rotate", quarter_turns="any"), ToolCall.of("flip", direction="any"))

TASKS = "seal/training/6150a2bd,seal/training/6d0aefbc,seal/training/67e8384a,seal/training/5bd6f4ac"
"""Contexts of 52, 140, 224 and 416 tokens."""

WAYS = ((COLOURS, ORDER), (*SYMMETRIES, ORDER), (*SYMMETRIES, COLOURS, ORDER), (ORDER,))
"""What the K self-edits do to the task, in turn."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is trained.

    Attributes:
        rank: Of every adapter; alpha is the same, so the scale is 1.
        batch_size: Contexts of one adapter in one update.
        updates: Updates that are timed; one more goes before them.
    """

    rank: int
    batch_size: int
    updates: int


def main() -> None:
    """Check the gradients, then measure; prints one JSON line for each task and number of adapters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", default="2,4", help="numbers of adapters, commas between")
    parser.add_argument("--tasks", default=TASKS, help="specs as arc_seal.solve takes them, commas between")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--updates", type=int, default=4, help="that are timed; one more goes before them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's default where it is left out")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, one task, one repeat: does it all work?")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    tasks = [task for task, _ in load_tasks(*arguments.tasks.split(","))]
    sizes = Sizes(arguments.rank, arguments.batch_size, arguments.updates)
    if arguments.tiny:
        tasks, arguments.repeats, sizes = tasks[:1], 1, Sizes(8, 2, 2)
    model = _tiny_model() if arguments.tiny else load(SOURCES["grid"])
    ratios: dict[int, list[float]] = {}
    for count in map(int, arguments.adapters.split(",")):
        for task in tasks:
            batches = [_batches(model, task, index, sizes) for index in range(count)]
            difference = check_gradients(model, [each[0] for each in batches], sizes)
            row = measure(model, batches, sizes, arguments.repeats)
            ratios.setdefault(count, []).append(row["ratio"])
            said = {"adapters": count, "task": task.id, **row, "gradient_difference": difference}
            print(json.dumps(said), flush=True)
    machine: dict[str, object] = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    machine |= {"threads": torch.get_num_threads(), "rank": sizes.rank, "batch_size": sizes.batch_size}
    print(json.dumps({**machine, "median_ratio": {count: statistics.median(each) for count, each in ratios.items()}}))


def _tiny_model() -> GridModel:
    torch.manual_seed(0)
    config = GridConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    return GridModel("tiny", GridForCausalLM(config))


def _batches(model: Model, task: Task, index: int, sizes: Sizes) -> list[list[Encoded]]:
    """The batches that one of the self-edits trains on, as the package makes them."""
    wanted = sizes.updates + 1
    tools = (ToolCall.of("chain", steps=WAYS[index % len(WAYS)]),)
    training = Training(
        loss_on="outputs",
        learning_rate=LEARNING_RATE,
        epochs=1,
        batch_size=sizes.batch_size,
        lora_rank=sizes.rank,
        max_examples=wanted * sizes.batch_size,
    )
    rng = random.Random(f"{task.id} {index}")
    made = augment(task, SelfEdit(tools=tools, training=training), Toolbox.load([tools_dir()]), rng).examples
    examples = [model.codec.encode(demonstrations_prompt(demos)) for demos in made]
    lengths = [len(example.ids) for example in examples]
    batches: list[list[Encoded]] = []
    while len(batches) < wanted:  # a self-edit that finds few examples goes over them again
        for batch in make_batches(lengths, sizes.batch_size, rng):
            batches.append([examples[each] for each in batch])
    return batches[:wanted]


def check_gradients(model: Model, batches: Sequence[Sequence[Encoded]], sizes: Sizes) -> float:
    """Make sure that stacked adapters get the gradients that separate ones get.

    Returns:
        The largest difference, as a share of the largest gradient of its tensor.

    Raises:
        AssertionError: When they differ by more than float32 explains.
    """
    separate = [_peft_gradients(model, batch, sizes, seed) for seed, batch in enumerate(batches)]
    worst = 0.0
    with stacked(model, len(batches), sizes.rank) as layers:
        for name, layer in layers.items():
            for index, gradients in enumerate(separate):
                layer.a.data[index], layer.b.data[index] = gradients[name].weights
        _losses(model, batches).sum().backward()
        for name, layer in layers.items():
            for index, gradients in enumerate(separate):
                for ours, theirs in zip((layer.a.grad, layer.b.grad), gradients[name].gradients, strict=True):
                    assert ours is not None
                    torch.testing.assert_close(ours[index], theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
                    worst = max(worst, float((ours[index] - theirs).abs().max() / theirs.abs().max()))
    return worst


@dataclass(frozen=True, slots=True)
class _Trained:
    """A and B of one layer, and their gradients."""

    weights: tuple[Tensor, Tensor]
    gradients: tuple[Tensor, Tensor]


def _peft_gradients(model: Model, batch: Sequence[Encoded], sizes: Sizes, seed: int) -> dict[str, _Trained]:
    """Gradients of one adapter of peft's, whose B is no longer zero: else A would have none."""
    generator = torch.Generator().manual_seed(seed)
    with attached(model, sizes.rank, float(sizes.rank), seed):
        layers = {name: layer for name, layer in model.network.named_modules() if hasattr(layer, "lora_A")}
        for layer in layers.values():
            nn.init.normal_(layer.lora_B.default.weight, std=0.02, generator=generator)
        _losses(model, [batch]).sum().backward()
        return {
            name: _trained(layer.lora_A.default.weight, layer.lora_B.default.weight) for name, layer in layers.items()
        }


def _trained(a: Tensor, b: Tensor) -> _Trained:
    assert a.grad is not None and b.grad is not None
    return _Trained((a.detach().clone(), b.detach().clone()), (a.grad.clone(), b.grad.clone()))


class StackedLinear(nn.Module):
    """A frozen linear layer with K adapters, each for its own rows of the batch.

    Args:
        base: The layer.
        count: K.
        rank: Of every adapter.

    Attributes:
        a: [K, rank, inputs].
        b: [K, outputs, rank].
    """

    def __init__(self, base: nn.Linear, count: int, rank: int) -> None:
        super().__init__()
        self.base, self.count = base, count
        self.a = nn.Parameter(torch.empty(count, rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(count, base.out_features, rank))
        for adapter in self.a:
            nn.init.kaiming_uniform_(adapter, a=5**0.5)  # as peft begins

    def forward(self, hidden: Tensor) -> Tensor:
        """[K * batch, T, inputs] -> [K * batch, T, outputs]."""
        groups = hidden.reshape(self.count, -1, hidden.shape[-1])  # [K, batch * T, inputs]
        added = torch.bmm(torch.bmm(groups, self.a.transpose(1, 2)), self.b.transpose(1, 2))
        output: Tensor = self.base(hidden) + added.view(*hidden.shape[:-1], -1)
        return output


@contextmanager
def stacked(model: Model, count: int, rank: int) -> Iterator[dict[str, StackedLinear]]:
    """K adapters on every linear layer but the head, by their layers' names, for as long as the context lasts."""
    network = model.network
    head = network.get_output_embeddings()
    found = {
        name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear) and layer is not head
    }
    layers = {name: StackedLinear(layer, count, rank) for name, layer in found.items()}
    try:
        for name, layer in layers.items():
            network.set_submodule(name, layer)
        yield layers
    finally:
        for name, base in found.items():
            network.set_submodule(name, base)


def _losses(model: Model, batches: Sequence[Sequence[Encoded]]) -> Tensor:
    """Mean loss over the targets of each adapter's batch, [K]; all are read in one forward pass."""
    count, rows = len(batches), max(map(len, batches))
    batch: Batch = collate([context for each in batches for context in _filled(each, rows)])
    owner = batch.where[0] // rows  # whose each target is, [targets]
    seen = torch.unique(torch.cat([torch.tensor(model.codec.symbols.all), batch.labels]))
    logits = logits_of(model.network, states_before_targets(model.network, batch), seen)
    each = cross_entropy(logits, torch.searchsorted(seen, batch.labels), reduction="none")
    sums = torch.zeros(count).index_add(0, owner, each)
    return sums / torch.bincount(owner, minlength=count)


def _filled(batch: Sequence[Encoded], rows: int) -> list[Encoded]:
    """A batch with as many rows as the others have: a batch that was closed early gets rows without targets."""
    first = batch[0]
    blank = Encoded(first.ids[:1], first.positions[:, :1], first.target[:1])
    return [*batch, *[blank] * (rows - len(batch))]


def measure(
    model: Model, batches: Sequence[Sequence[Sequence[Encoded]]], sizes: Sizes, repeats: int
) -> dict[str, float]:
    """Tokens/s of all three ways, in turn; the first update of each is not counted.

    Args:
        model: The grid model.
        batches: For each adapter the batches of its updates.
        sizes: What is trained.
        repeats: How often all are measured.
    """
    tokens = sum(len(context.ids) for each in batches for batch in each[1:] for context in batch)
    ways: dict[str, Callable[[], float]] = {
        "apart": lambda: sum(_seconds_apart(model, each, sizes) for each in batches),
        "apart_without_peft": lambda: sum(_seconds_stacked(model, [each], sizes) for each in batches),
        "stacked": lambda: _seconds_stacked(model, batches, sizes),
    }
    rates = [{name: tokens / seconds() for name, seconds in ways.items()} for _ in range(repeats)]
    ratios = [each["stacked"] / each["apart"] for each in rates]
    without_peft = statistics.median(each["stacked"] / each["apart_without_peft"] for each in rates)
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "ratio_without_peft": round(without_peft, 3),
        **{f"tokens_per_s_{name}": round(statistics.median(each[name] for each in rates), 1) for name in ways},
        "mean_context": round(tokens / sum(len(batch) for each in batches for batch in each[1:]), 1),
        "padding_stacked": round(_padding(batches), 4),
    }


def _seconds_apart(model: Model, batches: Sequence[Sequence[Encoded]], sizes: Sizes) -> float:
    with attached(model, sizes.rank, float(sizes.rank), seed=0):
        weights = [weight for weight in model.network.parameters() if weight.requires_grad]
        return _seconds(model, [[batch] for batch in batches], weights)


def _seconds_stacked(model: Model, batches: Sequence[Sequence[Sequence[Encoded]]], sizes: Sizes) -> float:
    with stacked(model, len(batches), sizes.rank) as layers:
        weights = [weight for layer in layers.values() for weight in (layer.a, layer.b)]
        return _seconds(model, list(zip(*batches, strict=True)), weights)


def _seconds(model: Model, updates: Sequence[Sequence[Sequence[Encoded]]], weights: Sequence[nn.Parameter]) -> float:
    """Seconds of all updates but the first: forward, backward, gradients clipped for each adapter, AdamW."""
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    start = 0.0
    for number, batches in enumerate(updates):
        if number == 1:
            start = time.perf_counter()
        losses = _losses(model, batches)
        losses.tolist()  # as the package looks whether they are finite
        losses.sum().backward()
        if len(batches) == 1:
            torch.nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
        else:
            clip_each(weights)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


@torch.no_grad()
def clip_each(weights: Sequence[nn.Parameter]) -> None:
    """Scale the gradients of each of K stacked adapters down to the norm that one adapter's may have."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)  # [K]
    factors = (MAX_GRADIENT_NORM / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors[:, None, None])


def _padding(batches: Sequence[Sequence[Sequence[Encoded]]]) -> float:
    """Share of the computed tokens that is padding when the batches stand side by side."""
    tokens = computed = 0
    for update in list(zip(*batches, strict=True))[1:]:
        lengths = [len(context.ids) for batch in update for context in batch]
        rows = len(update) * max(map(len, update))
        tokens, computed = tokens + sum(lengths), computed + rows * max(lengths)
    return 1 - tokens / computed


if __name__ == "__main__":
    main()
