"""How probable is a text? The variational bound, in nats.

For any denoiser and any two ends of log-SNR (VDM, 2107.00630, eq. 11-15 and appendix E):

    -log p(x) <= prior + diffusion + reconstruction
      prior           KL(q(x_1 | x) || N(0, I))
      diffusion       1/2 integral of snr E||x0 - x0_hat||^2 over log-SNR
      reconstruction  E[-log p(x | x_0)] at the clean end

Every term is a sum over the positions that are text and not given, so with a conditional mask it
bounds -log p(free | given).

There are three estimates, each of another sampler with the same denoiser: `variational_bound` of
one that makes two passes at every one of infinitely many levels, `carried_bound` of the ancestral
sampler as it is, `probability_flow` of the deterministic one.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .loss import Network, Output
from .schedule import Level, Path, Schedule, level_at, useful_range


class Bound(NamedTuple):
    """The three parts for each sequence, in nats, and how many tokens they are for."""

    prior: Float[Tensor, " B"]
    diffusion: Float[Tensor, " B"]
    reconstruction: Float[Tensor, " B"]
    tokens: Int[Tensor, " B"]

    @classmethod
    def of_tokens(cls, nats: Float[Tensor, " B"], tokens: Int[Tensor, " B"]) -> "Bound":
        """Of a model that predicts tokens and has no noise: all of it is reconstruction."""
        nothing = torch.zeros_like(nats)
        return cls(nothing, nothing, nats, tokens)

    @property
    def total(self) -> Float[Tensor, " B"]:
        """Nats per sequence: an upper bound of -log p in expectation over the noise."""
        return self.prior + self.diffusion + self.reconstruction


class Proposal(NamedTuple):
    """Where along log-SNR the integral is sampled: the schedule, made piecewise linear.

    Any density that is positive on the range leaves the estimate unbiased; the schedule's own
    makes it precise, because it spends its time where the integrand is. The bound holds for any
    range; the useful one keeps the reconstruction in it where a fixed schedule would go on to
    signal-to-noise ratios at which no network's error is small enough.
    """

    edges: Float[Tensor, " P"]

    @classmethod
    def of(
        cls, schedule: Schedule, embedding_dim: int, device: torch.device, pieces: int = 256
    ) -> "Proposal":
        low, high = useful_range(embedding_dim)
        log_snr = schedule(torch.linspace(0, 1, pieces + 1, device=device)).log_snr
        return cls(log_snr.clamp(low, high))

    def draw(self, u: Float[Tensor, "*S"]) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
        """log-SNRs for u in [0, 1], and d log-SNR / du: 1 / density, 0 where clamped."""
        pieces = len(self.edges) - 1
        left = (u * pieces).long().clamp(max=pieces - 1)
        drop = self.edges[left] - self.edges[left + 1]
        return self.edges[left] - (u * pieces - left) * drop, drop * pieces


def two_pass(model: Network, x_t: Float[Tensor, "B L D"], level: Level, **text: Tensor) -> Output:
    """The prediction self-conditioned on the model's own first prediction of the same x_t.

    A function of (x_t, level) alone, so the bound holds for it as for any denoiser.
    """
    first = model(x_t, level, torch.zeros_like(x_t), **text)
    return model(x_t, level, model.interpolate(first.logits), **text)


@torch.no_grad()
def variational_bound(
    model: Network,
    proposal: Proposal,
    ids: Int[Tensor, "B L"],
    length_mask: Bool[Tensor, "B L"],
    cond_mask: Bool[Tensor, "B L"],
    u: Float[Tensor, " B"],
    eps: Float[Tensor, "2 B L D"],
    path: Path,
) -> Bound:
    """One unbiased draw of the bound for each sequence.

    u chooses the noise levels (stratify it over the whole set); eps is standard normal, one half
    for the diffusion term and one for the reconstruction. Along any path the integral is the sum of
    those of the positions, each over its own log-SNR, with the others where they are by then.
    """
    free = length_mask & ~cond_mask
    text = {"ids": ids, "cond_mask": cond_mask, "length_mask": length_mask}
    x0 = model.embed(ids)

    t = path(u)
    log_snr, weight = proposal.draw(t)
    weight = weight * (1 + path.stagger) * (t > 0) * (t < 1)  # d log-SNR / du: none at either end
    level = level_at(log_snr[..., None])
    logits = two_pass(model, level.noise(x0, eps[0]), level, **text).logits
    x0_hat = model.interpolate(logits)  # as in sampling
    error = (x0_hat - x0).square().sum(-1)
    diffusion = (0.5 * log_snr.exp() * error * weight * free).sum(1)

    clean = level_at(proposal.edges[0].expand(len(ids), 1, 1))
    surprise = _surprise(model, clean.noise(x0, eps[1]), clean, torch.zeros_like(x0), text)
    reconstruction = (surprise * free).sum(1)

    prior = _prior(x0, proposal.edges[-1], free)
    return Bound(prior, diffusion, reconstruction, free.sum(1))


@torch.no_grad()
def carried_bound(
    model: Network,
    log_snrs: Sequence[Float[Tensor, "B L_or_1"]],
    ids: Int[Tensor, "B L"],
    length_mask: Bool[Tensor, "B L"],
    cond_mask: Bool[Tensor, "B L"],
    draw: Callable[[], Float[Tensor, "B L D"]],
) -> Bound:
    """The bound of the ancestral sampler itself, which carries each prediction on to the next.

    A step's distribution may depend on all the noisier states before it, so the KL of each step of
    the finite sampler at the levels `log_snrs` (falling) still adds up to a bound (VDM, eq. 11-13,
    with the prediction as a function of the path x_t, x_t+1, ... drawn from q):

        -log p <= prior + sum of 1/2 (snr_s - snr_t) ||x0 - x0_hat(path)||^2 + reconstruction

    draw returns standard normal noise. One evaluation a level, for every sequence.
    """
    free = length_mask & ~cond_mask
    text = {"ids": ids, "cond_mask": cond_mask, "length_mask": length_mask}
    x0 = model.embed(ids)
    levels = [level_at(log_snr[..., None]) for log_snr in log_snrs]
    path = [levels[0].noise(x0, draw())]
    for clean, noisy in pairwise(levels):
        ratio = noisy.alpha / clean.alpha
        fresh = (noisy.sigma**2 - (ratio * clean.sigma) ** 2).clamp(min=0).sqrt()
        path.append(ratio * path[-1] + fresh * draw())
    x0_prev = torch.zeros_like(x0)
    diffusion = x0.new_zeros(len(ids))
    for i in reversed(range(1, len(levels))):
        x0_prev = model.interpolate(model(path[i], levels[i], x0_prev, **text).logits)
        error = (x0_prev - x0).square().sum(-1) * free
        diffusion += (0.5 * (log_snrs[i - 1].exp() - log_snrs[i].exp()) * error).sum(1)
    surprise = _surprise(model, path[0], levels[0], x0_prev, text)
    return Bound(_prior(x0, log_snrs[-1], free), diffusion, (surprise * free).sum(1), free.sum(1))


def _prior(
    x0: Float[Tensor, "B L D"], log_snr: Float[Tensor, "*S"], free: Bool[Tensor, "B L"]
) -> Float[Tensor, " B"]:
    """KL(q(x_1 | x) || N(0, I)), summed over the free positions."""
    # sigma^2 - 1 = -alpha^2 and log(sigma^2) is near -alpha^2: in double, or the digits cancel.
    alpha2 = level_at(log_snr.double()).alpha[..., None] ** 2
    per_token = 0.5 * (alpha2 * x0.double().square() - alpha2 - torch.log1p(-alpha2)).sum(-1)
    return (per_token * free).sum(1).to(x0.dtype)


def _surprise(
    model: Network,
    x_t: Float[Tensor, "B L D"],
    level: Level,
    x0_prev: Float[Tensor, "B L D"],
    text: dict[str, Tensor],
) -> Float[Tensor, "B L"]:
    """-log p(token | x_t). One pass is enough: any normalised decoder keeps a bound a bound."""
    logits = model(x_t, level, x0_prev, **text).logits
    return F.cross_entropy(logits.transpose(1, 2), text["ids"], reduction="none")


def probability_flow(
    model: Network,
    proposal: Proposal,
    ids: Int[Tensor, "B L"],
    length_mask: Bool[Tensor, "B L"],
    cond_mask: Bool[Tensor, "B L"],
    eps: Float[Tensor, "B L D"],
    probe: Float[Tensor, "B L D"],
    path: Path,
    steps: int,
) -> Bound:
    """-log p under the probability-flow ODE, an upper bound once `steps` are enough.

    With y = x_t / sigma and s = alpha / sigma the flow is dy/ds = x0_hat, and log p(y) falls along
    it by the divergence of x0_hat (2011.13456, eq. 39; LangFlow 2604.11748, theorem 3.1):

        -log p(ids) <= E[-log p(ids | x_0) + integral of div x0_hat ds + (|y_1|^2 - |eps|^2) / 2]

    Each position goes along its own time in the path, in `steps` of Heun's method, equal steps of
    log-SNR. The divergence is Hutchinson's estimate v^T J v with v = probe, of random signs. J is
    of the whole two-pass function: with the first pass detached, as LangFlow's own evaluation has
    it, the sum belongs to no flow and falls below the true entropy
    (tests/diffusion/test_likelihood.py shows it).
    """
    free = length_mask & ~cond_mask
    text = {"ids": ids, "cond_mask": cond_mask, "length_mask": length_mask}
    probe = probe * free[..., None]
    high, low = proposal.edges[0].item(), proposal.edges[-1].item()
    times = torch.linspace(0, 1, steps + 1, device=ids.device)
    log_snrs = [high + (low - high) * path(t) for t in times]

    def flow(y: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """x0_hat, and the part of each position in its divergence in y."""
        level = level_at(log_snr[..., None])
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            x0_hat = model.interpolate(two_pass(model, level.sigma * y, level, **text).logits)
            (vjp,) = torch.autograd.grad(x0_hat, y, probe)
        return x0_hat.detach(), (vjp * probe).sum(-1)

    with torch.no_grad():
        clean = level_at(log_snrs[0][..., None])
        eps = eps * free[..., None]
        y = (model.embed(ids) * clean.alpha / clean.sigma + eps) * free[..., None]
        surprise = _surprise(model, clean.sigma * y, clean, torch.zeros_like(y), text)
        reconstruction = (surprise * free).sum(1)
    divergence = torch.zeros_like(reconstruction)
    for now, nxt in pairwise(log_snrs):
        step = (nxt / 2).exp() - (now / 2).exp()  # of s; negative, towards the noise
        slope, div = flow(y, now)
        slope_after, div_after = flow(y + step[..., None] * slope * free[..., None], nxt)
        y = y + step[..., None] / 2 * (slope + slope_after) * free[..., None]
        divergence -= (step / 2 * (div + div_after)).sum(1)
    prior = 0.5 * (y.square() - eps.square()).sum((1, 2))
    return Bound(prior, divergence, reconstruction, free.sum(1))
