"""How likely a model holds a given grid to be, behind each of several prompts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from arc_seal.arc.grid import Grid
from arc_seal.inner_loop.reader import Reader
from arc_seal.inner_loop.spelling import END, SYMBOLS, Spelling, symbols_of
from arc_seal.models.head import logits_of


@torch.inference_mode()
def score(reader: Reader, grids: Sequence[Grid | None]) -> list[float | None]:
    """Log-probability of a grid behind each prompt, over the symbols that the grammar allows, as in decoding.

    Args:
        reader: It has read its prompts; what it read behind them is forgotten.
        grids: One for each prompt; None where there is nothing to score.

    Returns:
        Summed over a grid's symbols, its end included, in nats; None where there was no grid.
    """
    spelled = [[] if grid is None else list(symbols_of(grid)) for grid in grids]
    longest = max(map(len, spelled))
    if longest == 0:
        return [None] * len(grids)
    wanted = np.full((len(grids), longest), END, np.int64)
    allowed = np.ones((len(grids), longest, SYMBOLS), np.bool_)
    for row, symbols in enumerate(spelled):
        wanted[row, : len(symbols)] = symbols
        allowed[row, : len(symbols)] = _allowed(symbols)
    alphabet = torch.tensor(reader.model.codec.symbols.all)
    ids = alphabet.numpy()[wanted[:, :-1]]  # the last symbol is predicted and not read
    hidden = torch.cat([reader.first[:, None], reader.read_instead(ids)], dim=1)  # [views, longest, width]
    logits = logits_of(reader.model.network, hidden, alphabet.to(hidden.device)).cpu()  # [views, longest, 12]
    each = torch.log_softmax(logits.masked_fill(~torch.from_numpy(allowed), float("-inf")), dim=-1)
    taken = each.gather(-1, torch.from_numpy(wanted)[..., None])[..., 0]  # [views, longest]
    return [float(taken[row, : len(symbols)].sum()) if symbols else None for row, symbols in enumerate(spelled)]


def _allowed(symbols: Sequence[int]) -> NDArray[np.bool_]:
    """What the grammar allows at each symbol of a grid's spelling, [symbols, 12]."""
    spelling = Spelling()
    masks = np.empty((len(symbols), SYMBOLS), np.bool_)
    for index, symbol in enumerate(symbols):
        masks[index] = spelling.allowed()
        spelling.take(symbol)
    return masks
