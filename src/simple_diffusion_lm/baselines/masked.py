"""Masked diffusion (MDLM, 2406.07524): the same trunk predicts masked tokens.

The continuous-time bound masks each token with probability t and weighs the cross-entropy of the
masked ones by 1/t (MDLM, eq. 11 with its log-linear schedule, where alpha_t = 1 - t). Integrated
over t, the number k of masked tokens is uniform on 1..n, and their mean cross-entropy is weighed by
n: the same bound, with no infinite weight and no text without a masked token. That form is used here.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.denoiser import Batch
from ..core.generate import FOR_TOKENS, Frame, Group, Sampling, draw_ids
from ..core.noise import Keys, Logits, Mask, PerText, X, make_keys, uniform
from .predictor import Cost, TokenPredictor

FOR_REVEALING = 0  # last number of a key that the order of revealing is drawn with


class Masked(TokenPredictor):
    """Predicts masked tokens. The blank stands where a token is masked.

    Like MDLM's best, the network is not told the time: the number of masked tokens tells it.
    """

    def show(self, ids: Int[Tensor, "B L"], masked: Mask) -> X:
        """What the network sees. ids are not read where they are masked."""
        return torch.where(masked[..., None], self.blank, self.embedding(ids))

    def draw_bound(self, batch: Batch, u: PerText, keys: Keys) -> Cost:
        masked, weight = draw_masked(batch.free, u, uniform(keys, batch.ids.shape[1]))
        cost = self.cost(self.show(batch.ids, masked), batch, masked)
        return cost._replace(by_text=weight * cost.by_text)

    @torch.no_grad()
    def sample(self, group: Group, sampling: Sampling) -> Iterator[Frame]:
        """Ancestral sampling, from all masked to none. `sampler` has no meaning here."""
        batch, masked = group.batch, group.batch.free
        u = uniform(make_keys(group.keys, FOR_TOKENS), masked.shape[1])
        when = reveal_steps(group, sampling.steps)
        for step in range(sampling.steps):
            reveal = masked & (when == step)
            logits = self._predict_some(batch, masked, reveal) / sampling.temperature
            logits = group.constrain(logits, reveal)
            batch = batch._replace(ids=batch.ids.masked_scatter(reveal, draw_ids(logits, u[reveal])))
            masked = masked & ~reveal
            yield Frame(batch.ids, masked, reveal, logits)

    def _predict_some(self, batch: Batch, masked: Mask, where: Mask) -> Logits:
        """Logits at some positions. A text that has none of them costs no network pass."""
        rows = where.any(1)
        if not rows.any():
            return self.blank.new_zeros(0, len(self.head.bias))
        some = batch.each(lambda x: x[rows])
        return self.predict(self.show(some.ids, masked[rows]), some, where[rows])


def reveal_steps(group: Group, steps: int) -> Int[Tensor, "B L"]:
    """The step, from 0, that reveals each position: the order of revealing is decided here.

    From t to s, MDLM reveals a masked token with probability (t - s) / t (eq. 6). In steps of equal
    length that is: each token in any of them, with the same chance.
    """
    u = uniform(make_keys(group.keys, FOR_REVEALING), group.batch.ids.shape[1])
    return (u * steps).long()


def draw_masked(free: Mask, u: PerText, noise: Float[Tensor, "B L"]) -> tuple[Mask, PerText]:
    """Which of the n free tokens are masked, and n / k: those with the k largest of the noise.

    k is uniform on 1..n for u uniform on [0, 1); noise is uniform on [0, 1).
    """
    count = free.sum(1)
    masked_count = ((u * count).long() + 1).clamp(max=count)
    rank = noise.masked_fill(~free, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < masked_count[:, None]) & free, count / masked_count.clamp(min=1)
