"""Masked diffusion (MDLM, 2406.07524): the same trunk predicts masked tokens.

The continuous-time bound masks each token with probability t and weighs the cross-entropy of the
masked ones by 1/t (MDLM, eq. 11 with its log-linear schedule, where alpha_t = 1 - t). Integrated
over t, the number k of masked tokens is uniform on 1..n, and their mean cross-entropy is weighed by
n: the same bound, with no infinite weight and no text without a masked token. That form is used here.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.denoiser import Batch
from ..core.generate import FOR_TOKENS, Frame, Group, Sampling, draw_ids
from ..core.loss import Draws, Losses, previous_pass
from ..core.noise import Keys, Logits, Mask, PerText, X, make_keys, uniform
from .predictor import Cost, Shown, TokenPredictor

FOR_ORDER = -2  # last number of a key, beside FOR_TOKENS


class Masked(TokenPredictor):
    """Predicts masked tokens. The blank stands where a token is masked, and beside it the previous prediction
    (self-conditioning, as the continuous model has it).

    Like MDLM's best, the network is not told the time: the number of masked tokens tells it.
    """

    inputs = 2
    takes_turns = True

    def show(self, ids: Int[Tensor, "B L"], masked: Mask, x0_prev: X) -> Shown:
        """What the network sees. ids are not read where they are masked."""
        return torch.cat([torch.where(masked[..., None], self.blank, self.embedding(ids)), x0_prev], -1)

    def loss(self, batch: Batch, draws: Draws) -> Losses:
        """The bound itself, nats per free token; some texts are shown a first prediction, made when more of
        them was masked, as in writing."""
        twice, before = previous_pass(draws.keys, draws.t, self.config.self_cond_rate)
        return self.mean_of(self.draw_bound(batch, draws.t, draws.keys, twice, before), batch)

    def draw_bound(
        self,
        batch: Batch,
        u: PerText,
        keys: Keys,
        twice: Bool[Tensor, " B"] | None = None,
        before: PerText | None = None,
    ) -> Cost:
        """twice: the texts that are shown their first prediction, made at `before`; by default all, at u."""
        noise = uniform(keys, batch.ids.shape[1])
        masked, weight = draw_masked(batch.free, u, noise)
        x0_prev = self.blank.new_zeros(*batch.ids.shape, self.embedding.dim)
        twice = torch.ones_like(u, dtype=torch.bool) if twice is None else twice
        if self.config.self_cond_rate and twice.any():
            with torch.no_grad():  # of all texts, as in core.loss
                more = masked if before is None else draw_masked(batch.free, before, noise)[0]
                first = self.predict(self.show(batch.ids, more, x0_prev), batch, masked)
                x0_prev[masked] = self.embedding.interpolate(first)
                x0_prev[~twice] = 0.0
        cost = self.cost(self.show(batch.ids, masked, x0_prev), batch, masked)
        return cost._replace(by_text=weight * cost.by_text)

    @torch.no_grad()
    def sample(self, group: Group, sampling: Sampling) -> Iterator[Frame]:
        """From all masked to none, equally many in each step, in the order of `sampling`; its sampler has no
        meaning here. A text of which a step writes nothing costs no network pass."""
        batch, masked = group.batch, group.batch.free
        length, count = masked.shape[1], masked.sum(1)
        u, order = (uniform(make_keys(group.keys, use), length) for use in (FOR_TOKENS, FOR_ORDER))
        order = torch.arange(length).expand_as(u).to(u) if sampling.order == "reading" else order
        x0_prev = self.blank.new_zeros(*batch.ids.shape, self.embedding.dim)
        for step in range(1, sampling.steps + 1):
            more = masked.sum(1) - (count - count * step // sampling.steps)
            here = masked & (more > 0)[:, None]
            some = batch.each(lambda x, rows=more > 0: x[rows])  # type: ignore[misc]
            shown = self.show(some.ids, masked[more > 0], x0_prev[more > 0])
            logits = group.constrain(self.predict(shown, some, here[more > 0]) / sampling.temperature, here)
            tokens = draw_ids(logits, u[here])
            if sampling.order == "confidence":
                order = order.masked_scatter(here, -sureness(logits, tokens, sampling.temperature).to(u))
            first = order.masked_fill(~masked, torch.inf).argsort(1).argsort(1)
            reveal = here & (first < more[:, None])
            batch = batch._replace(ids=batch.ids.masked_scatter(reveal, tokens[reveal[here]]))
            masked = masked & ~reveal
            if self.config.self_cond_rate:
                x0_prev[here] = self.embedding.interpolate(logits)
                x0_prev[reveal] = 0.0
            yield Frame(batch.ids, masked, here, logits)


def sureness(logits: Logits, ids: Int[Tensor, " N"], temperature: float) -> Float[Tensor, " N"]:
    """The model's own probability of ids, of logits at a temperature: a low one would make all certain."""
    return (logits * temperature).softmax(-1).gather(-1, ids[:, None]).squeeze(1)


def draw_masked(free: Mask, u: PerText, noise: Float[Tensor, "B L"]) -> tuple[Mask, PerText]:
    """Which of the n free tokens are masked, and n / k: those with the k largest of the noise.
    k is uniform on 1..n for u uniform on [0, 1); noise is uniform on [0, 1)."""
    count = free.sum(1)
    masked_count = ((u * count).long() + 1).clamp(max=count)
    rank = noise.masked_fill(~free, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < masked_count[:, None]) & free, count / masked_count.clamp(min=1)
