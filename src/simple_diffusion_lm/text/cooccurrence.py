"""Vectors for tokens from the company they keep: words used alike get rows that are alike."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

OFFSETS = (-2, -1, 1, 2)  # where a context stands
CONTEXTS = 1000  # the most frequent ids serve as contexts
MOST_IDS = 20_000_000  # read at most; more would change little
BLOCK, ROWS = 2_000_000, 4096  # pairs counted, and rows written, at a time
OWN = 0.25


def cooccurrence_vectors(
    ids: Integer[np.ndarray, " T"], vocab_size: int, dim: int, *, seed: int = 0
) -> Float[Tensor, "V D"]:
    """Positive pointwise mutual information with nearby ids, reduced by a singular value
    decomposition (Levy and Goldberg, 2014, sections 3.1 and 3.3: U sqrt(S)).

    Rows have norm 1 before OWN of a random direction is added to each, so that two ids which keep
    the same company can still be told apart; ids that never occur are random. Deterministic in
    the seed.
    """
    ids = ids[:MOST_IDS]
    frequency = np.bincount(ids, minlength=vocab_size)
    contexts = np.argsort(-frequency, kind="stable")[: min(CONTEXTS, vocab_size)]
    column = np.full(vocab_size, -1)
    column[contexts] = np.arange(len(contexts))
    # Written in its place, block by block: with 64,000 ids the table alone is a gigabyte.
    matrix = torch.empty(vocab_size, len(OFFSETS) * len(contexts))
    for number, offset in enumerate(OFFSETS):
        here, there = (ids[:-offset], ids[offset:]) if offset > 0 else (ids[-offset:], ids[:offset])
        counts = np.zeros(vocab_size * len(contexts), np.int64)
        for start in range(0, len(here), BLOCK):
            near = column[there[start : start + BLOCK]]
            rows = here[start : start + BLOCK].astype(np.int64)
            cells = (rows * len(contexts) + near)[near >= 0]
            counts += np.bincount(cells, minlength=len(counts))
        part = slice(number * len(contexts), (number + 1) * len(contexts))
        _ppmi(counts.reshape(vocab_size, len(contexts)), matrix[:, part])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, s, _ = torch.svd_lowrank(matrix, q=min(dim, *matrix.shape), niter=4)
        noise = torch.randn(vocab_size, dim)
    vectors = torch.zeros(vocab_size, dim)
    vectors[:, : len(s)] = u * s.sqrt()
    return F.normalize(vectors, dim=1) + OWN * F.normalize(noise, dim=1)


def _ppmi(counts: Integer[np.ndarray, "V C"], out: Float[Tensor, "V C"]) -> None:
    """max(0, log p(a, b) / (p(a) p(b))) of a table of counts."""
    total = max(counts.sum(), 1)
    a, b = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True) / total
    for start in range(0, len(counts), ROWS):
        rows = slice(start, start + ROWS)
        with np.errstate(divide="ignore", invalid="ignore"):
            information = np.log(counts[rows] / (a[rows] * b))
        positive = np.where(counts[rows] > 0, np.maximum(information, 0), 0.0)
        out[rows] = torch.from_numpy(positive)
