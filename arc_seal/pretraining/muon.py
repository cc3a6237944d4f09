"""Muon on stacks of matrices: the updates of `torch.optim.Muon`, for many matrices of one shape at a time."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon


class StackedMuon(Muon):
    """torch's Muon (github.com/KellerJordan/Muon), which orthogonalises matrices of one shape together.

    A small network's 35 matrices are of 3 shapes: a GPU gets a tenth of the launches, which is what its step waits for.
    And on a CPU the products are in float32: torch's are in bfloat16, a hundred times slower where the processor has no
    instructions for it (AVX2 alone, as in most laptops). The learning rate is adjusted to a matrix's shape in torch's
    `original` way alone; `adjust_lr_fn` is not looked at.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for matrices in _by_shape(group["params"]):
                self._update(matrices, group)

    def _update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape, [rows, columns] each."""
        gradients = [matrix.grad for matrix in matrices]
        averages = [self._average(matrix) for matrix in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])  # type: ignore[arg-type]
        update = torch.stack(averages)  # [matrices, rows, columns]
        if group["nesterov"]:
            update = torch.stack(gradients).lerp(update, group["momentum"])  # type: ignore[arg-type]
        update = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = matrices[0].shape
        rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, list(update.to(matrices[0].dtype)), alpha=-rate)

    def _average(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average: Tensor = state["momentum_buffer"]
        return average


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values come to lie between 0.5 and 1.5.

    By Newton-Schulz iteration (github.com/KellerJordan/Muon), in bfloat16 on a GPU and in float32 elsewhere.

    Args:
        matrices: [matrices, rows, columns].
        coefficients: Of x, x^3 and x^5 in the polynomial that every step applies to the singular values.
        steps: How many.
        eps: Keeps a matrix of zeros from dividing by zero.

    Returns:
        The same shape.
    """
    linear, cubic, quintic = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    now = matrices.mT if tall else matrices
    now = now.to(torch.bfloat16 if matrices.device.type == "cuda" else torch.float32)
    now = now / now.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = now @ now.mT  # [matrices, least side, least side]
        now = torch.baddbmm(now, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), now, beta=linear)
    return now.mT if tall else now


def _by_shape(matrices: Iterable[Tensor]) -> list[list[Tensor]]:
    """Matrices that have a gradient, those of one shape together."""
    groups: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        if matrix.grad is not None:
            groups[matrix.shape].append(matrix)
    return list(groups.values())
