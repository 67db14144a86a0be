import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from small_models import denoiser

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.bound import Bound, held_out_bound, length_cost, two_pass, variational_bound
from simple_diffusion_lm.core.denoiser import Batch, Denoiser, Output
from simple_diffusion_lm.core.embedding import TokenEmbedding, unit_scale
from simple_diffusion_lm.core.noise import cosine, gumbel, level_at, make_keys

V, D, L = 16, 16, 6
SOME = {"cosine": cosine, "gumbel": gumbel(D, V)}


class ExactUniform(Denoiser):
    """The exact posterior of ids drawn independently and uniformly: no network."""

    def __init__(self, schedule=SOME["gumbel"]):
        torch.nn.Module.__init__(self)
        torch.manual_seed(0)
        self.config = Config()
        self.embedding = TokenEmbedding(V, D, unit_scale)
        self.schedule = schedule
        self.register_buffer("log_unigram", torch.zeros(V))

    def forward(self, x_t, level, x0_prev, batch):
        return Output(self.posterior_logits(x_t, level)[batch.free], None)


class ExactChain(ExactUniform):
    """The exact posterior of a Markov chain seen through noise: the forward-backward algorithm."""

    def __init__(self):
        super().__init__()
        self.transition = torch.softmax(3 * torch.randn(V, V), dim=-1).log()
        self.first = torch.softmax(torch.randn(V), dim=-1).log()

    def lines(self, count):
        ids = torch.multinomial(self.first.exp().expand(count, V), 1)
        while ids.shape[1] < L:
            ids = torch.cat([ids, torch.multinomial(self.transition[ids[:, -1]].exp(), 1)], dim=1)
        return ids

    def log_p(self, ids):
        return self.first[ids[..., 0]] + self.transition[ids[..., :-1], ids[..., 1:]].sum(-1)

    def forward(self, x_t, level, x0_prev, batch):
        known = F.one_hot(batch.ids, V).log()  # given positions are certain
        seen = torch.where(batch.cond_mask[..., None], known, self.posterior_logits(x_t, level))
        forward, backward = [self.first + seen[:, 0]], [torch.zeros(len(x_t), V)]
        for i in range(1, L):
            reached = torch.logsumexp(forward[-1][:, :, None] + self.transition, dim=1)
            forward.append(reached + seen[:, i])
        for i in reversed(range(1, L)):
            after = backward[0] + seen[:, i]
            backward.insert(0, torch.logsumexp(after[:, None] + self.transition, dim=2))
        logits = torch.stack(forward, 1) + torch.stack(backward, 1)
        return Output(logits[batch.free], None)


def batch_of(ids, given=()):
    mask, number = torch.ones_like(ids, dtype=torch.bool), torch.arange(len(ids))
    cond_mask = torch.zeros_like(mask)
    cond_mask[:, list(given)] = True
    return Batch(ids, mask, cond_mask, number, number / len(ids))


def draw(model, batch, i=0):
    count = len(batch.ids)
    u = torch.randperm(count, generator=torch.Generator().manual_seed(i)) + 0.5
    return variational_bound(model, batch, u / count, make_keys(i, batch.number))


@pytest.mark.parametrize("schedule", SOME)
def test_the_bound_of_the_exact_model_is_the_entropy(schedule):
    """iid uniform ids: -log p = ln V a token, and the exact denoiser's bound meets it."""
    bound = draw(ExactUniform(SOME[schedule]), batch_of(torch.randint(V, (20_000, L))))
    per_token = bound.total / bound.tokens
    error = per_token.std().item() / len(per_token) ** 0.5
    assert per_token.mean().item() == pytest.approx(math.log(V), abs=3.5 * error)
    # Levels are drawn by the schedule, and cosine's spends little time where something is decided.
    assert error < {"gumbel": 0.03, "cosine": 0.06}[schedule]


@pytest.mark.parametrize("given", [(), (1, 2, 4)])
def test_the_bound_of_a_markov_chain_meets_its_entropy(given):
    """And of the rest given some positions, the conditional entropy, found by summing over all."""
    torch.manual_seed(0)
    model = ExactChain()
    ids = model.lines(4000)
    log_p = model.log_p(ids)
    if given:
        every = ids[:, None].repeat(1, V**3, 1)
        every[:, :, [0, 3, 5]] = torch.cartesian_prod(*[torch.arange(V)] * 3)
        log_p = log_p - torch.cat([model.log_p(part).logsumexp(1) for part in every.split(100)])
    draws = [draw(model, batch_of(ids, given), i) for i in range(2)]
    assert (draws[0].tokens == L - len(given)).all()
    difference = torch.stack([bound.total for bound in draws]).mean(0) + log_p  # only noise is left
    error = difference.std().item() / len(ids) ** 0.5
    assert difference.mean().item() == pytest.approx(0.0, abs=3.5 * error)
    assert error < 0.03 * -log_p.mean().item()


def test_prior_is_the_kl_from_a_standard_normal():
    level = SOME["gumbel"](torch.tensor(1.0, dtype=torch.float64))
    bound = draw(ExactUniform(), batch_of(torch.randint(V, (8, L))))
    q = torch.distributions.Normal(level.alpha, level.sigma)  # a coordinate of x0 at 1
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).item()
    assert (bound.prior / bound.tokens).mean().item() == pytest.approx(kl * D, rel=1e-3)
    assert (bound.prior / bound.tokens).max() < 1e-3


def test_one_free_position_beside_padded_or_given_ones_has_a_bound():
    model = denoiser(V, embedding_dim=D).eval()
    batch = batch_of(torch.randint(V, (3, L)), given=(0, 1, 2, 3, 5))
    length_mask = torch.arange(L) < torch.tensor([[6], [5], [1]])
    cond_mask = batch.cond_mask & length_mask
    cond_mask[2] = False
    bound = model.bound(
        batch._replace(length_mask=length_mask, cond_mask=cond_mask), torch.rand(3), batch.number
    )
    assert bound.tokens.tolist() == [1, 1, 1]
    assert bound.total.isfinite().all()


def test_length_cost_is_a_distribution_that_rules_nothing_out():
    weights = [0, 0, 5, 3, 0]  # lengths 2 and 3 were seen, 1 and 4 were not
    cost = length_cost(torch.tensor([1, 2, 3, 4]), weights)
    assert (-cost).exp().sum().item() == pytest.approx(1.0)
    assert cost[1].item() == pytest.approx(-math.log(5.5 / 10))
    assert cost.isfinite().all()


@pytest.mark.parametrize("draws", [1, 3])
def test_draws_are_spread_over_all_levels_and_are_of_the_text(draws):
    """A cost that is u^2 at level u has the mean 1/3, at any number of draws and in any batches."""
    batch = batch_of(torch.randint(V, (300, L)))
    seen = {}

    def cost(batch, u, keys):
        assert ((u >= 0) & (u < 1)).all()
        for number, level, key in zip(batch.number.tolist(), u.tolist(), keys.tolist(), strict=True):
            seen.setdefault(number, []).append((level, key))
        return Bound(torch.zeros_like(u), u**2, 2 * torch.ones_like(u), torch.ones_like(batch.number))

    parts = [batch.each(lambda x: x[:100]), batch.each(lambda x: x[100:])]
    found = held_out_bound(cost, iter(parts), texts=300, draws=draws, length_weights=[0] * L + [3])
    assert found.diffusion == pytest.approx(1 / 3, abs=0.01)
    assert found.reconstruction == pytest.approx(2)
    assert found.length == pytest.approx(-math.log(3.5 / (3 + L / 2)))
    assert found.total == pytest.approx(found.diffusion + 2 + found.length)
    assert found.texts == found.tokens == 300
    for pairs in seen.values():  # the draws of a text are at levels evenly apart, each with its own noise
        levels = sorted(level for level, _ in pairs)
        assert all(b - a == pytest.approx(1 / draws, abs=1e-5) for a, b in pairwise(levels))
        assert len({key for _, key in pairs}) == draws
    keys = {key for pairs in seen.values() for _, key in pairs}
    assert len(keys) == 300 * draws  # nor do two texts share theirs
    seen.clear()
    held_out_bound(cost, iter(parts), texts=300, draws=draws, length_weights=None, seed=1)
    assert not keys & {key for pairs in seen.values() for _, key in pairs}


def test_the_error_is_that_of_a_ratio_and_of_one_text_unknown():
    batch = batch_of(torch.randint(V, (5, L)))
    nats, tokens = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0]), torch.tensor([2, 1, 2, 1, 3])

    def cost(batch, u, keys):
        here = batch.number
        return Bound(torch.zeros_like(u), nats[here], torch.zeros_like(u), tokens[here])

    found = held_out_bound(cost, [batch], texts=5, draws=1, length_weights=None)
    apart = (nats - found.total * tokens).numpy()
    assert found.error == pytest.approx(apart.std(ddof=1) * 5**0.5 / 9)
    nats[0], tokens[0] = 37.1, 13  # of which the mean, times 13, is not 37.1 to the last bit
    one = held_out_bound(cost, [batch.each(lambda x: x[:1])], texts=1, draws=1, length_weights=None)
    assert one.total == pytest.approx(37.1 / 13)
    assert math.isnan(one.error)


@torch.no_grad()
def test_a_prediction_is_shown_a_first_one_of_the_same_x_t():
    model, batch = denoiser(V, embedding_dim=D).eval(), batch_of(torch.randint(V, (3, L)), given=(1,))
    torch.nn.init.normal_(model.head.weight)
    x_t, level, first = torch.randn(3, L, D), level_at(torch.zeros(3, 1, 1)), torch.zeros(3, L, D)
    once = model(x_t, level, first, batch).logits
    first[batch.free] = model.embedding.interpolate(once)
    found = two_pass(model, x_t, level, batch).logits
    torch.testing.assert_close(found, model(x_t, level, first, batch).logits)
    assert not torch.allclose(found, once)
