"""Guidance, where what it should do is known exactly."""

import torch

from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.writing.guidance import raise_score

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
