"""Contexts side by side, as networks read them in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arc_seal.models.base import Encoded


@dataclass(frozen=True, slots=True)
class Batch:
    """Contexts side by side, padded on the right.

    Attributes:
        ids: Token ids, [batch, tokens].
        positions: Position of each token on each axis, [axes, batch, tokens].
        where: Row and column of each hidden state that predicts a target, [2, targets].
        labels: Token id of each target, [targets].
        tokens: Tokens that are not padding.
        allowed: What could stand in the place of each target, [targets, vocabulary filled up to whole bytes]; None
            where that is not limited.
    """

    ids: Tensor
    positions: Tensor
    where: Tensor
    labels: Tensor
    tokens: int
    allowed: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        ids, positions, where, labels = (
            tensor.to(device) for tensor in (self.ids, self.positions, self.where, self.labels)
        )
        allowed = None if self.allowed is None else self.allowed.to(device)
        return Batch(ids, positions, where, labels, self.tokens, allowed)

    def limited(self, logits: Tensor) -> Tensor:
        """Logits of the whole vocabulary for each target, without what could not stand in its place.

        Args:
            logits: [targets, vocabulary].

        Returns:
            The same shape.
        """
        if self.allowed is None:
            return logits
        return logits.masked_fill(~self.allowed[:, : logits.shape[-1]], float("-inf"))


def collate(contexts: Sequence[Encoded], pad: int = 0) -> Batch:
    """Contexts as one batch, on the CPU.

    Args:
        contexts: At least one; the first token of each is no target. All of them limit what a target could be, or none.
        pad: Token id that fills what is shorter than the longest; it stands at position 0 of every axis.
    """
    longest = max(len(context.ids) for context in contexts)
    axes = contexts[0].positions.shape[0]
    ids = np.full((len(contexts), longest), pad, np.int64)
    positions = np.zeros((axes, len(contexts), longest), np.int64)
    target = np.zeros((len(contexts), longest), np.bool_)
    for row, context in enumerate(contexts):
        length = len(context.ids)
        ids[row, :length], target[row, :length] = context.ids, context.target
        positions[:, row, :length] = context.positions
    rows, columns = np.nonzero(target)
    where = np.stack([rows, columns - 1])  # the state before a token is what predicts it
    tokens = sum(len(context.ids) for context in contexts)
    shown, stand, predict, labels = map(torch.from_numpy, (ids, positions, where, ids[rows, columns]))
    limits = [context.allowed for context in contexts if context.allowed is not None]
    allowed = torch.from_numpy(np.unpackbits(np.concatenate(limits), axis=1)).bool() if limits else None
    return Batch(shown, stand, predict, labels, tokens, allowed)
