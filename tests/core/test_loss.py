from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_models import denoiser

from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.loss import (
    FOR_LEVELS,
    FOR_PREVIOUS_PASS,
    Draws,
    previous_pass,
    previous_prediction,
)
from simple_diffusion_lm.core.noise import bell_times, make_keys, normal

V, D, L = 23, 16, 7
RECIPES = {
    "modern": {"self_cond_rate": 0.5},
    "original": {"regress": True, "posterior": False, "schedule": "cosine", "mse_weight": 1.0},
}


def network(**options):
    torch.manual_seed(0)
    model = denoiser(V, embedding_dim=D, width=3, **options)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model.eval()


def texts(lengths=(7, 6, 5, 4), given=()):
    torch.manual_seed(1)
    ids, number = torch.randint(4, V, (len(lengths), L)), torch.arange(len(lengths))
    length_mask = torch.arange(L) < torch.tensor(lengths)[:, None]
    cond_mask = torch.zeros_like(length_mask)
    cond_mask[:, list(given)] = True
    return Batch(ids, length_mask, cond_mask & length_mask, number, number / len(lengths))


def loss(model, batch, t=None, **changes):
    model.config = replace(model.config, **changes)
    draws = Draws.of(batch, seed=0, step=0)
    return model.loss(batch, draws if t is None else draws._replace(t=torch.full_like(draws.t, t)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_loss_does_not_see_padding(recipe):
    """Other ids outside of the text, and more padding, change nothing."""
    model, batch = network(**RECIPES[recipe]), texts()
    before = loss(model, batch)
    other = batch._replace(ids=batch.ids.masked_fill(~batch.length_mask, 5))
    for found, expected in zip(loss(model, other), before, strict=True):
        torch.testing.assert_close(found, expected)
    wider = [F.pad(x, (0, 5)) for x in batch[:3]]
    for found, expected in zip(loss(model, Batch(*wider, *batch[3:])), before, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_given_tokens_are_seen_and_not_counted(recipe):
    model, batch = network(**RECIPES[recipe]), texts(given=[0])
    before = loss(model, batch, t=0.9)
    changed = batch.ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % V
    after = loss(model, batch._replace(ids=changed), t=0.9)
    assert not torch.equal(before.ce, after.ce)  # the free positions are predicted otherwise
    assert after.tokens == before.tokens == batch.free.sum() == len(after.ce)


def test_total_is_the_weighted_sum_of_means():
    """mse is per coordinate, over the predicted positions: |x0 - x0_hat|^2 / D."""
    model, batch = network(), texts()
    parts = loss(model, batch, mse_weight=1.0)
    assert not len(loss(model, batch, mse_weight=0.0).squared_error)  # it is not asked for
    mse = parts.squared_error.mean() / D
    for mse_weight, ce_weight in ((1.0, 0.0), (0.0, 1.0), (0.3, 2.0)):
        total = loss(model, batch, mse_weight=mse_weight, ce_weight=ce_weight).total
        torch.testing.assert_close(total, mse_weight * mse + ce_weight * parts.ce.mean())


def test_the_loss_is_that_of_one_prediction():
    """Recomputed by hand at one level for all positions, without self-conditioning."""
    model, batch = network(self_cond_rate=0.0, mse_weight=1e-9), texts()
    draws = Draws.of(batch, 0, 0)
    losses = model.loss(batch, draws)
    x0 = model.embedding(batch.ids)
    level = model.schedule(bell_times(draws.t)[:, None, None])
    x_t = level.alpha * x0 + level.sigma * normal(draws.keys, L, D)
    logits = model(x_t, level, torch.zeros_like(x0), batch).logits
    ids = batch.ids[batch.free]
    torch.testing.assert_close(losses.ce, F.cross_entropy(logits, ids, reduction="none"))
    torch.testing.assert_close(losses.total, losses.ce.mean())
    squared = (x0[batch.free] - model.embedding.interpolate(logits)).square().sum(-1)
    torch.testing.assert_close(losses.squared_error, squared)
    assert torch.equal(losses.correct, logits.argmax(-1) == ids)


def test_self_conditioning_shows_the_first_prediction_and_never_the_text():
    """The second pass of all texts is that of a prediction made from x_t with more noise, as in writing."""
    model, batch = network(self_cond_rate=1.0), texts()
    draws = Draws.of(batch, 0, 0)
    t = bell_times(draws.t)
    level, before = (model.schedule(t[:, None, None]) for t in (t, previous_pass(draws.keys, t, 1.0)[1]))
    x_t = level.add_noise(model.embedding(batch.ids), normal(draws.keys, L, D))
    noisier = level.add_more(x_t, before, normal(make_keys(draws.keys, FOR_PREVIOUS_PASS), L, D))
    x0_prev = torch.zeros_like(x_t)
    x0_prev[batch.free] = model.embedding.interpolate(model(noisier, before, x0_prev, batch).logits)
    logits = model(x_t, level, x0_prev, batch).logits
    expected = F.cross_entropy(logits, batch.ids[batch.free], reduction="none")
    torch.testing.assert_close(model.loss(batch, draws).ce, expected)
    model.config = replace(model.config, self_cond_rate=0.0)
    assert not torch.allclose(model.loss(batch, draws).ce, expected)


def test_a_share_of_the_texts_is_self_conditioned():
    model, batch = network(), texts(lengths=[3] * 400)
    draws = Draws.of(batch, 0, 0)
    losses = {rate: loss(model, batch, self_cond_rate=rate).ce.view(400, 3).mean(1) for rate in (0.0, 0.3)}
    differs = (losses[0.0] - losses[0.3]).abs() > 1e-6
    assert differs.float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert len(draws.t.unique()) == 400


def test_every_weight_learns_from_a_self_conditioned_batch_in_bfloat16():
    """The first pass has no gradient, and autocast must not keep its copies of the weights for the second."""
    model, batch = network(self_cond_rate=1.0), texts()
    with torch.autocast("cpu", torch.bfloat16):
        total = model.loss(batch, Draws.of(batch, 0, 0)).total
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_times_of_a_batch_have_a_key_that_no_text_has():
    batch = texts(lengths=[2] * 100)
    keys = Draws.of(batch, seed=3, step=5).keys
    assert make_keys(3, 5, FOR_LEVELS) not in keys


def test_times_are_spread_over_the_batch_and_keys_belong_to_the_text():
    batch = texts(lengths=[2] * 100)
    draws = Draws.of(batch, seed=3, step=5)
    assert ((draws.t.sort().values * 100 - torch.arange(100)).diff().abs() < 1e-3).all()
    for other in (Draws.of(batch, 3, 6), Draws.of(batch, 4, 5)):
        assert (other.keys != draws.keys).all()
        assert other.t[0] != draws.t[0]
    half = Draws.of(batch.each(lambda x: x[40:]), seed=3, step=5)
    assert torch.equal(half.keys, draws.keys[40:])
    assert torch.equal(half.t, draws.t[40:])


def test_middle_times_are_trained_at_more_often():
    u = torch.linspace(0, 1, 101)
    t = bell_times(u)
    torch.testing.assert_close(3 * t**2 - 2 * t**3, u, atol=1e-5, rtol=0)
    model, batch = network(), texts()
    bell = loss(model, batch, t=0.2, bell_times=True).total
    same = loss(model, batch, t=float(t[20]), bell_times=False).total
    torch.testing.assert_close(bell, same)
    assert not torch.allclose(bell, loss(model, batch, t=0.2, bell_times=False).total)


def test_where_tokens_are_given_times_are_late():
    """In the last tenth of them, and where none are they stay as they are: both kinds in one batch."""
    model, batch = network(), texts(given=[0])
    given = torch.tensor([True, False, True, False])
    batch = batch._replace(cond_mask=batch.cond_mask & given[:, None])
    for bell in (False, True):
        found = loss(model, batch, t=0.3, bell_times=bell, late_given=True).ce
        draws = Draws.of(batch, seed=0, step=0)
        model.config = replace(model.config, late_given=False)
        expected = model.loss(batch, draws._replace(t=torch.where(given, 0.93, 0.3))).ce
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(found, loss(model, batch, t=0.3).ce)


def test_the_pass_before_is_of_every_length_from_a_half_to_a_sixty_fourth():
    t = torch.zeros(4000)
    chosen, before = previous_pass(make_keys(0, torch.arange(4000)), t, 0.3)
    doublings = before.log2()
    assert -6 <= doublings.min() < -5.95
    assert -1.05 < doublings.max() <= -1
    assert doublings.mean().item() == pytest.approx(-3.5, abs=0.1)
    assert chosen.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.corrcoef(torch.stack([chosen.float(), before]))[0, 1].abs() < 0.05
    assert (previous_pass(make_keys(0, torch.arange(4000)), t + 0.9, 0.3)[1] <= 1).all()


def test_no_gradient_goes_through_the_first_prediction():
    model, batch = network(self_cond_rate=1.0), texts()
    shown = previous_prediction(model, batch, torch.randn(4, L, D), Draws.of(batch, 0, 0))
    assert shown.any()
    assert not shown.requires_grad


def test_the_squared_error_does_not_move_its_target():
    """An estimate that depends on nothing: only the clean embeddings could have a gradient."""
    model, batch = network(**RECIPES["original"]), texts()
    torch.nn.init.zeros_(model.regress.weight)
    loss(model, batch, mse_weight=1.0, ce_weight=0.0).total.backward()
    assert model.regress.bias.grad.any()
    assert model.embedding.weight.grad is None or not model.embedding.weight.grad.any()


@pytest.mark.parametrize("late_given", [True, False])
def test_texts_with_given_tokens_are_trained_in_the_last_tenth_of_times(late_given):
    model, batch, levels = network(), texts(), []
    batch.cond_mask[::2, 1] = True  # in every other text
    t = Draws.of(batch, seed=0, step=0).t
    model.register_forward_pre_hook(lambda module, args: levels.append(args[1].log_snr.flatten()))
    loss(model, batch, late_given=late_given, self_cond_rate=0.0)
    if late_given:
        t = torch.stack([0.9 + t[0] / 10, t[1], 0.9 + t[2] / 10, t[3]])
    torch.testing.assert_close(levels[0], model.schedule(bell_times(t)).log_snr)
