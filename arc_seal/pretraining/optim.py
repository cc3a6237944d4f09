"""How weights are updated: Muon on the layers' matrices, AdamW on the rest, on one schedule of learning rates."""

import math
from collections import defaultdict
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from arc_seal.models.model import multiplies_bfloat16
from arc_seal.settings import Settings


class OptimizerSettings(Settings):
    """How weights are updated; each setting is described in conf/pretrain.yaml, optimizer."""

    matrix_rate: float = Field(0.02, gt=0)
    other_rate: float = Field(0.004, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    warmup_tokens: int = Field(300_000, ge=1)
    decay_share: float = Field(0.25, ge=0, le=1)


def make_optimizers(network: nn.Module, settings: OptimizerSettings) -> tuple[Optimizer, ...]:
    """Muon on the layers' matrices, AdamW on embeddings, output layer and norms."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, weight in network.named_parameters():
        parts[weight.ndim != 2 or ".layers." not in name].append(weight)
    matrices, others = parts
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
    """Share of the peak rate after some tokens of a whole run: warm-up, stable, decay (arXiv 2404.06395, section 4)."""
    falling = max(0.0, 1.0 - tokens / total) / settings.decay_share if settings.decay_share else 1.0
    return min(1.0, (tokens + 1) / settings.warmup_tokens, falling)


def decays(tokens: int, total: int, settings: OptimizerSettings) -> bool:
    """Whether the rate has begun to fall after some tokens; see `rate_factor`."""
    return max(0.0, 1.0 - tokens / total) < settings.decay_share


class StackedMuon(Muon):
    """torch's Muon (github.com/KellerJordan/Muon), which orthogonalises matrices of one shape together.

    A small network's 35 matrices are of 3 shapes: a GPU gets a tenth of the launches. Without
    instructions for bfloat16, where that is a hundred times slower, the products are in float32. The rate is adjusted
    as by torch's `original`.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
                    if "momentum_buffer" not in self.state[matrix]:
                        self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
            for (rows, columns), matrices in by_shape.items():
                gradients: Any = [matrix.grad for matrix in matrices]
                averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                update = torch.stack(averages)  # [matrices, rows, columns]
                if group["nesterov"]:
                    update = torch.stack(gradients).lerp(update, group["momentum"])
                update = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(update.to(matrices[0].dtype)), alpha=-rate)


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values come to lie between 0.5 and 1.5.

    By Newton-Schulz iteration (github.com/KellerJordan/Muon); `coefficients` are those of x, x^3 and x^5 in the
    polynomial that each step applies to the singular values. [matrices, rows, columns] -> the same shape.
    """
    linear, cubic, quintic = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    now = matrices.mT if tall else matrices
    now = now.to(torch.bfloat16 if multiplies_bfloat16(matrices.device) else torch.float32)
    now = now / now.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = now @ now.mT  # [matrices, least side, least side]
        now = torch.baddbmm(now, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), now, beta=linear)
    return now.mT if tall else now
