"""Where a training step's time goes, and many roll-outs at once: executor=stacked beside others, all in one run.

    python benchmarks/stacked_speed.py --device cuda
    python benchmarks/stacked_speed.py --tiny

First, at each context, one adapter's plain training step (`inner_loop/train.py`): wall milliseconds (`ms`, the median
of `TIMED` steps); those in which the GPU computes (`busy_ms`) with how many kernels (`kernels`) and launches
(`launches`), by torch's profiler; `waiting` is the share of the wall time in which the GPU has nothing to do. On a CPU
`busy_ms` is operators' own time and `kernels` their number. Then the same step with the network's layers under
`torch.compile(mode="reduce-overhead")`, which on CUDA replays CUDA graphs: contexts are filled up to a multiple of
`--bucket` tokens, for shapes to be few; the loss, clipping and AdamW stay as they are. `first_s` is the first step,
compilation included.

Then whole roll-outs. One is one inner loop of the grid model: examples, training, prediction in every view, vote. All
have contexts of about the same length, three demonstrations of random square grids whose outputs are their inputs;
seeds differ. The executors are

- `inline`: the plain loop, one after the other in this process;
- `process:N`: N worker processes;
- `stacked:W`: W adapters in one process.

They take turns. Each does `--rounds` roll-outs a worker and at least `LEAST`, after a small one a worker that is not
counted. `tokens_per_s` are training tokens by the seconds of whole roll-outs, prediction included;
`training_tokens_per_s` by the seconds in which at least one is between its first and its last update. `share` is that
of the latter in the machine's own matrix product of the model's precision, measured before each turn, at 4 x
non-embedding parameters and attention a token (training_speed.py).
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import median

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from training_speed import finish, flops_per_token, matmul_rate, of_grids

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import Status, one_line
from arc_seal.files import tools_dir
from arc_seal.inner_loop import train as training_loop
from arc_seal.inner_loop.job import AdaptJob, DecodeSettings, Progress, TrainingSettings
from arc_seal.inner_loop.lora import with_fresh_adapter
from arc_seal.models.model import Model, collate, load, multiplies_bfloat16
from arc_seal.models.weights import GridSource
from arc_seal.outer_loop.collect import concurrently
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.stacked import StackedExecutor
from arc_seal.sandbox.worker import Executor, InlineExecutor, Limits, ProcessSettings, StackedSettings
from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training

NO_TIMEOUT_S = 1e6

LEAST = 8
"""Roll-outs of an executor at least, so that one worker does more than one."""

WARM, TIMED, PROFILED = 5, 20, 5
"""Training steps that are not counted, that are timed, and that the profiler sees."""


def main() -> None:
    """Measure and print a JSON line for each context's step, plain and compiled, and for each context and executor."""
    arguments = _arguments()
    source = GridSource("grid", "package:arc_seal/weights/grid", device=arguments.device, dtype=arguments.dtype)
    model = load(source)
    device = model.network.device
    dtype = torch.bfloat16 if multiplies_bfloat16(device) else model.network.dtype
    machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    machine |= {"torch": torch.__version__, "dtype": str(dtype), **vars(arguments)}
    if device.type == "cuda":
        machine["machine"] = torch.cuda.get_device_name(device)
    print(json.dumps(machine), flush=True)
    contexts = [int(each) for each in arguments.contexts.split(",")]
    for context in contexts:
        print(json.dumps({"context": context, "step": "plain", **step(model, context, arguments)}), flush=True)
        compiled = compiled_step(model, context, arguments)
        print(json.dumps({"context": context, "step": "compiled", **compiled}), flush=True)
    for context in contexts:
        for name in arguments.executors.split(","):
            product = matmul_rate(dtype, device)
            row = measured(open_executor(name, source, arguments), context, arguments)
            share = flops_per_token(model, context) * row["training_tokens_per_s"] / product
            print(json.dumps({"context": context, "executor": name, **row, "share": round(share, 4)}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--contexts", default="150,400,900", help="tokens of a context, commas between")
    parser.add_argument("--executors", default="inline,process:14,stacked:1,stacked:4,stacked:16,stacked:64")
    parser.add_argument("--rounds", type=int, default=2, help="roll-outs for each worker")
    parser.add_argument("--examples", type=int, default=64, help="contexts that a roll-out trains on")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--threads", type=int, help="of one torch operation in a worker; torch's default without it")
    parser.add_argument("--tokens", type=int, help="as executor.tokens")
    parser.add_argument("--max-padding", type=float, default=0.25, help="as executor.max_padding")
    parser.add_argument("--length-bucket", type=int, default=1, help="as executor.length_bucket")
    parser.add_argument("--bucket", type=int, default=64, help="of tokens, in the compiled step")
    parser.add_argument("--compile", action="store_true", help="compile on a CPU too, which needs a C++ compiler")
    parser.add_argument("--tiny", action="store_true", help="one context, few examples: does it all work?")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.contexts, arguments.executors = "60", "inline,process:2,stacked:2"
        arguments.rounds, arguments.examples, arguments.views = 1, 8, 2
    return arguments


def step(model: Model, context: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One adapter's training step as `train` does it, on contexts of one length."""
    device, rng, updates = model.network.device, np.random.default_rng(0), WARM + TIMED + PROFILED
    size, rank = arguments.batch_size, arguments.rank
    examples = [of_grids(model, context, rng) for _ in range(size * updates)]
    training = Training(
        loss_on="outputs", learning_rate=1e-4, epochs=1, batch_size=size, lora_rank=rank, max_examples=256
    )
    gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    profiler, times = profile(activities=[ProfilerActivity.CPU, *gpu]), [time.perf_counter()]

    def report(progress: Progress) -> None:
        times.append(time.perf_counter())
        if progress.step in (WARM + TIMED, updates):
            finish(device)
            (profiler.stop if progress.step == updates else profiler.start)()

    with with_fresh_adapter(model, rank, rank, seed=0):
        training_loop.train(model, examples, training, TrainingSettings(), 0, report, precision="auto")
    timed = times[WARM : WARM + TIMED + 1]
    wall_ms = 1e3 * median(after - before for before, after in pairwise(timed))
    counted = computing(profiler, bool(gpu))
    waiting = {"waiting": round(1 - counted["busy_ms"] / wall_ms, 3)} if gpu else {}
    return {"ms": round(wall_ms, 2), **counted, **waiting, "first_s": round(times[1] - times[0], 2)}


def computing(profiler: profile, gpu: bool) -> dict[str, float]:
    """Of one step: milliseconds in which something is computed, and what that was."""
    if not gpu:
        averages = profiler.key_averages()
        busy_us, count = sum(each.self_cpu_time_total for each in averages), sum(each.count for each in averages)
        return {"busy_ms": round(busy_us / 1e3 / PROFILED, 2), "kernels": round(count / PROFILED, 1)}
    events = profiler.events() or []
    # The profiler also draws what a CPU named, such as an optimiser's step, over the time of its kernels.
    done = [each for each in events if each.device_type == DeviceType.CUDA and not each.is_user_annotation]
    busy_us, until = 0.0, float("-inf")
    for span in sorted((each.time_range for each in done), key=lambda span: span.start):
        busy_us += max(0.0, span.end - max(until, span.start))
        until = max(until, span.end)
    launches = sum(each.device_type == DeviceType.CPU and "Launch" in each.name for each in events)
    counts = {"kernels": len(done) / PROFILED, "launches": launches / PROFILED}
    return {"busy_ms": round(busy_us / 1e3 / PROFILED, 3), **counts}


def compiled_step(model: Model, context: int, arguments: argparse.Namespace) -> dict[str, float | str]:
    """The same with the layers compiled; what is in the way of it is said, and the other figures are still made."""
    if model.network.device.type != "cuda" and not arguments.compile:
        return {"left_out": "there is no GPU, and no --compile"}
    try:
        with compiled_layers(model, arguments.bucket):
            return dict(step(model, context, arguments))
    except Exception as error:
        return {"failed": one_line(error)}


@contextmanager
def compiled_layers(model: Model, bucket: int) -> Iterator[None]:
    """Training compiles the network's layers for each shape, and fills contexts up to a multiple of `bucket` tokens."""
    decoder = model.network.get_decoder()
    decoder.compile(mode="reduce-overhead", dynamic=False)
    training_loop.collate = partial(collate, multiple=bucket)
    try:
        yield
    finally:
        training_loop.collate = collate
        decoder._compiled_call_impl = None
        torch.compiler.reset()


def open_executor(name: str, source: GridSource, arguments: argparse.Namespace) -> Executor:
    """An executor by its name."""
    kind, _, count = name.partition(":")
    common = {"workers": int(count or 1), "timeout_s": NO_TIMEOUT_S, "threads": arguments.threads}
    match kind:
        case "inline":
            return InlineExecutor(source, Limits(timeout_s=NO_TIMEOUT_S))
        case "process":
            return ProcessExecutor(source, ProcessSettings(**common))
        case "stacked":
            shapes = {name: getattr(arguments, name) for name in ("tokens", "max_padding", "length_bucket")}
            return StackedExecutor(source, StackedSettings(**common, **shapes))
    raise SystemExit(f"{name}: expected inline, process:N or stacked:W")


@dataclass(slots=True)
class Rolled:
    """One roll-out, in seconds of `time.perf_counter`."""

    tokens: int = 0  # read in training
    updates: list[float] = field(default_factory=list)  # when each was done


def measured(executor: Executor, context: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Rates of an executor, which is closed after it."""

    def roll(seed: int) -> Rolled:
        rolled = Rolled()

        def report(progress: Progress) -> None:
            if progress.stage == "train":
                rolled.updates.append(time.perf_counter())

        outcome = executor.run(job_of(context, seed, arguments), report)
        if outcome.status is not Status.OK or outcome.result is None or outcome.result.training is None:
            raise SystemExit(f"a roll-out ended as {outcome.status}: {outcome.message}")
        rolled.tokens = outcome.result.training.tokens
        return rolled

    try:
        executor.start()
        count = executor.workers
        for _ in concurrently(executor, roll, [-1 - number for number in range(count)]):
            pass
        start = time.perf_counter()
        done = list(concurrently(executor, roll, range(max(LEAST, arguments.rounds * count))))
        spent = time.perf_counter() - start
    finally:
        executor.close()
    return {
        "tokens_per_s": round(sum(each.tokens for each in done) / spent, 1),
        "training_tokens_per_s": round(training_rate(done), 1),
        "rollouts_per_hour": round(3600 * len(done) / spent, 1),
    }


def training_rate(done: Sequence[Rolled]) -> float:
    """Training tokens a second while at least one trains: all tokens by the time that intervals of training cover."""
    tokens, covered, until = 0.0, 0.0, 0.0
    for each in sorted(done, key=lambda one: one.updates[0]):
        share = 1 - 1 / len(each.updates)  # what was read before the first update is not in the interval
        tokens += each.tokens * share
        covered += max(0.0, each.updates[-1] - max(until, each.updates[0]))
        until = max(until, each.updates[-1])
    return tokens / covered


def job_of(context: int, seed: int, arguments: argparse.Namespace) -> AdaptJob:
    """A roll-out on a task of about so many tokens a context, outputs like inputs; a small one below seed 0."""
    side, rng = round((context / 6) ** 0.5 - 0.5), np.random.default_rng(abs(seed))
    grids = [Grid.from_array(rng.integers(0, 10, (side, side))) for _ in range(4)]
    task = Task(f"copy-{seed}", tuple(Demonstration(grid, grid) for grid in grids[:3]), (grids[3],))
    tools = (ToolCall.of("permute_colors", keep_background=True), ToolCall.of("shuffle_demos"))
    training = Training(
        loss_on="outputs",
        learning_rate=0.005,
        epochs=1,
        batch_size=arguments.batch_size,
        lora_rank=arguments.rank,
        max_examples=arguments.examples if seed >= 0 else 2 * arguments.batch_size,
    )
    edit = SelfEdit(tools=(ToolCall.of("chain", steps=tools),), training=training)
    return AdaptJob(task, edit, (str(tools_dir()),), abs(seed), decode=DecodeSettings(views=arguments.views))


if __name__ == "__main__":
    main()
