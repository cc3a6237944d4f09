"""One roll-out: a self-edit is proposed, tried in the sandbox and rewarded; one record from proposal to table."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Solution, Task, binary_reward, mean_score
from arc_seal.errors import InvalidSelfEdit, Status
from arc_seal.inner_loop.job import (
    AdaptJob,
    Attempt,
    Examination,
    ExamineJob,
    Job,
    Progress,
    R,
    Result,
    ScoreJob,
    TrainedAdapter,
    WriteJob,
)
from arc_seal.models.prompt import Completion, Sampling
from arc_seal.outer_loop.author import Author, RolloutSettings
from arc_seal.outer_loop.provenance import provenance, utc_now
from arc_seal.sandbox.worker import Executor, Outcome
from arc_seal.self_edit.edit import SelfEdit, canonical
from arc_seal.self_edit.random_edit import draw_edit
from arc_seal.self_edit.schema import Schema

T = TypeVar("T")
U = TypeVar("U")

Key = tuple[str, int, str, int]
"""A roll-out's key: run, round, task, sample."""


class Rollout(BaseModel):
    """One self-edit and what came of it, from its proposal on; `finished_at` is None until it has been tried."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    run: str  # name of the run; empty for `solve`
    round: int = Field(ge=0)  # round of the run, from 0
    task: str  # id of the task
    sample: int = Field(ge=0)  # which of the task's samples in this round it is
    seed: int  # seed of its inner loop
    # Tokens that its inner loop may train on, as its stage says; None: as `ttt.token_budget` does.
    token_budget: int | None = Field(default=None, ge=0)
    completion: str | None = None  # what the model wrote; None when the self-edit was given, drawn, or there is none
    policy: str | None = None  # name of the policy's folder that wrote it; None: the model as it is, or nobody
    # How probable the values of its fields were to the model that wrote it, where its form has few for each.
    alternatives: dict[str, dict[str, float]] = {}
    difficulty: int | None = Field(default=None, ge=0, le=9)  # how hard the task looked, where the model was told
    self_edit: SelfEdit | None = None  # the parsed self-edit; None when it was invalid or nothing is trained
    status: Status = Status.OK  # `OK`, or why there is nothing to try, or how trying it failed
    message: str = ""  # one line on a failure, else empty
    writing_s: float = 0.0  # wall seconds that writing it took
    # What left-out demonstrations said of it; None where there was no examination, or it failed.
    examination: Examination | None = None
    result: Result | None = None  # what the inner loop made; None on a failure or before it
    # 1 when every test output is right in either attempt, else 0; None without a solution.
    reward: Literal[0, 1] | None = None
    # Share of the test outputs that an attempt gets right; None without a solution.
    score: float | None = Field(default=None, ge=0, le=1)
    # Log-probability of the true output under the adapted model, the mean over all views, in nats: that of the query
    # where it is least. None where nobody asked for it, or on a failure.
    solution_log_probability: float | None = None
    model: str  # name of the model
    versions: dict[str, str]  # versions of what can change a result
    git_commit: str | None  # see `git_commit`
    finished_at: str | None = None  # when it ended, ISO 8601 in UTC

    @property
    def key(self) -> Key:
        """What tells it from other roll-outs."""
        return self.run, self.round, self.task, self.sample

    @property
    def attempts(self) -> tuple[tuple[Attempt, ...], ...]:
        """For each query, at most two answers; none on a failure."""
        return self.result.attempts if self.result else ()

    @property
    def held_out(self) -> float | None:
        """Mean log-probability of left-out demonstrations' outputs, in nats a symbol; None without an examination."""
        return self.examination.log_probability if self.examination else None

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds by stage."""
        written = {"write": self.writing_s} if self.writing_s else {}
        asked = {"examine": sum(self.examination.seconds.values())} if self.examination else {}
        return {**written, **asked, **(self.result.seconds if self.result else {})}

    @property
    def ran(self) -> bool:
        """Whether there was a self-edit and its job ended well."""
        return self.status is Status.OK and self.self_edit is not None


class View(Protocol):
    """Who is shown what happens; called from several threads."""

    def note(self, text: str) -> None:
        """A line that stays: what comes next, or what came of something."""

    def stage(self, name: str, done: int, total: int, rollouts: Sequence[Rollout] = ()) -> None:
        """A stage of many items begins, so many of which are there from before; if of roll-outs, then of these."""

    def advance(self, *, solved: int = 0, failed: int = 0) -> None:
        """One more item of the stage is done."""

    def progress(self, sample: int, progress: Progress) -> None:
        """One job is this far."""

    def proposed(self, rollout: Rollout) -> None:
        """A self-edit is there."""

    def finished(self, rollout: Rollout) -> None:
        """A roll-out has ended."""


@dataclass(frozen=True)
class Runner:
    """Makes roll-outs."""

    executor: Executor  # where jobs run
    settings: RolloutSettings  # how self-edits are written and tried
    author: Author  # who writes them
    view: View  # told what happens

    def propose(
        self,
        task: Task,
        samples: int,
        run: str = "",
        round: int = 0,
        timeout_s: float | None = None,
        common_seed: bool = False,
        distinct: bool = False,
    ) -> list[Rollout]:
        """The self-edits to try on a task; one may be invalid still after being written `max_resamples` times anew.

        `timeout_s` is in the place of the executor's limit of a job, and holds for writing all of them. With
        `common_seed` all are tried under the seed of the first, so that chance does not tell them apart. With
        `distinct` one that is equal to an earlier is written anew as often as one that is not valid, and a single one
        is the likeliest.
        """
        common = {"model": self.settings.model_name, **provenance()}
        proposed = []
        for sample in range(samples):
            seed = derived_seed(self.author.seed, task.id, "adapt", 0 if common_seed else sample)
            given = self.author.by_hand
            edit = given[sample % len(given)] if given else None
            if self.author.kind == "random":
                rng = random.Random(derived_seed(self.author.seed, task.id, "draw", sample))
                edit = draw_edit(self.settings.edit_schema, rng)
            key = {"run": run, "round": round, "task": task.id, "sample": sample}
            key["policy"] = Path(self.author.policy).name if self.author.policy is not None else None
            proposed.append(Rollout.model_validate({**key, "seed": seed, "self_edit": edit, **common}))
        if self.author.kind == "policy":
            proposed = self._written(task, proposed, timeout_s, distinct)
        # One that was given to all is shown once, and without any there is nothing to show.
        shown = {"none": 0, "hand": len(self.author.by_hand)}.get(self.author.kind)
        for rollout in proposed[:shown]:
            text = rollout.self_edit and canonical(rollout.self_edit)
            with suppress(ValueError):  # one in the default form has no text in that of choices
                text = rollout.self_edit and self.settings.edit_schema.canonical(rollout.self_edit)
            self.view.proposed(rollout.model_copy(update={"completion": rollout.completion or text}))
        return proposed

    def roll_out(
        self,
        rollout: Rollout,
        task: Task,
        solution: Solution | None,
        known: tuple[tuple[Grid, ...], ...] = (),
        timeout_s: float | None = None,
        begin: TrainedAdapter | None = None,
        keep: bool = False,
    ) -> Rollout:
        """Try a proposed self-edit in the sandbox; the solution is only compared with finished attempts.

        `known` are grids for each query that are to be scored too; `timeout_s` is in the place of the executor's; for
        `begin` and `keep` see AdaptJob.
        """
        found: dict[str, Any] = {}
        answers = None
        if rollout.status is Status.OK:
            job = replace(self._adapt_job(rollout, task, begin), known=known, keep=keep)
            outcome = self._run(job, rollout.sample, timeout_s)
            found = {"status": outcome.status, "message": outcome.message, "result": outcome.result}
            answers = None if outcome.result is None else grids(outcome.result.attempts)
        if solution is not None:
            found["reward"] = 0 if answers is None else binary_reward(answers, solution)
            found["score"] = 0.0 if answers is None else mean_score(answers, solution)
        return self.finish(rollout.model_copy(update=found))

    def score(
        self,
        rollout: Rollout,
        task: Task,
        known: tuple[tuple[Grid, ...], ...],
        adapter: TrainedAdapter,
        timeout_s: float | None = None,
    ) -> Rollout:
        """A finished roll-out with the scores that more grids, for each query, have under the adapter that it kept.

        As it was where scoring them fails.
        """
        job = replace(self._adapt_job(rollout, task, adapter), known=known)
        outcome, result = self._run(ScoreJob(job), rollout.sample, timeout_s), rollout.result
        if outcome.result is None or result is None:
            return rollout
        spent = {**result.seconds, "score": result.seconds.get("score", 0.0) + outcome.seconds}
        scored = replace(result, known=(*result.known, *outcome.result), seconds=spent)
        return rollout.model_copy(update={"result": scored})

    def examine(self, rollout: Rollout, task: Task) -> Rollout:
        """Ask the demonstrations themselves how good a proposed self-edit is; a failure becomes its status.

        All self-edits of one task are asked the same: which demonstrations are left out does not depend on the sample.
        """
        if rollout.status is not Status.OK:
            return rollout
        rng = random.Random(derived_seed(self.author.seed, task.id, "leave out"))
        left_out = rng.sample(range(len(task.demos)), min(self.settings.folds, len(task.demos)))
        outcome = self._run(ExamineJob(self._adapt_job(rollout, task), tuple(left_out)), rollout.sample)
        found = {"status": outcome.status, "message": outcome.message, "examination": outcome.result}
        return rollout.model_copy(update=found)

    def finish(self, rollout: Rollout) -> Rollout:
        """The roll-out as ended now."""
        ended = rollout.model_copy(update={"finished_at": utc_now()})
        self.view.finished(ended)
        return ended

    def _run(self, job: Job[R], sample: int, timeout_s: float | None = None) -> Outcome[R]:
        return self.executor.run(job, lambda progress: self.view.progress(sample, progress), timeout_s)

    def _adapt_job(self, rollout: Rollout, task: Task, begin: TrainedAdapter | None = None) -> AdaptJob:
        training = self.settings.ttt
        if rollout.token_budget:
            left = rollout.token_budget - (begin.tokens if begin is not None else 0)
            training = training.model_copy(update={"token_budget": max(1, left)})
        return AdaptJob(
            task=task,
            self_edit=rollout.self_edit,
            toolbox=self.settings.toolbox_folders,
            seed=rollout.seed,
            training=training,
            decode=self.settings.decode,
            max_training_tokens=self.settings.max_training_tokens,
            adapt_from=self.author.adapt_from,
            begin=begin,
        )

    def _written(
        self, task: Task, rollouts: Sequence[Rollout], timeout_s: float | None, distinct: bool
    ) -> list[Rollout]:
        """Have the model write all of them at once, and those that are not valid anew; the time is shared equally."""
        settings, schema, seconds = self.settings, self.settings.edit_schema, 0.0
        found, wanted = list(rollouts), list(rollouts)
        for again in range(settings.max_resamples + 1):
            if not wanted or (again and timeout_s is not None and seconds >= timeout_s):
                break
            seed = derived_seed(self.author.seed, task.id, "write", again)
            likeliest = distinct and len(found) == 1 and not again
            temperature = 0.0 if likeliest else settings.temperature
            sampling = Sampling(len(wanted), temperature, seed, settings.max_tokens)
            job = WriteJob(
                task,
                menu=schema.menu(),
                example=settings.edit_example,
                schema=schema.json_schema(),
                sampling=sampling,
                difficulty=settings.self_edit.difficulty,
                policy=self.author.policy,
            )
            outcome = self._run(job, wanted[0].sample, None if timeout_s is None else timeout_s - seconds)
            seconds += outcome.seconds
            for number, rollout in enumerate(wanted):
                made: dict[str, Any] = {"status": outcome.status, "message": outcome.message}
                if outcome.result is not None:
                    made = _parsed(outcome.result[number], schema)
                if rollout.self_edit is None or made.get("self_edit") is not None:
                    found[rollout.sample] = rollout.model_copy(update=made)
            wanted = [rollout for rollout in found if rollout.status is Status.INVALID_SELF_EDIT]
            if distinct:
                wanted += _repeated(found)
        return [rollout.model_copy(update={"writing_s": seconds / len(found)}) for rollout in found]


def concurrently(executor: Executor, work: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """Do `work` on every item, as many at a time as the executor has workers; yields what comes of it as it comes.

    Without items no model is loaded. What a call raises is raised here, after the calls under way have ended; no other
    is begun. On an interrupt the executor's workers are ended first, so that nothing is waited for.
    """
    failed = Event()

    def once(item: T) -> list[U]:
        """What comes of an item, or nothing after a failure."""
        try:
            return [] if failed.is_set() else [work(item)]
        except BaseException:
            failed.set()
            raise

    if items:
        executor.start()
    with ThreadPoolExecutor(executor.workers, thread_name_prefix="roll-out") as threads:
        try:
            for future in as_completed([threads.submit(once, item) for item in items]):
                yield from future.result()
        except BaseException as error:
            threads.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):
                executor.close()
            raise


def derived_seed(seed: int, *path: object) -> int:
    """A seed for one part of a run, 0 to 2**31 - 1: parts do not share their draws."""
    return random.Random(" ".join(map(str, (seed, *path)))).getrandbits(31)


def grids(attempts: Sequence[Sequence[Attempt]]) -> list[list[Grid]]:
    """The answers alone, for each query."""
    return [[attempt.grid for attempt in query] for query in attempts]


def _repeated(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Those whose self-edit an earlier one has."""
    edits = [rollout.self_edit for rollout in rollouts]
    return [each for number, each in enumerate(rollouts) if each.self_edit and each.self_edit in edits[:number]]


def _parsed(completion: Completion, schema: Schema) -> dict[str, Any]:
    """What a completion makes of a roll-out."""
    made: dict[str, Any] = {"completion": completion.text, "status": Status.OK, "message": ""}
    made["difficulty"] = completion.difficulty
    if not completion.finished:
        return {**made, "status": Status.INVALID_SELF_EDIT, "message": "the self-edit was cut off at max_tokens"}
    try:
        edit = schema.parse(completion.text)
        return {**made, "self_edit": edit, "alternatives": schema.alternatives(completion.text, completion.choices)}
    except InvalidSelfEdit as error:
        return {**made, "status": error.status, "message": str(error)}
