"""Muon on stacks of matrices: the updates of `torch.optim.Muon`, for many matrices of one shape at a time."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from arc_seal.settings import Settings


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


# Muon for the matrices, AdamW for the rest, on one schedule: warm-up, a long plateau, decay.


class OptimizerSettings(Settings):
    """How weights are updated; each setting is described in conf/pretrain.yaml, optimizer."""

    matrix_rate: float = Field(0.02, gt=0)
    other_rate: float = Field(0.004, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    warmup_tokens: int = Field(300_000, ge=1)
    decay_share: float = Field(0.25, ge=0, le=1)


def make_optimizers(network: nn.Module, settings: OptimizerSettings) -> tuple[Optimizer, ...]:
    """Muon on the layers' matrices, AdamW on embeddings, output head and norms."""
    matrices, others = list(_matrices(network)), list(_others(network))
    return (
        StackedMuon(matrices, lr=settings.matrix_rate, weight_decay=settings.weight_decay, momentum=0.95),
        AdamW(others, lr=settings.other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )


def set_rates(optimizers: tuple[Optimizer, ...], settings: OptimizerSettings, factor: float) -> None:
    """Set every learning rate to `factor` of its peak."""
    for optimizer, peak in zip(optimizers, (settings.matrix_rate, settings.other_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor


def rate_factor(tokens: int, total: int, settings: OptimizerSettings) -> float:
    """The schedule (warm-up, stable, decay; arXiv 2404.06395, section 4): share of the peak rate after some tokens.

    Args:
        tokens: Tokens read so far.
        total: Tokens of the whole run; the last `decay_share` of them decay to zero.
        settings: The schedule's lengths.
    """
    rising = min(1.0, (tokens + 1) / settings.warmup_tokens)
    return min(rising, _falling(tokens, total, settings))


def decays(tokens: int, total: int, settings: OptimizerSettings) -> bool:
    """Whether the rate has begun to fall after some tokens; see `rate_factor`."""
    return _falling(tokens, total, settings) < 1


def _falling(tokens: int, total: int, settings: OptimizerSettings) -> float:
    left = max(0.0, 1.0 - tokens / total)
    return min(1.0, left / settings.decay_share) if settings.decay_share else 1.0


def _matrices(network: nn.Module) -> Iterator[Tensor]:
    for name, weight in network.named_parameters():
        if weight.ndim == 2 and ".layers." in name:
            yield weight


def _others(network: nn.Module) -> Iterator[Tensor]:
    for name, weight in network.named_parameters():
        if weight.ndim != 2 or ".layers." not in name:
            yield weight
