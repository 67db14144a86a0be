"""The training objective: noise the text, predict it, compare where it is real and not given."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .network import Network, Targets, Text
from .schedule import Level, Path, Schedule, reading_order


class Draws(NamedTuple):
    """The random numbers of one step.

    order is that of the positions along the path; self_cond says which texts are shown their first
    prediction.
    """

    t: Float[Tensor, " B"]
    eps: Float[Tensor, "B L D"]
    order: Float[Tensor, "B L"]
    self_cond: Bool[Tensor, " B"]


class Part(NamedTuple):
    """The rows of a batch that are here, where several processes share it; by default all of them.

    What is drawn over a batch is drawn for the whole of it, so that it does not depend on who has
    which rows.
    """

    first: int = 0
    size: int | None = None  # rows of the whole batch; None: as many as there are
    total: Callable[[Tensor], Tensor] = lambda x: x  # the sum of a tensor over all parts

    def among(self, count: int) -> tuple[int, slice]:
        """(rows of the whole batch, which of them the `count` rows here are)."""
        return self.size or count, slice(self.first, self.first + count)


ALL = Part()


class Losses(NamedTuple):
    """Means over the predicted positions. `total` is what is optimised; the rest is reported.

    mse is per coordinate, ce in nats a token; rate is the bound's integrand, nats per unit of
    log-SNR, of the N positions that are between clean and noise, each at its own log_snr. `total`
    is a mean over `tokens` positions, mse, ce and accuracy over `predicted` ones.
    """

    total: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    ce: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    log_snr: Float[Tensor, " N"]
    rate: Float[Tensor, " N"]
    tokens: Int[Tensor, ""]
    predicted: Int[Tensor, ""]

    @classmethod
    def plain(
        cls, total: Tensor, ce: Tensor, accuracy: Tensor, tokens: Tensor, predicted: Tensor
    ) -> "Losses":
        """Of a model without embeddings to compare and without noise levels."""
        no_mse, nothing = total.new_zeros(()), total.new_zeros(0)
        return cls(total, no_mse, ce.detach(), accuracy, nothing, nothing, tokens, predicted)


def seeded(*numbers: int) -> torch.Generator:
    """A generator that is a function of these numbers alone (splitmix64, mixed in turn)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


def stratified(count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """Uniform numbers, one in each of `count` equal parts of [0, 1), in random order.

    Their means have less variance than those of independent ones (VDM, 2107.00630, appendix I.1).
    """
    strata = torch.randperm(count, generator=generator)
    return (strata + torch.rand(count, generator=generator)) / count


def draw(
    seed: int,
    step: int,
    index: Int[Tensor, " B"],
    length_mask: Bool[Tensor, "B L"],
    embedding_dim: int,
    self_cond_rate: float,
    left_to_right: float = 0.0,
    part: Part = ALL,
) -> Draws:
    """The draws of a step: a function of (seed, step) and of each example's own number.

    left_to_right is the share of examples whose order is that, and not random.
    """
    batch, length = length_mask.shape
    size, rows = part.among(batch)
    generator = seeded(seed, step)
    t = stratified(size, generator)[rows]
    self_cond = (torch.rand(size, generator=generator) < self_cond_rate)[rows]
    ordered = (torch.rand(size, generator=generator) < left_to_right)[rows]
    eps = torch.zeros(batch, length, embedding_dim)
    order = torch.zeros(batch, length)
    for row, (number, count) in enumerate(
        zip(index.tolist(), length_mask.sum(1).tolist(), strict=True)
    ):
        own = seeded(seed, step, number)
        eps[row, :count].normal_(generator=own)
        order[row, :count].uniform_(generator=own)
    return Draws(
        t, eps, torch.where(ordered[:, None], reading_order(length_mask), order), self_cond
    )


def diffusion_loss(
    model: Network,
    schedule: Schedule,
    ids: Int[Tensor, "B L"],
    length_mask: Bool[Tensor, "B L"],
    cond_mask: Bool[Tensor, "B L"],
    draws: Draws,
    *,
    stagger: float | Float[Tensor, "B 1"],
    mse_weight: float,
    ce_weight: float,
) -> Losses:
    """MSE to the clean embeddings and cross-entropy of the projection, weighted and summed.

    Both are means over the positions that are text, not given (`length_mask & ~cond_mask`) and not
    clean by then, which staggered ones may be. One at pure noise has no part in the MSE.
    Self-conditioning (Analog Bits, 2208.04202, Algorithm 1): the chosen sequences are predicted
    once without gradient, and shown that prediction.
    """
    free = length_mask & ~cond_mask
    text = Text(ids, length_mask, cond_mask, Path.of(draws.order, free, stagger))
    t = text.path(draws.t)
    known = text.known(t)
    x0 = model.embed(ids)
    level = schedule(t[..., None])
    x_t = level.noise(x0, draws.eps)

    x0_prev = torch.zeros_like(x0)
    chosen = draws.self_cond
    if chosen.any():
        with torch.no_grad():
            some = Targets.of(t[chosen], free[chosen])
            first = model(
                x_t[chosen],
                Level(level.alpha[chosen], level.sigma[chosen]),
                x0_prev[chosen],
                **{name: tensor[chosen] for name, tensor in known.items()},
                targets=some,
            )
            x0_prev[chosen] = some.put(model.interpolate(first.logits), x0_prev[chosen])
    targets = Targets.of(t, free)
    logits, x0_hat = model(x_t, level, x0_prev, **known, targets=targets)
    moving = slice(len(targets.moving))
    if x0_hat is None:
        with torch.set_grad_enabled(mse_weight > 0):  # its gradient is a tenth of a step
            x0_hat = model.interpolate(logits[moving])

    squared = (x0_hat[moving] - x0.detach().flatten(0, 1)[targets.moving]).square()
    mse = squared.mean(-1).sum() / max(len(logits), 1)
    ids_there = ids.flatten()[targets.all]
    ce = F.cross_entropy(logits, ids_there)
    total = mse_weight * mse + ce_weight * ce

    with torch.no_grad():
        accuracy = (logits.argmax(-1) == ids_there).float().mean()
        log_snr = level.log_snr.squeeze(-1).expand_as(ids).flatten()[targets.moving]
        rate = 0.5 * log_snr.exp() * squared.sum(-1)
    count = ids.new_tensor(len(logits))
    return Losses(total, mse.detach(), ce.detach(), accuracy, log_snr, rate, count, count)
