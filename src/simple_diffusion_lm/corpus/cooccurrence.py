"""A start for the embedding table: words that occur in similar contexts start close to each other."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

OFFSETS = (-2, -1, 1, 2)  # where a context word may stand
CONTEXTS = 1000  # the most frequent ids serve as context
MOST_IDS = 4_000_000  # ids that are read, at most: more would change little, and take memory
RANDOM_PART = 0.25  # tells apart two ids that occur in the same contexts


def cooccurrence_vectors(
    ids: Integer[np.ndarray, " T"], vocab_size: int, dim: int, *, seed: int = 0
) -> Float[Tensor, "V D"]:
    """Vectors of norm about 1 for the ids of a corpus, from the ids that stand near them.

    Positive pointwise mutual information with nearby ids, reduced by a singular value decomposition
    (Levy and Goldberg, 2014, sections 3.1 and 3.3: U sqrt(S)). Rows have norm 1 before RANDOM_PART
    of a random direction is added, which is all of ids that never occur. A function of the seed.
    """
    ids = ids[:MOST_IDS].astype(np.int64)
    contexts = np.argsort(-np.bincount(ids, minlength=vocab_size), kind="stable")[:CONTEXTS]
    column = np.full(vocab_size, -1)
    column[contexts] = np.arange(len(contexts))
    parts = []
    for offset in OFFSETS:
        here, there = (ids[:-offset], ids[offset:]) if offset > 0 else (ids[-offset:], ids[:offset])
        is_context = column[there] >= 0
        cells = here[is_context] * len(contexts) + column[there[is_context]]
        counted = np.bincount(cells, minlength=vocab_size * len(contexts))
        counts = torch.from_numpy(counted).float().view(vocab_size, len(contexts))
        expected = counts.sum(1, keepdim=True) * (counts.sum(0) / counts.sum().clamp(min=1))
        parts.append((counts / expected).log().nan_to_num().clamp(min=0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        matrix = torch.cat(parts, dim=1)
        u, s, _ = torch.svd_lowrank(matrix, q=min(dim, *matrix.shape), niter=4)
        noise = torch.randn(vocab_size, dim)
    vectors = torch.zeros(vocab_size, dim)
    vectors[:, : len(s)] = u * s.sqrt()
    return F.normalize(vectors, dim=1) + RANDOM_PART * F.normalize(noise, dim=1)
