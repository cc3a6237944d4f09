"""The tables of SEAL's protocol out of kept roll-outs.

    python benchmarks/seal_table.py benchmarks/results/differing_edits-seed{0,1,2}.jsonl

Each file has the roll-outs of one seed, one JSON line each: what the ledger of the run says, without attempts and
losses. Printed are the table that `python -m arc_seal.evaluate` makes of the same roll-outs (the rows that every file
has), how well the held-out log-probability ranks the untrained policy's self-edits, and what self-edits in the paper's
form ask for: of those tried and those rewarded in training, and of those on held-out tasks before and after it.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from arc_seal.outer_loop.evaluate import TITLES
from arc_seal.outer_loop.statistics import auc, auc_within_tasks
from arc_seal.outer_loop.table import Mark, TableRow, best_of, make_table, to_markdown
from arc_seal.self_edit.paper import DataGeneration

Row = dict[str, Any]
"""A roll-out as it is kept, and `seed`, the number of its file."""


def main() -> None:
    """Print the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=Path, nargs="+", help="a file for each seed")
    files = parser.parse_args().seeds
    rows = [
        {**json.loads(line), "seed": seed} for seed, path in enumerate(files) for line in path.read_text().splitlines()
    ]
    untrained = [row for row in rows if row["run"] == "evaluate untrained"]
    examined = examine(untrained, [row for row in rows if row["run"] == "evaluate chosen"])
    print(evaluation(rows, examined, len(files)))
    if examined:
        print(ranking(examined))
    print(self_edits(rows))


def examine(untrained: Sequence[Row], chosen: Sequence[Row]) -> list[Row]:
    """The untrained policy's roll-outs that were examined too, with what that found and took."""
    found = {(row["seed"], row["task"], row["sample"]): row for row in chosen}
    pairs = [(row, found.get((row["seed"], row["task"], row["sample"]))) for row in untrained]
    return [
        {**row, "held_out": each.get("held_out"), "seconds": {**row["seconds"], **each["seconds"]}}
        for row, each in pairs
        if each is not None
    ]


def evaluation(rows: Sequence[Row], examined: Sequence[Row], seeds: int) -> str:
    """The table, in Markdown."""
    table_rows = []
    for name, title in TITLES.items():
        own = [row for row in rows if row["run"].split()[:2] == ["evaluate", name]]
        if name == "chosen":
            own = [preferred(list(made)) for _, made in groupby(examined, lambda row: (row["seed"], row["task"]))]
        if len({row["seed"] for row in own}) == seeds:
            table_rows.append(TableRow(title, tuple(map(mark, own))))
    table_rows.append(best_of([row for row in table_rows if row.name != TITLES["chosen"]]))
    differences = [("seal", "untrained"), ("seal", "fixed"), ("chosen", "untrained"), ("seal", "chosen")]
    titled = [(TITLES[one], TITLES[other]) for one, other in differences]
    return to_markdown(make_table(table_rows, {}, titled[0], titled[1:]))


def preferred(rows: Sequence[Row]) -> Row:
    """Of one task's self-edits the one under which left-out demonstrations are likelier, with what the choice took."""
    known = [row for row in rows if row["held_out"] is not None and row["status"] == "ok"] or rows[:1]
    best = max(known, key=lambda row: (row["held_out"] or 0.0, -row["sample"]))
    asking = sum(row["seconds"].get(stage, 0.0) for row in rows for stage in ("write", "examine"))
    own = {stage: spent for stage, spent in best["seconds"].items() if stage not in ("write", "examine")}
    return {**best, "seconds": {**own, "choose": asking}}


def mark(row: Row) -> Mark:
    """What a roll-out counts for."""
    seconds = sum(row["seconds"].values())
    solved, first = row["reward"] == 1, row["pass_at_1"] == 1
    return Mark(row["task"], row["sample"], row["seed"], solved, row["score"], first, seconds, row["status"])


def ranking(examined: Sequence[Row]) -> str:
    """How well the held-out log-probability ranks, over all and within tasks."""
    scores: dict[str, list[float]] = {}
    labels: dict[str, list[bool]] = {}
    for row in examined:
        if row["held_out"] is not None and "same_as" not in row:
            scores.setdefault(row["task"], []).append(row["held_out"])
            labels.setdefault(row["task"], []).append(row["reward"] == 1)
    found = (auc(scores, labels), auc_within_tasks(scores, labels))
    over_all, within = (f"{it.mean:.2f} ({it.low:.2f} to {it.high:.2f})" if it else "-" for it in found)
    return f"AUC of the held-out log-probability: {over_all}, within tasks {within}\n"


def uses(augmentations: str, row: Row) -> bool:
    """Whether a self-edit asks for a group of augmentations."""
    return bool(row["self_edit"]["data_generation"][augmentations])


def training(row: Row) -> dict[str, Any]:
    """A self-edit's hyperparameters."""
    values: dict[str, Any] = row["self_edit"]["training"]
    return values


def choice(name: str, row: Row) -> float:
    """What a self-edit in the form of choices has in a field; of its demonstrations, whether there are all."""
    value = row["self_edit"][name]
    return float(value == "all" if name == "demonstrations" else value)


Facts = dict[str, tuple[Callable[[Row], float], str]]
"""What is averaged over a group of roll-outs, and how it is written."""

RESULTS: Facts = {
    "solved": (lambda row: row["reward"] == 1, "{:.1%}"),
    "updates, mean": (lambda row: row["updates"], "{:.0f}"),
}

PAPER: Facts = {
    **{f"`{name}`": (partial(uses, name), "{:.0%}") for name in DataGeneration.model_fields},
    "no augmentation": (lambda row: not any(row["self_edit"]["data_generation"].values()), "{:.0%}"),
    "loss on outputs alone": (lambda row: training(row)["strategy"] == "train_using_output_tokens", "{:.0%}"),
    "epochs, mean": (lambda row: training(row)["num_train_epochs"], "{:.1f}"),
    "learning rate, mean": (lambda row: training(row)["learning_rate"], "{:.5f}"),
    **RESULTS,
}

CHOICES: Facts = {
    "symmetries": (partial(choice, "symmetries"), "{:.0%}"),
    "colours": (partial(choice, "colours"), "{:.0%}"),
    "all demonstrations": (partial(choice, "demonstrations"), "{:.0%}"),
    "rank, mean": (partial(choice, "rank"), "{:.0f}"),
    "tokens, mean": (partial(choice, "tokens"), "{:,.0f}"),
    "learning rate, mean": (partial(choice, "learning_rate"), "{:.5f}"),
    **RESULTS,
}


def self_edits(rows: Sequence[Row]) -> str:
    """What self-edits ask for, in Markdown: a line a fact, a column a group of roll-outs."""
    written = [row for row in rows if row["self_edit"] is not None]
    tried = [row for row in written if row["run"] == "train"]
    groups: dict[str, list[Row]] = {}
    for number in sorted({row["round"] for row in tried}):
        groups[f"training, round {number + 1}"] = [row for row in tried if row["round"] == number]
        groups[f"rewarded, round {number + 1}"] = [
            row for row in tried if row["round"] == number and row["reward"] == 1
        ]
    groups["held out, untrained"] = [row for row in written if row["run"] == "evaluate untrained"]
    groups["held out, trained"] = [row for row in written if row["run"].startswith("evaluate seal")]
    groups = {name: group for name, group in groups.items() if group}
    lines = [f"| | {' | '.join(groups)} |", "|---" + "|---:" * len(groups) + "|"]
    lines += [f"| self-edits | {' | '.join(str(len(group)) for group in groups.values())} |"]
    facts = PAPER if "data_generation" in written[0]["self_edit"] else CHOICES
    for name, (fact, form) in facts.items():
        found = (form.format(fmean(float(fact(row)) for row in group)) for group in groups.values())
        lines.append(f"| {name} | {' | '.join(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
