"""Solved tasks against seconds a task: stages that end once they are sure, beside single inner loops.

    python -m arc_seal.solve -m arcagi1/dev seed=0,1 'stages=[8000,30000]' ttt.token_budget=60000 confidence=null \
        executor.workers=2 executor.threads=1 hydra.sweep.dir=runs/stages
    python -m arc_seal.solve -m arcagi1/dev seed=0,1 'stages=[]' ttt.token_budget=120000 executor.workers=2 \
        executor.threads=1 hydra.sweep.dir=runs/120000    # and others
    python benchmarks/seconds_curve.py --staged runs/stages --single runs/120000 runs/30000 \
        --picture benchmarks/pictures/seconds.svg

A staged run has done all its stages; what would have been done of them is read off, for each task by a calibration that
was fitted on the other tasks, in ten parts. Seconds are those of training and predicting. The picture needs matplotlib.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import fmean

from calibrate import calibration_of, examples_of, part, solution_of, states_of

from arc_seal.arc.task import binary_reward
from arc_seal.outer_loop.confidence import Calibration
from arc_seal.outer_loop.rollout import grids
from arc_seal.ui.run_folder import Kept, read_folder

CONFIDENCES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.01)

Point = tuple[float, float]
"""Mean seconds a task, and the share of tasks that is solved."""


@dataclass(frozen=True)
class Stage:
    """What is known of a task after a stage, all before it included."""

    seconds: float
    solved: int
    chance: float  # how probable that is


def main() -> None:
    """Print the points, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--staged", type=Path, required=True, help="folder of a run that did all stages")
    parser.add_argument("--single", type=Path, nargs="*", default=[], help="folders of runs without stages")
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=[], help="folders of other runs, to be shown as they are"
    )
    parser.add_argument("--picture", type=Path, help="the picture to draw, such as seconds.svg")
    arguments = parser.parse_args()
    tasks = stages_of(read_folder(arguments.staged).kept)
    ours = [(wanted, ended(tasks, wanted)) for wanted in CONFIDENCES]
    print("| confidence | seconds a task | solved |\n|---|---|---|")
    for wanted, (seconds, share) in ours:
        print(f"| {wanted:g} | {seconds:.1f} | {share:.1%} |")
    single, beside = ([as_it_is(folder) for folder in each] for each in (arguments.single, arguments.beside))
    for folder, (seconds, share) in zip([*arguments.single, *arguments.beside], [*single, *beside], strict=True):
        print(f"| {folder.name} | {seconds:.1f} | {share:.1%} |")
    if arguments.picture is not None:
        draw(arguments.picture, [point for _, point in ours], single, beside)


def stages_of(kept: Sequence[Kept]) -> list[list[Stage]]:
    """The stages of each task, judged by a calibration that has not seen it."""
    fits: dict[int, Calibration] = {}
    for number in {part(each.solved.task_id) for each in kept}:
        others = (each for each in kept if part(each.solved.task_id) != number)
        fits[number] = calibration_of([example for each in others for example in examples_of(each)])
    return [judged(each, fits[part(each.solved.task_id)]) for each in kept]


def judged(kept: Kept, calibration: Calibration) -> list[Stage]:
    """A task's stages."""
    stages = []
    for state in states_of(kept):
        sure = calibration.judged(state.attempts, state.results)
        chance = prod(sum(each.confidence or 0.0 for each in made) for made in sure)
        stages.append(Stage(state.seconds, binary_reward(grids(state.attempts), solution_of(kept)), chance))
    return stages


def ended(tasks: Sequence[Sequence[Stage]], wanted: float) -> Point:
    """What comes of ending each task at its first stage at which it is so sure."""
    last = [next((stage for stage in stages if stage.chance >= wanted), stages[-1]) for stages in tasks]
    return fmean(stage.seconds for stage in last), fmean(stage.solved for stage in last)


def as_it_is(folder: Path) -> Point:
    """What a run came to."""
    solved = [each.solved for each in read_folder(folder).kept]
    spent = [each.seconds.get("train", 0.0) + each.seconds.get("predict", 0.0) for each in solved]
    return fmean(spent), fmean(each.reward or 0 for each in solved)


def draw(path: Path, ours: Sequence[Point], single: Sequence[Point], beside: Sequence[Point]) -> None:
    """Draw the points."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 4))
    for points, label, marker in ((ours, "stages, ended by confidence", "o"), (single, "one inner loop", "s")):
        ordered = sorted(points)
        axes.plot([x for x, _ in ordered], [100 * y for _, y in ordered], marker=marker, label=label)
    if beside:
        axes.plot([x for x, _ in beside], [100 * y for _, y in beside], "^", label="several self-edits")
    axes.set_xlabel("seconds a task on one core, training and predicting")
    axes.set_ylabel("solved, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
