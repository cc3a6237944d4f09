"""What pretraining shows: how far it is, how good it is, how long it will take."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from arc_seal.ui.live_line import LiveLine
from arc_seal.ui.progress import duration

if TYPE_CHECKING:  # these load torch
    from arc_seal.pretraining.held_out import Score
    from arc_seal.pretraining.loop import Sign
    from arc_seal.pretraining.run import Finished
    from arc_seal.pretraining.synthetic import Made

SMOOTHING = 0.98
"""Losses of single batches jump; what is shown is their moving average, each batch counting a fiftieth; the mean of the
first fifty, so that a run that goes on does not look worse than it is when its first batch is a hard one."""


@dataclass
class PretrainingView:
    """Shows a run: one line that is redrawn on a terminal, a line now and then elsewhere, and what was measured.

    Attributes:
        console: Where to show it.
        live: Whether lines can be redrawn; None asks the console.
        clock: Seconds from any starting point.
    """

    console: Console
    live: bool | None = None
    clock: Callable[[], float] = time.monotonic
    _loss: float = 0.0
    _accuracy: float = 0.0
    _seen: int = 0

    def __post_init__(self) -> None:
        self._line = LiveLine(self.console, self.live, self.clock)

    def update(self, sign: "Sign") -> None:
        """Take in a sign of life."""
        self._smooth(sign)
        self._line.show(self._text(sign), always=sign.clock.tokens >= sign.total)
        for name, score in sign.scores.items():
            self._line.keep(f"  {name}: {measured(score)}")

    def generator(self, made: "Made") -> None:
        """One more generator's pairs are there."""
        line = f"making pairs: {made.done}/{made.total} generators, {made.pairs} pairs of {made.task_id}"
        self._line.show(line, always=made.done == made.total)

    def end(self, finished: "Finished") -> None:
        """Say what came of the run."""
        self.close()
        millions = f"{finished.parameters / 1e6:.1f}M parameters, {finished.tokens / 1e6:.1f}M tokens"
        self._line.keep(f"{millions}, {duration(finished.seconds)} of training; weights in {finished.weights}")

    def close(self) -> None:
        """Stop redrawing."""
        self._line.close()

    def _smooth(self, sign: "Sign") -> None:
        weight = min(SMOOTHING, self._seen / (self._seen + 1))
        self._seen += 1
        self._loss = weight * self._loss + (1 - weight) * sign.loss
        self._accuracy = weight * self._accuracy + (1 - weight) * sign.accuracy

    def _text(self, sign: "Sign") -> str:
        left = (sign.total - sign.clock.tokens) / max(sign.tokens_per_s, 1e-9)
        return (
            f"pretraining: {sign.clock.tokens / 1e6:.2f}M/{sign.total / 1e6:.2f}M tokens, loss {self._loss:.3f}, "
            f"{self._accuracy:.1%} of tokens right, {sign.tokens_per_s:.0f} tokens/s, {duration(max(0.0, left))} left"
        )


def measured(score: "Score") -> str:
    """A score as people read it."""
    exact = f"{round(score.exact * score.contexts)} of {score.contexts} outputs exact"
    return f"{exact}, {score.accuracy:.1%} of tokens right, loss {score.loss:.3f}"
