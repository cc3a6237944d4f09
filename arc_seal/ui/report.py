"""The report of one or several runs as one HTML file that needs no network: `report.html` beside this file, filled in.

Everything that is read from a run is escaped by the template; its grids are text, which a few lines of JavaScript draw.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from arc_seal import __version__
from arc_seal.arc.grid import Grid
from arc_seal.arc.html import PALETTES
from arc_seal.arc.task import Entry
from arc_seal.errors import Status
from arc_seal.inner_loop.job import Attempt
from arc_seal.outer_loop import table as tables
from arc_seal.outer_loop.provenance import utc_now
from arc_seal.outer_loop.restem import RUN
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.outer_loop.statistics import bootstrap_over_tasks, wilson
from arc_seal.ui.grids import differing_cells, size
from arc_seal.ui.progress import duration
from arc_seal.ui.run_folder import RunFolder, changed, compare, marks

LARGEST_PX, LARGEST_CELL_PX, SMALLEST_CELL_PX = 168, 20, 5
"""The side of a grid is at most so long where its cells are not made smaller than the last by that."""

SURE = 0.5
"""A task is called unsure where its first attempt has less than this share of the votes, or less confidence."""

MOST_VALUES = 5
"""Numbers that a self-edit field takes more of are put into quarters of equal size."""

EXTREMES = 5
"""How many of the best and of the worst tasks are listed."""

POINTS = 120
"""Points of a loss curve; of longer ones each is the mean of several updates."""


@dataclass(frozen=True, slots=True)
class Try:
    """A task tried once: under a seed of a run, or by one roll-out of training."""

    title: str  # tells it from other tries of the task; empty where there is one
    author: str  # who wrote its self-edits
    attempts: Sequence[Sequence[Attempt]]  # for each query, best first
    rollouts: Sequence[Rollout]
    reward: int | None
    seconds: Mapping[str, float]  # by stage

    @property
    def sureness(self) -> float | None:
        """The least confidence in a first attempt, or its share of the votes where none is recorded; None: no vote."""
        found = []
        for query, attempts in enumerate(self.attempts):
            votes = sum(each.query == query for made in self.rollouts if made.result for each in made.result.candidates)
            if attempts:
                confidence = attempts[0].confidence
                found.append(min(1.0, attempts[0].votes / max(1, votes)) if confidence is None else confidence)
        return min(found, default=None)


@dataclass(frozen=True, slots=True)
class Card:
    """A task in the gallery."""

    task_id: str
    entry: Entry | None
    tries: Sequence[Try]
    others: Sequence[Rollout] = ()  # training: all its roll-outs, of which the best is the try

    @property
    def seconds(self) -> float:
        """What a try took in the mean."""
        return fmean(sum(each.seconds.values()) for each in self.tries)

    @property
    def sureness(self) -> float | None:
        """That of the least sure try."""
        return min((each.sureness for each in self.tries if each.sureness is not None), default=None)

    @property
    def states(self) -> list[str]:
        """What the gallery can be filtered by: solved, unsolved, differ, unsure, failed."""
        rewards = {each.reward for each in self.tries} - {None}
        failed = any(not any(each.attempts) for each in self.tries)
        unsure = self.sureness is not None and self.sureness < SURE
        found = {
            "solved": rewards == {1},
            "unsolved": 0 in rewards,
            "differ": len(rewards) > 1,
            "unsure": unsure,
            "failed": failed,
        }
        return [name for name, holds in found.items() if holds]


def make_report(runs: Sequence[RunFolder]) -> str:
    """The report of runs as the text of an HTML file: what each came to, how they differ, and every task."""
    names = _names(runs)
    pairs = list(zip(names, runs, strict=True))
    cards = _cards(pairs)
    longest = sorted(card.seconds for card in cards)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(duration=duration, size=size, pretty=_pretty)
    text = environment.get_template("report.html").render(
        runs=[(name, run, _overview(run)) for name, run in pairs],
        comparisons=[_comparison(pairs[0], other) for other in pairs[1:]],
        trainings=[(name, _training(run)) for name, run in pairs if run.kind == "training"],
        evaluations=[(name, run.table, _evaluation(run.table)) for name, run in pairs if run.table],
        cards=cards,
        slow_s=longest[3 * len(longest) // 4] if len(longest) > 3 else float("inf"),
        sure=SURE,
        version=__version__,
        made_at=utc_now()[:16].replace("T", " "),
        grid=_grid,
        palette=PALETTES["arc"],
        verdict=_verdict,
        curve=_curve,
        votes=_votes,
        edit=_edit_lines,
        headings=tables.HEADINGS,
        cells=tables.cells,
        task_cells=tables.task_cells,
        failures=tables.failures_text,
        note=tables.NOTE,
    )
    return text.encode(errors="replace").decode()  # half a surrogate pair is no text that a file can hold


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """What to call the runs: as little of their paths' ends as tells them apart."""
    paths = [run.place.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]


def _cards(runs: Sequence[tuple[str, RunFolder]]) -> list[Card]:
    """Every task once, with all tries of it; tasks of one id that differ have a card each."""
    kept = [(name, run, each) for name, run in runs for each in run.kept]
    entries = {each.solved.task_id: each.entry for _, _, each in kept if each.entry}
    seeds = len({each.solved.seed for _, _, each in kept}) > 1
    cards: dict[tuple[str, Entry | None], list[Try]] = {}
    for name, _, each in kept:
        solved = each.solved
        words = [name] * (len(runs) > 1) + [f"seed {solved.seed}"] * seeds
        author = _author(solved.rollouts, each.configuration)
        made = Try(", ".join(words), author, solved.attempts, solved.rollouts, solved.reward, solved.seconds)
        cards.setdefault((solved.task_id, each.entry or entries.get(solved.task_id)), []).append(made)
    found = [Card(task_id, entry, tries) for (task_id, entry), tries in cards.items()]
    return [*found, *(card for name, run in runs for card in _training_cards(name if len(runs) > 1 else "", run))]


def _training_cards(name: str, run: RunFolder) -> Iterator[Card]:
    """A card a task that the run has rolled out, with its best roll-out."""
    by_task: dict[str, list[Rollout]] = {}
    for rollout in run.rollouts:
        if rollout.run == RUN:
            by_task.setdefault(rollout.task, []).append(rollout)
    for entry in run.entries:
        if made := by_task.get(entry[0].id):
            best = max(made, key=lambda it: (it.reward or 0, it.score or 0.0, it.held_out or -np.inf, bool(it.result)))
            title = f"best roll-out: round {best.round + 1}, sample {best.sample + 1}"
            writer = f"the policy of round {best.round}" if best.round else f"{best.model}, untrained"
            attempts = best.attempts or ((),) * len(entry[0].queries)
            shown = Try(", ".join(filter(None, (name, title))), writer, attempts, (best,), best.reward, best.seconds)
            yield Card(entry[0].id, entry, (shown,), made)


def _author(rollouts: Sequence[Rollout], configuration: Mapping[str, Any]) -> str:
    """Who wrote the self-edits of a result."""
    if any(each.completion is not None for each in rollouts):
        policy = configuration.get("policy")
        return f"the policy {policy}" if policy else f"{rollouts[0].model}, untrained"
    if any(each.self_edit for each in rollouts):
        return "the configuration: one self-edit for all tasks"
    return "nobody: in context only" if any(each.status is Status.OK for each in rollouts) else "nobody: none was made"


def _overview(run: RunFolder) -> list[tuple[str, str]]:
    """The figures of a run, each with its name."""
    facts: list[tuple[str, str]] = [("kind", run.kind)]
    versions: Mapping[str, str] = {}
    if run.kept:
        solved = [each.solved for each in run.kept]
        rewards = [each.reward for each in solved if each.reward is not None]
        facts.append(
            ("solved (95 % Wilson interval)", _share(sum(rewards), len(rewards)) if rewards else "no solutions")
        )
        if without := len(solved) - len(rewards):
            facts.append(("without a solution", str(without)))
        spent = [sum(each.seconds.values()) for each in solved]
        facts += [("time a task, median", duration(median(spent))), ("time in all", duration(sum(spent)))]
        facts.append(("model", ", ".join(sorted({each.model for each in solved}))))
        versions = solved[0].versions
    elif run.rollouts:
        own = [each for each in run.rollouts if each.run == RUN]
        rounds = {each.round for each in own}
        facts += [("tasks", str(len(run.entries))), ("rounds", str(len(rounds))), ("roll-outs", str(len(own)))]
        facts.append(("time of all roll-outs", duration(sum(sum(each.seconds.values()) for each in own))))
        facts.append(("model", run.rollouts[0].model))
        versions = run.rollouts[0].versions
    elif run.table:
        facts += [(name, str(run.table["run"].get(name, "-"))) for name in ("model", "data", "seeds", "samples")]
        versions = run.table["run"].get("versions", {})
    if run.failed:
        facts.append(("bad input", str(len(run.failed))))
    return [*facts, ("versions", ", ".join(f"{name} {number}" for name, number in list(versions.items())[:3]))]


def _share(good: int, total: int) -> str:
    low, high = wilson(good, total)
    return f"{good} of {total} ({100 * low:.0f} to {100 * high:.0f}\u00a0%)"


def _comparison(first: tuple[str, RunFolder], second: tuple[str, RunFolder]) -> dict[str, Any]:
    """How a run differs from the first one: in what it solved, task by task, and in its configuration."""
    before, after = marks(first[1]), marks(second[1])
    found = compare(first[1], second[1], (first[0], second[0]))
    changes = [
        (name, task, fmean(before[name][task]), fmean(after[name][task]))
        for name in after
        for task in after[name]
        if task in before.get(name, {}) and fmean(before[name][task]) != fmean(after[name][task])
    ]
    return {
        "names": (first[0], second[0]),
        "differences": [(each["name"], tables.difference_text(each), *_signed(each)) for each in found],
        "tasks": changes,
        "changed": changed(first[1], second[1]),
    }


def _signed(difference: Mapping[str, Any]) -> tuple[float, float, float]:
    """Mean and bounds of a difference, -1 to 1, as places from 0 to 1."""
    mean, low, high = ((difference[name] + 1) / 2 for name in ("mean", "low", "high"))
    return mean, low, high


def _evaluation(table: tables.Table) -> dict[str, Any]:
    """What the plots of an evaluation show."""
    rows = [
        (row["name"], tables.cells(row)[1], row["task_mean"], row["bootstrap_low"], row["bootstrap_high"])
        for row in table["rows"]
        if row["task_mean"] is not None
    ]
    found = [(tables.difference_text(each), *_signed(each)) for each in tables.differences(table)]
    return {"rows": rows, "differences": found}


def _training(run: RunFolder) -> dict[str, Any]:
    """What a training run's section shows: its rounds, what was chosen in each, and how each task fared."""
    own = [each for each in run.rollouts if each.run == RUN]
    groups = [
        (f"round {number + 1}", [each for each in own if each.round == number])
        for number in sorted({each.round for each in own})
    ]
    measured = [each for each in run.rollouts if each.run.startswith(("evaluate untrained", "evaluate seal"))]
    for name in sorted({each.run for each in measured}, key=lambda name: ("seal" in name, name)):
        groups.append((name.replace("evaluate ", "held out, "), [each for each in measured if each.run == name]))
    policies = {policy.round: policy for policy in run.policies}
    rounds = [
        {"name": name, **_round(made), "policy": policies.get(made[0].round) if made[0].run == RUN else None}
        for name, made in groups
    ]
    by_task: dict[str, list[tuple[str, float]]] = {}
    for name, tasks in marks(run).items():
        for task, rewards in tasks.items():
            by_task.setdefault(task, []).append((name, fmean(rewards)))
    ranked = sorted(by_task.items(), key=lambda it: (-it[1][-1][1], -fmean(share for _, share in it[1]), it[0]))
    best = ranked[: min(EXTREMES, (len(ranked) + 1) // 2)]
    worst = ranked[len(best) :][-EXTREMES:]
    names = [name for name, _ in groups]
    return {"rounds": rounds, "names": names, "choices": _choices(groups), "best": best, "worst": worst}


def _round(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The means of a round's roll-outs; the reward with its interval, None where it was not by the solution."""
    rewards: dict[str, list[float]] = {}
    for each in rollouts:
        if each.reward is not None:
            rewards.setdefault(each.task, []).append(each.reward)
    held_out = [each.held_out for each in rollouts if each.held_out is not None]
    graded = [each.solution_log_probability for each in rollouts if each.solution_log_probability is not None]
    stages = dict.fromkeys(stage for each in rollouts for stage in each.seconds)
    tokens = [each.result.training.tokens for each in rollouts if each.result and each.result.training]
    return {
        "count": len(rollouts),
        "valid": fmean(each.self_edit is not None for each in rollouts),
        "reward": bootstrap_over_tasks(rewards) if rewards else None,
        "held_out": fmean(held_out) if held_out else None,
        "graded": fmean(graded) if graded else None,
        "seconds": {stage: fmean(each.seconds.get(stage, 0.0) for each in rollouts) for stage in stages},
        "tokens": fmean(tokens) if tokens else None,
    }


def _choices(groups: Sequence[tuple[str, Sequence[Rollout]]]) -> list[tuple[str, str, list[float]]]:
    """Each value of each field of the self-edits, and the share of every group's valid self-edits that have it."""
    written = [[_fields(each) for each in made if each.self_edit is not None] for _, made in groups]
    numbers: dict[str, list[float]] = {}
    for field, value in (pair for edits in written for edit in edits for pair in edit):
        if _is_number(value):
            numbers.setdefault(field, []).append(value)
    edges = {
        name: np.quantile(all_, (0, 0.25, 0.5, 0.75, 1))
        for name, all_ in numbers.items()
        if len(set(all_)) > MOST_VALUES
    }

    def said(field: str, value: Any) -> tuple[int, str]:
        """A value's place among those of its field, and its name."""
        known = sorted(set(numbers.get(field, ())))
        if not _is_number(value):
            return len(known), str(value)  # a word comes behind the numbers
        if field not in edges:
            return known.index(value), f"{value:g}"
        quarter = min(3, int(np.searchsorted(edges[field], value, "right")) - 1)
        return quarter, f"{edges[field][quarter]:.3g} to {edges[field][quarter + 1]:.3g}"

    counts = [Counter((field, said(field, value)) for edit in edits for field, value in edit) for edits in written]
    fields = dict.fromkeys(field for edits in written for edit in edits for field, _ in edit)
    found = []
    for field in fields:
        for value in sorted({each for count in counts for name, each in count if name == field}):
            shares = [
                count[field, value] / len(edits) if edits else 0.0 for count, edits in zip(counts, written, strict=True)
            ]
            found.append((field, value[1], shares))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fields(rollout: Rollout) -> list[tuple[str, Any]]:
    """The fields of a self-edit with their values, as the policy wrote it; of tools only which are called."""
    assert rollout.self_edit is not None
    text = rollout.completion or rollout.self_edit.model_dump_json()
    return list(dict.fromkeys(_leaves(json.loads(text), "")))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    match value:
        case {"tool": str(tool), **arguments}:
            yield "tools", tool
            steps = (step for each in arguments.values() if isinstance(each, list) for step in each)
            yield from (leaf for step in steps if isinstance(step, dict) for leaf in _leaves(step, name))
        case dict():
            for key, each in value.items():
                yield from _leaves(each, key.replace("_", " "))
        case list():
            yield from ((name, "none"),) if not value else (leaf for each in value for leaf in _leaves(each, name))
        case _:
            yield name, value


def _grid(grid: Grid, solution: Grid | None = None) -> dict[str, Any]:
    """How a grid is drawn: its digits as text, a cell's side in pixels, and which cells differ from the solution."""
    cell = min(LARGEST_CELL_PX, max(SMALLEST_CELL_PX, LARGEST_PX // max(grid.height, grid.width)))
    differing = sorted(row * grid.width + column for row, column in differing_cells(grid, solution))
    return {
        "text": "\n".join(" ".join(map(str, row)) for row in grid.rows),
        "width": grid.width * cell,
        "height": grid.height * cell,
        "differing": " ".join(map(str, differing)),
    }


def _verdict(grid: Grid, solution: Grid | None) -> str:
    """Whether an attempt is right, or how far from it; empty where that is not known."""
    if solution is None:
        return ""
    if grid == solution:
        return "right"
    if (grid.height, grid.width) != (solution.height, solution.width):
        return "wrong size"
    return f"{len(differing_cells(grid, solution))} of {len(grid.cells)} cells wrong"


def _curve(losses: Sequence[float]) -> str:
    """A loss curve as the points of an SVG polyline, 100 wide and 100 high, from zero up to the largest loss."""
    parts = np.array_split(np.array(losses, np.float64), min(POINTS, len(losses)))
    values = np.nan_to_num(np.array([part.mean() for part in parts]), nan=0.0, posinf=0.0)
    top, steps = max(float(values.max()), 1e-9), max(1, len(values) - 1)
    return " ".join(f"{100 * at / steps:.1f},{100 - 100 * value / top:.1f}" for at, value in enumerate(values))


def _votes(rollout: Rollout, attempts: Sequence[Sequence[Attempt]]) -> list[tuple[int, str, str, float]]:
    """For each view of a roll-out: the test from 1, the view, which attempt it voted for, the score of its vote."""
    found = []
    for each in rollout.result.candidates if rollout.result else ():
        places = [made.grid for made in (*attempts[each.query : each.query + 1], ())[0]]
        vote = "another grid" if each.grid is not None else "no grid"
        if each.grid in places:
            vote = f"attempt {places.index(each.grid) + 1}"
        found.append((each.query + 1, each.view, vote, each.score if each.score is not None else each.log_probability))
    return found


def _edit_lines(rollout: Rollout) -> list[tuple[str, str]]:
    """A self-edit as people read it."""
    edit = rollout.self_edit
    if edit is None:
        return []
    tools = [("tool", str(call)) for call in edit.tools] or [("tools", "none: the demonstrations as they are")]
    training = edit.training.model_dump(mode="json")
    return [*tools, *((name.replace("_", " "), str(value)) for name, value in training.items())]


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
