"""What commands show that work on many tasks: a line a task, how far they are, and the tables at their ends.

Nothing that comes from outside, such as a task's id or what a model wrote, steers the terminal or is read as markup.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from arc_seal.errors import Status, plural
from arc_seal.inner_loop.job import Progress
from arc_seal.outer_loop import table as tables
from arc_seal.outer_loop.rollout import Rollout
from arc_seal.self_edit.edit import SelfEdit, canonical
from arc_seal.ui.progress import (
    BAD,
    BAD_FIGURE,
    GOOD,
    Display,
    duration,
    kept_in,
    near,
    percent,
    plain_table,
    printable,
)
from arc_seal.ui.run_folder import SUBMISSION, Run

if TYPE_CHECKING:
    from arc_seal.pretraining.loop import PretrainingProgress
    from arc_seal.pretraining.pool import Made
    from arc_seal.pretraining.run import Finished

SMOOTHING = 0.98
"""Losses of single batches jump; what is shown is their moving average, each batch counting a fiftieth; the mean of the
first fifty, so that a run that goes on does not look worse than it is when its first batch is a hard one."""

MARKS = "+ solved, - not solved, x failed, o not scored"
"""What stands for a roll-out in a task's line."""


@dataclass
class RunView(Display):
    """Shows a long run: what it works on, a line a task, and how far it is. It may be called from several threads."""

    _counts: Counter[str] = field(default_factory=Counter)
    _foreseen: str = ""  # how many are probably solved
    _loading: int = 0
    _made: dict[str, dict[int, Rollout]] = field(default_factory=dict)
    _tried: Counter[SelfEdit] = field(default_factory=Counter)
    _said: dict[SelfEdit, str] = field(default_factory=dict)
    _solved: Counter[SelfEdit] = field(default_factory=Counter)
    _batches: int = 0
    _loss: float = 0.0
    _accuracy: float = 0.0

    def begin(self, title: str, facts: Mapping[str, str]) -> None:
        """Say what is worked on."""
        width = max(map(len, facts))
        self.keep(Text(printable(title), style="bold"), *(f"{name:<{width}}  {text}" for name, text in facts.items()))

    def note(self, text: str) -> None:
        """Show a line that stays; it ends the stage that is shown."""
        with self._lock:
            self.close()
            self.keep(text)

    def end(self, place: Path, *command: str) -> None:
        """Say where what was made is, and which command to type next, if any."""
        with self._lock:
            self.close()
            self.keep(kept_in(place), *([next_command(*command)] if command else []))

    def stage(self, name: str, done: int, total: int, rollouts: Sequence[Rollout] = ()) -> None:
        """Begin a stage of so many items, `done` of which are there from before; of roll-outs, those and the others."""
        with self._lock:
            self.begin_stage(name, done)
            self._total, self._loading, self._made = total, 0, {}
            for tallied in (self._counts, self._tried, self._solved, self._said):
                tallied.clear()
            for rollout in rollouts:
                self._made.setdefault(rollout.task, {})[rollout.sample] = rollout
                if rollout.finished_at is not None:
                    self._counts.update(solved=int(rollout.reward == 1), failed=int(rollout.status is not Status.OK))
                    self._compare(rollout)
            if done < total:
                self._count(0)

    def advance(self, solved: int = 0, failed: int = 0) -> None:
        """Count one more item of the stage, and what came of it."""
        with self._lock:
            self._counts.update(solved=solved, failed=failed)
            self._loading = 0
            self._count(1)

    def progress(self, sample: int, progress: Progress) -> None:
        """Show how far an M-step is; of the jobs of a stage that is under way only that a model is loaded for them."""
        with self._lock:
            counting = self._stage and self._unit is None and self._step < self._total
            if progress.stage in ("load", "finetune") and not counting:
                self.job(progress)
            elif progress.stage == "load" and self.live:
                self._loading = max(0, self._loading + (1 if progress.step == 0 else -1))
                self._count(0)

    def proposed(self, rollout: Rollout) -> None:
        """Show nothing: it is counted by `advance`."""

    def finished(self, rollout: Rollout) -> None:
        """Show a task's line when its last roll-out has ended."""
        with self._lock:
            made = self._made.get(rollout.task, {})
            if rollout.sample not in made:
                return
            made[rollout.sample] = rollout
            self._compare(rollout)
            if all(each.finished_at is not None for each in made.values()):
                self.keep(_task_line(list(made.values()), max(map(len, self._made))))

    def close(self, *_: object) -> None:
        """End the stage, as every display does; the best self-edit stays below its line."""
        with self._lock:
            best, self._below = self._below if self._step > self._known else "", ""
            super().close()
            if best:
                self.keep(best)

    __exit__ = close

    def _count(self, more: int) -> None:
        counts = [f"{count} {name}" for name, count in self._counts.items() if count]
        loading = ["loading the model"] if self._loading else []
        foreseen = [self._foreseen] if self._foreseen else []
        self.show_stage(self._step + more, self._total, [*counts, *foreseen, *loading])

    def _compare(self, rollout: Rollout) -> None:
        """Note which self-edit has solved most so far, where there is a choice."""
        edit = rollout.self_edit
        if edit is None or rollout.reward is None:
            return
        self._tried[edit] += 1
        # One in the paper's form asks for dozens of tools in a few words.
        self._said[edit] = min((each for each in (one_line_edit(edit), rollout.completion) if each), key=len)
        self._solved[edit] += rollout.reward
        best = max(self._tried, key=lambda each: (self._solved[each], -self._tried[each]))
        if self._solved[best] and len(self._tried) > 1:
            solved = f"solved {self._solved[best]} of {self._tried[best]}"
            self._below = f"Best self-edit so far, {solved}: {printable(self._said[best])}"

    def generator(self, made: "Made") -> None:
        """Show that the pairs of one more group of a source are there."""
        line = f"making pairs: {made.done}/{made.total} of {made.source}, {made.pairs} pairs of {made.group}"
        self.redraw(line, due=made.done == made.total or None)

    def pretraining(self, done: "PretrainingProgress") -> None:
        """Show how far pretraining is, and what was just measured."""
        weight = min(SMOOTHING, self._batches / (self._batches + 1))
        self._batches += 1
        self._loss = weight * self._loss + (1 - weight) * done.loss
        self._accuracy = weight * self._accuracy + (1 - weight) * done.accuracy
        left_s = max(0.0, (done.total - done.clock.tokens) / max(done.tokens_per_s, 1e-9))
        self.redraw(
            f"pretraining: {done.clock.tokens / 1e6:.2f}M/{done.total / 1e6:.2f}M tokens, loss {self._loss:.3f}, "
            f"{percent(self._accuracy, 1)} of tokens right, {done.tokens_per_s:.0f} tokens/s, {duration(left_s)} left",
            due=done.clock.tokens >= done.total or None,
        )
        for name, score in done.scores.items():
            exact = f"{round(score.exact * score.contexts)} of {score.contexts} outputs exact"
            self.keep(f"  {name}: {exact}, {percent(score.accuracy, 1)} of tokens right, loss {score.loss:.3f}")

    def pretrained(self, finished: "Finished") -> None:
        """Say what came of pretraining."""
        millions = f"{finished.parameters / 1e6:.1f}M parameters, {finished.tokens / 1e6:.1f}M tokens"
        self.note(f"{millions}, {duration(finished.seconds)} of training; weights in {finished.weights}")


@dataclass
class SweepView(RunView):
    """Shows many tasks being solved: a line each as they are done, and a self-edit where it differs from the last.

    The tokens that a policy wrote for a task are in the task's line.
    """

    total: int = 0
    width: int = 0  # of the longest name
    seeds: bool = False  # whether there are several
    _runs: int = 0
    _edits: tuple[SelfEdit, ...] = ()

    def ran(self, run: Run) -> None:
        """Show what came of a task."""
        with self._lock:
            self._runs += 1
            made = run.solved.rollouts if run.solved else ()
            edits = {_however_long(each.self_edit): each.self_edit for each in made if each.self_edit is not None}
            if edits and (*edits,) != self._edits:
                self._edits = (*edits,)
                self.keep(*(f"Self-edit: {one_line_edit(edit)}" for edit in edits.values()))
            number = f"{self._runs:>{len(str(self.total))}}/{self.total}"
            seed = [f"seed {run.seed}"] if self.seeds else []
            verdict, style, facts = _verdict(run)
            line = Text("  ".join([number, f"{printable(run.name):<{self.width}}", *seed, ""]))
            self.keep(line.append(f"{verdict:<10}", style=style).append("".join(f"  {each}" for each in facts if each)))
            if self._stage:
                self.advance(solved=int(verdict == "solved"), failed=int(style == BAD))

    def foreseen(self, chances: Sequence[float | None], left_s: float) -> None:
        """Show how many tasks are probably solved so far, of those whose chance is known, and how much time is left."""
        known = [chance for chance in chances if chance is not None]
        with self._lock:
            self._foreseen = f"probably {sum(known):.0f} solved in all" if known else ""
            self._until_s = self.clock() + left_s
            if self._stage:
                self._count(0)

    def sum_up(self, runs: Sequence[Run], folder: Path) -> None:
        """Say what all came to, where the answers are and what to type to look at them."""
        self.close()
        self.keep(Text(), totals(runs), kept_in(folder / SUBMISSION))
        if any(run.solved for run in runs):
            self.keep(next_command("report", str(near(folder))))


def named(specs: Sequence[str]) -> str:
    """Names of sets, files and folders; of many the first three."""
    more = f" and {len(specs) - 3} more" if len(specs) > 3 else ""
    return f"{', '.join(specs[:3])}{more}"


def next_command(name: str, *argv: str) -> Text:
    """What to type next, in one piece to be copied."""
    return Text(f"Next: {printable(shlex.join(['python', '-m', f'arc_seal.{name}', *argv]))}", no_wrap=True)


def one_line_edit(edit: SelfEdit) -> str:
    """A self-edit in one line: its tools, then how it trains."""
    said = edit.training.model_dump()
    training = ", ".join(f"{name} {canonical(value).strip(chr(34))}" for name, value in said.items())
    return f"{', '.join(map(str, edit.tools)) or 'no tools'}; {training}"


def _however_long(edit: SelfEdit) -> SelfEdit:
    """The self-edit without what says how long it trains."""
    return edit.model_copy(update={"training": edit.training.model_copy(update={"tokens": None, "max_examples": 0})})


def _task_line(made: Sequence[Rollout], width: int) -> Text:
    """A task's roll-outs: a mark each (MARKS), how many solved it, and the wall time of all."""
    line = Text(f"  {printable(made[0].task):<{width}}  ", no_wrap=True)
    for rollout in made:
        failed = rollout.status is not Status.OK
        mark = "x" if failed else {1: "+", 0: "-", None: "o"}[rollout.reward]
        line.append(mark, style={"+": GOOD, "x": BAD}.get(mark, ""))
    scored = [each.reward for each in made if each.reward is not None]
    solved = f"  {sum(scored)}/{len(scored)} solved" if len(scored) > 1 else ""
    return line.append(f"{solved}  {duration(sum(sum(each.seconds.values()) for each in made))}")


def totals(runs: Sequence[Run]) -> str:
    """How many runs were solved, of all there were; what failed counts as not solved."""
    noun = (
        "task" if len({run.name for run in runs}) == len(runs) else "run"
    )  # several runs where there are several seeds
    known = [run.solved for run in runs if run.solved is not None]
    unscored = sum(solved.reward is None for solved in known)
    scored = len(runs) - unscored
    if not scored:
        return f"{plural(len(runs), noun)}, no solutions to score them by."
    right, score = sum(solved.reward == 1 for solved in known), sum(solved.score or 0.0 for solved in known)
    without = f"; {unscored} without a solution left out" if unscored else ""
    share = percent(score / scored, 1)
    return f"Solved {right} of {plural(scored, noun)}; mean share of test outputs right {share}{without}."


def _verdict(run: Run) -> tuple[str, str, list[str]]:
    """How a run ended, in which style, and what else there is to say of it."""
    solved = run.solved
    if solved is None:
        return "bad input", BAD, [printable(str(run.error))]
    failed = [each for each in solved.rollouts if each.status not in (Status.OK, Status.NOT_CHOSEN)]
    votes = " ".join("+".join(str(attempt.votes) for attempt in attempts) or "0" for attempts in solved.attempts)
    if not solved.rollouts:
        return "not begun", BAD, ["time was up"]
    facts = [f"votes {votes}", duration(sum(solved.seconds.values()))]
    wanted = [each.self_edit.training.tokens or 0 for each in solved.rollouts if each.self_edit is not None]
    if any(wanted):
        facts.append(f"{max(wanted):,} tokens")
    if len(failed) == len(solved.rollouts):
        return str(failed[0].status), BAD, [facts[1], printable(failed[0].message)]
    facts += [f"{len(failed)} of {plural(len(solved.rollouts), 'roll-out')} failed"] if failed else []
    facts += ["time was up"] if solved.open else []
    if solved.reward is None:
        return "done", "", facts
    if solved.reward:
        return "solved", GOOD, facts
    return "not solved", "", [*facts, f"{percent(solved.score)} of the test outputs right" if solved.score else ""]


def evaluation(table: tables.Table, by_task: bool = False) -> Group:
    """The rows, how roll-outs failed, the differences, what was run, and if asked for a line a task."""
    rows, failed = table["rows"], [row for row in table["rows"] if row["failures"]]
    parts: list[RenderableType] = [Text("Evaluation", style="bold")]
    parts.append(plain_table(tables.HEADINGS, map(tables.cells, rows), whole=True))
    parts += [Text(printable(f"Failed, {row['name']}: {tables.failures_text(row)}")) for row in failed]
    for number, each in enumerate(tables.differences(table)):
        style = {1: GOOD, 0: "", -1: BAD_FIGURE}[tables.side(each)]
        parts += [] if number else [Text()]
        parts.append(Text(printable(tables.difference_text(each)), style=style))
    parts += [Text(), Text(tables.NOTE), *([Text()] if table["run"] else [])]
    parts += [Text(printable(line)) for line in tables.run_lines(table)]
    if by_task:
        lines = [[Text(printable(task)), *map(_share, counts)] for task, *counts in tables.task_cells(table)]
        by_name = plain_table(["task", *(row["name"] for row in rows)], lines)
        parts += [Text(), Text("Solved by task", style="bold"), by_name]
    return Group(*parts)


def _share(count: str) -> Text:
    """Such as `3/5`; in colour where all or none of the roll-outs solved the task."""
    correct, _, total = count.partition("/")
    return Text(count, style=GOOD if correct == total else BAD_FIGURE if correct == "0" else "")
