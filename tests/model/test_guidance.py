"""Guidance, where what it should do is known exactly."""

import torch

from simple_diffusion_lm.diffusion.network import Targets
from simple_diffusion_lm.model.guidance import raise_score

V = 11
GAIN = torch.linspace(-2, 2, V)


def expected_gain(logits, mask):
    return ((logits.softmax(-1) @ GAIN) * mask).sum(1)


def test_the_score_of_an_expectation_tilts_by_its_exponential():
    torch.manual_seed(0)
    targets = Targets(torch.tensor([1]), torch.tensor([2, 4]))
    logits = 3 * torch.randn(3, V)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    raised = raise_score(expected_gain, logits, targets, torch.zeros(2, 3, dtype=torch.long), mask)
    wanted = (logits.log_softmax(-1) + GAIN).softmax(-1)
    torch.testing.assert_close(raised.softmax(-1), wanted, atol=1e-5, rtol=1e-4)


def test_tokens_that_stand_are_certain_and_padding_is_masked():
    seen = {}

    def score(logits, mask):
        seen["p"], seen["mask"] = logits.softmax(-1), mask
        return logits.sum((1, 2)) * 0

    ids = torch.tensor([[3, 4, 5]])
    targets = Targets(torch.tensor([], dtype=torch.long), torch.tensor([1]))
    mask = torch.tensor([[True, True, False]])
    logits = torch.randn(1, V)
    raised = raise_score(score, logits, targets, ids, mask)
    torch.testing.assert_close(raised, logits)
    assert seen["p"][0, 0].argmax() == 3
    assert seen["p"][0, 0].max() > 0.999
    torch.testing.assert_close(seen["p"][0, 1], logits[0].softmax(-1))
    assert torch.equal(seen["mask"], mask)
