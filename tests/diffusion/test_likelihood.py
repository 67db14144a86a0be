import math

import pytest
import torch
import torch.nn.functional as F

from simple_diffusion_lm.diffusion.likelihood import (
    Proposal,
    carried_bound,
    probability_flow,
    variational_bound,
)
from simple_diffusion_lm.diffusion.network import Output, Text
from simple_diffusion_lm.diffusion.schedule import SCHEDULES, FittedSchedule, Path

V, D, L = 16, 16, 6


class ExactUniform:
    """The exact posterior of ids drawn independently and uniformly: no network."""

    def __init__(self, table):
        self.table = table

    def embed(self, ids):
        return F.embedding(ids, self.table)

    def interpolate(self, logits):
        return logits.softmax(-1) @ self.table

    def read(self, x_t, level):
        return (level.alpha / level.sigma**2) * x_t @ self.table.T

    def __call__(self, x_t, level, x0_prev, *, ids, cond_mask, length_mask, targets):
        return Output(self.read(x_t, level).flatten(0, 1)[targets.all])


def text_of(ids, cond_mask, stagger, generator):
    """Texts without padding, along a path in random order."""
    path = Path.of(torch.rand(cond_mask.shape, generator=generator), ~cond_mask, stagger)
    return Text(ids, torch.ones_like(cond_mask), cond_mask, path)


def uniform_bound(schedule, sequences=20_000, cond_mask=None, stagger=0.0):
    generator = torch.Generator().manual_seed(0)
    table = F.normalize(torch.randn(V, D, generator=generator), dim=-1) * D**0.5
    ids = torch.randint(V, (sequences, L), generator=generator)
    if cond_mask is None:
        cond_mask = torch.zeros_like(ids, dtype=torch.bool)
    u = (torch.arange(sequences) + torch.rand(sequences, generator=generator)) / sequences
    return variational_bound(
        ExactUniform(table),
        Proposal.of(schedule, D, torch.device("cpu")).precise(),
        text_of(ids, cond_mask, stagger, generator),
        u,
        torch.randn(2, sequences, L, D, generator=generator),
    )


@pytest.mark.parametrize("stagger", [0.0, 3.0])
@pytest.mark.parametrize(
    "schedule", [SCHEDULES["cosine"], FittedSchedule(D, V)], ids=["cosine", "fitted"]
)
def test_the_bound_of_the_exact_model_is_the_entropy(schedule, stagger):
    """iid uniform ids: -log p = ln V a token, and the exact denoiser's bound meets it."""
    bound = uniform_bound(schedule, stagger=stagger)
    per_token = bound.total / bound.tokens
    error = per_token.std().item() / len(per_token) ** 0.5
    assert per_token.mean().item() == pytest.approx(math.log(V), abs=0.02 * (1 + stagger))
    assert (
        error < 0.03 * (1 + stagger) ** 0.5
    )  # and the levels are stratified, so the true error is smaller still


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


PROPOSALS = {
    "cosine": Proposal.of(SCHEDULES["cosine"], D, torch.device("cpu")),
    "fitted": Proposal.of(FittedSchedule(D, V), D, torch.device("cpu")),
}


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("schedule", PROPOSALS)
def test_the_proposal_is_a_density_on_the_range(schedule, precise):
    proposal = PROPOSALS[schedule]
    if precise:
        proposal = proposal.precise()
    u = (torch.arange(100_000) + 0.5) / 100_000
    log_snr, weight = proposal.draw(u)
    assert weight.mean().item() == pytest.approx(
        (proposal.edges[0] - proposal.edges[-1]).item(), rel=1e-3
    )
    # The integral of f over the range is E[f * weight]: try a bell.
    assert (torch.exp(-0.5 * log_snr**2) * weight).mean().item() == pytest.approx(
        (2 * math.pi) ** 0.5, rel=1e-2
    )


def test_precise_levels_suit_tokens_that_are_seldom_but_much_mistaken():
    """Tokens cost x nats, exponential with mean 4; each integrand is D snr, up to where that is x.

    Their mean at a level is D snr exp(-D snr / 4), and a schedule as dense as that has
    log-SNR(t) = log(-4 log(t) / D).
    """
    t = torch.linspace(0, 1, 257).clamp(1e-4, 1 - 1e-4)
    proposal = Proposal((-4 * t.log() / D).log())
    generator = torch.Generator().manual_seed(0)
    cost = -4 * torch.rand(200_000, generator=generator).log()
    u = torch.rand(200_000, generator=generator)
    estimates = []
    for density in (proposal, proposal.precise()):
        log_snr, weight = density.draw(u)
        rate = D * log_snr.exp()
        estimates.append(weight * rate * (rate < cost))
    plain, precise = (estimate.std().item() for estimate in estimates)
    assert estimates[1].mean().item() == pytest.approx(4, rel=0.01)
    assert precise < 0.85 * plain


class ExactChain(ExactUniform):
    """The exact posterior of a Markov chain seen through noise: the forward-backward algorithm."""

    def __init__(self, table, first, transition):
        super().__init__(table)
        self.first, self.transition = first.log(), transition.log()

    def __call__(self, x_t, level, x0_prev, *, ids, cond_mask, length_mask, targets):
        known = F.one_hot(ids, len(self.table)).log()  # given positions are certain
        evidence = torch.where(cond_mask[..., None], known, self.read(x_t, level))
        forward = [self.first + evidence[:, 0]]
        for i in range(1, ids.shape[1]):
            reached = torch.logsumexp(forward[-1][:, :, None] + self.transition, dim=1)
            forward.append(reached + evidence[:, i])
        backward = [torch.zeros_like(forward[0])]
        for i in reversed(range(1, ids.shape[1])):
            after = backward[0] + evidence[:, i]
            backward.insert(0, torch.logsumexp(after[:, None] + self.transition, dim=2))
        logits = torch.stack(forward, 1) + torch.stack(backward, 1)
        return Output(logits.flatten(0, 1)[targets.all])


def chain(generator):
    """A chain with strong habits, and lines of it."""
    transition = torch.softmax(3 * torch.randn(V, V, generator=generator), dim=-1)
    first = torch.softmax(torch.randn(V, generator=generator), dim=-1)
    ids = torch.multinomial(first.expand(4000, V), 1, generator=generator)
    while ids.shape[1] < L:
        now = torch.multinomial(transition[ids[:, -1]], 1, generator=generator)
        ids = torch.cat([ids, now], dim=1)
    table = F.normalize(torch.randn(V, D, generator=generator), dim=-1) * D**0.5
    return ExactChain(table, first, transition), first, transition, ids


@pytest.mark.parametrize("stagger", [0.0, 3.0])
@pytest.mark.parametrize("given", [False, True])
def test_the_bound_of_a_markov_chain_meets_its_entropy(given, stagger):
    """And of the rest given some positions, the conditional entropy, found by summing over all.

    An exact model meets it along any path: in which order positions are written is no matter.
    """
    generator = torch.Generator().manual_seed(0)
    model, first, transition, ids = chain(generator)
    cond_mask = torch.zeros_like(ids, dtype=torch.bool)
    if given:
        cond_mask[:, [1, 2, 4]] = True
    log_p = first[ids[:, 0]].log()
    for i in range(1, L):
        log_p = log_p + transition[ids[:, i - 1], ids[:, i]].log()
    if given:
        blank = ids.clone()
        total = torch.zeros(len(ids), V, V, V)
        for a, b, c in torch.cartesian_prod(*[torch.arange(V)] * 3).tolist():
            blank[:, 0], blank[:, 3], blank[:, 5] = a, b, c
            p = first[blank[:, 0]].clone()
            for i in range(1, L):
                p = p * transition[blank[:, i - 1], blank[:, i]]
            total[:, a, b, c] = p
        log_p = log_p - total.sum((1, 2, 3)).log()
    # Each text may have its own.
    staggers = stagger * (0.5 + torch.rand(len(ids), 1, generator=generator)) if stagger else 0.0
    draws = []
    for _ in range(10 if stagger else 1):  # few positions at a time: each draw says less
        u = (torch.randperm(len(ids), generator=generator) + 0.5) / len(ids)
        bound = variational_bound(
            model,
            Proposal.of(FittedSchedule(D, V), D, torch.device("cpu")),
            text_of(ids, cond_mask, staggers, generator),
            u,
            torch.randn(2, *ids.shape, D, generator=generator),
        )
        draws.append(bound.total + log_p)  # of the same lines, so that only the noise is left
    difference = torch.stack(draws).mean(0)
    error = difference.std().item() / len(ids) ** 0.5
    assert difference.mean().item() == pytest.approx(0.0, abs=3 * error)
    assert error < (0.06 if stagger else 0.03) * -log_p.mean().item()


@pytest.mark.parametrize("stagger", [0.0, 1.0])
@pytest.mark.parametrize("given", [False, True])
def test_the_carried_bound_of_a_markov_chain_is_near_above_its_entropy(given, stagger):
    """Above, because its steps are finite; nearer with more of them; and given tokens cost less."""
    generator = torch.Generator().manual_seed(0)
    model, first, transition, ids = chain(generator)
    ids = ids[:1000]
    log_p = first[ids[:, 0]].log()
    for i in range(1, L):
        log_p = log_p + transition[ids[:, i - 1], ids[:, i]].log()
    cond_mask = torch.zeros_like(ids, dtype=torch.bool)
    cond_mask[:, ::2] = given
    ends = Proposal.of(FittedSchedule(D, V), D, torch.device("cpu")).edges[[0, -1]]
    totals = []
    for steps in (20, 200):
        bound = carried_bound(
            model,
            Proposal(ends),  # equal steps of log-SNR
            text_of(ids, cond_mask, stagger, generator),
            round(steps * (1 + stagger)),
            lambda: torch.randn(*ids.shape, D, generator=generator),
        )
        totals.append(bound.total)
    if given:
        assert (bound.tokens == L // 2).all()
        assert totals[1].mean() < -0.8 * log_p.mean()
        return
    coarse, fine = ((total + log_p).mean().item() for total in totals)
    error = (totals[1] + log_p).std().item() / len(ids) ** 0.5
    assert -2 * error < fine < 0.2 * coarse  # what finite steps cost falls with their number
    assert error < 0.15


@pytest.mark.parametrize("stagger", [0.0, 40.0])
def test_the_carried_bound_of_one_step_a_token_is_all_reconstruction(stagger):
    """Each is drawn from the logits at pure noise: masked diffusion, which costs ln V a token."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(V, (50, L), generator=generator)
    bound = carried_bound(
        ExactUniform(exact_table()),
        Proposal.of(FittedSchedule(D, V), D, torch.device("cpu")),
        text_of(ids, torch.zeros_like(ids, dtype=torch.bool), stagger, generator),
        1,
        lambda: torch.randn(*ids.shape, D, generator=generator),
    )
    assert (bound.diffusion == 0).all()
    mean = (bound.reconstruction / bound.tokens).mean().item()
    assert mean == pytest.approx(math.log(V), abs=0.01)


class Copying(ExactUniform):
    """The exact model again, which takes a part of its answer from its own first answer."""

    def __init__(self, table, part, detached):
        super().__init__(table)
        self.part, self.detached = part, detached

    def __call__(self, x_t, level, x0_prev, *, targets, **known):
        exact = super().__call__(x_t, level, x0_prev, targets=targets, **known).logits.softmax(-1)
        first = x0_prev.detach() if self.detached else x0_prev
        first = first.flatten(0, 1)[targets.all]
        copied = first @ torch.linalg.inv(self.table)  # from a mean embedding to its weights
        copied = torch.where(x0_prev.any(), copied, exact)
        mixed = self.part * copied + (1 - self.part) * exact
        return Output(mixed.clamp(min=1e-30).log())


def flow_bound(model, stagger=0.0, sequences=2000):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(V, (sequences, L), generator=generator)
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    return probability_flow(
        model,
        Proposal.of(FittedSchedule(D, V), D, torch.device("cpu")),
        text_of(ids, nowhere, stagger, generator),
        torch.randn(sequences, L, D, generator=generator),
        torch.randint(2, (sequences, L, D), generator=generator) * 2.0 - 1,
        round(96 * (1 + stagger)),
    )


def nats_per_token(bound):
    """The mean, and its standard error."""
    each = bound.total / bound.tokens
    return each.mean().item(), each.std().item() / len(each) ** 0.5


def exact_table():
    return F.normalize(torch.randn(V, D, generator=torch.Generator().manual_seed(0)), dim=-1) * 4


@pytest.mark.parametrize("stagger", [0.0, 1.0])
def test_the_flow_of_the_exact_model_costs_the_entropy(stagger):
    model = ExactUniform(exact_table())
    mean, error = nats_per_token(flow_bound(model, stagger))
    assert mean == pytest.approx(math.log(V), abs=3 * error)
    assert error < 0.02


@pytest.mark.parametrize("part", [0.25, 0.5])
def test_a_detached_first_pass_goes_below_the_truth(part):
    """LangFlow's published evaluation: the same function, and a likelihood that is none."""
    whole, error = nats_per_token(flow_bound(Copying(exact_table(), part, detached=False)))
    assert whole == pytest.approx(math.log(V), abs=3 * error)
    detached, _ = nats_per_token(flow_bound(Copying(exact_table(), part, detached=True)))
    assert detached == pytest.approx((1 - part) * math.log(V), abs=0.1)
