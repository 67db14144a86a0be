"""Token embeddings: the bridge between ids and the continuous space in which noise is added.

Left alone, a cross-entropy drives embeddings apart without end (a louder signal is easier): a normalisation
stops it. A squared error pulls them together: a cross-entropy, or a target without gradient, stops that.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Table = Float[Tensor, "V D"]


def unit_scale(table: Table) -> Table:
    """Rows of L2 norm sqrt(D), so that a coordinate has unit scale (CDCD, 2211.15089)."""
    return F.normalize(table, dim=-1) * table.shape[-1] ** 0.5


def layer_norm(table: Table) -> Table:
    """Rows of zero mean and unit variance (Difformer, 2212.09412, without its affine scale)."""
    return F.layer_norm(table, table.shape[-1:])


# Rows have length sqrt(D): schedules and the bound count on it. To add one, write it and add a line.
# Batch normalisation, which the original README tried first, leaves rows of different norms: common tokens
# were then predicted too often.
NORMALISERS: dict[str, Callable[[Table], Table]] = {"unit_scale": unit_scale, "layer_norm": layer_norm}


class TokenEmbedding(nn.Module):
    """A normalised table, looked up by id or averaged by probability."""

    def __init__(self, vocab_size: int, dim: int, normalise: Callable[[Table], Table]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab_size, dim))
        self.dim = dim
        self.normalise = normalise

    @property
    def table(self) -> Table:
        """The normalised rows."""
        return self.normalise(self.weight)

    def forward(self, ids: Int[Tensor, "*S"]) -> Float[Tensor, "*S D"]:
        """Clean embeddings x0 of ids."""
        return F.embedding(ids, self.table)

    def interpolate(self, logits: Float[Tensor, "*S V"]) -> Float[Tensor, "*S D"]:
        """The mean embedding under softmax(logits) (score interpolation: CDCD, 2211.15089)."""
        table, probabilities = self.table, logits.float().softmax(dim=-1)
        means = in_blocks(lambda rows: rows @ table, probabilities.reshape(-1, len(table)))
        return means.float().view(*logits.shape[:-1], self.dim)


BLOCK = 64  # rows


def in_blocks(
    product: Callable[[Float[Tensor, "R I"]], Float[Tensor, "R O"]], rows: Float[Tensor, "N I"]
) -> Float[Tensor, "N O"]:
    """product(rows), with the number of rows rounded up to whole blocks: for each new number oneDNN
    compiles a bfloat16 product anew, which takes longer than the product itself (docs/log.md)."""
    if not torch.is_autocast_enabled("cpu"):
        return product(rows)
    return product(F.pad(rows, (0, 0, 0, -len(rows) % BLOCK)))[: len(rows)]


def log_frequencies(counts: Int[Tensor, " V"]) -> Float[Tensor, " V"]:
    """Log-probabilities of tokens from their counts, with a tenth of a count added to each."""
    return ((counts + 0.1) / (counts + 0.1).sum()).log()
