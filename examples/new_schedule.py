"""A noise schedule of your own: a function t -> Level, and an entry of SCHEDULES.

    python examples/new_schedule.py

Shows the schedule beside the built-in ones, and samples an exact Gaussian with it.
"""

import torch

from simple_diffusion_lm.core.noise import SCHEDULES, Level, level_at
from simple_diffusion_lm.core.sampler import SAMPLERS, Prediction


def straight(t: torch.Tensor) -> Level:
    """log-SNR falls on a straight line from 8 to -8."""
    return level_at(8 - 16 * t)


# From the size of the embeddings and of the vocabulary. Now Config(schedule="straight") trains with it.
SCHEDULES["straight"] = lambda embedding_dim, vocab_size: straight


def denoise(x_t: torch.Tensor, level: Level, x0_prev: torch.Tensor) -> Prediction:
    """The exact denoiser of x0 ~ N(0.7, 0.5^2): what a network would have to learn."""
    gain = level.alpha * 0.25 / (level.alpha**2 * 0.25 + level.sigma**2)
    return Prediction(0.7 + gain * (x_t - level.alpha * 0.7), torch.zeros(0, 1))  # there are no tokens


def main() -> None:
    times = torch.linspace(0, 1, 5)
    for name, make in SCHEDULES.items():
        print(f"{name:>9}: log-SNR {[round(x, 1) for x in make(64, 4096)(times).log_snr.tolist()]}")
    for steps in (4, 16, 64):
        torch.manual_seed(0)
        levels = [straight(t.view(1, 1, 1)) for t in torch.linspace(1, 0, steps + 1)]
        noise = torch.randn(64, 64, 1)
        *_, (x_t, _) = SAMPLERS["ddim"](denoise, noise, levels, lambda: torch.zeros(1))  # DDIM adds none
        print(f"{steps:3} steps: mean {x_t.mean():.3f} (0.700), deviation {x_t.std():.3f} (0.500)")


if __name__ == "__main__":
    main()
