"""What a round of roll-outs came to, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from arc_seal.errors import Status
from arc_seal.outer_loop.ledger_rows import RolloutRow


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """What a round came to.

    Attributes:
        round: Which.
        rollouts: Self-edits tried.
        valid: Those that were self-edits; what could not be written is none.
        ran: Those whose job ended well.
        solved: Those that solved their task; None where there are no solutions.
        tasks: Tasks.
        tasks_solved: Tasks that at least one self-edit solved; None where there are no solutions.
        distinct: Self-edits, equal ones of one task counted once.
        held_out: Mean held-out log-probability in nats a symbol, of those that were examined; None when none was.
    """

    round: int
    rollouts: int
    valid: int
    ran: int
    solved: int | None
    tasks: int
    tasks_solved: int | None
    distinct: int
    held_out: float | None


def summarise(number: int, rows: Sequence[RolloutRow]) -> RoundSummary:
    """Count a round's roll-outs."""
    known = any(row.reward is not None for row in rows)
    examined = [row.held_out for row in rows if row.held_out is not None]
    return RoundSummary(
        round=number,
        rollouts=len(rows),
        valid=sum(row.self_edit is not None for row in rows),
        ran=sum(row.status is Status.OK for row in rows),
        solved=sum(row.reward == 1 for row in rows) if known else None,
        tasks=len({row.task for row in rows}),
        tasks_solved=len({row.task for row in rows if row.reward == 1}) if known else None,
        distinct=len({(row.task, row.self_edit) for row in rows if row.self_edit is not None}),
        held_out=fmean(examined) if examined else None,
    )
