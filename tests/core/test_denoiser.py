import pytest
import torch
from small_models import denoiser

from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.embedding import NORMALISERS
from simple_diffusion_lm.core.noise import Level, level_at

V, D, B, L = 23, 16, 3, 6


def network(**options):
    torch.manual_seed(0)
    model = denoiser(V, embedding_dim=D, width=3, **options)
    for layer in model.transformer.layers:
        torch.nn.init.normal_(layer.convolution.weight, std=0.3)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def inputs(given=()):
    torch.manual_seed(1)
    length_mask = torch.arange(L) < torch.tensor([6, 5, 4])[:, None]
    cond_mask = torch.zeros(B, L, dtype=torch.bool)
    cond_mask[:, list(given)] = True
    number = torch.arange(B)
    batch = Batch(torch.randint(V, (B, L)), length_mask, cond_mask, number, number / B)
    return torch.randn(B, L, D), batch


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_posterior_logits_are_bayes_rule(normaliser):
    """Prior and Gaussian likelihood, up to a constant in the token."""
    model, (x_t, _) = network(normaliser=normaliser), inputs()
    level = level_at(torch.tensor([-2.0, 0.0, 1.0])[:, None, None])
    with torch.no_grad():
        model.log_unigram.copy_(torch.linspace(-5, 0, V))
        logits = model.posterior_logits(x_t, level)
        table = model.embedding.table
        gaussian = torch.distributions.Normal(level.alpha[..., None] * table, level.sigma[..., None])
        exact = gaussian.log_prob(x_t[:, :, None, :]).sum(-1) + model.log_unigram
    torch.testing.assert_close(logits.log_softmax(-1), exact.log_softmax(-1), atol=1e-3, rtol=1e-3)


def test_the_network_sees_the_posterior_mean_in_place_of_x_t():
    """The unigram mean at pure noise, the token itself when clean."""
    model, (x_t, batch) = network(), inputs()
    model.start_from_counts(torch.arange(1, V + 1))
    free, x0 = batch.free, model.embedding(batch.ids)
    noisy, clean = level_at(torch.full((B, 1, 1), -30.0)), level_at(torch.full((B, 1, 1), 8.0))
    seen, _ = model.network_input(x_t, noisy, free)
    unigram = (model.log_unigram.exp() @ model.embedding.table).expand(B, L, D)
    torch.testing.assert_close(seen[free], unigram[free], atol=1e-4, rtol=1e-4)
    assert not seen[~free].any()
    seen, _ = model.network_input(x0, clean, free)
    torch.testing.assert_close(seen[free], x0[free], atol=1e-3, rtol=1e-3)


def test_without_the_posterior_the_network_sees_x_t_at_unit_scale():
    model, (x_t, batch) = network(posterior=False), inputs(given=[1])
    free = batch.free
    seen, likelihood = model.network_input(x_t, level_at(torch.full((B, 1, 1), -30.0)), free)
    torch.testing.assert_close(seen[free], x_t[free])
    assert not seen[~free].any()
    assert likelihood is None


def test_an_untrained_model_is_the_single_token_posterior():
    model, (x_t, batch) = network(), inputs()
    model.start_from_counts(torch.arange(1, V + 1))
    level = level_at(torch.zeros(B, 1, 1))
    logits = model(x_t, level, torch.zeros_like(x_t), batch).logits
    torch.testing.assert_close(logits, model.posterior_logits(x_t, level)[batch.free])


@pytest.mark.parametrize("recipe", [{}, {"posterior": False, "regress": True}])
def test_padding_and_noise_at_given_positions_do_not_reach_the_others(recipe):
    model, (x_t, batch) = network(**recipe), inputs(given=[1])
    level, free = level_at(torch.zeros(B, 1, 1)), batch.free[..., None]
    before = model(x_t, level, torch.zeros_like(x_t), batch)
    disturbed = torch.where(free, x_t, x_t + 9.0)
    previous = torch.where(free, 0.0, torch.ones_like(x_t))
    elsewhere = batch._replace(ids=batch.ids.masked_fill(~batch.length_mask, 5))
    after = model(disturbed, level, previous, elsewhere)
    torch.testing.assert_close(before.logits, after.logits)
    assert (before.regressed is None) == ("regress" not in recipe)
    other = batch._replace(ids=batch.ids.masked_fill(batch.cond_mask, 7))
    assert not torch.allclose(model(x_t, level, torch.zeros_like(x_t), other).logits, before.logits)


@pytest.mark.parametrize("posterior", [True, False])
def test_a_level_for_each_position_is_understood(posterior):
    model, (x_t, batch) = network(posterior=posterior), inputs()
    if not posterior:
        torch.nn.init.normal_(model.transformer.film.out.weight, std=0.1)
    common, zeros = level_at(torch.zeros(B, 1, 1)), torch.zeros_like(x_t)
    each = Level(*(part.expand(B, L, 1) for part in common))
    one, many = (model(x_t, level, zeros, batch).logits for level in (common, each))
    torch.testing.assert_close(one, many)
    other = model(x_t, level_at(torch.ones(B, 1, 1)), zeros, batch).logits
    assert not torch.allclose(one, other)


def test_a_condition_reaches_every_prediction():
    model, (x_t, batch) = network(cond_dim=2), inputs()
    level, zeros = level_at(torch.zeros(B, 1, 1)), torch.zeros_like(x_t)
    a, b = (batch._replace(cond=torch.eye(2)[i].expand(B, 1, 2)) for i in (0, 1))
    one, other = (model(x_t, level, zeros, each).logits for each in (a, b))
    assert ((one - other).abs().amax(-1) > 1e-4).all()
    at_each_position = batch._replace(cond=a.cond.expand(B, L, 2))
    torch.testing.assert_close(model(x_t, level, zeros, at_each_position).logits, one)


def test_a_model_that_never_saw_its_predictions_is_shown_none():
    x_t, batch = inputs()
    level, previous = level_at(torch.zeros(B, 1, 1)), torch.ones_like(x_t)
    for rate, differs in ((0.0, False), (0.5, True)):
        model = network(self_cond_rate=rate)
        logits = model(x_t, level, previous, batch).logits
        assert torch.equal(logits, model(x_t, level, torch.zeros_like(x_t), batch).logits) is not differs


def test_the_likelihood_is_of_float32_whatever_the_rest_is_of():
    model, (x_t, batch) = network(), inputs()
    level = level_at(torch.full((B, 1, 1), 4.0))
    exact = model.log_likelihood(x_t, level)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.log_likelihood(x_t, level), exact)
        assert model(x_t, level, torch.zeros_like(x_t), batch).logits.dtype == torch.float32


def test_a_temperature_divides_all_that_is_said_where_there_is_no_likelihood():
    model, (x_t, batch) = network(posterior=False), inputs()
    level, zeros = level_at(torch.zeros(B, 1, 1)), torch.zeros_like(x_t)
    one, half = (model(x_t, level, zeros, batch, temperature).logits for temperature in (1.0, 0.5))
    torch.testing.assert_close(half, 2 * one)
