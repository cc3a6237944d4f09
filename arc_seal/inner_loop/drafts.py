"""Greedy decoding in several views, where the answer of one is a draft of the others': far fewer steps if they agree.

What speculative decoding (arXiv 2211.17192) asks of a smaller model is asked of another view.
"""

from collections.abc import Callable, Sequence

import torch

from arc_seal.arc.grid import Grid
from arc_seal.errors import GridError
from arc_seal.inner_loop.predict import Decoded, Greedy, decode_along, decode_on, score
from arc_seal.models.generate import CachedContext
from arc_seal.models.prompt import grid_symbols
from arc_seal.self_edit.augment import NamedView

HELPFUL = 2.0
"""Symbols a step from which on a view is faster alone with a draft than beside others."""


@torch.inference_mode()
def decode_views(
    context: CachedContext, shown: Sequence[NamedView], query: int, on_step: Callable[[int, float], None]
) -> tuple[list[Decoded], dict[Grid, list[float | None]]]:
    """Decode a grid in every view; returns what `predict.decode` does, and scores that were found on the way.

    One view is decoded alone, with the query as its draft, for many outputs are like it. Its grid is shown in the rest
    and read there at once, which tells how far each of them decodes to the same, and how probable it is in each. Of
    those that depart from it the one that went furthest is next, with this draft. What is left when drafts help no more
    is decoded side by side.

    Args:
        context: A query in each view; nothing has been read of it.
        shown: The views.
        query: Which of the task's queries it is.
        on_step: Told of every step as in `predict.decode_on`.

    Returns:
        What was decoded in each view, and what `predict.score` says of some of the grids, in the task's own frame.
    """
    context.read_prompts()
    written, scores = [Greedy() for _ in shown], dict[Grid, list[float | None]]()
    drafts: list[Grid | None] = [view.task.queries[query] for view in shown]
    while left := _open(written):
        row = max(left, key=lambda row: len(written[row].symbols))
        least = HELPFUL if 1 < len(left) < len(shown) else 0.0
        decode_along(context.part([row]), written[row], _symbols(drafts[row]), on_step, least)
        if written[row].open:
            decode_on(context.part(left), [written[row] for row in left], on_step)
            break
        grid = inverted(shown[row], written[row].decoded.grid)
        if len(left) > 1 and grid is not None and grid not in scores:
            drafts = [view.show(grid) for view in shown]
            scores[grid] = score(context, drafts, written=written)
    return [each.decoded for each in written], scores


def inverted(view: NamedView, grid: Grid | None) -> Grid | None:
    """The prediction in the task's own frame; None when the view's way back does not exist for it."""
    try:
        return None if grid is None else view.invert(grid)
    except GridError:
        return None


def _symbols(draft: Grid | None) -> list[int]:
    return [] if draft is None else grid_symbols(draft.array).tolist()


def _open(written: Sequence[Greedy]) -> list[int]:
    """The rows that are not written to their end."""
    return [row for row, each in enumerate(written) if each.open]
