"""Token embeddings: the bridge between ids and the continuous space that is diffused.

Left alone, an MSE loss pulls all rows together (the target becomes trivial) and a cross-entropy
drives them apart without end (more signal is always easier). A normalisation stops both.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Table = Float[Tensor, "V D"]
BLOCK = 64  # rows
PROBED = 2048  # rows at most whose nearest neighbour is looked for


def unit_scale(table: Table) -> Table:
    """Rows of L2 norm sqrt(D), so that a coordinate has unit scale (CDCD, 2211.15089)."""
    return F.normalize(table, dim=-1) * table.shape[-1] ** 0.5


def layer_norm(table: Table) -> Table:
    """Rows of zero mean and unit variance (Difformer, 2212.09412, without its affine scale)."""
    return F.layer_norm(table, table.shape[-1:])


def batch_norm(table: Table) -> Table:
    """Coordinates of zero mean and unit variance over the vocabulary, without affine scale.

    Rows keep different norms: the document found that common tokens were then over-predicted.
    """
    return F.batch_norm(table, None, None, training=True)


def unnormalised(table: Table) -> Table:
    """The table as it is."""
    return table


NORMALISERS: dict[str, Callable[[Table], Table]] = {
    "unit_scale": unit_scale,
    "layer_norm": layer_norm,
    "batch_norm": batch_norm,
    "none": unnormalised,
}


def log_frequencies(counts: Int[Tensor, " V"]) -> Float[Tensor, " V"]:
    """Log-probabilities of tokens from their counts, a tenth of a count added to each."""
    return ((counts + 0.1) / (counts + 0.1).sum()).log()


def by_blocks(
    product: Callable[[Float[Tensor, "R I"]], Float[Tensor, "R O"]], rows: Float[Tensor, "N I"]
) -> Float[Tensor, "N O"]:
    """A product with as many rows as the text happens to ask for, done on whole blocks of rows.

    For each new number of rows a processor's library (oneDNN) compiles a product in bfloat16 anew,
    and keeps it, which takes longer than the product itself (docs/log.md). In float32, as sampling
    is, it does not.
    """
    if not torch.is_autocast_enabled("cpu"):
        return product(rows)
    return product(F.pad(rows, (0, 0, 0, -len(rows) % BLOCK)))[: len(rows)]


class Spread(NamedTuple):
    """How far the rows of a table are from zero and from each other: its health.

    A nearest neighbour at 0.05 sqrt(D) or less is collapse; random rows stand near sqrt(2 D).
    """

    norm_mean: float
    norm_deviation: float
    nearest_mean: float
    nearest_min: float


class TokenEmbedding(nn.Module):
    """A normalised table, read by id or averaged by probability."""

    def __init__(self, vocab_size: int, dim: int, normalise: Callable[[Table], Table]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab_size, dim))
        self.dim = dim
        self.normalise = normalise

    @torch.no_grad()
    def start_from(self, vectors: Table) -> None:
        """Sets the table; vectors of norm about 1, brought to norm sqrt(D)."""
        self.weight.copy_(vectors * self.dim**0.5)

    @property
    def table(self) -> Table:
        """The rows as diffusion sees them."""
        return self.normalise(self.weight)

    def forward(self, ids: Int[Tensor, "*S"]) -> Float[Tensor, "*S D"]:
        """Clean embeddings x0 of ids."""
        return F.embedding(ids, self.table)

    def interpolate(self, logits: Float[Tensor, "*S V"]) -> Float[Tensor, "*S D"]:
        """The mean embedding under softmax(logits) (CDCD, section 3.2).

        The softmax is float32; the product follows the autocast, float32 without one.
        """
        table = self.table
        probabilities = logits.float().softmax(dim=-1)
        means = by_blocks(lambda rows: rows @ table, probabilities.reshape(-1, len(table)))
        return means.float().view(*logits.shape[:-1], self.dim)

    @torch.no_grad()
    def spread(self) -> Spread:
        """The collapse diagnostic, in the units of the table; of large ones, of some rows."""
        table = self.table.float()
        norms = table.norm(dim=-1)
        some = torch.arange(0, len(table), -(-len(table) // PROBED), device=table.device)
        distance = torch.cdist(table[some], table)
        distance[torch.arange(len(some)), some] = torch.inf  # of a row from itself
        nearest = distance.amin(dim=-1)
        return Spread(
            *(x.item() for x in (norms.mean(), norms.std(), nearest.mean(), nearest.min()))
        )
