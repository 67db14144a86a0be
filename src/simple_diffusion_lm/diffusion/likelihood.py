"""How probable is a text? The variational bound, in nats.

For any denoiser and any two ends of log-SNR (VDM, 2107.00630, eq. 11-15 and appendix E):

    -log p(x) <= prior + diffusion + reconstruction
      prior           KL(q(x_1 | x) || N(0, I))
      diffusion       1/2 integral of snr E||x0 - x0_hat||^2 over log-SNR
      reconstruction  E[-log p(x | x_0)] at the clean end

Every term is a sum over the positions that are text and not given, so with a conditional mask it
bounds -log p(free | given). There are three estimates, each of another sampler with the same
denoiser: `variational_bound` of one with two passes at every one of infinitely many levels,
`carried_bound` of the ddpm sampler as it is, `probability_flow` of the deterministic one.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .network import Network, Targets, Text, sum_texts
from .schedule import Level, Schedule, accumulated, finest, interpolated, level_at, useful_range

CONTROL = 0.5  # of the control variate: more is better with less stagger, and worse with more


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

    Any density that is positive on the range leaves the estimate unbiased. The bound holds for any
    range; the useful one ends where a token can be read off its own x_t.
    """

    edges: Float[Tensor, " P"]

    @classmethod
    def of(
        cls, schedule: Schedule, embedding_dim: int, device: torch.device, pieces: int = 256
    ) -> "Proposal":
        low, high = useful_range(embedding_dim)
        log_snr = schedule(torch.linspace(0, 1, pieces + 1, device=device)).log_snr
        return cls(log_snr.clamp(low, high))

    def precise(self) -> "Proposal":
        """That of the least error: as dense as the root of the integrand's mean square.

        A fitted schedule is as dense as its mean. It mostly is nearly nothing or what a certain and
        wrong estimate costs, which grows as snr: its mean square is about snr times its mean.
        """
        even = torch.linspace(0, 1, len(self.edges), device=self.edges.device)
        levels = torch.lerp(self.edges[0], self.edges[-1], even)
        time = interpolated(-levels, -self.edges, even)
        share = (time.diff() * ((levels[1:] + levels[:-1]) / 2).exp()).sqrt()
        share += 0.01 * share.mean()  # where a schedule has no time at all
        cumulative = accumulated(share)
        return Proposal(interpolated(even, cumulative, levels))

    def draw(self, u: Float[Tensor, "*S"]) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
        """log-SNRs for u in [0, 1], and d log-SNR / du: 1 / density, 0 where clamped."""
        pieces = len(self.edges) - 1
        left = (u * pieces).long().clamp(max=pieces - 1)
        drop = self.edges[left] - self.edges[left + 1]
        return self.edges[left] - (u * pieces - left) * drop, drop * pieces


def two_pass(
    model: Network,
    x_t: Float[Tensor, "B L D"],
    level: Level,
    text: Text,
    t: Float[Tensor, "B L_or_1"],
) -> tuple[Float[Tensor, "N D"], Targets]:
    """x0_hat of the moving positions, shown the model's own first prediction of the same x_t.

    A function of (x_t, level) alone, so the bound holds for it as for any denoiser.
    """
    targets, known = Targets.of(t, text.free), text.known(t)
    nothing = torch.zeros_like(x_t)
    first = model(x_t, level, nothing, **known, targets=targets)
    x0_prev = targets.put(model.interpolate(first.logits), nothing)
    moving = Targets(targets.moving, targets.silent[:0])
    second = model(x_t, level, x0_prev, **known, targets=moving)
    return model.interpolate(second.logits), moving  # x0_hat as in sampling


@torch.no_grad()
def variational_bound(
    model: Network,
    proposal: Proposal,
    text: Text,
    u: Float[Tensor, " B"],
    eps: Float[Tensor, "2 B L D"],
) -> Bound:
    """One unbiased draw of the bound for each sequence.

    u chooses the noise levels (stratify it over the whole set); eps is standard normal, one half
    for the diffusion term and one for the reconstruction. Along any path the integral is the sum of
    those of the positions, each over its own log-SNR, with the others where they are by then.

    The error of each token read alone, off the same x_t, is a control variate. Its integral is
    known without noise, -log p(token) - reconstruction, up to what the prior costs at most (0.001
    nats), by which the bound is the higher.
    """
    ids, free = text.ids, text.free
    x0, t = model.embed(ids), text.path(u)
    log_snr, weight = proposal.draw(t)
    weight = 0.5 * log_snr.exp() * weight * (1 + text.path.stagger)  # 1/2 snr, d log-SNR / du
    level = level_at(log_snr[..., None])
    x_t = level.noise(x0, eps[0])
    x0_hat, moving = two_pass(model, x_t, level, text, t)
    at = moving.all
    alone = model.interpolate(model.read(x_t.flatten(0, 1)[at], level.at(x_t.shape, at)))
    here = x0.flatten(0, 1)[at]
    error, error_alone = ((x - here).square().sum(-1) for x in (x0_hat, alone))
    weight = weight.expand_as(ids).flatten()[at]
    diffusion = sum_texts(weight * (error - CONTROL * error_alone), at, ids)
    clean, noisy = level_at(proposal.edges[0]), level_at(proposal.edges[-1])
    surprise = _surprise(model.read(clean.noise(x0, eps[1]), clean), ids)
    surprise_before = _surprise(model.read(torch.zeros_like(x0), noisy), ids)
    diffusion += CONTROL * ((surprise_before - surprise) * free).sum(1)
    prior = _prior(x0, proposal.edges[-1], free)
    return Bound(prior, diffusion, (surprise * free).sum(1), free.sum(1))


@torch.no_grad()
def carried_bound(
    model: Network,
    proposal: Proposal,
    text: Text,
    steps: int,
    draw: Callable[[], Float[Tensor, "B L D"]],
) -> Bound:
    """The bound of the `ddpm` sampler itself, which carries each prediction on to the next.

    A step's distribution may depend on all the noisier states before it, so the KLs of the steps
    still add up to a bound (VDM, eq. 11-13, x0_hat being a function of the path drawn from q):

        -log p <= prior + sum of 1/2 (snr_s - snr_t) ||x0 - x0_hat(path)||^2 + reconstruction

    The last step of a position is its reconstruction: its token is drawn from the logits (where
    sampling takes the most probable one). draw returns standard normal noise.
    """
    ids, free = text.ids, text.free
    x0 = model.embed(ids)
    times = [text.path(t) for t in torch.linspace(0, 1, steps + 1, device=ids.device)]
    log_snrs = [proposal.draw(t)[0] for t in times]
    levels = [level_at(log_snr[..., None]) for log_snr in log_snrs]
    path = [levels[0].noise(x0, draw())]
    for clean, noisy in pairwise(levels):
        ratio = noisy.alpha / clean.alpha
        fresh = (noisy.sigma**2 - (ratio * clean.sigma) ** 2).clamp(min=0).sqrt()
        path.append(ratio * path[-1] + fresh * draw())
    x0_prev = torch.zeros_like(x0)
    diffusion, reconstruction = x0.new_zeros(2, len(ids))
    for i in reversed(range(1, steps + 1)):
        targets = Targets.of(times[i], free)
        at = targets.all
        logits = model(path[i], levels[i], x0_prev, **text.known(times[i]), targets=targets).logits
        x0_hat = model.interpolate(logits)
        x0_prev = targets.put(x0_hat, torch.zeros_like(x0))
        last = (times[i - 1] == 0).expand_as(ids).flatten()[at]
        gain = (log_snrs[i - 1].exp() - log_snrs[i].exp()).expand_as(ids).flatten()[at]
        error = (x0_hat - x0.flatten(0, 1)[at]).square().sum(-1)
        diffusion += sum_texts(0.5 * gain * error * ~last, at, ids)
        reconstruction += sum_texts(_surprise(logits, ids.flatten()[at]) * last, at, ids)
    return Bound(_prior(x0, log_snrs[-1], free), diffusion, reconstruction, free.sum(1))


def _prior(
    x0: Float[Tensor, "B L D"], log_snr: Float[Tensor, "*S"], free: Bool[Tensor, "B L"]
) -> Float[Tensor, " B"]:
    """KL(q(x_1 | x) || N(0, I)), summed over the free positions."""
    # sigma^2 - 1 = -alpha^2 and log(sigma^2) is near -alpha^2: in double, or the digits cancel.
    fine = finest(x0.device)
    alpha2 = level_at(log_snr.to(fine)).alpha[..., None] ** 2
    per_token = 0.5 * (alpha2 * x0.to(fine).square() - alpha2 - torch.log1p(-alpha2)).sum(-1)
    return (per_token * free).sum(1).to(x0.dtype)


def _surprise(logits: Float[Tensor, "*S V"], ids: Int[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """-log p of each token."""
    return -logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)


def probability_flow(
    model: Network,
    proposal: Proposal,
    text: Text,
    eps: Float[Tensor, "B L D"],
    probe: Float[Tensor, "B L D"],
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
    ids, free = text.ids, text.free
    probe = probe * free[..., None]
    high, low = proposal.edges[0].item(), proposal.edges[-1].item()
    times = [text.path(t) for t in torch.linspace(0, 1, steps + 1, device=ids.device)]

    def flow(y: Tensor, log_snr: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x0_hat of what moves at t, and the part of each position in its divergence in y."""
        level = level_at(log_snr[..., None])
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            x0_hat, moving = two_pass(model, level.sigma * y, level, text, t)
            x0_hat = moving.put(x0_hat, torch.zeros_like(y))
            (vjp,) = torch.autograd.grad(x0_hat, y, probe)
        return x0_hat.detach(), (vjp * probe).sum(-1)

    clean = level_at(proposal.edges[0])
    eps = eps * free[..., None]
    with torch.no_grad():
        y = (model.embed(ids) * clean.alpha / clean.sigma + eps) * free[..., None]
        reconstruction = (_surprise(model.read(clean.sigma * y, clean), ids) * free).sum(1)
    divergence = torch.zeros_like(reconstruction)
    for t_now, t_next in pairwise(times):
        middle = (t_now + t_next) / 2  # what moves in the step moves at both of its ends
        now, nxt = (high + (low - high) * t for t in (t_now, t_next))
        step = (nxt / 2).exp() - (now / 2).exp()  # of s; negative, towards the noise
        slope, div = flow(y, now, middle)
        slope_after, div_after = flow(y + step[..., None] * slope, nxt, middle)
        y = y + step[..., None] / 2 * (slope + slope_after)
        divergence -= (step / 2 * (div + div_after)).sum(1)
    prior = 0.5 * (y.square() - eps.square()).sum((1, 2))
    return Bound(prior, divergence, reconstruction, free.sum(1))
