"""What both baselines are: a trunk over token embeddings, and a head that predicts tokens."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..core import Config
from ..core.bound import Bound
from ..core.denoiser import Batch
from ..core.embedding import NORMALISERS, TokenEmbedding, in_blocks, log_frequencies
from ..core.generate import TextModel
from ..core.loss import Draws, Losses
from ..core.noise import Keys, Logits, Mask, PerText
from ..core.transformer import Transformer

Shown = Float[Tensor, "B L I"]  # the embeddings that each position is shown, side by side


class Cost(NamedTuple):
    """What tokens cost under a model, in nats."""

    by_text: PerText  # their cross-entropy, or what it is worth in the bound
    ce: Float[Tensor, " N"]  # -log p of each predicted token
    correct: Bool[Tensor, " N"]  # it is the most probable one


class TokenPredictor(TextModel):
    """Embeddings in, logits out. There is no noise, and no level to tell the trunk.
    `blank` is a learned vector that stands where no token can be shown."""

    causal = False  # a position of the trunk sees none after it
    inputs = 1  # embeddings that stand side by side in the trunk's input

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(vocab_size, config.embedding_dim, NORMALISERS[config.normaliser])
        self.transformer = Transformer(config, inputs=self.inputs, causal=self.causal)
        self.blank = nn.Parameter(torch.zeros(config.embedding_dim))
        self.head = nn.Linear(config.model_dim, vocab_size)

    @torch.no_grad()
    def start_from_counts(self, counts: Int[Tensor, " V"]) -> None:
        """Makes the first logits the log-frequencies of the tokens."""
        self.head.bias.copy_(log_frequencies(counts))
        self.head.weight.zero_()

    def predict(self, shown: Shown, batch: Batch, where: Mask) -> Logits:
        """Logits at some positions, float32 whatever the autocast, from what each position is shown."""
        hidden = self.transformer(with_condition(shown, batch.cond), None, batch.length_mask)
        return in_blocks(self.head, hidden[where]).float()

    def cost(self, shown: Shown, batch: Batch, where: Mask) -> Cost:
        """The cross-entropy of the tokens at some positions."""
        logits, ids = self.predict(shown, batch, where), batch.ids[where]
        ce = F.cross_entropy(logits, ids, reduction="none")
        by_text = ce.new_zeros(where.shape).masked_scatter(where, ce).sum(1)
        return Cost(by_text, ce, logits.argmax(-1) == ids)

    def draw_bound(self, batch: Batch, u: PerText, keys: Keys) -> Cost:
        """One unbiased draw of the bound for each text."""
        raise NotImplementedError

    def loss(self, batch: Batch, draws: Draws) -> Losses:
        """The bound itself, nats per free token."""
        return self.mean_of(self.draw_bound(batch, draws.t, draws.keys), batch)

    def mean_of(self, cost: Cost, batch: Batch) -> Losses:
        """Costs as a loss."""
        by_text, ce, correct = cost
        tokens, none = batch.free.sum(), ce.new_zeros(0)
        return Losses(by_text.sum() / tokens.clamp(min=1), tokens, ce, correct, none)

    @torch.no_grad()
    def bound(self, batch: Batch, u: PerText, keys: Keys) -> Bound:
        """All of it is reconstruction: there is no noise."""
        nats = self.draw_bound(batch, u, keys).by_text
        nothing = torch.zeros_like(nats)
        return Bound(nothing, nothing, nats, batch.free.sum(1))


def with_condition(shown: Shown, cond: Float[Tensor, "B L_or_1 C"] | None) -> Float[Tensor, "B L _"]:
    """The input of the trunk: embeddings, and beside each the condition of the text, if it has one."""
    return shown if cond is None else torch.cat([shown, cond.expand(-1, shown.shape[1], -1)], dim=-1)
