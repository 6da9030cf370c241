"""Muon against its definition by singular values, against PyTorch's Muon and AdamW, and in a resumed training."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bsm.model import BandLinear
from bsm.optimizer import Muon, orthogonal
from bsm.train import train
from runs import CONFIG, MODEL, assert_same_run

sizes = st.integers(2, 40)


@given(rows=sizes, columns=sizes, stacked=st.integers(1, 3), seed=st.integers(0, 99))
def test_orthogonal_matrices_have_the_same_directions_and_singular_values_near_one(rows, columns, stacked, seed):
    """Against the singular value decomposition, for matrices whose singular values differ by up to a factor of 10."""
    torch.manual_seed(seed)
    left, _, right = torch.linalg.svd(torch.randn(stacked, rows, columns, dtype=torch.float64), full_matrices=False)
    values = torch.rand(stacked, left.shape[-1], dtype=torch.float64) * 0.9 + 0.1
    inner = left.mT @ orthogonal(left * values[:, None] @ right) @ right.mT
    found = inner.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inner, torch.diag_embed(found), rtol=0, atol=1e-10)
    assert found.min() > 0.6 and found.max() < 1.3


def test_zeros_stay_zeros():
    assert not orthogonal(torch.zeros(2, 3, 4)).any()


def trained(optimizer, parameters, seed=0):
    """Make three updates with random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in parameters]


def test_matrices_are_updated_as_by_pytorch():
    """PyTorch's Muon computes in bfloat16, with 8 bits of mantissa."""
    start = torch.randn(12, 30)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    options = {"weight_decay": 1e-2, "adjust_lr_fn": "match_rms_adamw"}
    (first,) = trained(Muon([ours], lr=0.1), [ours])
    (second,) = trained(torch.optim.Muon([theirs], lr=0.1, **options), [theirs])
    moved, apart = (second - start).norm(), (first - second).norm()
    assert apart < 2e-2 * moved


def test_other_parameters_are_updated_as_by_adamw():
    torch.manual_seed(0)
    starts = [torch.randn(shape) for shape in ((7,), (5, 1, 3), (6, 1, 4))]
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    first = trained(Muon(ours, lr=0.1), ours)
    second = trained(torch.optim.AdamW(theirs, lr=0.1, fused=True), theirs)
    assert all(map(torch.equal, first, second))


def test_stacked_matrices_are_updated_one_by_one():
    torch.manual_seed(0)
    stacked = BandLinear(3, 8, 5).weight
    alone = [nn.Parameter(matrix.clone()) for matrix in stacked.detach()]
    gradient = torch.randn(stacked.shape)
    stacked.grad = gradient
    Muon([stacked], lr=0.1).step()
    for parameter, own in zip(alone, gradient, strict=True):
        parameter.grad = own.clone()
    Muon(alone, lr=0.1).step()
    torch.testing.assert_close(stacked.detach(), torch.stack([p.detach() for p in alone]), rtol=1e-5, atol=1e-6)


def test_a_training_with_muon_resumes_bit_for_bit(tracks, tmp_path, train_interrupted):
    config = CONFIG.replace(optimizer="muon")
    train(tmp_path / "whole", MODEL, config, tracks, device="cpu")
    train_interrupted(tmp_path / "run", MODEL, config, after=5)
    train(tmp_path / "run", MODEL, config, tracks, device="cpu")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
