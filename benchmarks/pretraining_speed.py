"""How fast pretraining runs, against the machine's own matrix multiplication.

    python benchmarks/pretraining_speed.py [--network 3m] [--repeats 5] [--device cpu] [--compile]

Both are measured in turn in one process, so the share holds on a machine whose speed drifts. Batches are those of the
real stream of the training sets' pairs (conf/pretrain.yaml's settings, without generated pairs), made beforehand. A
token is counted as 6 x parameters of the layers (forward 2, backward 4) plus attention's 3 x 4 x layers x width x mean
context, halved because it is causal; the optimisers, the head and padding are not counted. On a GPU, and on a
CPU with instructions for it, the product is of bfloat16 matrices, as training's are there.
"""

import argparse
import json
import platform
import statistics
import time
from itertools import islice

import torch
from omegaconf import OmegaConf
from training_speed import finish, matmul_rate

from arc_seal.arc.splits import pretraining_tasks, solved_pairs
from arc_seal.files import conf_dir
from arc_seal.models.grid_network import GridConfig, GridForCausalLM
from arc_seal.models.model import Batch, multiplies_bfloat16, pick_device
from arc_seal.pretraining.loop import update
from arc_seal.pretraining.optim import OptimizerSettings, make_optimizers
from arc_seal.pretraining.pool import Pool
from arc_seal.pretraining.run import write_self_edit
from arc_seal.pretraining.stream import Chunks, DataSettings, Position, read_stream

BATCHES = 3
"""Batches of one measurement."""


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="3m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    dtype = torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    network = torch.nn.Module.to(GridForCausalLM(config_of(arguments.network)).train(), device)
    pools = [(Pool.from_pairs({entry[0].id: [*solved_pairs(entry)] for entry in pretraining_tasks()}), 1.0)]
    chunks = Chunks(pools, DataSettings(), arguments.batch_tokens, 0, write_self_edit)
    batches = [batch for batch, _ in islice(read_stream(chunks, Position(), 0), BATCHES)]
    settings = OptimizerSettings()
    optimizers = make_optimizers(network, settings)
    reader = torch.compile(network.model, dynamic=True) if arguments.compile else network.model
    rates = []
    for batch in batches:  # the first pass aside
        update(network, reader, batch, optimizers, settings.max_gradient_norm)
    for _ in range(arguments.repeats):
        matmul = matmul_rate(dtype, device)
        start = time.perf_counter()
        for batch in batches:
            update(network, reader, batch, optimizers, settings.max_gradient_norm)
        finish(device)
        rates.append((matmul, sum(batch.tokens for batch in batches) / (time.perf_counter() - start)))
    operations = sum(flops(network, batch) for batch in batches) / sum(batch.tokens for batch in batches)
    shares = [operations * rate / matmul for matmul, rate in rates]
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    machine = {"machine": chip, "threads": torch.get_num_threads()}
    found = {
        "parameters": network.num_parameters(),
        "tokens_per_s": round(statistics.median(rate for _, rate in rates)),
        "matmul_gflops": round(statistics.median(matmul for matmul, _ in rates) / 1e9, 1),
        "share": round(statistics.median(shares), 3),
        "share_min": round(min(shares), 3),
        "share_max": round(max(shares), 3),
        "padding": round(1 - sum(batch.tokens for batch in batches) / sum(batch.ids.numel() for batch in batches), 3),
    }
    print(json.dumps({**machine, "torch": torch.__version__, **vars(arguments), **found}))


def config_of(name: str) -> GridConfig:
    """The network of conf/network/NAME.yaml."""
    sizes = OmegaConf.to_container(OmegaConf.load(conf_dir() / "network" / f"{name}.yaml"))
    return GridConfig(**{key: value for key, value in sizes.items() if not key.startswith("_")})


def flops(network: GridForCausalLM, batch: Batch) -> float:
    """Floating-point operations that one batch needs at least."""
    config = network.config
    parameters = sum(weight.numel() for weight in network.model.layers.parameters())
    lengths = batch.positions.shape[2] - (batch.ids == config.pad_token_id).sum(1)
    attention = 3 * 4 * config.num_hidden_layers * config.hidden_size * float((lengths.double() ** 2).sum()) / 2
    return 6 * parameters * batch.tokens + attention


if __name__ == "__main__":
    main()
