"""What collecting roll-outs and training a policy show: how far it is, what came of it, how long it will take."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import RLock

from rich.console import Console

from arc_seal.errors import Status
from arc_seal.inner_loop.job import Progress
from arc_seal.outer_loop.ledger_rows import PolicyRow, ProposalRow, RolloutRow
from arc_seal.outer_loop.round_summary import RoundSummary, summarise
from arc_seal.ui.live_line import LiveLine
from arc_seal.ui.progress import duration


@dataclass
class RolloutsView:
    """Shows stages of many roll-outs: one line that is redrawn on a terminal, a line now and then elsewhere.

    Attributes:
        console: Where to show it.
        live: Whether lines can be redrawn; None asks the console.
        clock: Seconds from any starting point.
    """

    console: Console
    live: bool | None = None
    clock: Callable[[], float] = time.monotonic
    _lock: RLock = field(default_factory=RLock)
    _stage: str = ""
    _done: int = 0
    _known: int = 0
    _total: int = 0
    _solved: int = 0
    _failed: int = 0
    _began_s: float = 0.0

    def __post_init__(self) -> None:
        self._live_line = LiveLine(self.console, self.live, self.clock)

    def title(self, text: str) -> None:
        """Say what comes next."""
        with self._lock:
            self.close()
            self._live_line.keep(text)

    def begin(self, stage: str, done: int, total: int) -> None:
        """A stage begins, so much of which is there from before."""
        with self._lock:
            self._end_stage()
            self._stage, self._done, self._known, self._total = stage, done, done, total
            self._solved = self._failed = 0
            self._began_s = self.clock()
            if done < total:
                self._show()

    def proposed(self, rows: Sequence[ProposalRow]) -> None:
        """A task's self-edits are written."""
        with self._lock:
            self._done += 1
            self._failed += sum(row.status is not Status.OK for row in rows)
            self._show()

    def kept(self, row: RolloutRow) -> None:
        """One more roll-out is kept."""
        with self._lock:
            self._done += 1
            self._solved += row.reward == 1
            self._failed += row.status is not Status.OK
            self._show()

    def collected(self, round: int, rows: Sequence[RolloutRow], lessons: int) -> None:
        """An E-step is done."""
        with self._lock:
            self.close()
            if rows:
                self._live_line.keep(round_text(summarise(round, rows)))
            self._live_line.keep(
                f"  {lessons} self-edits to imitate" if lessons else "  nothing to imitate: no policy from it"
            )

    def finetuning(self, progress: Progress) -> None:
        """An M-step is this far."""
        with self._lock:
            if progress.stage not in ("load", "finetune"):
                return
            stage = "loading the model" if progress.stage == "load" else "fine-tuning the policy"
            if stage != self._stage:
                self.begin(stage, 0, progress.total)
            self._done, self._total = progress.step, progress.total
            self._show("" if progress.loss is None else f", loss {progress.loss:.3f}")

    def policy(self, row: PolicyRow | None) -> None:
        """An M-step is done."""
        with self._lock:
            self.close()
            if row is not None:
                losses = f"loss {row.losses[0]:.3f} to {row.losses[-1]:.3f}" if row.losses else "no update"
                self._live_line.keep(
                    f"  policy {row.folder}: {len(row.rows)} self-edits, {losses}, {duration(row.seconds)}"
                )

    def close(self) -> None:
        """Stop redrawing."""
        with self._lock:
            self._end_stage()

    def _end_stage(self) -> None:
        self._live_line.close()
        if self._done > self._known and self._live_line.kept != self._line(""):
            self._live_line.keep(self._line(""))
        self._stage, self._done, self._known, self._total = "", 0, 0, 0

    def _show(self, details: str = "") -> None:
        if self._live_line.redraws or self._done < self._total:  # elsewhere the line that stays says the end
            self._live_line.show(self._line(details))

    def _line(self, details: str) -> str:
        spent, made = self.clock() - self._began_s, self._done - self._known
        parts = [f"{self._done}/{self._total}"]
        parts += [f"{self._solved} solved"] if self._solved else []
        parts += [f"{self._failed} failed"] if self._failed else []
        if self._done >= self._total:
            parts.append(duration(spent))
        elif made:
            parts.append(f"{duration(spent / made * (self._total - self._done))} left")
        return f"{self._stage}: {', '.join(parts)}{details}"


def round_text(summary: RoundSummary) -> str:
    """A round in one line."""
    count = summary.rollouts
    parts = [f"{summary.solved}/{count} solved"] if summary.solved is not None else [f"{count} self-edits"]
    parts += [f"{summary.tasks_solved}/{summary.tasks} tasks by any"] if summary.tasks_solved is not None else []
    parts += [f"{summary.valid}/{count} valid", f"{summary.ran}/{count} ran", f"{summary.distinct} distinct"]
    parts += [f"held-out log-probability {summary.held_out:.3f}"] if summary.held_out is not None else []
    return f"Round {summary.round + 1}: {', '.join(parts)}"
