"""How the self-edits of a trained policy differ from the untrained one's, and what was rewarded.

    python benchmarks/what_was_learned.py runs/restem/seal_arc-seed0/ledger.sqlite ...

Several ledgers are counted together, all of one form. A self-edit's tools are those it names, steps of a chain
included.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from arc_seal.outer_loop.ledger import Ledger, RolloutRow
from arc_seal.self_edit.schema import DataGeneration

Fact = Callable[[RolloutRow], float]


def main() -> None:
    """Print a Markdown table: a line a fact, a column for each group of roll-outs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ledgers", type=Path, nargs="+")
    rows = [row for path in parser.parse_args().ledgers for row in read(path)]
    groups = by_round([row for row in rows if row.run == "train"]) | {
        "held out, untrained": [row for row in rows if row.run == "evaluate untrained"],
        "held out, trained": [row for row in rows if row.run.startswith("evaluate seal")],
    }
    groups = {name: group for name, group in groups.items() if group}
    print("| |", " | ".join(groups), "|")
    print("|---|" + "---:|" * len(groups))
    print("| self-edits |", " | ".join(str(len(group)) for group in groups.values()), "|")
    form: Literal["default", "paper"] = "paper" if rows and "data_generation" in edit(rows[0]) else "default"
    for name, fact, number in facts(form):
        print(f"| {name} |", " | ".join(number.format(mean(group, fact)) for group in groups.values()), "|")


def by_round(rows: Sequence[RolloutRow]) -> dict[str, list[RolloutRow]]:
    """What was tried and what was rewarded on the training tasks, for each round where there are several."""
    rounds = sorted({row.round for row in rows})
    groups = {}
    for number in rounds:
        title = f"training, round {number + 1}" if len(rounds) > 1 else "training"
        made = [row for row in rows if row.round == number]
        groups |= {f"{title}, all": made, f"{title}, rewarded": [row for row in made if row.reward == 1]}
    return groups


def read(path: Path) -> list[RolloutRow]:
    """The roll-outs that have a self-edit."""
    with Ledger.read_only(path) as ledger:
        return [row for row in ledger.rollouts() if row.self_edit is not None]


def facts(form: Literal["default", "paper"]) -> list[tuple[str, Fact, str]]:
    """What is counted of each self-edit, and how its mean is written."""
    own = facts_of_the_papers_form() if form == "paper" else facts_of_the_default_form()
    return [
        ("solved", lambda row: row.reward == 1, "{:.1%}"),
        *own,
        ("learning rate, mean", lambda row: training(row)["learning_rate"], "{:.5f}"),
        ("learning rate 0.001 or more", lambda row: training(row)["learning_rate"] >= 0.001, "{:.0%}"),
        ("updates, mean", lambda row: row.updates, "{:.0f}"),
        ("24 updates or more", lambda row: row.updates >= 24, "{:.0%}"),
        ("tokens read, mean", lambda row: row.tokens, "{:,.0f}"),
    ]


def facts_of_the_default_form() -> list[tuple[str, Fact, str]]:
    """Tools and hyperparameters."""
    tools = ["permute_colors", "rotate", "flip", "transpose", "shuffle_demos", "drop_demos", "translate", "enlarge"]
    tools += ["reflect", "tile", "chain"]
    by_tool: list[tuple[str, Fact, str]] = [(f"names `{tool}`", names(tool), "{:.0%}") for tool in tools]
    return [
        *by_tool,
        ("no tool at all", lambda row: not edit(row)["tools"], "{:.0%}"),
        ("loss on outputs alone", lambda row: training(row)["loss_on"] == "outputs", "{:.0%}"),
        ("rank 64 or more", lambda row: training(row)["lora_rank"] >= 64, "{:.0%}"),
        ("batch, mean", lambda row: training(row)["batch_size"], "{:.1f}"),
    ]


def facts_of_the_papers_form() -> list[tuple[str, Fact, str]]:
    """The groups of augmentations, and the other fields."""
    groups: list[tuple[str, Fact, str]] = [(f"`{name}`", uses(name), "{:.0%}") for name in DataGeneration.model_fields]
    return [
        *groups,
        ("no augmentation at all", lambda row: not any(edit(row)["data_generation"].values()), "{:.0%}"),
        ("loss on outputs alone", lambda row: training(row)["strategy"] == "train_using_output_tokens", "{:.0%}"),
        ("epochs, mean", lambda row: training(row)["num_train_epochs"], "{:.1f}"),
    ]


def uses(group: str) -> Fact:
    """Whether a self-edit in the paper's form uses a group."""
    return lambda row: edit(row)["data_generation"][group]


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
