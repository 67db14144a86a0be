"""How probable is a text? The variational bound, in nats.

For any denoiser and any two ends of log-SNR (VDM, 2107.00630, eq. 11-15 and appendix E):

    -log p(x) <= KL(q(x_1 | x) || N(0, I))                                  prior
                 + 1/2 integral of snr E||x0 - x0_hat||^2 over log-SNR      diffusion
                 + E[-log p(x | x_0)] at the clean end                      reconstruction

Every term is a sum over the free positions, so with given tokens it bounds -log p(free | given). It
is the bound of an idealised sampler: two passes of the denoiser at each of infinitely many levels,
at temperature 1. What `generate` writes in a few steps has no measured likelihood.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .denoiser import Batch, Denoiser
from .noise import Keys, Level, Logits, PerText, X, level_at, make_keys, normal, uniform, useful_range
from .sampler import Prediction

PIECES = 256  # of the density that levels are drawn from


class Bound(NamedTuple):
    """The three parts for each text, in nats, and how many tokens they are for."""

    prior: PerText
    diffusion: PerText
    reconstruction: PerText
    tokens: Int[Tensor, " B"]

    @property
    def total(self) -> PerText:
        """Nats a text: an upper bound of -log p, in expectation over the noise."""
        return self.prior + self.diffusion + self.reconstruction


def two_pass(
    model: Denoiser, x_t: X, level: Level, batch: Batch, change: Callable[[Logits], Logits] = lambda x: x
) -> Prediction:
    """A prediction, self-conditioned, if the model is, on a first prediction of the same x_t: a function of
    (x_t, level) alone, so the bound holds for it as for any denoiser. From x_t with more noise, as in
    training (core/loss.py), it would know less, and the bound be looser (docs/log.md). change: of logits."""
    x0_hat = torch.zeros_like(x_t)
    for _ in range(2 if model.config.self_cond_rate else 1):
        logits = change(model(x_t, level, x0_hat, batch).logits)
        x0_hat[batch.free] = model.embedding.interpolate(logits)
    return Prediction(x0_hat, logits)


@torch.no_grad()
def variational_bound(model: Denoiser, batch: Batch, u: PerText, keys: Keys) -> Bound:
    """One unbiased draw of the bound for each text. u in [0, 1) chooses its log-SNR: a quantile, no time."""
    ids, free = batch.ids, batch.free
    x0 = model.embedding(ids)
    # Log-SNRs are drawn with density sqrt(E f^2), of least variance, f being the integrand: nearly 0 where a
    # token is known, else about snr, so E f^2 ~ snr E f; E f is about the schedule's density (core/noise.py).
    low, high = useful_range(model.embedding.dim)
    width = (high - low) / PIECES
    middles = high - width * (torch.arange(PIECES, device=u.device) + 0.5)
    levels = model.schedule(torch.linspace(0, 1, 64 * PIECES, device=u.device)).log_snr.clamp(low, high)
    share = (torch.histc(levels, PIECES, low, high).flip(0) * middles.exp()).sqrt()
    share = 0.99 * share / share.sum() + 0.01 / PIECES
    piece = torch.searchsorted(share.cumsum(0), u).clamp(max=PIECES - 1)
    log_snr = high - width * (piece + 1 - (share.cumsum(0)[piece] - u) / share[piece])
    weight = 0.5 * log_snr.exp() * width / share[piece]  # 1/2 snr d log-SNR/du

    level = level_at(log_snr[:, None, None])
    x_t = level.add_noise(x0, normal(make_keys(keys, 0), *x0.shape[1:]))
    squared = (two_pass(model, x_t, level, batch).x0_hat - x0)[free].square().sum(-1)
    zeros = torch.zeros_like(x0[..., 0])
    diffusion = weight * zeros.masked_scatter(free, squared).sum(1)
    clean = level_at(torch.tensor(high, device=u.device))
    x_clean = clean.add_noise(x0, normal(make_keys(keys, 1), *x0.shape[1:]))[free]
    surprise = F.cross_entropy(model.posterior_logits(x_clean, clean), ids[free], reduction="none")
    reconstruction = zeros.masked_scatter(free, surprise).sum(1)
    # sigma^2 - 1 = -alpha^2 and log(sigma^2) is near -alpha^2: in double, or the digits cancel.
    fine = torch.float32 if x0.device.type == "mps" else torch.float64
    alpha2 = level_at(torch.tensor(low, dtype=fine, device=u.device)).alpha ** 2
    prior = 0.5 * (alpha2 * x0.to(fine).square() - alpha2 - torch.log1p(-alpha2)).sum(-1) * free
    return Bound(prior.sum(1).float(), diffusion, reconstruction, free.sum(1))


def length_cost(lengths: Int[Tensor, " B"], length_weights: Sequence[int]) -> Float[Tensor, " B"]:
    """-log p(length) in nats, from the histogram length_weights (index: tokens, EOS included), with half
    a count added to each length up to the longest, so that none of them is impossible."""
    weights = torch.tensor(length_weights[1:], dtype=torch.float64) + 0.5
    return -(weights / weights.sum()).log()[lengths.cpu() - 1]


class HeldOut(NamedTuple):
    """The bound on a set of texts, nats a token: an upper bound in expectation, the sum of four parts."""

    total: float
    prior: float
    diffusion: float
    reconstruction: float
    length: float  # -log p(length); 0 where the model pays for it itself
    error: float  # standard error of the total, over texts; of one text alone not a number
    texts: int
    tokens: int  # EOS included


def held_out_bound(
    bound: Callable[[Batch, PerText, Keys], Bound],
    batches: Iterable[Batch],
    *,
    texts: int,
    draws: int,
    length_weights: Sequence[int] | None,
    seed: int = 0,
) -> HeldOut:
    """The bound on batches of so many texts together, with `draws` noise draws for each text.

    The model of a line is p(length) p(ids | length), and both are paid for where length_weights are given:
    neither running text nor a model that ends its texts itself has a length to pay for. Two models are
    compared on the same draws. Levels are spread evenly over the whole set, and over the draws of each text.
    """
    chance = uniform(make_keys(seed), 1 + texts).float()
    # Texts come sorted by length, which is to say nothing of their levels.
    start, numbers = chance[0], chance[1:].argsort()
    costs, done = torch.zeros(5, texts, dtype=torch.float64), 0
    for batch in batches:
        here = slice(done, done + len(batch.ids))
        done = here.stop
        own, first = costs[:, here], start + numbers[here] / texts / draws
        for i in range(draws):
            u = (first + i / draws) % 1
            drawn = bound(batch, u.to(batch.ids.device), make_keys(seed, i, batch.number))
            own[:4] += torch.stack([part.cpu().double() for part in drawn]) / draws
        if length_weights is not None:
            own[4] = length_cost(batch.length_mask.sum(1), length_weights)
    prior, diffusion, reconstruction, tokens, length = costs
    nats = prior + diffusion + reconstruction + length
    total = nats.sum() / tokens.sum()
    # The standard error of a ratio of sums over independent texts.
    spread = len(tokens) / (len(tokens) - 1) if len(tokens) > 1 else torch.nan
    error = ((nats - total * tokens).square().sum() * spread).sqrt() / tokens.sum()
    means = torch.stack([prior, diffusion, reconstruction, length]).sum(1) / tokens.sum()
    figures = torch.stack([total, *means, error]).tolist()
    return HeldOut(*figures, texts=len(tokens), tokens=round(tokens.sum().item()))  # type: ignore[misc]
