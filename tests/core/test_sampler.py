import math
from collections import deque

import pytest
import torch

from simple_diffusion_lm.core.noise import cosine, gumbel, level_at
from simple_diffusion_lm.core.sampler import SAMPLERS, Prediction, move, posterior_deviation

MEAN, DEVIATION = 0.7, 0.5
ALL = {"cosine": cosine, "gumbel": gumbel(1, 50)}


def gaussian_denoise(x_t, level, x0_prev):
    """E[x0 | x_t] when x0 ~ N(MEAN, DEVIATION^2): the exact denoiser, in closed form."""
    gain = level.alpha * DEVIATION**2 / (level.alpha**2 * DEVIATION**2 + level.sigma**2)
    return Prediction(MEAN + gain * (x_t - level.alpha * MEAN), torch.zeros(0, 1))


def run(schedule, sampler, steps, shape=(16, 16, 16), seed=0, denoise=gaussian_denoise):
    generator = torch.Generator().manual_seed(seed)
    noise = lambda: torch.randn(shape, generator=generator)  # noqa: E731
    levels = [schedule(t.view(1, 1, 1)) for t in torch.linspace(1, 0, steps + 1)]
    walk = SAMPLERS[sampler](denoise, levels[0].sigma * noise(), levels, noise)
    return deque(walk, maxlen=1).pop()[0]


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_recovers_a_gaussian(schedule, sampler):
    x = run(ALL[schedule], sampler, steps=600)
    # Re-noising is known to halve the variance, whatever the schedule and the steps.
    expected = DEVIATION / math.sqrt(2) if sampler == "renoise" else DEVIATION
    clean = ALL[schedule](torch.tensor(0.0))
    assert x.mean().item() == pytest.approx(MEAN * clean.alpha.item(), abs=0.03)
    variance = (clean.alpha.item() * expected) ** 2 + clean.sigma.item() ** 2
    assert x.std().item() == pytest.approx(math.sqrt(variance), rel=0.08)


def test_steps_are_the_original_scripts():
    """ddim_step and diff_lm_step of the original, written out from their formulas."""
    x_t, x0_hat, eps = torch.randn(3, 2, 4, 8)
    now, nxt = (cosine(torch.tensor(t).view(1, 1, 1)) for t in (0.6, 0.55))
    a_t, a_s = (math.cos((t + 0.0002) / 1.00025 * math.pi / 2) ** 2 for t in (0.6, 0.55))
    kept = (x_t - math.sqrt(a_t) * x0_hat) / math.sqrt(1 - a_t)
    for name, noise in (("ddim", kept), ("renoise", eps)):
        walk = SAMPLERS[name](lambda *_: Prediction(x0_hat, torch.zeros(0, 1)), x_t, [now, nxt], lambda: eps)
        expected = math.sqrt(a_s) * x0_hat + math.sqrt(1 - a_s) * noise
        torch.testing.assert_close(next(iter(walk))[0], expected)


def test_a_ddpm_step_is_the_exact_posterior():
    """Mean and deviation of q(x_s | x_t, x0) by Bayes' rule on two Gaussians."""
    now, nxt = level_at(torch.tensor(-1.0)), level_at(torch.tensor(0.5))
    x_t, x0 = torch.tensor([[[0.3]]]), torch.tensor([[[1.2]]])
    fresh = posterior_deviation(now, nxt)
    ratio = now.alpha / nxt.alpha
    transition = now.sigma**2 - ratio**2 * nxt.sigma**2  # variance of q(x_t | x_s)
    precision = 1 / nxt.sigma**2 + ratio**2 / transition
    mean = (nxt.alpha * x0 / nxt.sigma**2 + ratio * x_t / transition) / precision
    torch.testing.assert_close(move(x_t, x0, now, nxt, fresh, torch.zeros_like(x0)), mean)
    torch.testing.assert_close(fresh, precision**-0.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_is_one_evaluation_that_sees_the_previous_prediction(sampler):
    seen = []

    def denoise(x_t, level, x0_prev):
        seen.append(x0_prev.mean().item())
        return Prediction(torch.full_like(x_t, len(seen)), torch.zeros(0, 1))

    run(cosine, sampler, 4, (1, 1, 1), denoise=denoise)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_position_whose_level_stays_keeps_its_distribution(sampler):
    """As one at pure noise does, while another takes its turn. (Re-noising draws it anew.)"""
    generator = torch.Generator().manual_seed(0)
    x_t, level = torch.randn(8, 50, 8, generator=generator), level_at(torch.full((1, 1, 1), -10.0))
    noise = lambda: torch.randn(x_t.shape, generator=generator)  # noqa: E731
    *_, (after, _) = SAMPLERS[sampler](gaussian_denoise, x_t, [level] * 4, noise)
    if sampler == "renoise":
        assert after.std().item() == pytest.approx(1, abs=0.05)
    else:
        torch.testing.assert_close(after, x_t, atol=1e-4, rtol=1e-4)
