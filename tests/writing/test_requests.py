"""Rows in groups: little padding, forbidden tokens, and no text depends on its neighbours."""

import pytest
import torch
from hypothesis import given, strategies as st
from small_models import denoiser

from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Group, Sampling, draw_ids
from simple_diffusion_lm.writing.requests import (
    BEGINS_WORD,
    CONTINUES_WORD,
    MOST_PADDED,
    Row,
    batch_of,
    batches_of,
    group_of,
    nucleus,
    write_rows,
)

CPU = torch.device("cpu")
V = 23
ALLOWED = torch.zeros(3, V, dtype=torch.bool)


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 9))
def test_every_row_is_in_one_batch_with_little_padding(lengths, batch_size):
    seen = []
    for some in batches_of([Row.of(range(n), [], i) for i, n in enumerate(lengths)], batch_size):
        batch = batch_of(some, CPU)
        sizes = batch.length_mask.sum(1)
        assert len(sizes) <= batch_size
        assert sizes.max() <= MOST_PADDED * sizes.min()
        assert batch.ids.shape[1] == sizes.max()
        for number, ids, mask in zip(batch.number.tolist(), batch.ids, batch.length_mask, strict=True):
            assert ids[mask].tolist() == list(range(lengths[number]))
            seen.append(number)
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_text_does_not_depend_on_its_neighbours(strength):
    torch.manual_seed(0)
    model = denoiser(V)
    torch.nn.init.normal_(model.head.weight)
    rows = [Row.of([5] * n, [2], n, seed=1) for n in (6, 7, 8, 9)]
    sampling = Sampling(steps=6, temperature=1.0)
    for row in rows:
        ((_, alone),) = write_rows(model, [row], ALLOWED, sampling, strength=strength)
        assert dict(write_rows(model, rows, ALLOWED, sampling, strength=strength))[row.number] == alone


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_what_is_forbidden_is_never_drawn(u):
    """Of pieces banned, continuing, beginning, banned: where a word begins, continues, or either."""
    banned, continues = torch.tensor([True, False, False, True]), torch.tensor([False, True, False, False])
    forbidden = torch.stack([banned, banned | continues, banned | ~continues])
    row = Row.of([0, 0, 0], [])
    row.rule[:2] = torch.tensor([BEGINS_WORD, CONTINUES_WORD])
    group = group_of([Row.of([0], []), row], forbidden, CPU)
    logits = group.constrain(torch.zeros(4, 4), group.batch.free)
    ids = draw_ids(logits, torch.full((4,), u, dtype=torch.float64))
    assert ids[1:3].tolist() == [2, 1]
    assert ids[0] in (1, 2)
    assert ids[3] in (1, 2)


@pytest.mark.parametrize("strength", [0.05, 0.5, 0.95])
@torch.no_grad()
def test_a_varied_text_starts_as_noisy_as_its_strength(strength):
    model, rows = denoiser(V), [Row.of([3 + n] * 16, [2], n) for n in range(20)]
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args))
    list(write_rows(model, rows, ALLOWED, Sampling(steps=2), strength=strength))
    x_t, level, _, batch, _ = seen[0]
    x0, level = model.embedding(batch.ids), level.at(batch.free)
    noise = (x_t[batch.free] - level.alpha * x0[batch.free]) / level.sigma
    assert noise.mean().abs() < 0.1
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert batch.free[:, :-1].all()
    assert level.alpha.unique() == model.schedule(torch.tensor(strength)).alpha


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=9), st.floats(0.01, 0.99))
def test_a_nucleus_is_the_smallest_set_of_tokens_that_is_probable_enough(logits, top_p):
    none = torch.tensor([[False]])
    plain = Group(
        Batch(none.long(), ~none, none, torch.zeros(1).long(), torch.zeros(1)), torch.zeros(1).long()
    )
    row = torch.tensor([logits])
    kept = nucleus(plain, top_p).constrain(row, ~none) > -torch.inf
    probability = row.softmax(-1)
    inside, least = probability[kept].sum(), probability[kept].min()
    assert inside >= top_p - 1e-6
    assert inside - least < top_p + 1e-6  # without the last of them it is not enough
    assert (probability[~kept] <= least).all()
