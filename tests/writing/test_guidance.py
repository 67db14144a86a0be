"""Guidance, where what it should do is known exactly."""

import torch
from small_models import denoiser

from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.noise import level_at
from simple_diffusion_lm.writing.guidance import Guidance, raise_score

V = 11
GAIN = torch.linspace(-2, 2, V)


def expected_gain(logits, mask):
    return ((logits.softmax(-1) @ GAIN) * mask).sum(1)


def batch_of(ids, cond_mask, length_mask):
    ids, cond_mask, length_mask = map(torch.tensor, (ids, cond_mask, length_mask))
    return Batch(ids, length_mask, cond_mask, torch.arange(len(ids)), torch.zeros(len(ids)))


def test_the_score_of_an_expectation_tilts_by_its_exponential():
    torch.manual_seed(0)
    batch = batch_of(
        [[0] * 3] * 2, [[True, False, False], [True, False, False]], [[True] * 3, [True, True, False]]
    )
    logits = 3 * torch.randn(3, V)
    raised = raise_score(expected_gain, logits, batch)
    wanted = (logits.log_softmax(-1) + GAIN).softmax(-1)
    torch.testing.assert_close(raised.softmax(-1), wanted, atol=1e-5, rtol=1e-4)


def test_the_score_tilts_what_is_sampled_whatever_the_temperature():
    batch, model = batch_of([[0, 0]], [[False, False]], [[True, True]]), denoiser(V)
    logits = torch.randn(2, V)
    guide = Guidance(score=expected_gain).guide(model, batch.cond_mask, temperature=0.5)
    x_t = torch.zeros(1, 2, 16)
    guided = guide(lambda *_: logits, batch)(x_t, level_at(torch.zeros(1, 1, 1)), x_t)
    torch.testing.assert_close((guided / 0.5).softmax(-1), (logits / 0.5 + GAIN).softmax(-1))


def test_tokens_that_stand_are_certain_and_padding_is_masked():
    seen = {}

    def score(logits, mask):
        seen["p"], seen["mask"] = logits.softmax(-1), mask
        return logits.sum((1, 2)) * 0

    batch = batch_of([[3, 4, 5]], [[True, False, False]], [[True, True, False]])
    logits = torch.randn(1, V)
    torch.testing.assert_close(raise_score(score, logits, batch), logits)
    assert seen["p"][0, 0].argmax() == 3
    assert seen["p"][0, 0].max() > 0.999
    torch.testing.assert_close(seen["p"][0, 1], logits[0].softmax(-1))
    assert torch.equal(seen["mask"], batch.length_mask)


def test_guidance_by_the_given_tokens_moves_away_from_the_prediction_without_them():
    torch.manual_seed(0)
    model = denoiser(V).eval()
    torch.nn.init.normal_(model.head.weight)
    batch = batch_of([[3, 4, 0, 0]], [[True, True, False, False]], [[True] * 4])
    x_t, x0_prev, level = torch.randn(1, 4, 16), torch.zeros(1, 4, 16), level_at(torch.zeros(1, 1, 1))
    written = batch._replace(cond_mask=torch.tensor([[True, True, True, False]]))  # by the sampler, since

    def predict(*inputs):
        return model(*inputs, written).logits

    def guided(given, other):
        guide = Guidance(given=given).guide(model, batch.cond_mask, temperature=0.7)
        return guide(predict, other)(x_t, level, x0_prev)

    with torch.no_grad():
        plain, without = guided(0.0, written), guided(-1.0, written)
        torch.testing.assert_close(guided(2.0, written), plain + 2 * (plain - without))
        elsewhere = written._replace(ids=torch.tensor([[7, 8, 0, 0]]))
        torch.testing.assert_close(guided(-1.0, elsewhere), without)  # given tokens are not seen
        elsewhere = written._replace(ids=torch.tensor([[3, 4, 9, 0]]))
        assert (guided(-1.0, elsewhere) - without).abs().max() > 1e-3  # written ones are
