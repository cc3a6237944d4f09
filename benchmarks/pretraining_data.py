"""What the data of pretraining are worth: loss on `arcagi1/dev`, whose tasks and generators no run has seen.

    python benchmarks/pretraining_data.py OUT.jsonl NAME-s0=WEIGHTS NAME-s1=WEIGHTS OTHER-s0=WEIGHTS ...
    python benchmarks/pretraining_data.py OUT.jsonl --show

Each pair of a dev task is last in a context of all of its pairs once, under `CHANGES` drawn symmetries and colours that
are the same for all weights; contexts of more than `MAX_TOKENS` are left out. OUT has a line for each weights and task:
mean loss of the last output in nats a token, and shares of its tokens and of outputs that are right. The table compares
each name with the first one: differences are paired by task, over all its seeds; intervals a bootstrap over tasks.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import solved_pairs
from arc_seal.arc.task import Entry
from arc_seal.models.model import read_network
from arc_seal.models.prompt import Encoded
from arc_seal.models.weights import resolve
from arc_seal.outer_loop.statistics import bootstrap_over_tasks, paired_difference
from arc_seal.pretraining.loop import last_outputs, measure
from arc_seal.pretraining.stream import DataSettings, draw_change

CHANGES, MAX_TOKENS = 4, 1200


def main() -> None:
    """Measure what is named, and print the table of all that OUT has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("weights", nargs="*", metavar="NAME-sSEED=WEIGHTS")
    parser.add_argument("--show", action="store_true", help="print the table alone")
    arguments = parser.parse_args()
    for named in arguments.weights:
        run, seed, folder = re.fullmatch(r"(.+)-s(\d+)=(.+)", named).groups()  # type: ignore[union-attr]
        network: Any = read_network(folder, resolve(folder), torch.float32).eval()
        with arguments.out.open("a") as out:
            for entry in load_tasks("arcagi1/dev"):
                if contexts := list(contexts_of(entry)):
                    score = measure(network, contexts, batch_tokens=8192)
                    row = {"loss": score.loss, "accuracy": score.accuracy, "exact": score.exact}
                    rounded = {key: round(value, 5) for key, value in row.items()}
                    out.write(json.dumps({"run": run, "seed": int(seed), "task": entry[0].id, **rounded}) + "\n")
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    print(table(list({(row["run"], row["seed"], row["task"]): row for row in rows}.values())))  # the last one counts


def contexts_of(entry: Entry) -> Iterator[Encoded]:
    """A task's contexts with one output asked for, those that are short enough."""
    rng = np.random.default_rng(int(entry[0].id, 16))
    pairs = [(pair.input.array, pair.output.array) for pair in solved_pairs(entry)]
    for last in range(len(pairs)):
        for _ in range(CHANGES):
            change = draw_change(DataSettings(), rng)
            turned = [(change(shown), change(answer)) for shown, answer in pairs]
            yield from last_outputs([[*turned[:last], *turned[last + 1 :], turned[last]]], MAX_TOKENS)


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each run, in the order of OUT, in Markdown."""
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in sorted(rows, key=lambda each: int(each["seed"])):
        for key in ("loss", "accuracy", "exact"):
            found[row["run"]][key][row["task"]].append(row[key])
    names = list(dict.fromkeys(row["run"] for row in rows))
    lines = [
        "| data | seeds | loss | tokens right | outputs right | loss minus the first |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for run in names:
        losses, first = found[run]["loss"], found[names[0]]["loss"]
        seeds = len(next(iter(losses.values())))
        loss, change = bootstrap_over_tasks(losses), paired_difference(losses, first)
        shares = [f"{fmean(map(fmean, found[run][key].values())):.1%}" for key in ("accuracy", "exact")]
        difference = "" if run == names[0] else f"{change.mean:+.4f} ({change.low:+.4f} to {change.high:+.4f})"
        lines.append(f"| {' | '.join([run, str(seeds), f'{loss.mean:.4f}', *shares, difference])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
