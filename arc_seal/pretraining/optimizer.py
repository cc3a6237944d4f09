"""Muon for the matrices, AdamW for the rest, on one schedule: warm-up, a long plateau, decay."""

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from arc_seal.pretraining.muon import StackedMuon
from arc_seal.pretraining.section import Section


class OptimizerSettings(Section):
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
