"""Muon against torch's own and against the singular value decomposition."""

import pytest
import torch
from torch import nn

from simple_diffusion_lm.training import optimizers
from simple_diffusion_lm.training.optimizers import Muon, orthogonal

SHAPES = [(8, 24), (24, 8), (16, 16)]


def matrices():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def test_muon_is_torchs_where_bfloat16_is_had(monkeypatch):
    monkeypatch.setattr(optimizers, "autocast_dtype", lambda device: torch.bfloat16)
    mine, theirs = matrices(), matrices()
    settings = {"lr": 0.01, "weight_decay": 0.1}
    each = (
        (mine, Muon(mine, **settings)),
        (theirs, torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)),
    )
    for step in range(4):
        for parameters, optimizer in each:
            torch.manual_seed(1 + step)
            for p in parameters:
                p.grad = torch.randn_like(p)
            optimizer.step()
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_step_keeps_the_directions_and_evens_the_lengths(shape, dtype, monkeypatch):
    monkeypatch.setattr(optimizers, "autocast_dtype", lambda device: dtype)
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    lengths = torch.linspace(0.3, 3, min(shape))
    found = orthogonal(u * lengths @ vh)
    assert found.dtype == (dtype or torch.float32)
    inside = u.T @ found.float() @ vh.T
    assert inside.diagonal().min() > 0.65
    assert inside.diagonal().max() < 1.25
    off = inside - inside.diagonal().diag()
    assert off.abs().max() < (1e-5 if dtype is None else 0.05)


def test_of_no_gradient_comes_no_step():
    still, zero = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad = torch.zeros(2, 2)
    Muon([still, zero], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(still, torch.ones(2, 2))
    assert torch.equal(zero, torch.ones(2, 2))
