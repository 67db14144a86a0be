"""Reverse diffusion: from noise to an estimate of the clean embeddings.

One loop serves every sampler. What differs is how much of the noise at the next level is drawn
fresh instead of carried over from this one, whether the estimate is the embedding of a token that
is drawn or the mean of all, and whether it is extrapolated from the last two. A sampler sees a
function `denoise(x_t, level, x0_prev)`, never a model: the drawing, given tokens, temperature and
guidance are wrapped around that function.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .network import Targets
from .schedule import Level, Schedule


class Prediction(NamedTuple):
    """What a denoiser says of the clean text: its embeddings, and its tokens at the targets.

    ids are the tokens to write where a target becomes clean in the step.
    """

    x0_hat: Float[Tensor, "B L D"]
    logits: Float[Tensor, "N V"]
    ids: Int[Tensor, " N"]
    targets: Targets


X = Float[Tensor, "B L D"]
Denoise = Callable[[X, Level, X], Prediction]
FreshNoise = Callable[[Level, Level], Tensor]


def no_fresh_noise(now: Level, nxt: Level) -> Tensor:
    """DDIM (2010.02502, eq. 12 with sigma = 0): all noise is carried over."""
    return torch.zeros_like(nxt.sigma)


def posterior_noise(now: Level, nxt: Level) -> Tensor:
    """The deviation of q(x_s | x_t, x0), a function of the fall in log-SNR (VDM, eq. 33)."""
    return nxt.sigma * (-torch.expm1(now.log_snr - nxt.log_snr)).sqrt()


def all_fresh_noise(now: Level, nxt: Level) -> Tensor:
    """Diffusion-LM's re-noising of the prediction, the original system's own sampler.

    It halves the variance of a Gaussian however many steps are taken (docs/theory.md), because
    nothing of x_t but the prediction survives a step. Kept as the document's; not the default.
    """
    return nxt.sigma


class Sampler(NamedTuple):
    """A rule for the fresh noise, and what a step goes towards.

    draws: the embedding of a token drawn from its distribution, where positions take turns; else
        the mean embedding. A step to q(x_s | x_t, x0) with x0 drawn is right for a token by itself,
        however long the step; with the mean its variance lacks what x0 is uncertain of, unless the
        step is short. Where all positions move together steps are short, and drawing each by
        itself makes them disagree (docs/log.md).
    second_order: the estimate is extrapolated from the last two.
    """

    fresh_noise: FreshNoise
    draws: bool = False
    second_order: bool = False


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Sampler(posterior_noise, draws=True),
    "ddpm": Sampler(posterior_noise),
    "ddim": Sampler(no_fresh_noise),
    "renoise": Sampler(all_fresh_noise),
    "dpm2m": Sampler(no_fresh_noise, second_order=True),
}


def step(x_t: X, x0_hat: X, now: Level, nxt: Level, fresh: Tensor, eps: X) -> X:
    """Moves x_t one level down, given an estimate of x0, and eps standard normal."""
    eps_hat = (x_t - now.alpha * x0_hat) / now.sigma
    kept = (nxt.sigma**2 - fresh**2).clamp(min=0).sqrt()
    return nxt.alpha * x0_hat + kept * eps_hat + fresh * eps


def extrapolate(x0_hat: X, x0_before: X, before: Level, now: Level, nxt: Level) -> X:
    """DPM-Solver++(2M) (2211.01095, Algorithm 2): DDIM's step with the estimate led on linearly.

    x0_before was predicted at the level before this one; steps are measured in log-SNR. A step
    longer than the last leads on no further than an equal one: schedules take steps of many units
    at both ends, where a line led on that far is worse than none (cosine, 24 steps on an exact
    Gaussian: error 0.060 without the limit, 0.0013 with it, DDIM 0.027).
    """
    ratio = (now.log_snr - before.log_snr) / (nxt.log_snr - now.log_snr)
    ratio = ratio.nan_to_num(1).clamp(min=1)  # a position whose level does not change
    return x0_hat + (x0_hat - x0_before) / (2 * ratio)


@torch.no_grad()
def sample(
    denoise: Denoise,
    draw: Callable[[], X],
    schedule: Schedule,
    steps: int,
    sampler: Sampler,
    start: tuple[X, float] | None = None,
) -> Iterator[tuple[X, Prediction]]:
    """Takes `steps` steps from noise (t = 1) to clean (t = 0), and yields after each of them.

    start: an x_t and its time to begin with, instead of noise.

    Yields (x_t after the step, the prediction that led there); each step is one evaluation of
    `denoise`. draw() returns fresh standard normal noise (B, L, D). Whoever iterates may stop at
    any step, and may change what `denoise` is given for the next.
    """
    noise = draw()
    x_t, first = (None, 1.0) if start is None else start
    levels = [schedule(t) for t in torch.linspace(first, 0, steps + 1, device=noise.device)]
    x_t = levels[0].sigma * noise if x_t is None else x_t
    x0_prev, before = torch.zeros_like(x_t), None
    for now, nxt in pairwise(levels):
        prediction = denoise(x_t, now, x0_prev)
        x0_hat = prediction.x0_hat
        if sampler.second_order and before is not None:
            x0_hat = extrapolate(x0_hat, x0_prev, before, now, nxt)
        x_t = step(x_t, x0_hat, now, nxt, sampler.fresh_noise(now, nxt), draw())
        before, x0_prev = now, prediction.x0_hat
        yield x_t, prediction
