"""ReST-EM over self-edits: sample, reward, imitate what was rewarded, again (arXiv 2312.06585; SEAL, arXiv 2506.10943).

An E-step collects roll-outs of every task; an M-step fine-tunes the model on the self-edits that were rewarded; with a
graded reward on all that ran, each weighted by how much better it was than the others of its task (advantage-weighted
regression, arXiv 1910.00177). Each M-step begins from the model as it came, as ReST-EM does to keep from drifting, with
the self-edits of its own round: those of earlier ones were written by a worse policy (arXiv 2312.06585, algorithm 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Literal

from arc_seal.arc.task import Entry, Task
from arc_seal.errors import FinetuningFailed, InputError, InvalidSelfEdit, Status, plural
from arc_seal.inner_loop.job import FinetuneJob, LookJob, RewardedEdit
from arc_seal.outer_loop.author import Author, RolloutSettings
from arc_seal.outer_loop.collect import Collection, collect
from arc_seal.outer_loop.ledger import Ledger, Policy
from arc_seal.outer_loop.lessons import Lesson, RestemSettings, better_half, lessons
from arc_seal.outer_loop.provenance import utc_now
from arc_seal.outer_loop.rollout import Rollout, Runner, concurrently, derived_seed
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.schema import Schema

LEDGER, POLICIES = "ledger.sqlite", "policies"
"""What a run's folder holds: every roll-out, and the policy adapters."""

RUN = "train"
"""What the ledger calls the training of the policy, beside what is measured."""


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
        made = _tried(number, entries, replace(runner, author=author), how, ledger)
        policy = next((each for each in ledger.policies(RUN) if each.round == number), None)
        if policy is not None:
            note(_to_imitate_text(len(policy.rollouts)))
        else:
            known = [each for each in (*reused, *made) if each.task in tasks]
            if how.reward == "graded" and not levels:  # the same in every round: the base looks
                levels = levels_of([task for task, _ in entries], how, runner)
            if how.reward == "graded":
                known = _halved(number, known, levels, entries, replace(runner, author=author), how, ledger)
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


def _tried(number: int, entries: Sequence[Entry], runner: Runner, how: RestemSettings, ledger: Ledger) -> list[Rollout]:
    """The E-step: every task's self-edits of a round, written or given, and what came of them."""
    samples = how.samples
    if how.first == "candidates" and number == 0 and samples:
        given = tuple(runner.settings.candidates)
        runner, samples = replace(runner, author=replace(runner.author, kind="hand", by_hand=given)), len(given)
    if samples:
        solve, graded = how.labelled, how.reward == "graded"
        wanted = Collection(RUN, number, samples, solve, examine=how.examine or not solve, graded=graded)
        runner.view.note(round_text(number, collect(wanted, entries, runner, ledger)))
    return ledger.rollouts(RUN, number)


def _halved(
    number: int,
    known: Sequence[Rollout],
    levels: Mapping[str, int],
    entries: Sequence[Entry],
    runner: Runner,
    how: RestemSettings,
    ledger: Ledger,
) -> list[Rollout]:
    """Sequential halving (Karnin, Koren and Somekh, ICML 2013): the better half is tried again, under another seed.

    Returns all roll-outs of the self-edits that are left to each task after `how.halvings`; new ones are of a run of
    their own, a round of it for each halving.
    """
    run = f"{RUN} again in round {number + 1}"
    if how.halvings:
        ledger.begin(run, {})  # another configuration is refused for the run that it belongs to
    for halving in range(how.halvings):
        better = better_half(known, how, levels)
        alike: dict[tuple[SelfEdit, ...], list[Entry]] = {}
        for entry in entries:
            alike.setdefault(better.get(entry[0].id, ()), []).append(entry)
        seed, made = derived_seed(runner.author.seed, "again", halving), list[Rollout]()
        for edits, group in alike.items():
            author = replace(runner.author, kind="hand", seed=seed, by_hand=edits, policy=None)
            wanted = Collection(run, halving, len(edits), graded=True)
            made += collect(wanted, group, replace(runner, author=author), ledger) if edits else []
        runner.view.note(f"  Tried again, seed {halving + 2}: {round_text(halving, made).partition(': ')[2]}")
        known = [each for each in (*known, *made) if each.self_edit in better.get(each.task, ())]
    return list(known)


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
