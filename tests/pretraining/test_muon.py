"""Muon on stacks of matrices is torch's Muon."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Muon

from arc_seal.pretraining.optim import StackedMuon, orthogonal

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 2**31))
def test_singular_values_come_near_one(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # With the singular values known: Newton-Schulz brings up none that is next to nothing.
    left, _ = torch.linalg.qr(torch.randn(2, rows, rows, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(2, columns, columns, generator=generator))
    least = min(rows, columns)
    given_values = torch.linspace(0.2, 1.0, least)
    matrices = (left[:, :, :least] * given_values) @ right[:, :, :least].mT
    made = orthogonal(matrices, COEFFICIENTS, 5, 1e-7)
    assert made.shape == matrices.shape
    values = torch.linalg.svdvals(made.float())
    assert values.min() > 0.5 and values.max() < 1.5


@pytest.mark.parametrize("nesterov", [True, False])
def test_it_updates_as_torch_does(nesterov: bool) -> None:
    # torch's products are in bfloat16, ours on many CPUs in float32: a hundredth of an update is between them.
    ours, theirs = _matrices(), _matrices()
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "nesterov": nesterov}
    stacked, plain = StackedMuon(ours, **settings), Muon(theirs, **settings)
    first = [matrix.detach().clone() for matrix in theirs]
    for step in range(3):
        _give_gradients(ours, step)
        _give_gradients(theirs, step)
        stacked.step()
        plain.step()
    for one, other, before in zip(ours, theirs, first, strict=True):
        moved = other - before
        assert moved.norm() > 0.1
        assert (one - other).norm() < 0.03 * moved.norm()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(stacked.state[one]["momentum_buffer"], plain.state[other]["momentum_buffer"])


def test_a_matrix_without_a_gradient_stays() -> None:
    matrices = _matrices()
    optimizer = StackedMuon(matrices, lr=0.02)
    _give_gradients(matrices[1:], 0)
    before = [matrix.detach().clone() for matrix in matrices]
    optimizer.step()
    assert torch.equal(matrices[0], before[0])
    assert not any(torch.equal(now, was) for now, was in zip(matrices[1:], before[1:], strict=True))


def test_states_go_to_and_fro_between_the_two() -> None:
    matrices = _matrices()
    optimizer = StackedMuon(matrices, lr=0.02)
    _give_gradients(matrices, 0)
    optimizer.step()
    plain = Muon(_matrices(), lr=0.02)
    plain.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(plain.state_dict())


def _matrices() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 8), (16, 8), (8, 16), (8, 8))
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def _give_gradients(matrices: list[Tensor], step: int) -> None:
    for matrix in matrices:
        matrix.grad = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(100 * step + len(matrix)))
