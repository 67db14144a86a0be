import pytest
import torch
from small_models import denoiser

from simple_diffusion_lm.diffusion.loss import seeded
from simple_diffusion_lm.diffusion.network import Targets, numbers
from simple_diffusion_lm.diffusion.schedule import Level, level_at
from simple_diffusion_lm.model.embedding import NORMALISERS
from simple_diffusion_lm.model.transformer import rotary_angles, rotate

V, D, B, L = 23, 16, 3, 6


def network(normaliser="unit_scale", **options):
    torch.manual_seed(0)
    model = denoiser(V, embedding_dim=D, width=3, normaliser=normaliser, **options)
    for weight in model.transformer.film.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    for layer in model.transformer.layers:
        torch.nn.init.normal_(layer.neighbours.weight, std=0.3)
    return model.eval()


def inputs():
    generator = seeded(1)
    ids = torch.randint(V, (B, L), generator=generator)
    x_t = torch.randn(B, L, D, generator=generator)
    masks = {
        "cond_mask": torch.zeros(B, L, dtype=torch.bool),
        "length_mask": torch.ones(B, L, dtype=torch.bool),
    }
    targets = Targets(torch.arange(B * L), torch.arange(0))
    return x_t, {"ids": ids, **masks, "targets": targets}


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_single_token_logits_are_bayes_rule(normaliser):
    """Prior and Gaussian likelihood up to a constant in the token, whatever the norms of rows."""
    model, (x_t, _) = network(normaliser), inputs()
    level = level_at(torch.tensor([-2.0, 0.0, 1.0])[:, None, None])
    with torch.no_grad():
        model.log_unigram.copy_(torch.linspace(-5, 0, V))
        logits = model.read(x_t, level)
        table = model.embedding.table
        normal = torch.distributions.Normal(level.alpha[..., None] * table, level.sigma[..., None])
        exact = normal.log_prob(x_t[:, :, None, :]).sum(-1) + model.log_unigram
    torch.testing.assert_close(logits.log_softmax(-1), exact.log_softmax(-1), atol=1e-3, rtol=1e-3)


def test_the_network_is_shown_the_posterior_mean():
    """A blank (the unigram mean) at pure noise, the token itself when clean."""
    model, (x_t, text) = network(), inputs()
    model.start_from_counts(torch.arange(1, V + 1))
    everywhere = torch.arange(B * L)
    with torch.no_grad():
        noisy, clean = level_at(torch.full((B, 1, 1), -30.0)), level_at(torch.full((B, 1, 1), 8.0))
        unigram = (model.log_unigram.exp() @ model.embedding.table).expand(B, L, D)
        shown, _ = model.look(x_t, noisy, everywhere)
        torch.testing.assert_close(shown, unigram, atol=1e-3, rtol=1e-3)
        silent, evidence = model.look(x_t, noisy, everywhere[:0])
        torch.testing.assert_close(silent, unigram)
        assert evidence.shape == (0, V)
        x0 = model.embed(text["ids"])
        shown, _ = model.look(x0, clean, everywhere)
        torch.testing.assert_close(shown, x0, atol=1e-3, rtol=1e-3)


def test_a_prediction_has_its_whole_gradient_outside_of_training():
    """Also through what the network is shown, or the flow's divergence would be wrong."""
    model, (x_t, text) = network(), inputs()
    level = level_at(torch.zeros(B, 1, 1))

    def logits(x):
        return model(x, level, torch.zeros_like(x), **text).logits[2::L].sum()

    x_t.requires_grad_()
    (gradient,) = torch.autograd.grad(logits(x_t), x_t)
    direction = torch.randn(x_t.shape, generator=seeded(4), dtype=x_t.dtype)
    with torch.no_grad():
        slope = (logits(x_t + 1e-2 * direction) - logits(x_t - 1e-2 * direction)) / 2e-2
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=0.01, atol=0.01)


def test_an_untrained_model_is_the_single_token_posterior():
    model, (x_t, text) = network(), inputs()
    model.start_from_counts(torch.arange(1, V + 1))
    level = level_at(torch.zeros(B, 1, 1))
    with torch.no_grad():
        logits = model(x_t, level, torch.zeros_like(x_t), **text).logits
        expected = model.read(x_t, level)
    torch.testing.assert_close(logits, expected.flatten(0, 1))


def test_padding_and_given_noise_do_not_reach_other_positions():
    model, (x_t, text) = network(), inputs()
    level = level_at(torch.zeros(B, 1, 1))
    text["length_mask"] = torch.arange(L) < torch.tensor([6, 5, 3])[:, None]
    text["cond_mask"] = torch.arange(L).expand(B, L) == 1
    seen = text["length_mask"] & ~text["cond_mask"]
    text["targets"] = Targets(numbers(seen), torch.arange(0))
    with torch.no_grad():
        before = model(x_t, level, torch.zeros_like(x_t), **text).logits
        disturbed = torch.where(seen[..., None], x_t, x_t + 9.0)
        previous = torch.where(seen[..., None], torch.zeros_like(x_t), torch.ones_like(x_t))
        after = model(disturbed, level, previous, **text).logits
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("posterior", [True, False])
def test_a_level_for_each_position_is_understood(posterior):
    model, (x_t, text) = network(posterior=posterior), inputs()
    common = level_at(torch.zeros(B, 1, 1))
    each = Level(*(part.expand(B, L, 1) for part in common))
    with torch.no_grad():
        one = model(x_t, common, torch.zeros_like(x_t), **text).logits
        many = model(x_t, each, torch.zeros_like(x_t), **text).logits
        other = model(x_t, level_at(torch.ones(B, 1, 1)), torch.zeros_like(x_t), **text).logits
    torch.testing.assert_close(one, many)
    assert not torch.allclose(one, other)


def test_rotary_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, generator=seeded(3)).expand(2, 1, 1, 12, 8)
    angles = rotary_angles(12, 8, q.device)
    scores = rotate(q, angles) @ rotate(k, angles).transpose(-1, -2)
    for distance in range(-5, 6):
        diagonal = scores[0, 0].diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rotate(q, angles).norm(dim=-1), q.norm(dim=-1))


@pytest.mark.parametrize("normaliser", ["unit_scale", "layer_norm"])
def test_normalised_rows_have_norm_sqrt_d(normaliser):
    table = NORMALISERS[normaliser](torch.randn(V, D, generator=seeded(2)))
    torch.testing.assert_close(table.norm(dim=-1), torch.full((V,), D**0.5), atol=1e-3, rtol=1e-3)


def test_batch_norm_makes_coordinates_standard():
    table = NORMALISERS["batch_norm"](3 + 2 * torch.randn(V, D, generator=seeded(2)))
    torch.testing.assert_close(table.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(table.var(0, correction=0), torch.ones(D), atol=1e-3, rtol=0)


def test_spread_sees_collapse():
    model = network()
    apart = model.embedding.spread()
    assert apart.norm_mean == pytest.approx(D**0.5, rel=1e-4)
    with torch.no_grad():
        model.embedding.weight[:] = model.embedding.weight[0] + 0.001 * model.embedding.weight
    assert model.embedding.spread().nearest_mean < 0.02 * apart.nearest_mean


def test_going_on_from_a_text_looks_back_only_and_knows_its_length():
    model, (_, known) = network(), inputs()
    torch.nn.init.normal_(model.to_come.weight)
    torch.nn.init.normal_(model.head.weight)
    ids, text = known["ids"], known["length_mask"]
    at = torch.arange(B * L)
    logits = model.go_on(ids, text, at).view(B, L, V)
    for place in range(L):
        later = ids.clone()
        later[:, place:] = (later[:, place:] + 1) % V
        other = model.go_on(later, text, at).view(B, L, V)
        torch.testing.assert_close(other[:, : place + 1], logits[:, : place + 1])
        if place + 1 < L:
            assert not torch.allclose(other[:, place + 1 :], logits[:, place + 1 :], atol=1e-3)
    shorter = text & (torch.arange(L) < L - 1)
    assert not torch.allclose(model.go_on(ids, shorter, at).view(B, L, V)[:, 0], logits[:, 0])


def test_each_position_is_told_how_many_tokens_are_to_come():
    model, (_, known) = network(), inputs()
    torch.nn.init.normal_(model.head.weight)
    last = torch.arange(B) * L + L - 1
    text = torch.ones_like(known["length_mask"])
    model.go_on(known["ids"], text, last).square().sum().backward()
    assert model.to_come.weight.grad[1 : L + 1].abs().amax(-1).gt(0).all()


def test_a_position_is_predicted_from_all_others():
    """Reading ahead, too: from those after it as from those before it."""
    model, (x_t, known) = network(), inputs()
    torch.nn.init.normal_(model.head.weight)
    level, nothing = level_at(torch.full((B, L, 1), 3.0)), torch.zeros(B, L, D)
    logits = model(x_t, level, nothing, **known).logits.view(B, L, V)
    for place in (0, L - 1):
        changed = x_t.clone()
        changed[:, place] += 3.0
        other = model(changed, level, nothing, **known).logits.view(B, L, V)
        assert ((other - logits).abs().amax(-1) > 1e-4).all()
