"""Reverse diffusion: from noise to an estimate of the clean embeddings, in a few steps.

A sampler is a function of `denoise(x_t, level, x0_prev)`, never of a model: given tokens,
temperature, constraints and guidance are wrapped around that function.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .noise import Level, Logits, X


class Prediction(NamedTuple):
    """What a denoiser says of the clean text: its embeddings, and logits at the free positions."""

    x0_hat: X  # 0 where tokens are given: there x_t is never read
    logits: Logits


Denoise = Callable[[X, Level, X], Prediction]
# (denoise, x_t at the first level, levels from noisy to clean, fresh standard normal noise) ->
# after each step x_t, and the prediction that led there.
Sampler = Callable[[Denoise, X, Sequence[Level], Callable[[], X]], Iterator[tuple[X, Prediction]]]


def move(x_t: X, x0_hat: X, now: Level, nxt: Level, fresh: Tensor, eps: X) -> X:
    """Moves x_t one level down, towards x0_hat. `fresh` of the noise there is new, the rest kept."""
    eps_hat = (x_t - now.alpha * x0_hat) / now.sigma
    kept = (nxt.sigma**2 - fresh**2).clamp(min=0).sqrt()
    return nxt.alpha * x0_hat + kept * eps_hat + fresh * eps


def first_order(fresh_noise: Callable[[Level, Level], Tensor]) -> Sampler:
    """One evaluation a step. What differs is how much of the noise at the next level is new."""

    def sampler(
        denoise: Denoise, x_t: X, levels: Sequence[Level], noise: Callable[[], X]
    ) -> Iterator[tuple[X, Prediction]]:
        x0_prev = torch.zeros_like(x_t)
        for now, nxt in pairwise(levels):
            prediction = denoise(x_t, now, x0_prev)
            x0_prev = prediction.x0_hat
            x_t = move(x_t, x0_prev, now, nxt, fresh_noise(now, nxt), noise())
            yield x_t, prediction

    return sampler


def no_fresh_noise(now: Level, nxt: Level) -> Tensor:
    """DDIM (2010.02502, eq. 12 with sigma = 0): all noise is kept."""
    return torch.zeros_like(nxt.sigma)


def posterior_deviation(now: Level, nxt: Level) -> Tensor:
    """DDPM: the deviation of q(x_s | x_t, x0), a function of the fall in log-SNR (VDM, eq. 33)."""
    return nxt.sigma * (-torch.expm1(now.log_snr - nxt.log_snr)).sqrt()


def all_fresh_noise(now: Level, nxt: Level) -> Tensor:
    """Diffusion-LM's re-noising of the prediction, the original README's sampler and the default: nothing
    else of x_t survives a step, so each may decide every word again. It wrote the best lines (docs/log.md);
    of a Gaussian's variance it would lose half, and more in few steps (docs/theory.md)."""
    return nxt.sigma


# To add a sampler, write the function and add a line; nothing else lists them.
SAMPLERS: dict[str, Sampler] = {
    "ddpm": first_order(posterior_deviation),
    "ddim": first_order(no_fresh_noise),
    "renoise": first_order(all_fresh_noise),
}
