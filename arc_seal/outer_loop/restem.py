"""ReST-EM over self-edits: sample, reward, imitate what was rewarded, again (arXiv 2312.06585; SEAL, arXiv 2506.10943).

An E-step collects roll-outs of every task; an M-step fine-tunes the model on the self-edits that were rewarded; with a
graded reward on all that ran, each weighted by how much better it was than the others of its task (advantage-weighted
regression, arXiv 1910.00177). Each M-step begins from the model as it came, as ReST-EM does to keep from drifting, with
the self-edits of its own round: those of earlier ones were written by a worse policy (arXiv 2312.06585, algorithm 1).
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from statistics import fmean, median
from typing import Literal

from pydantic import Field

from arc_seal.arc.task import Entry, Task
from arc_seal.errors import FinetuningFailed, InputError, InvalidSelfEdit, Status, plural
from arc_seal.inner_loop.job import FinetuneJob, FinetuneSettings, LookJob, RewardedEdit
from arc_seal.outer_loop.collect import Collection, collect
from arc_seal.outer_loop.ledger import Ledger, Policy
from arc_seal.outer_loop.provenance import utc_now
from arc_seal.outer_loop.rollout import (
    Author,
    Rollout,
    RolloutSettings,
    Runner,
    concurrently,
    derived_seed,
)
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.schema import Schema
from arc_seal.settings import Settings

LEDGER, POLICIES = "ledger.sqlite", "policies"
"""What a run's folder holds: every roll-out, and the policy adapters."""

EVEN = -4.5
"""Nats at which a roll-out solves its task as often as not. On 20 tasks of arcagi1/dev, 286 roll-outs, the logistic
regression of solving on the log-probability of the true outputs is 1 / (1 + exp(-0.96 (x + 4.52)))."""

FAILED = -1.0
"""What a roll-out is worth that came to nothing: less than any that ran, unless seconds are dear."""

RUN = "train"
"""What the ledger calls the training of the policy, beside what is measured."""


class RestemSettings(Settings):
    """How to train the policy: conf/restem/; each setting is described in default.yaml there."""

    rounds: int = Field(ge=1)
    first: Literal["policy", "candidates"]
    samples: int = Field(ge=0)
    reward: Literal["solution", "gain", "held_out_demo", "graded"]
    examine: bool
    margin: float = Field(ge=0)
    price: float = Field(ge=0)
    temperature: float = Field(gt=0)
    alike: Literal["difficulty", "all", "none"]
    per_task: int | None = Field(ge=1)
    contrast: bool
    adapt_from: Literal["base", "policy"]
    reuse: tuple[str, ...]
    finetune: FinetuneSettings

    @property
    def labelled(self) -> bool:
        """Whether the reward asks the solutions."""
        return self.reward != "held_out_demo"


def restem(
    entries: Sequence[Entry],
    runner: Runner,
    how: RestemSettings,
    reused: Sequence[Rollout],
    ledger: Ledger,
    folder: Path,
) -> list[Policy]:
    """Train a policy, or go on where that was stopped; a policy for each round in which there was something to imitate.

    Solutions are only compared with finished attempts. The run was begun in the ledger; adapters are kept in `folder`.
    Of `reused`, roll-outs of earlier runs that are `fitting`, those that were rewarded are imitated too. InputError
    where a task has no solution to be rewarded by or its outputs are not scored, FinetuningFailed where an M-step came
    to nothing.
    """
    note, seed = runner.view.note, runner.author.seed
    check_reward(how, entries, runner.settings)
    if how.reward == "gain":
        entries = _not_solved_in_context(entries, runner, ledger)
    tasks = {task.id: task for task, _ in entries}
    policies: list[Policy] = []
    levels: dict[str, int] = {}
    for number in range(how.rounds):
        # Every round draws anew: without a policy of its own it would else repeat the one before it.
        author = replace(runner.author, seed=derived_seed(seed, "round", number) if number else seed)
        author = with_policy(author, folder / policies[-1].folder if policies else None, how.adapt_from)
        samples = how.samples
        if how.first == "candidates" and number == 0 and samples:
            given = tuple(runner.settings.candidates)
            author, samples = replace(author, kind="hand", by_hand=given), len(given)
        wanted = Collection(
            RUN,
            number,
            samples,
            solve=how.labelled,
            examine=how.examine or not how.labelled,
            graded=how.reward == "graded",
        )
        if samples:
            made = collect(wanted, entries, replace(runner, author=author), ledger)
            note(round_text(number, made))
        policy = next((each for each in ledger.policies(RUN) if each.round == number), None)
        if policy is not None:
            note(_to_imitate_text(len(policy.rollouts)))
        else:
            known = [each for each in (*reused, *ledger.rollouts(RUN, number)) if each.task in tasks]
            if how.reward == "graded" and not levels:  # the same in every round: the base looks
                levels = levels_of([task for task, _ in entries], how, runner)
            policy = _imitate(number, lessons(known, how, seed, levels), tasks, runner, how, folder)
            if policy is not None:
                ledger.record_policy(policy)
        if policy is not None:
            note(policy_text(policy))
            policies.append(policy)
    return policies


def check_reward(how: RestemSettings, entries: Sequence[Entry], settings: RolloutSettings) -> None:
    """Check that every task can be rewarded; InputError when one has no solution to do it by, or none is scored."""
    if how.reward == "graded" and not settings.decode.score:
        raise InputError("decode.score", "", "true, for restem.reward=graded scores the true outputs", "false")
    for task, solution in entries if how.labelled else ():
        if solution is None:
            expected = "a task with its solution, or restem.reward=held_out_demo, which needs none"
            raise InputError(task.id, "", expected, "no solution")


def fitting(rollouts: Sequence[Rollout], entries: Sequence[Entry], schema: Schema) -> list[Rollout]:
    """Those of earlier runs' roll-outs that can be imitated: of these tasks, with self-edits that have a text."""
    tasks = {task.id for task, _ in entries}

    def can_be_said(edit: SelfEdit | None) -> bool:
        try:
            return edit is None or schema.parse(schema.canonical(edit)) == edit
        except (ValueError, InvalidSelfEdit):
            return False

    return [each for each in rollouts if each.task in tasks and can_be_said(each.self_edit)]


def with_policy(author: Author, policy: Path | None, adapt_from: Literal["base", "policy"]) -> Author:
    """The author under a policy, if there is one."""
    if policy is None:
        return author
    return replace(author, policy=str(policy), adapt_from=str(policy) if adapt_from == "policy" else None)


Lesson = tuple[Rollout, float]
"""A roll-out whose self-edit is to be imitated, and its weight in the M-step."""


def levels_of(tasks: Sequence[Task], how: RestemSettings, runner: Runner) -> dict[str, int]:
    """What tasks are alike by: how hard each looks to the model before training, 0 to 9, or the same for all.

    One that cannot be looked at is left out, and all where none are alike.
    """
    if how.alike != "difficulty":
        return dict.fromkeys((task.id for task in tasks), 0) if how.alike == "all" else {}
    runner.view.stage("looking at tasks", 0, len(tasks))

    def look(task: Task) -> tuple[str, int | None]:
        found = runner.executor.run(LookJob(task), lambda progress: runner.view.progress(0, progress))
        runner.view.advance()
        return task.id, found.result

    return {name: level for name, level in concurrently(runner.executor, look, tasks) if level is not None}


def lessons(
    rollouts: Sequence[Rollout], how: RestemSettings, seed: int, levels: Mapping[str, int] | None = None
) -> list[Lesson]:
    """What an M-step imitates: with a graded reward `weighted_lessons`, else `to_imitate`, all of one weight."""
    if how.reward == "graded":
        return weighted_lessons(rollouts, how, levels or {})
    return [(each, 1.0) for each in to_imitate(rollouts, how, seed)]


def weighted_lessons(rollouts: Sequence[Rollout], how: RestemSettings, levels: Mapping[str, int]) -> list[Lesson]:
    """Self-edits that ran, weighted by exp(advantage / temperature), at most `per_task` of each task, the best.

    The weights of each task have the same sum, and the mean of all is 1. They come in order of task, the best first.
    With `contrast` there are none of a task whose self-edits are all as good: they say nothing about which are better.
    With `levels`, how hard each task looks, an advantage is the mean over tasks that look alike.
    """
    by_task: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_task.setdefault(rollout.task, []).append(rollout)
    kept: list[list[Lesson]] = []
    found = {task: advantages(made, how) for task, made in sorted(by_task.items())}
    for better in over_tasks_alike(found, levels).values():
        best = sorted(better, key=lambda each: (-each[1], each[0].key))
        if best and not (how.contrast and best[0][1] == best[-1][1]):
            kept.append(best[: how.per_task])
    share = sum(map(len, kept)) / max(1, len(kept))  # of each task in the sum of all weights
    return [(each, share * weight) for best in kept for each, weight in _softmax(best, how.temperature)]


def advantages(rollouts: Sequence[Rollout], how: RestemSettings) -> list[tuple[Rollout, float]]:
    """How much better than its round each self-edit of one task was that ran.

    A roll-out's advantage is its value minus the mean of those of its round that ran. Equal self-edits are one, the
    first of those that ran standing for its like: it has the mean of their advantages, failed ones included.
    """
    known = [each for each in rollouts if each.self_edit is not None and value(each, how) is not None]
    found: dict[SelfEdit, list[tuple[Rollout, float]]] = {}
    for group in _by_round(known):
        values = {each.key: value(each, how) or 0.0 for each in group}
        ran = [values[each.key] for each in group if each.ran]
        for each in group if ran else ():
            if each.self_edit is not None:
                found.setdefault(each.self_edit, []).append((each, values[each.key] - fmean(ran)))
    pooled = []
    for like in found.values():
        first = min((each for each, _ in like if each.ran), key=lambda each: each.key, default=None)
        if first is not None:
            pooled.append((first, fmean(advantage for _, advantage in like)))
    return pooled


def over_tasks_alike(
    found: Mapping[str, Sequence[tuple[Rollout, float]]], levels: Mapping[str, int]
) -> dict[str, list[tuple[Rollout, float]]]:
    """The advantages of each task's self-edits as means over the tasks that look as hard and tried the same.

    One roll-out says little of a self-edit. A task that looks one level harder or easier counts half; of a task without
    a level its own advantages stay.
    """
    known: dict[SelfEdit | None, list[tuple[int, float]]] = {}
    for task, rated in found.items():
        for rollout, advantage in rated if task in levels else ():
            known.setdefault(rollout.self_edit, []).append((levels[task], advantage))

    def mean(edit: SelfEdit | None, level: int) -> float:
        near = [(1.0 if at == level else 0.5, advantage) for at, advantage in known[edit] if abs(at - level) <= 1]
        return sum(weight * advantage for weight, advantage in near) / sum(weight for weight, _ in near)

    return {
        task: [(each, mean(each.self_edit, levels[task]) if task in levels else advantage) for each, advantage in rated]
        for task, rated in found.items()
    }


def _softmax(found: Sequence[tuple[Rollout, float]], temperature: float) -> list[Lesson]:
    """Weights by exp(advantage / temperature) whose sum is 1, of advantages with the greatest first."""
    weights = [exp((advantage - found[0][1]) / temperature) for _, advantage in found]
    return [(each, weight / sum(weights)) for (each, _), weight in zip(found, weights, strict=True)]


def _by_round(rollouts: Iterable[Rollout]) -> list[list[Rollout]]:
    """The roll-outs of each round of each run."""
    rounds: dict[tuple[str, int], list[Rollout]] = {}
    for rollout in rollouts:
        rounds.setdefault((rollout.run, rollout.round), []).append(rollout)
    return list(rounds.values())


def to_imitate(rollouts: Iterable[Rollout], how: RestemSettings, seed: int) -> list[Rollout]:
    """The roll-outs whose self-edits are to be imitated: rewarded, no two equal for a task, at most `per_task` of each.

    Where there are too many of a task, chance decides. They come in order of task, then of their keys. With `contrast`
    there are none of a task on which every self-edit that ran was rewarded: whatever is written there is as good as
    anything else, so to imitate it only pulls the policy back to where it was (as DAPO leaves such groups out, arXiv
    2503.14476, section 3.2).
    """
    by_task: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_task.setdefault(rollout.task, []).append(rollout)
    kept: list[Rollout] = []
    for task, made in sorted(by_task.items()):
        best = rewarded(made, how)
        if how.contrast and len(best) == sum(each.ran for each in made):
            continue
        distinct: dict[SelfEdit | None, Rollout] = {}
        for rollout in sorted(best, key=lambda each: each.key):
            distinct.setdefault(rollout.self_edit, rollout)
        chosen = list(distinct.values())
        if how.per_task is not None and len(chosen) > how.per_task:
            rng = random.Random(derived_seed(seed, task, "imitate"))
            chosen = sorted(rng.sample(chosen, how.per_task), key=lambda each: each.key)
        kept += chosen
    return kept


def rewarded(rollouts: Sequence[Rollout], how: RestemSettings) -> list[Rollout]:
    """The roll-outs of one task that earned their reward.

    By the solution: those that solved it; where gain is what counts, tasks that are solved in context were left out
    before. By left-out demonstrations: the best of each round, where it beats the round's median by more than `margin`.
    """
    ran = [each for each in rollouts if each.ran]
    if how.labelled:
        return [each for each in ran if each.reward == 1]
    best = []
    for group in _by_round(ran):
        scores = [each.held_out for each in group if each.held_out is not None]
        first = max(group, key=lambda each: (-float("inf") if each.held_out is None else each.held_out, -each.sample))
        if first.held_out is not None and first.held_out > median(scores) + how.margin:
            best.append(first)
    return best


def value(rollout: Rollout, how: RestemSettings) -> float | None:
    """What a roll-out was worth where the reward is graded; None where that was not measured.

    How probable it is to solve the task, 0 to 1, as the log-probability of the true outputs tells, less the price of
    its seconds of training and predicting. A failed one is worth `FAILED`.
    """
    if rollout.status is not Status.OK:
        return FAILED
    if rollout.solution_log_probability is None:
        return None
    seconds = sum(rollout.seconds.get(stage, 0.0) for stage in ("train", "predict"))
    return 1 / (1 + exp(EVEN - max(rollout.solution_log_probability, -100.0))) - how.price * seconds


def round_text(number: int, rollouts: Sequence[Rollout]) -> str:
    """What a round came to, in one line."""
    count, tasks = len(rollouts), {each.task for each in rollouts}
    parts = [plural(count, "self-edit")]
    if any(each.reward is not None for each in rollouts):
        parts = [f"{sum(each.reward == 1 for each in rollouts)}/{count} solved"]
        parts.append(f"{len({each.task for each in rollouts if each.reward == 1})}/{len(tasks)} tasks by any")
    parts.append(f"{sum(each.self_edit is not None for each in rollouts)}/{count} valid")
    parts.append(f"{sum(each.status is Status.OK for each in rollouts)}/{count} ran")
    parts.append(f"{len({(each.task, each.self_edit) for each in rollouts if each.self_edit})} distinct")
    graded = [each.solution_log_probability for each in rollouts if each.solution_log_probability is not None]
    parts += [f"log-probability of the solution {fmean(graded):.3f}"] if graded else []
    examined = [each.held_out for each in rollouts if each.held_out is not None]
    parts += [f"held-out log-probability {fmean(examined):.3f}"] if examined else []
    return f"Round {number + 1}: {', '.join(parts)}"


def policy_text(policy: Policy) -> str:
    """What an M-step came to, in one line."""
    losses = f"loss {policy.losses[0]:.3f} to {policy.losses[-1]:.3f}" if policy.losses else "no update"
    return f"  policy {policy.folder}: {plural(len(policy.rollouts), 'self-edit')}, {losses}, {policy.seconds:.0f} s"


def _not_solved_in_context(entries: Sequence[Entry], runner: Runner, ledger: Ledger) -> list[Entry]:
    """The tasks that are not solved without training: on the others a self-edit has nothing to gain."""
    own = f"{RUN} in context"
    ledger.begin(own, {})  # another configuration is refused for the run that it belongs to
    runner.view.note("In context, without training")
    asking = replace(runner, author=Author("none", runner.author.seed, adapt_from=runner.author.adapt_from))
    solved = {each.task for each in collect(Collection(own, 0, 1), entries, asking, ledger) if each.reward == 1}
    runner.view.note(f"{len(solved)} of {len(entries)} tasks are solved without training and left out")
    return [entry for entry in entries if entry[0].id not in solved]


def _imitate(
    number: int,
    chosen: Sequence[Lesson],
    tasks: Mapping[str, Task],
    runner: Runner,
    how: RestemSettings,
    folder: Path,
) -> Policy | None:
    """The M-step; None where there is nothing to imitate."""
    runner.view.note(_to_imitate_text(len(chosen)))
    if not chosen:
        return None
    name, schema = f"round-{number + 1}", runner.settings.edit_schema
    job = FinetuneJob(
        tuple(
            RewardedEdit(tasks[each.task], schema.canonical(each.self_edit), weight)
            for each, weight in chosen
            if each.self_edit
        ),
        menu=schema.menu(),
        example=runner.settings.edit_example,
        schema=schema.json_schema(),
        difficulty=runner.settings.self_edit.difficulty,
        settings=how.finetune,
        seed=derived_seed(runner.author.seed, RUN, "imitate", number),
        folder=str(folder / name),
    )
    outcome = runner.executor.run(job, lambda progress: runner.view.progress(0, progress), how.finetune.timeout_s)
    if outcome.result is None:
        why = f"{outcome.status}, {outcome.message}"
        raise FinetuningFailed(f"fine-tuning the policy in round {number + 1} failed: {why}")
    losses, seconds, now = outcome.result.losses, outcome.seconds, utc_now()
    return Policy(
        run=RUN,
        round=number,
        folder=name,
        rollouts=tuple(each.key for each, _ in chosen),
        losses=losses,
        seconds=seconds,
        finished_at=now,
    )


def _to_imitate_text(count: int) -> str:
    """How many self-edits an M-step imitates, in one line."""
    return f"  {plural(count, 'self-edit')} to imitate" if count else "  nothing to imitate: no policy from it"
