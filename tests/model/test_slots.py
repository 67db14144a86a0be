from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simple_diffusion_lm.diffusion.sampler import SAMPLERS
from simple_diffusion_lm.model.slots import (
    PADDED,
    SamplerName,
    Slot,
    Vocabulary,
    batches_of,
    draw_ids,
    together,
)

CPU = torch.device("cpu")


def slot(length, number):
    nowhere = torch.zeros(length, dtype=torch.bool)
    return Slot(torch.arange(length), nowhere, nowhere, nowhere, number, (7, number))


def slots_of(lengths):
    return [slot(length, number) for number, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 9))
def test_every_slot_is_in_one_batch_with_little_padding(lengths, batch_size):
    seen = []
    for group in batches_of(slots_of(lengths), batch_size, CPU):
        sizes = group.length_mask.sum(1)
        assert len(sizes) <= batch_size
        assert sizes.max() <= PADDED * sizes.min()
        assert group.ids.shape[1] == sizes.max()
        assert (group.ends.sum(1) == 1).all()
        assert (group.ends.int().argmax(1) == sizes - 1).all()
        for number, ids in group.texts(group.ids):
            assert ids.tolist() == list(range(lengths[number]))
            seen.append(number)
    assert sorted(seen) == list(range(len(lengths)))


def test_what_is_drawn_for_a_text_does_not_depend_on_its_company():
    (alone,) = batches_of([slot(5, 3)], 8, CPU)
    (together,) = batches_of([slot(6, 1), slot(5, 3), slot(7, 2)], 8, CPU)
    row = together.numbers.index(3)
    for _ in range(2):
        torch.testing.assert_close(together.uniform()[row, :5], alone.uniform()[0])
        torch.testing.assert_close(together.normal(4)[row, :5], alone.normal(4)[0])


@given(st.data(), st.floats(0, 1))
def test_words_are_lost_whole(data, share):
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    continues = torch.tensor(data.draw(st.lists(st.booleans(), min_size=12, max_size=12)))
    vocabulary = Vocabulary(torch.zeros(12, dtype=torch.bool), continues, None)
    group = together(slots_of(lengths), CPU)
    u = group.uniform()
    lost = group.losing(share, u, vocabulary)
    for row, length in enumerate(lengths):
        words = (~continues[:length]).cumsum(0)
        for word in words.unique():
            (at,) = torch.nonzero(words == word, as_tuple=True)
            kept = bool(u[row, at[0]] >= share)
            assert lost.cond_mask[row, at].tolist() == [kept] * len(at)
            first_lost = not kept and (at[0] == 0 or bool(lost.cond_mask[row, at[0] - 1]))
            may_begin = not continues[at[0]]
            assert bool(lost.begins[row, at[0]]) == (first_lost and may_begin)
            assert not lost.begins[row, at[1:]].any()
    assert not (lost.cond_mask & ~group.length_mask).any()


def test_ids_are_drawn_as_often_as_their_probability_says():
    probability = torch.tensor([0.05, 0.0, 0.6, 0.35, 0.0])
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    ids = draw_ids(probability.log().expand(10_000, 5), u)
    share = torch.bincount(ids, minlength=5) / 10_000
    torch.testing.assert_close(share, probability, atol=2e-4, rtol=0)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_what_is_forbidden_is_never_drawn(u):
    """Of pieces banned, going on, beginning, banned: where a word begins, goes on, or either."""
    vocabulary = Vocabulary(
        torch.tensor([True, False, False, True]), torch.tensor([False, True, False, False]), None
    )
    at = torch.arange(3)
    slot = Slot.of([0, 0, 0], [])._replace(begins=at == 0, goes_on=at == 1)
    group = together([slot], torch.device("cpu"))
    allowed = group.allowed(torch.zeros(3, 4), at, vocabulary)
    ids = draw_ids(allowed, torch.full((3,), u, dtype=torch.float64))
    assert ids[:2].tolist() == [2, 1]
    assert ids[2] in (1, 2)


def test_the_commands_know_all_samplers():
    assert set(get_args(SamplerName)) == set(SAMPLERS)
