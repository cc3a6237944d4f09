"""How the self-edits of a trained policy differ from the untrained one's, and what was rewarded.

    python benchmarks/what_was_learned.py runs/restem/seal_arc-seed0/ledger.sqlite ...

Several ledgers are counted together. A self-edit's tools are those it names, steps of a chain included.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from arc_seal.outer_loop.ledger import Ledger
from arc_seal.outer_loop.ledger_rows import RolloutRow

Fact = Callable[[RolloutRow], float]


def main() -> None:
    """Print a Markdown table: a line a fact, a column for each group of roll-outs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ledgers", type=Path, nargs="+")
    rows = [row for path in parser.parse_args().ledgers for row in read(path)]
    groups = {
        "training, all": [row for row in rows if row.run == "train"],
        "training, rewarded": [row for row in rows if row.run == "train" and row.reward == 1],
        "held out, untrained": [row for row in rows if row.run == "evaluate untrained"],
        "held out, trained": [row for row in rows if row.run.startswith("evaluate seal")],
    }
    print("| |", " | ".join(groups), "|")
    print("|---|" + "---:|" * len(groups))
    print("| self-edits |", " | ".join(str(len(group)) for group in groups.values()), "|")
    for name, fact, form in facts():
        print(f"| {name} |", " | ".join(form.format(mean(group, fact)) for group in groups.values()), "|")


def read(path: Path) -> list[RolloutRow]:
    """The roll-outs that have a self-edit."""
    with Ledger.read_only(path) as ledger:
        return [row for row in ledger.rollouts() if row.self_edit is not None]


def facts() -> list[tuple[str, Fact, str]]:
    """What is counted of each self-edit, and how its mean is written."""
    tools = ["permute_colors", "rotate", "flip", "transpose", "shuffle_demos", "drop_demos", "translate", "enlarge"]
    tools += ["reflect", "tile", "chain"]
    by_tool: list[tuple[str, Fact, str]] = [(f"names `{tool}`", names(tool), "{:.0%}") for tool in tools]
    return [
        ("solved", lambda row: row.reward == 1, "{:.1%}"),
        *by_tool,
        ("no tool at all", lambda row: not edit(row)["tools"], "{:.0%}"),
        ("loss on outputs alone", lambda row: training(row)["loss_on"] == "outputs", "{:.0%}"),
        ("learning rate, mean", lambda row: training(row)["learning_rate"], "{:.5f}"),
        ("rank 64 or more", lambda row: training(row)["lora_rank"] >= 64, "{:.0%}"),
        ("batch, mean", lambda row: training(row)["batch_size"], "{:.1f}"),
        ("updates, mean", lambda row: row.updates, "{:.0f}"),
        ("24 updates or more", lambda row: row.updates >= 24, "{:.0%}"),
        ("tokens read, mean", lambda row: row.tokens, "{:,.0f}"),
    ]


def names(tool: str) -> Fact:
    """Whether a self-edit names a tool."""
    return lambda row: tool in tools_of(edit(row)["tools"])


def tools_of(calls: Sequence[dict[str, Any]]) -> list[str]:
    """Every tool that is named."""
    return [call["tool"] for outer in calls for call in (outer, *outer.get("steps", []))]


def edit(row: RolloutRow) -> dict[str, Any]:
    """The self-edit as it was written."""
    parsed: dict[str, Any] = json.loads(row.self_edit or "{}")
    return parsed


def training(row: RolloutRow) -> dict[str, Any]:
    """Its hyperparameters."""
    values: dict[str, Any] = edit(row)["training"]
    return values


def mean(rows: Sequence[RolloutRow], fact: Fact) -> float:
    """Over some roll-outs; NaN of none."""
    return fmean(float(fact(row)) for row in rows) if rows else float("nan")


if __name__ == "__main__":
    main()
