"""A noise schedule of your own: a function t -> Level, and nothing else to change.

    python examples/new_schedule.py

Shows the schedule beside the built-in ones, and samples an exact Gaussian with it.
"""

from functools import partial

import torch

from simple_diffusion_lm.diffusion.network import Targets
from simple_diffusion_lm.diffusion.sampler import SAMPLERS, Prediction, sample
from simple_diffusion_lm.diffusion.schedule import SCHEDULES, Level, level_at

NOTHING = torch.arange(0)
NO_TOKENS = torch.zeros(0, 1), NOTHING, Targets(NOTHING, NOTHING)


def straight(t: torch.Tensor) -> Level:
    """log-SNR falls on a straight line from 8 to -8."""
    return level_at(8 - 16 * t)


def denoise(x_t: torch.Tensor, level: Level, x0_prev: torch.Tensor) -> Prediction:
    """The exact denoiser of x0 ~ N(0.7, 0.5^2): what a network would have to learn."""
    gain = level.alpha * 0.25 / (level.alpha**2 * 0.25 + level.sigma**2)
    return Prediction(0.7 + gain * (x_t - level.alpha * 0.7), *NO_TOKENS)


def main() -> None:
    times = torch.linspace(0, 1, 5)
    for name, schedule in {**SCHEDULES, "straight": straight}.items():
        print(f"{name:>9}: log-SNR {[round(x, 1) for x in schedule(times).log_snr.tolist()]}")
    for steps in (4, 16, 64):
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randn, 64, 64, 1, generator=generator)
        *_, (x_t, _) = sample(denoise, draw, straight, steps, SAMPLERS["ddim"])
        print(f"{steps:3} steps: mean {x_t.mean():.3f} (0.700), deviation {x_t.std():.3f} (0.500)")


if __name__ == "__main__":
    main()
