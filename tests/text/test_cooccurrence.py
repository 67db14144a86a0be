import math

import numpy as np
import pytest
import torch

from simple_diffusion_lm.text import cooccurrence
from simple_diffusion_lm.text.cooccurrence import _ppmi, cooccurrence_vectors


@pytest.mark.parametrize("rows", [1, 2, 3])  # at a time
def test_ppmi_is_the_formula(monkeypatch, rows):
    monkeypatch.setattr(cooccurrence, "ROWS", rows)
    table = np.array([[4, 0], [1, 5]])
    expected = [[math.log(4 * 10 / (4 * 5)), 0.0], [0.0, math.log(5 * 10 / (6 * 5))]]
    found = torch.empty(2, 2)
    _ppmi(table, found)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def twins(count=4000):
    """Ids 10 and 11 are used alike (after 3, before 5); 12 and 13 likewise (after 4, before 6)."""
    rng = np.random.default_rng(0)
    phrases = {0: (3, (10, 11), 5), 1: (4, (12, 13), 6)}
    rows = [phrases[int(kind)] for kind in rng.integers(0, 2, count)]
    return np.array([[a, rng.choice(pair), b, 1] for a, pair, b in rows]).ravel()


def test_ids_that_keep_the_same_company_get_rows_that_are_near(monkeypatch):
    monkeypatch.setattr(cooccurrence, "OWN", 0.0)
    rows = cooccurrence_vectors(twins(), 20, 8)
    assert (rows[10] @ rows[11]).item() > 0.98
    assert (rows[12] @ rows[13]).item() > 0.98
    assert (rows[10] @ rows[12]).item() < 0.5
    torch.testing.assert_close(rows[[3, 10, 13]].norm(dim=1), torch.ones(3))


def test_every_row_is_its_own():
    rows = cooccurrence_vectors(twins(), 20, 8)
    apart = torch.cdist(rows, rows).fill_diagonal_(torch.inf)
    assert apart.min() > 0.02
    assert rows.isfinite().all()


def test_it_is_a_function_of_the_seed_and_leaves_torchs_own_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = cooccurrence_vectors(twins(), 20, 8, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, cooccurrence_vectors(twins(), 20, 8, seed=1))
    assert not torch.equal(first, cooccurrence_vectors(twins(), 20, 8, seed=2))


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_the_shortest_texts_are_no_trouble(length):
    assert cooccurrence_vectors(np.full(length, 4), 20, 64).shape == (20, 64)
