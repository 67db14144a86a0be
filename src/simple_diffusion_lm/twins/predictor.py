"""What both twins are: a trunk over token embeddings, and a head that predicts tokens."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..model.embedding import TokenEmbedding, by_blocks, log_frequencies
from ..model.objective import Objective
from ..model.transformer import Past, Transformer


class TokenPredictor(Objective):
    """Embeddings in, logits out.

    `blank` is a learned vector for where no token can be shown. There is no noise, and no level to
    tell the trunk.
    """

    def __init__(self, embedding: TokenEmbedding, trunk: Transformer, model_dim: int) -> None:
        super().__init__()
        self.table = embedding
        self.transformer = trunk
        self.blank = nn.Parameter(torch.zeros(embedding.dim))
        self.head = nn.Linear(model_dim, len(embedding.weight))

    @property
    def embedding(self) -> TokenEmbedding:
        return self.table

    @torch.no_grad()
    def start_from_counts(self, counts: Int[Tensor, " V"]) -> None:
        """The head predicts just the frequencies."""
        self.head.bias.copy_(log_frequencies(counts))
        self.head.weight.zero_()

    def predict(
        self,
        shown: Float[Tensor, "B L D"],
        length_mask: Bool[Tensor, "B L"],
        at: Int[Tensor, " N"] | None = None,
        pasts: list[Past] | None = None,
    ) -> Float[Tensor, "N V"] | Float[Tensor, "B L V"]:
        """Logits, float32 whatever the autocast, from what is shown and what `pasts` hold.

        at holds the numbers b L + l of the positions to predict; None: all, as (B, L, V).
        """
        hidden = self.transformer(shown, None, length_mask, pasts)
        if at is None:
            return self.head(hidden).float()
        return by_blocks(self.head, hidden.flatten(0, 1).index_select(0, at)).float()
