import math
from collections import deque

import pytest
import torch

from simple_diffusion_lm.diffusion.network import Targets
from simple_diffusion_lm.diffusion.sampler import SAMPLERS, Prediction, sample, step
from simple_diffusion_lm.diffusion.schedule import SCHEDULES, FittedSchedule, Level, level_at

MEAN, DEVIATION = 0.7, 0.5
NOTHING = torch.arange(0)
NO_TOKENS = torch.zeros(0, 1), NOTHING, Targets(NOTHING, NOTHING)
ALL = {**SCHEDULES, "fitted": FittedSchedule(1, 50)}


def gaussian_denoise(x_t, level, x0_prev):
    """E[x0 | x_t] when x0 ~ N(MEAN, DEVIATION^2): the exact denoiser, in closed form."""
    gain = level.alpha * DEVIATION**2 / (level.alpha**2 * DEVIATION**2 + level.sigma**2)
    x0_hat = MEAN + gain * (x_t - level.alpha * MEAN)
    return Prediction(x0_hat, *NO_TOKENS)


def run(schedule, sampler, steps, shape=(16, 16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(shape, generator=generator)  # noqa: E731
    x_t, _ = deque(sample(gaussian_denoise, draw, schedule, steps, sampler), maxlen=1).pop()
    return x_t


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_recovers_a_gaussian(schedule, sampler):
    x = run(ALL[schedule], SAMPLERS[sampler], steps=600)
    # Re-noising is known to halve the variance, whatever the schedule and the steps.
    expected = DEVIATION / math.sqrt(2) if sampler == "renoise" else DEVIATION
    clean = ALL[schedule](torch.tensor(0.0))
    assert x.mean().item() == pytest.approx(MEAN * clean.alpha.item(), abs=0.03)
    variance = (clean.alpha.item() * expected) ** 2 + clean.sigma.item() ** 2
    assert x.std().item() == pytest.approx(math.sqrt(variance), rel=0.08)


def test_second_order_is_nearer_with_few_steps():
    """The flow carries a Gaussian to MEAN + DEVIATION * noise: compare sample by sample."""
    exact = run(SCHEDULES["cosine"], SAMPLERS["ddim"], steps=4000, shape=(4, 4, 4))
    errors = {
        name: (run(SCHEDULES["cosine"], SAMPLERS[name], 24, (4, 4, 4)) - exact).abs().mean()
        for name in ("ddim", "dpm2m")
    }
    assert errors["dpm2m"] < errors["ddim"] / 2


def original_alpha2(t):
    return torch.cos((t + 0.0002) / 1.00025 * math.pi / 2) ** 2


def test_steps_are_the_original_scripts():
    """ddim_step and diff_lm_step of the original, written out from their formulas."""
    x_t, x0_hat, eps = torch.randn(3, 2, 4, 8)
    t, s = torch.tensor(0.6), torch.tensor(0.55)
    now, nxt = SCHEDULES["cosine"](t), SCHEDULES["cosine"](s)
    a_t, a_s = original_alpha2(t), original_alpha2(s)
    carried = (x_t - a_t.sqrt() * x0_hat) / (1 - a_t).sqrt()
    for name, noise in (("ddim", carried), ("renoise", eps)):
        fresh = SAMPLERS[name].fresh_noise(now, nxt)
        expected = a_s.sqrt() * x0_hat + (1 - a_s).sqrt() * noise
        torch.testing.assert_close(step(x_t, x0_hat, now, nxt, fresh, eps), expected)


def test_ancestral_step_is_the_exact_posterior():
    """Mean and deviation of q(x_s | x_t, x0) by Bayes' rule on two Gaussians."""
    now, nxt = level_at(torch.tensor(-1.0)), level_at(torch.tensor(0.5))
    x_t, x0 = torch.tensor([[[0.3]]]), torch.tensor([[[1.2]]])
    fresh = SAMPLERS["ancestral"].fresh_noise(now, nxt)
    ratio = now.alpha / nxt.alpha
    transition = now.sigma**2 - ratio**2 * nxt.sigma**2  # variance of q(x_t | x_s)
    precision = 1 / nxt.sigma**2 + ratio**2 / transition
    mean = (nxt.alpha * x0 / nxt.sigma**2 + ratio * x_t / transition) / precision
    torch.testing.assert_close(step(x_t, x0, now, nxt, fresh, torch.zeros_like(x0)), mean)
    torch.testing.assert_close(fresh, precision**-0.5)


def test_steps_count_evaluations_and_end_at_the_clean_end():
    seen: list[Level] = []

    def denoise(x_t, level, x0_prev):
        seen.append(level)
        return Prediction(torch.ones_like(x_t), *NO_TOKENS)

    draw = lambda: torch.zeros(1, 1, 1)  # noqa: E731
    states = list(sample(denoise, draw, SCHEDULES["linear"], 5, SAMPLERS["ddim"]))
    assert len(states) == len(seen) == 5
    torch.testing.assert_close(seen[0].sigma, SCHEDULES["linear"](torch.tensor(1.0)).sigma)
    clean = SCHEDULES["linear"](torch.tensor(0.0))
    torch.testing.assert_close(states[-1][0].flatten()[0], clean.alpha, atol=1e-3, rtol=1e-3)


def test_the_previous_estimate_is_handed_back():
    previous = []

    def denoise(x_t, level, x0_prev):
        previous.append(x0_prev.clone())
        return Prediction(torch.full_like(x_t, len(previous)), *NO_TOKENS)

    list(sample(denoise, lambda: torch.zeros(1, 1, 1), SCHEDULES["cosine"], 4, SAMPLERS["dpm2m"]))
    assert [p.item() for p in previous] == [0, 1, 2, 3]
