"""How sure attempts are: fits the calibration of a model on runs of `solve` in stages, and measures it.

    python -m arc_seal.solve -m arcagi1/dev seed=0,1 'stages=[8000,30000]' ttt.token_budget=60000 \
        confidence=null executor.workers=2 executor.threads=1 hydra.sweep.dir=runs/stages
    python benchmarks/calibrate.py runs/stages --out arc_seal/weights/grid/calibration.json
    python benchmarks/calibrate.py runs/others --by arc_seal/weights/grid/calibration.json    # others

Every stage of a task counts as if it were its last. Brier score (mean square of confidence minus what came of it, 0 to
1) and the reliability table are by cross-validation in ten parts, no task in two of them, unless `--by` is given. A
manifest beside the file is written anew.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby, pairwise, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arc_seal.arc.task import Solution
from arc_seal.inner_loop.job import Attempt, Result, pooled, vote
from arc_seal.models.weights import MANIFEST, write_manifest
from arc_seal.outer_loop.confidence import Calibration, features, fit
from arc_seal.outer_loop.rollout import grids
from arc_seal.ui.run_folder import Kept, read_folder

PARTS = 10
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Bounds of the groups of the reliability table."""

MEANINGS = {
    "first": "the first attempt is right",
    "either": "one of the two attempts is",
}


@dataclass(frozen=True)
class Example:
    """A query after some stage."""

    task: str
    row: NDArray[np.float64]  # [features]
    first: bool  # whether the first attempt is right
    either: bool  # whether one of the two is
    later: bool | None  # whether one is after the next stage; None after the last


@dataclass(frozen=True)
class State:
    """What is known of a task after a stage, all before it included."""

    results: list[Result]
    attempts: tuple[tuple[Attempt, ...], ...]  # for each query
    seconds: float


def main() -> None:
    """Fit, measure, and keep the fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs of solve")
    parser.add_argument("--by", type=Path, help="measure this calibration on the runs, which it was not fitted on")
    parser.add_argument("--out", type=Path, help="the file to keep the calibration in")
    arguments = parser.parse_args()
    kept = [each for folder in arguments.runs for each in read_folder(folder).kept]
    examples = [example for each in kept for example in examples_of(each)]
    calibration = Calibration.load(arguments.by) if arguments.by is not None else calibration_of(examples)
    rows, parts = rows_of(examples), np.array([part(each.task) for each in examples])
    for name, meaning in MEANINGS.items():
        right = marks(examples, name)
        print(f"{name}: {meaning}; {len(right)} queries after a stage:")
        sure = held_out(rows, right, parts) if arguments.by is None else chances(getattr(calibration, name), rows)
        print(measured(sure, right))
    print(f"{calibration.gain:.0%} of the queries without a right attempt have one after the next stage")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(calibration.model_dump(), indent=1) + "\n")
        if (arguments.out.parent / MANIFEST).is_file():
            write_manifest(arguments.out.parent)


def calibration_of(examples: Sequence[Example]) -> Calibration:
    """The calibration that fits some examples."""
    open_ones = [each for each in examples if each.later is not None and not each.either]
    gain = sum(bool(each.later) for each in open_ones) / max(1, len(open_ones))
    first, either = (fit(rows_of(examples), marks(examples, name)) for name in MEANINGS)
    return Calibration(first=first, either=either, gain=gain)


def rows_of(examples: Sequence[Example]) -> NDArray[np.float64]:
    """[examples, features]."""
    return np.stack([each.row for each in examples])


def marks(examples: Sequence[Example], name: str) -> NDArray[np.bool_]:
    """Of each example whether a meaning holds, [examples]."""
    return np.array([getattr(each, name) for each in examples])


def examples_of(kept: Kept) -> Iterator[Example]:
    """Of one task, what was known after each of its stages, and whether the attempts then were right."""
    states, outputs = states_of(kept), solution_of(kept).outputs
    for now, after in zip_longest(states, states[1:]):
        for query, output in enumerate(outputs):
            answers = grids(now.attempts)[query]
            if answers:
                later = output in grids(after.attempts)[query] if after else None
                row = features(query, now.attempts[query], now.results)
                yield Example(kept.solved.task_id, row, answers[0] == output, output in answers, later)


def states_of(kept: Kept) -> list[State]:
    """What was known of a task after each of its stages that came to anything."""
    states, results, seconds = [], list[Result](), 0.0
    for _, rollouts in groupby(kept.solved.rollouts, key=lambda each: each.token_budget):
        made = list(rollouts)
        seconds += sum(sum(each.seconds.values()) for each in made)
        last = [each.result for each in made if each.result is not None]
        if last:
            attempts = vote(pooled(results, last), len(kept.solved.attempts))
            results = [*results, *last]
            states.append(State(results, attempts, seconds))
    return states


def solution_of(kept: Kept) -> Solution:
    """A task's solution."""
    if kept.entry is None or kept.entry[1] is None:
        raise SystemExit(f"{kept.solved.task_id}: expected a task with its solution in result.json")
    return kept.entry[1]


def part(task: str) -> int:
    """Which part of the cross-validation a task is in, by its id."""
    return int(sha256(f"calibration {task}".encode()).hexdigest(), 16) % PARTS


def held_out(rows: NDArray[np.float64], right: NDArray[np.bool_], parts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The confidence in each example by a fit on the other parts, [examples]."""
    found = np.zeros(len(rows))
    for number in set(parts.tolist()):
        own = parts == number
        found[own] = chances(fit(rows[~own], right[~own]), rows[own])
    return found


def chances(weights: Sequence[float], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The confidence in each example by a fit, [examples]."""
    return 1 / (1 + np.exp(-rows @ np.array(weights)))


def measured(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> str:
    """Brier score beside that of the mean alone, then the reliability table."""
    brier, plain = np.mean((confidence - right) ** 2), np.mean((right.mean() - right) ** 2)
    lines = [
        f"Brier score {brier:.3f}; {plain:.3f} where the mean is said of all",
        "| confidence | mean | right |",
        "|---|---|---|",
    ]
    for low, high in pairwise(BINS):
        own = (confidence >= low) & ((confidence < high) | (high == 1.0))
        if own.any():
            lines.append(f"| {low:.0%} to {high:.0%} | {confidence[own].mean():.0%} | {right[own].sum()}/{own.sum()} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
