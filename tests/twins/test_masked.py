import itertools
import math

import pytest
import torch
from small_models import small

from simple_diffusion_lm.diffusion.loss import seeded
from simple_diffusion_lm.training.objectives import OBJECTIVES
from simple_diffusion_lm.training.recipes import modern
from simple_diffusion_lm.twins.masked import hide

V, B, L = 19, 3, 6


def network():
    torch.manual_seed(0)
    model = OBJECTIVES["masked"](small(modern()), V)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_hiding_a_uniform_number_is_mdlms_bound():
    """Against the integral over t of MDLM's eq. 11, for costs that depend on all that is hidden."""
    n = 4
    cost = {  # what the hidden tokens cost together, any function of the hidden set
        subset: math.sin(1 + sum(2**i for i in subset)) + len(subset)
        for k in range(1, n + 1)
        for subset in itertools.combinations(range(n), k)
    }
    # Integral over t of t^k (1 - t)^(n - k) / t, the beta function of (k, n - k + 1).
    exact = sum(
        value * math.gamma(len(s)) * math.gamma(n - len(s) + 1) / math.gamma(n + 1)
        for s, value in cost.items()
    )
    count = 40_000
    free = torch.ones(count, n, dtype=torch.bool)
    u = (torch.arange(count) + 0.5) / count
    hidden, weight = hide(free, u, torch.rand(count, n, generator=seeded(0)))
    drawn = [cost[tuple(row.nonzero().flatten().tolist())] for row in hidden]
    assert (weight * torch.tensor(drawn)).mean().item() == pytest.approx(exact, rel=0.01)


def test_only_free_positions_are_hidden_and_always_one():
    free = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    for seed in range(50):
        u = torch.rand(3, generator=seeded(seed))
        hidden, weight = hide(free, u, torch.rand(3, 6, generator=seeded(seed, 1)))
        assert not (hidden & ~free).any()
        assert (hidden.sum(1) >= 1).all()
        torch.testing.assert_close(weight, free.sum(1) / hidden.sum(1))


def test_what_is_hidden_is_not_seen():
    model = network()
    ids = torch.randint(V, (B, L), generator=seeded(1))
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    hidden = torch.zeros_like(everywhere)
    hidden[:, [1, 4]] = True
    other = torch.where(hidden, (ids + 1) % V, ids)
    torch.testing.assert_close(model(other, hidden, everywhere), model(ids, hidden, everywhere))
    assert not torch.allclose(
        model(other, ~everywhere, everywhere), model(ids, ~everywhere, everywhere)
    )


def test_padding_costs_nothing_and_changes_nothing():
    model = network()
    ids = torch.randint(V, (B, L), generator=seeded(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 4:] = False
    none = torch.zeros_like(mask)
    losses = [
        model.loss(ids, mask, none, torch.arange(B), seed=0, step=0).total,
        model.loss((ids + ~mask) % V, mask, none, torch.arange(B), seed=0, step=0).total,
    ]
    torch.testing.assert_close(*losses)
    assert (model.bound(ids, mask, none, torch.rand(B), seeded(2)).tokens == 4).all()


def test_a_model_that_knows_frequencies_alone_pays_them_for_each_token():
    """Whatever is hidden: so the weights have to make up for what is not."""
    model = network()
    model.start_from_counts(torch.arange(V))
    nats = -((torch.arange(V) + 0.1) / (torch.arange(V) + 0.1).sum()).log()
    ids = torch.randint(V, (4000, L), generator=seeded(1))
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    exact = nats[ids].mean().item()
    u = (torch.arange(4000) + 0.5) / 4000
    bound = model.bound(ids, everywhere, ~everywhere, u, seeded(2))
    assert (bound.total.sum() / bound.tokens.sum()).item() == pytest.approx(exact, rel=0.02)
    losses = model.loss(ids, everywhere, ~everywhere, torch.arange(4000), seed=0, step=0)
    assert losses.total.item() == pytest.approx(exact, rel=0.02)
