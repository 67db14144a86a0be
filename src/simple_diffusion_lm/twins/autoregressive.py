"""The autoregressive twin: the same trunk, looking back only, predicts the next token.

Its likelihood is exact, no bound, and it is the standard that text models are measured by.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from ..diffusion.likelihood import Bound
from ..diffusion.loss import ALL, IGNORED, Losses, Part
from ..model.slots import Settings, Slot, Slots, Vocabulary, batches_of, draw_ids, forbid
from ..model.transformer import Past
from .predictor import TokenPredictor


class Autoregressive(TokenPredictor):
    """p(ids) as the product of p(id | ids before it); see model/objective.py for the methods.

    The trunk must be causal. The blank stands before the first token.
    """

    writes_length = True

    def _logits(
        self, ids: Int[Tensor, "B L"], length_mask: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L V"]:
        first = self.blank.expand(len(ids), 1, -1)
        return self.predict(torch.cat([first, self.embedding(ids[:, :-1])], dim=1), length_mask)

    def loss(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        index: Int[Tensor, " B"],
        *,
        seed: int,
        step: int,
        part: Part = ALL,
    ) -> Losses:
        """Cross-entropy of every token that is not given. Nothing is drawn."""
        loss_mask = length_mask & ~cond_mask
        logits = self._logits(ids, length_mask)
        targets = ids.masked_fill(~loss_mask, IGNORED)
        ce = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        accuracy = (logits.argmax(-1) == ids)[loss_mask].float().mean()
        count = loss_mask.sum()
        return Losses.plain(ce, ce, accuracy, count, count)

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
        logits = self._logits(ids, length_mask)
        surprise = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        return Bound.of_tokens((surprise * free).sum(1), free.sum(1))

    @torch.no_grad()
    def generate(
        self,
        slots: Iterable[Slot],
        settings: Settings,
        vocabulary: Vocabulary,
        batch_size: int = 64,
    ) -> Iterator[tuple[int, Int[Tensor, " L"]]]:
        """One token after the other, keys and values kept. A slot's length is the longest allowed.

        What is given must come first. `steps` and `sampler` have no meaning here.
        """
        self.eval()
        for group in batches_of(slots, batch_size, settings.seed, self.blank.device):
            ids = self._continue(group, settings.temperature, vocabulary)
            yield from zip(group.numbers, ids.cpu(), strict=True)

    def _continue(
        self, group: Slots, temperature: float, vocabulary: Vocabulary
    ) -> Int[Tensor, "B L"]:
        count, length = group.ids.shape
        ids, eos = group.ids.clone(), vocabulary.last
        pasts = [Past() for _ in self.transformer.layers]
        one = torch.ones(count, 1, dtype=torch.bool, device=ids.device)
        before = self.blank.expand(count, 1, -1)
        ended = torch.zeros_like(one[:, 0])
        for i in range(length):
            logits = self.predict(before, one, pasts) / temperature
            may = forbid(logits, group.word_start[:, i : i + 1], vocabulary)
            if eos is not None:
                may[..., eos] = logits[..., eos]
            drawn = draw_ids(may, group.generators)[:, 0]
            ids[:, i] = torch.where(group.cond_mask[:, i], ids[:, i], drawn)
            if eos is not None:
                ended |= ids[:, i] == eos
                if ended.all():
                    break
            before = self.embedding(ids[:, i : i + 1])
        if eos is not None:
            ids[:, -1] = eos
        return ids
