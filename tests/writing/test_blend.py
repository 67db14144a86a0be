"""There and back along the flow, with a denoiser that is known exactly."""

import math

import pytest
import torch

from simple_diffusion_lm.core.noise import cosine, make_keys, normal
from simple_diffusion_lm.core.sampler import SAMPLERS, Prediction
from simple_diffusion_lm.writing.blend import between, encode

POINTS = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [-0.5, -2.0]])


def exact(x_t, level, x0_prev):
    """The posterior mean of one of three points."""
    distance = (x_t[..., None, :] - level.alpha[..., None] * POINTS).square().sum(-1)
    weights = (-distance / (2 * level.sigma**2)).softmax(-1)
    return Prediction(weights @ POINTS, weights.log())


@pytest.mark.parametrize(("steps", "near"), [(20, 0.1), (80, 0.02)])
def test_noise_leads_back_to_where_it_came_from(steps, near):
    x0 = POINTS[torch.tensor([[0, 1, 2, 0]])]
    levels = [cosine(t.view(1, 1, 1)) for t in torch.linspace(0, 1, steps + 1)]
    noise = encode(exact, levels, x0)
    *_, (back, _) = SAMPLERS["ddim"](exact, noise, levels[::-1], lambda: torch.zeros_like(x0))
    torch.testing.assert_close(back, x0, atol=near, rtol=0)


def test_what_lies_between_two_noises_is_as_long_as_they_are():
    first, second = normal(make_keys(torch.arange(2)), 5, 300)
    for share, end in ((0.0, first), (1.0, second)):
        assert torch.allclose(between(first, second, torch.tensor(share)), end, atol=1e-4)
    middle = between(first, second, torch.tensor(0.5)).norm(dim=-1)
    assert torch.allclose(middle, torch.full((5,), math.sqrt(300)), rtol=0.15)
