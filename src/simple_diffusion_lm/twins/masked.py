"""The masked-diffusion twin (MDLM, 2406.07524): the same trunk fills in hidden tokens.

The continuous-time bound hides each token with probability t and weighs the cross-entropy of the
hidden ones by 1/t (MDLM, eq. 11 with its log-linear schedule, where alpha_t = 1 - t). Integrating
over t the number k of hidden tokens is uniform on 1..n, and the weight n/k over the mean: the same
bound, with no infinite weights and no text without a hidden token. That form is used here.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from ..diffusion.likelihood import Bound
from ..diffusion.loss import ALL, Losses, Part, seeded, stratified
from ..diffusion.network import numbers, sum_texts
from ..model.slots import Frame, Settings, Slots, Vocabulary, draw_ids
from .predictor import TokenPredictor


class Masked(TokenPredictor):
    """Fills in hidden tokens (see model/objective.py for the methods).

    Like MDLM's best, the network is not told the time: what is hidden tells it. The blank stands
    where a token is hidden.
    """

    def forward(
        self,
        ids: Int[Tensor, "B L"],
        hidden: Bool[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        at: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "N V"] | Float[Tensor, "B L V"]:
        """Logits at some positions, or all. ids are not looked at where hidden is True."""
        shown = torch.where(hidden[..., None], self.blank, self.embedding(ids))
        return self.predict(shown, length_mask, at)

    def loss(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        index: Int[Tensor, " B"],
        *,
        seed: int,
        step: int,
        done: float = 1.0,
        part: Part = ALL,
    ) -> Losses:
        """The bound itself, nats per token; ce is the plain mean over the hidden tokens."""
        free = length_mask & ~cond_mask
        noise = torch.zeros(ids.shape)
        for row, number in enumerate(index.tolist()):
            noise[row].uniform_(generator=seeded(seed, step, number))
        size, rows = part.among(len(ids))
        u = stratified(size, seeded(seed, step))[rows]
        hidden, weight = hide(free, u.to(ids.device), noise.to(ids.device))
        at = numbers(hidden)
        logits, there = self(ids, hidden, length_mask, at), ids.flatten()[at]
        surprise = F.cross_entropy(logits, there, reduction="none")
        tokens = free.sum()
        total = (weight * sum_texts(surprise, at, free)).sum() / tokens.clamp(min=1)
        accuracy = (logits.argmax(-1) == there).float().mean()
        predicted = ids.new_tensor(len(at))
        return Losses.plain(total, surprise.detach().mean(), accuracy, tokens, predicted)

    @torch.no_grad()
    def bound(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        u: Float[Tensor, " B"],
        generator: Generator,
    ) -> Bound:
        """One unbiased draw of the bound."""
        free = length_mask & ~cond_mask
        noise = torch.rand(ids.shape, generator=generator).to(ids.device)
        hidden, weight = hide(free, u, noise)
        at = numbers(hidden)
        logits = self(ids, hidden, length_mask, at)
        surprise = F.cross_entropy(logits, ids.flatten()[at], reduction="none")
        return Bound.of_tokens(weight * sum_texts(surprise, at, free), free.sum(1))

    @torch.no_grad()
    def surprise(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        known: Bool[Tensor, "B L"],
        at: Int[Tensor, " N"],
    ) -> Float[Tensor, " N"]:
        logits = self(ids, length_mask & ~known, length_mask, at)
        return F.cross_entropy(logits, ids.flatten()[at], reduction="none")

    @torch.no_grad()
    def write(self, group: Slots, settings: Settings, vocabulary: Vocabulary) -> Iterator[Frame]:
        """Ancestral sampling, all hidden to none. `sampler` has no meaning here.

        From t to s a hidden token is revealed with probability (t - s) / t (MDLM, eq. 6).
        """
        ids, hidden, u = group.ids.clone(), group.free, group.uniform()
        for step in range(settings.steps, 0, -1):
            # t = step / steps, s = (step - 1) / steps
            reveal = hidden & (group.uniform() < 1 / step)
            at = numbers(reveal)
            logits = self(ids, hidden, group.length_mask, at) / settings.temperature
            may = group.allowed(logits, at, vocabulary)
            drawn = draw_ids(may, u.flatten()[at])
            if vocabulary.last is not None:
                drawn = drawn.masked_fill(group.ends.flatten()[at], vocabulary.last)
            ids = ids.flatten().index_copy(0, at, drawn).view_as(ids)
            hidden = hidden & ~reveal
            yield Frame(ids, hidden, at, may)


def hide(
    free: Bool[Tensor, "B L"], u: Float[Tensor, " B"], noise: Float[Tensor, "B L"]
) -> tuple[Bool[Tensor, "B L"], Float[Tensor, " B"]]:
    """Which of the free tokens are hidden, and n / k: those with the k largest of the noise.

    k is uniform on 1..n for u uniform on [0, 1); noise is uniform on [0, 1).
    """
    count = free.sum(1)
    hidden_count = ((u * count).long() + 1).clamp(max=count)
    rank = noise.masked_fill(~free, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < hidden_count[:, None]) & free, count / hidden_count.clamp(min=1)
