import numpy as np
import torch

from simple_diffusion_lm.corpus.cooccurrence import cooccurrence_vectors


def test_words_of_like_contexts_start_close_to_each_other():
    """Of four kinds of words that always follow one another, two of a kind are neighbours."""
    rng = np.random.default_rng(0)
    ids = (rng.integers(5, size=(3000, 4)) + 5 * np.arange(4)).flatten().astype(np.uint16)
    table = cooccurrence_vectors(ids, 24, 16, seed=0)
    assert torch.equal(table, cooccurrence_vectors(ids, 24, 16, seed=0))
    distance = torch.cdist(table[:20], table[:20]) + 99 * torch.eye(20)
    assert (distance.argmin(1) // 5 == torch.arange(20) // 5).all()
    assert table.norm(dim=1)[20:].allclose(torch.tensor(0.25))  # never seen: the random part alone
