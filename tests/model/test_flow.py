"""There and back along the flow, with a denoiser that is known exactly."""

import math

import pytest
import torch

from simple_diffusion_lm.diffusion.loss import seeded
from simple_diffusion_lm.diffusion.network import Targets
from simple_diffusion_lm.diffusion.sampler import SAMPLERS, Prediction, sample
from simple_diffusion_lm.diffusion.schedule import cosine
from simple_diffusion_lm.model.flow import between, encode

POINTS = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [-0.5, -2.0]])
NONE = Targets(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))


def exact(x_t, level, x0_prev):
    """The posterior mean of one of three points."""
    distance = (x_t[..., None, :] - level.alpha[..., None] * POINTS).square().sum(-1)
    weights = (-distance / (2 * level.sigma**2)).softmax(-1)
    return Prediction(weights @ POINTS, weights.log(), weights.argmax(-1), NONE)


def schedule(t):
    return cosine(t.expand(1, 1, 1))


@pytest.mark.parametrize(("steps", "near"), [(20, 0.1), (80, 0.02)])
def test_noise_leads_back_to_where_it_came_from(steps, near):
    x0 = POINTS[torch.tensor([[0, 1, 2, 0]])]
    noise = encode(exact, schedule, x0, steps)
    nothing = torch.zeros_like(x0)
    *_, (back, _) = sample(exact, lambda: nothing, schedule, steps, SAMPLERS["ddim"], (noise, 1.0))
    torch.testing.assert_close(back, x0, atol=near, rtol=0)


def test_what_lies_between_two_noises_is_as_long_as_they_are():
    first, second = torch.randn(2, 5, 300, generator=seeded(0))
    assert torch.allclose(between(first, second, 0.0), first, atol=1e-4)
    assert torch.allclose(between(first, second, 1.0), second, atol=1e-4)
    middle = between(first, second, 0.5).norm(dim=-1)
    assert torch.allclose(middle, torch.full((5,), math.sqrt(300)), rtol=0.15)
