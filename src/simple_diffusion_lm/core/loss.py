"""The training loss: noise the text, predict it, compare where it is real and not given."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .denoiser import Batch, Denoiser
from .noise import Keys, PerText, X, bell_times, make_keys, normal, uniform

# The last number of a key: FOR_LEVELS of (seed, step, -1), where other keys of the step have the number of a
# text, 0, 1, 2, ...; the others of (a text's key, 0) and (a text's key, 1).
FOR_LEVELS, FOR_SELF_CONDITIONING, FOR_PREVIOUS_PASS = -1, 0, 1


class Draws(NamedTuple):
    """The random numbers of one step: a function of seed, step, and each text's number (t: and place)."""

    t: PerText  # a time for each text
    keys: Keys  # of all else that is drawn for it (core/noise.py)
    key: Int[Tensor, ""] = torch.tensor(0)  # of what is drawn for all texts of the step together

    @classmethod
    def of(cls, batch: Batch, seed: int, step: int) -> "Draws":
        """Times are evenly spread over the batch, from a random start (VDM, 2107.00630, app. I.1)."""
        key = make_keys(seed, step, FOR_LEVELS)
        start = uniform(key, 1).float()
        return cls((start.to(batch.place) + batch.place) % 1, make_keys(seed, step, batch.number), key)


def previous_pass(keys: Keys, t: PerText, rate: float) -> tuple[Bool[Tensor, " B"], PerText]:
    """Which texts are shown a first prediction, a share `rate`, and at what time it is made: that of the
    pass before t, were a text written in n passes. log2(n) is uniform from 1 to 6."""
    coin, u = uniform(make_keys(keys, FOR_SELF_CONDITIONING), 2).to(t).unbind(1)
    return coin < rate, (t + 2 ** -(1 + 5 * u)).clamp(max=1)


class Losses(NamedTuple):
    """`total` is optimised: a mean over `tokens` tokens. The rest is of each of the N predicted ones."""

    total: Float[Tensor, ""]
    tokens: Int[Tensor, ""]
    ce: Float[Tensor, " N"]  # cross-entropy, nats
    correct: Bool[Tensor, " N"]  # the most probable token is the right one
    squared_error: Float[Tensor, " N_or_0"]  # of the head's estimate or x0_hat; empty: not in the loss


Loss = Callable[[Batch, Draws], Losses]


@torch.no_grad()
def previous_prediction(model: Denoiser, batch: Batch, x_t: X, draws: Draws) -> X:
    """What self-conditioning (Analog Bits, 2208.04202, Algorithm 1) shows the network as well: a first
    prediction of some texts, zeros for the others. Here it is made from x_t with more noise, as in
    writing: of the same x_t it would make the network believe itself twice over (docs/theory.md)."""
    x0_prev = torch.zeros_like(x_t)
    chosen, t_before = previous_pass(draws.keys, draws.t, model.config.self_cond_rate)
    if chosen.any():  # of all texts, since a batch of every other size costs time and memory
        level, before = (model.schedule(t[:, None, None]) for t in (draws.t, t_before))
        eps = normal(make_keys(draws.keys, FOR_PREVIOUS_PASS), *x_t.shape[1:])
        logits = model(level.add_more(x_t, before, eps), before, x0_prev, batch).logits
        x0_prev[batch.free] = model.embedding.interpolate(logits)
        x0_prev[~chosen] = 0.0
    return x0_prev


def diffusion_loss(model: Denoiser, batch: Batch, draws: Draws) -> Losses:
    """MSE to the clean embeddings and cross-entropy of the logits, weighted: means over free positions."""
    config, free, ids = model.config, batch.free, batch.ids[batch.free]
    x0 = model.embedding(batch.ids)
    t = draws.t
    if config.late_given:  # in the last tenth x_t shows little: most comes from the given tokens
        t = torch.where(batch.cond_mask.any(1), 1 - 0.1 * (1 - t), t)
    draws = draws._replace(t=bell_times(t) if config.bell_times else t)
    level = model.schedule(draws.t[:, None, None])
    x_t = level.add_noise(x0, normal(draws.keys, *x0.shape[1:]))
    logits, estimate = model(x_t, level, previous_prediction(model, batch, x_t, draws), batch)
    squared_error = logits.new_empty(0)
    if config.mse_weight > 0:  # else it would take a tenth of a step's time for nothing
        estimate = model.embedding.interpolate(logits) if estimate is None else estimate
        squared_error = (estimate - x0.detach()[free]).square().sum(-1)
    ce = F.cross_entropy(logits, ids, reduction="none")
    tokens = free.sum()
    mse = squared_error.sum() / tokens.clamp(min=1) / x0.shape[-1]
    total = config.mse_weight * mse + config.ce_weight * ce.sum() / tokens.clamp(min=1)
    return Losses(total, tokens, ce, logits.argmax(-1) == ids, squared_error)
