import pytest
import torch
from small_models import denoiser

from simple_diffusion_lm.diffusion.loss import diffusion_loss, draw, seeded
from simple_diffusion_lm.diffusion.network import Targets, numbers
from simple_diffusion_lm.diffusion.schedule import SCHEDULES, FittedSchedule, Path

V, D = 23, 16


def network(**options):
    torch.manual_seed(0)
    model = denoiser(V, embedding_dim=D, width=3, **options)
    for weight in model.transformer.film.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    for layer in model.transformer.layers:
        torch.nn.init.normal_(layer.neighbours.weight, std=0.3)
    return model.eval()


def text(lengths=(7, 6, 5, 4), given=()):
    ids = torch.randint(4, V, (len(lengths), max(lengths)), generator=seeded(1))
    length_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    cond_mask = torch.zeros_like(length_mask)
    cond_mask[:, list(given)] = True
    return ids, length_mask, cond_mask


def loss(model, ids, length_mask, cond_mask, *, eps_change=None, t=None, **options):
    draws = draw(0, 0, torch.arange(len(ids)), length_mask, D, self_cond_rate=0.5)
    if eps_change is not None:
        draws = draws._replace(eps=draws.eps + eps_change)
    if t is not None:
        draws = draws._replace(t=torch.full_like(draws.t, t))
    options = {"mse_weight": 1.0, "ce_weight": 1.0, "stagger": 2.0} | options
    return diffusion_loss(model, SCHEDULES["cosine"], ids, length_mask, cond_mask, draws, **options)


def test_the_loss_is_blind_to_padding():
    """Other ids, and other noise, outside the text change nothing."""
    for options in ({"posterior": True}, {"regress": True, "posterior": False}):
        model = network(**options)
        ids, length_mask, cond_mask = text()
        before = loss(model, ids, length_mask, cond_mask)
        elsewhere = ids.masked_fill(~length_mask, 5)
        noise = 3.0 * ~length_mask[..., None]
        after = loss(model, elsewhere, length_mask, cond_mask, eps_change=noise)
        torch.testing.assert_close(before, after)


def test_more_padding_changes_nothing():
    model = network()
    ids, length_mask, cond_mask = text()
    before = loss(model, ids, length_mask, cond_mask)
    wider = [torch.nn.functional.pad(x, (0, 5)) for x in (ids, length_mask, cond_mask)]
    torch.testing.assert_close(before, loss(model, *wider), atol=1e-5, rtol=1e-4)


def test_the_loss_is_blind_to_noise_at_given_positions():
    model = network()
    ids, length_mask, cond_mask = text(given=(0, 2))
    before = loss(model, ids, length_mask, cond_mask)
    noise = 3.0 * cond_mask[..., None]
    after = loss(model, ids, length_mask, cond_mask, eps_change=noise)
    torch.testing.assert_close(before, after)


def test_given_tokens_are_seen_and_not_counted():
    model = network()
    ids, length_mask, cond_mask = text(given=(0,))
    before = loss(model, ids, length_mask, cond_mask)
    changed = ids.clone()
    changed[:, 0] = (ids[:, 0] + 1) % V
    after = loss(model, changed, length_mask, cond_mask)
    assert not torch.equal(before.ce, after.ce)  # seen: the free positions are predicted otherwise
    alone = torch.ones_like(cond_mask) & length_mask
    alone[:, 3] = False
    only = loss(model, ids, length_mask, alone)
    assert only.ce.isfinite()


def test_total_is_the_weighted_sum():
    model = network()
    parts = loss(model, *text())
    for mse_weight, ce_weight in ((1.0, 0.0), (0.0, 1.0), (0.3, 2.0)):
        total = loss(model, *text(), mse_weight=mse_weight, ce_weight=ce_weight).total
        torch.testing.assert_close(total, mse_weight * parts.mse + ce_weight * parts.ce)


def test_a_staggered_loss_counts_what_is_not_clean():
    """At a time when only the first in place has any noise, the loss is that position's alone."""
    model = network()
    ids, length_mask, cond_mask = text()
    early = loss(model, ids, length_mask, cond_mask, t=0.01, stagger=30.0)
    assert early.rate.shape == (4,)  # of each text the first position in place
    others = {"ids": ids, "length_mask": length_mask, "cond_mask": cond_mask}
    draws = draw(0, 0, torch.arange(4), length_mask, D, self_cond_rate=0.5)
    first = draws.order.masked_fill(~length_mask, 2.0).argmin(1)
    only = torch.ones_like(length_mask).scatter(1, first[:, None], value=False)
    others["cond_mask"] = only & length_mask
    alone = loss(model, **others, t=0.31, stagger=0.0)  # (1 + 30) 0.01: its own time
    assert alone.rate.shape == (4,)
    torch.testing.assert_close(early.log_snr, alone.log_snr)
    late = loss(model, ids, length_mask, cond_mask, t=0.999, stagger=30.0)
    assert late.rate.shape == (4,)  # all but the last in place are pure noise, and all are counted
    assert late.ce > early.ce


def test_what_is_clean_is_seen_as_given():
    """Its own token, whatever its noise; and it carries no loss."""
    model = network()
    ids, length_mask, cond_mask = text()
    draws = draw(0, 0, torch.arange(4), length_mask, D, self_cond_rate=0.0)
    t = Path.of(draws.order, length_mask, 2.0)(torch.full_like(draws.t, 0.4))
    clean = length_mask & (t == 0)
    assert clean.any(1).all()
    before = loss(model, ids, length_mask, cond_mask, t=0.4)
    noise = 3.0 * clean[..., None]
    torch.testing.assert_close(
        before, loss(model, ids, length_mask, cond_mask, t=0.4, eps_change=noise)
    )
    changed = torch.where(clean, (ids + 1) % V, ids)
    after = loss(model, changed, length_mask, cond_mask, t=0.4)
    assert after.predicted == before.predicted == (length_mask & ~clean).sum()
    assert not torch.allclose(after.ce, before.ce)


def test_rate_is_the_integrand_of_the_bound():
    """1/2 snr |x0 - x0_hat|^2 of each token: recomputed from a single prediction."""
    model = network()
    ids, length_mask, cond_mask = text()
    draws = draw(0, 0, torch.arange(4), length_mask, D, self_cond_rate=0.0)
    schedule = FittedSchedule(D, V)
    losses = diffusion_loss(
        model,
        schedule,
        ids,
        length_mask,
        cond_mask,
        draws,
        stagger=0.0,
        mse_weight=0.0,
        ce_weight=1.0,
    )
    level = schedule(draws.t[:, None, None])
    x0 = model.embed(ids)
    x_t = level.alpha * x0 + level.sigma * draws.eps
    logits, _ = model(
        x_t,
        level,
        torch.zeros_like(x0),
        ids=ids,
        cond_mask=cond_mask,
        length_mask=length_mask,
        targets=Targets(numbers(length_mask), torch.arange(0)),
    )
    snr = ((level.alpha / level.sigma).squeeze(-1) ** 2).expand_as(ids)[length_mask]
    rate = 0.5 * snr * (x0[length_mask] - model.interpolate(logits)).square().sum(-1)
    torch.testing.assert_close(losses.rate, rate)


def test_draws_are_a_function_of_the_example_not_of_its_batch():
    _, length_mask, _ = text(lengths=(7, 6, 5, 4))
    index = torch.tensor([3, 14, 15, 92])
    whole = draw(7, 2, index, length_mask, D, 0.5)
    part = draw(7, 2, index[[2]], length_mask[[2], :5], D, 0.5)
    torch.testing.assert_close(whole.eps[2, :5], part.eps[0])
    torch.testing.assert_close(whole.order[2, :5], part.order[0])
    assert not torch.equal(whole.eps, draw(7, 3, index, length_mask, D, 0.5).eps)
    assert not torch.equal(whole.eps, draw(8, 2, index, length_mask, D, 0.5).eps)
    assert whole.eps[length_mask].std().item() > 0.9


def test_a_share_of_the_texts_is_written_from_left_to_right():
    """The last in order is written first."""
    length_mask = torch.ones(400, 6, dtype=torch.bool)
    order = draw(0, 0, torch.arange(400), length_mask, D, 0.5, 0.3).order
    falls = (order[:, 1:] < order[:, :-1]).all(1)
    assert falls.float().mean().item() == pytest.approx(0.3, abs=0.07)
    path = Path.of(order[falls], length_mask[falls], 4.0)
    t = path(torch.tensor(0.5))
    assert (t[:, 0] == 0).all()
    assert (t[:, -1] == 1).all()
    assert (t[:, 1:] >= t[:, :-1]).all()


def test_times_are_stratified():
    length_mask = torch.ones(100, 2, dtype=torch.bool)
    t = draw(0, 0, torch.arange(100), length_mask, D, 0.5).t.sort().values
    assert ((t * 100).long() == torch.arange(100)).all()


def test_seeds_do_not_collide():
    states = {seeded(a, b).initial_seed() for a in range(100) for b in range(100)}
    assert len(states) == 10_000
