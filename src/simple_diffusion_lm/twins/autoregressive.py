"""The autoregressive twin: the same trunk, looking back only, predicts the next token.

Its likelihood is exact, no bound, and it is the standard that text models are measured by.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from ..diffusion.likelihood import Bound
from ..diffusion.loss import ALL, Losses, Part
from ..diffusion.network import numbers, sum_texts
from ..model.slots import Frame, Settings, Slots, Vocabulary, draw_ids
from ..model.transformer import Past
from .predictor import TokenPredictor


class Autoregressive(TokenPredictor):
    """p(ids) as the product of p(id | ids before it); see model/objective.py for the methods.

    The trunk must be causal. The blank stands before the first token.
    """

    writes_length = True

    def before(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """What each position is shown: the token before it."""
        first = self.blank.expand(len(ids), 1, -1)
        return torch.cat([first, self.embedding(ids[:, :-1])], dim=1)

    def _surprise(
        self, ids: Int[Tensor, "B L"], length_mask: Bool[Tensor, "B L"], at: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
        """-log p of the tokens at these positions, and which of them were the best guess."""
        logits = self.predict(self.before(ids), length_mask, at)
        there = ids.flatten()[at]
        return F.cross_entropy(logits, there, reduction="none"), logits.argmax(-1) == there

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
        """Cross-entropy of every token that is not given. Nothing is drawn."""
        surprise, right = self._surprise(ids, length_mask, numbers(length_mask & ~cond_mask))
        ce, count = surprise.mean(), ids.new_tensor(len(surprise))
        return Losses.plain(ce, ce, right.float().mean(), count, count)

    @torch.no_grad()
    def bound(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        u: Float[Tensor, " B"],
        generator: Generator,
    ) -> Bound:
        """Exactly -log p, all of it reconstruction. What is given must come first."""
        free = length_mask & ~cond_mask
        at = numbers(free)
        surprise, _ = self._surprise(ids, length_mask, at)
        return Bound.of_tokens(sum_texts(surprise, at, free), free.sum(1))

    @torch.no_grad()
    def surprise(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        known: Bool[Tensor, "B L"],
        at: Int[Tensor, " N"],
    ) -> Float[Tensor, " N"]:
        return self._surprise(ids, length_mask, at)[0]

    @torch.no_grad()
    def write(self, group: Slots, settings: Settings, vocabulary: Vocabulary) -> Iterator[Frame]:
        """One token after the other, keys and values kept. A slot's length is the longest allowed.

        What is given must come first. `steps` and `sampler` have no meaning here.
        """
        count, length = group.ids.shape
        ids, eos = group.ids.clone(), vocabulary.last
        pasts = [Past() for _ in self.transformer.layers]
        one = torch.ones(count, 1, dtype=torch.bool, device=ids.device)
        before, rows = self.blank.expand(count, 1, -1), torch.arange(count, device=ids.device)
        ended, ends, u = torch.zeros_like(one[:, 0]), group.ends, group.uniform()
        for i in range(length):
            logits = self.predict(before, one, pasts=pasts) / settings.temperature
            at = rows * length + i
            may = group.allowed(logits[:, 0], at, vocabulary)
            if eos is not None:
                may[:, eos] = logits[:, 0, eos]
            drawn = draw_ids(may, u[:, i])
            ids[:, i] = torch.where(group.cond_mask[:, i], ids[:, i], drawn)
            if eos is not None:
                ids[:, i].masked_fill_(ends[:, i], eos)
                ids[:, i].masked_fill_(ended, eos)
                ended = ended | (ids[:, i] == eos)
            free = group.free & ~ended[:, None] & (torch.arange(length, device=ids.device) > i)
            yield Frame(ids, free, at, may)
            if ended.all():
                return
            before = self.embedding(ids[:, i : i + 1])
