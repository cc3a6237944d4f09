"""What more training is worth, by how hard a task looked before it: the roll-outs that a policy was trained on.

    python benchmarks/difficulty.py benchmarks/results/policy-rollouts.jsonl

A line of the file is a roll-out: its task, how hard that looked (0 to 9), tokens of training, whether it solved the
task, the log-probability of the true outputs, seconds. The chance of solving is read off the log-probability as
`lessons.value` does before it counts the reward in.
"""

import argparse
import json
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

from arc_seal.outer_loop.lessons import EVEN


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    rows = [json.loads(line) for line in parser.parse_args().file.read_text("utf-8").splitlines()]
    arms = sorted({(not row["symmetries"], row["tokens"]) for row in rows})
    names = [f"{tokens}{' without symmetries' if plain else ''}" for plain, tokens in arms]
    print(f"| difficulty | tasks | {' | '.join(names)} |")
    print("|---" * (len(arms) + 2) + "|")
    for level in (*sorted({row["difficulty"] for row in rows}), None):
        of_level = [row for row in rows if level in (row["difficulty"], None)]
        cells = [cell([row for row in of_level if (not row["symmetries"], row["tokens"]) == arm]) for arm in arms]
        print(
            f"| {'all' if level is None else level} | {len({row['task'] for row in of_level})} | {' | '.join(cells)} |"
        )


def cell(rows: list[dict[str, Any]]) -> str:
    """How many solved their task, the mean chance, mean seconds."""
    chance = fmean(1 / (1 + exp(EVEN - row["solution_log_probability"])) for row in rows)
    seconds = fmean(row["train_s"] + row["predict_s"] for row in rows)
    return f"{sum(row['reward'] for row in rows)}, {chance:.2f}, {seconds:.1f} s"


if __name__ == "__main__":
    main()
