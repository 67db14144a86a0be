import math

import pytest
import torch
import torch.nn.functional as F

from simple_diffusion_lm.diffusion.likelihood import Proposal, variational_bound
from simple_diffusion_lm.diffusion.loss import Output
from simple_diffusion_lm.diffusion.schedule import SCHEDULES, FittedSchedule

V, D, L = 16, 16, 6


class ExactUniform:
    """The exact posterior of ids drawn independently and uniformly: no network."""

    def __init__(self, table):
        self.table = table

    def embed(self, ids):
        return F.embedding(ids, self.table)

    def interpolate(self, logits):
        return logits.softmax(-1) @ self.table

    def __call__(self, x_t, level, x0_prev, *, ids, cond_mask, length_mask):
        logits = (level.alpha / level.sigma**2) * x_t @ self.table.T
        return Output(logits)


def uniform_bound(schedule, sequences=20_000, cond_mask=None, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    table = F.normalize(torch.randn(V, D, generator=generator), dim=-1) * D**0.5
    ids = torch.randint(V, (sequences, L), generator=generator)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    u = (torch.arange(sequences) + torch.rand(sequences, generator=generator)) / sequences
    return variational_bound(
        ExactUniform(table * scale),
        Proposal.of(schedule, D, torch.device("cpu")),
        ids,
        everywhere,
        ~everywhere if cond_mask is None else cond_mask,
        u,
        torch.randn(2, sequences, L, D, generator=generator),
    )


@pytest.mark.parametrize(
    "schedule", [SCHEDULES["cosine"], FittedSchedule(D, V)], ids=["cosine", "fitted"]
)
def test_the_bound_of_the_exact_model_is_the_entropy(schedule):
    """iid uniform ids: -log p = ln V a token, and the exact denoiser's bound meets it."""
    bound = uniform_bound(schedule)
    per_token = bound.total / bound.tokens
    error = per_token.std().item() / len(per_token) ** 0.5
    assert per_token.mean().item() == pytest.approx(math.log(V), abs=0.02)
    assert error < 0.03  # and the levels are stratified, so the true error is smaller still


def test_given_positions_cost_nothing():
    cond_mask = torch.zeros(20_000, L, dtype=torch.bool)
    cond_mask[:, ::2] = True
    bound = uniform_bound(FittedSchedule(D, V), cond_mask=cond_mask)
    assert (bound.tokens == L // 2).all()
    assert (bound.total.sum() / bound.tokens.sum()).item() == pytest.approx(math.log(V), rel=0.03)


def test_prior_is_the_kl_from_a_standard_normal():
    schedule = FittedSchedule(D, V)
    level = schedule(torch.tensor(1.0, dtype=torch.float64))
    bound = uniform_bound(schedule, sequences=8)
    q = torch.distributions.Normal(level.alpha, level.sigma)  # a coordinate of x0 at 1
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).item()
    assert (bound.prior / bound.tokens).mean().item() == pytest.approx(kl * D, rel=1e-3)
    assert (bound.prior / bound.tokens).max() < 1e-3


def test_the_proposal_is_a_density_on_the_range():
    proposal = Proposal.of(SCHEDULES["cosine"], D, torch.device("cpu"))
    u = (torch.arange(100_000) + 0.5) / 100_000
    log_snr, weight = proposal.draw(u)
    assert weight.mean().item() == pytest.approx(
        (proposal.edges[0] - proposal.edges[-1]).item(), rel=1e-3
    )
    # The integral of f over the range is E[f * weight]: try a bell.
    assert (torch.exp(-0.5 * log_snr**2) * weight).mean().item() == pytest.approx(
        (2 * math.pi) ** 0.5, rel=1e-2
    )
