from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.data import POOL_BATCHES, Batches, Corpus, Tokenizer, draw_cond_mask

seeds = st.integers(-5, 2**40)
PAD = 2


def corpus_of(lines):
    """A corpus in memory. 1 is EOS."""
    offsets = np.cumsum([0, *(len(line) + 1 for line in lines)], dtype=np.int64)
    return Corpus(np.array([i for line in lines for i in (*line, 1)], np.uint16), offsets)


def lines_of_lengths(lengths):
    """Lines whose ids tell where they come from."""
    return [[4 + (i + j) % 100 for j in range(length)] for i, length in enumerate(lengths)]


def batches_of(corpus, stream=False, **changes):
    options = {"batch_tokens": 200, "crop": 30, "window": 30, "seed": 0, "cond_rate": 0.6}
    return Batches(small(Config(), **(options | changes)), corpus, PAD, stream=stream)


def same(a, b):
    return len(a) == len(b) and all(map(np.array_equal, a, b))


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 60), max_size=300),
    batch_tokens=st.integers(30, 400),
    batch_size=st.none() | st.integers(1, 20),
    seed=seeds,
)
def test_an_epoch_is_every_line_once_in_batches_within_bounds(lengths, batch_tokens, batch_size, seed):
    corpus = corpus_of(lines_of_lengths(lengths))
    options = {"batch_tokens": batch_tokens, "batch_size": batch_size, "seed": seed}
    batches = batches_of(corpus, **options)
    order = batches.order(0)
    assert sorted(np.concatenate(order).tolist() if order else []) == list(range(len(lengths)))
    for indices in order:
        assert len(indices) * batches.lengths()[indices].max() <= batch_tokens
        assert len(indices) <= (batch_size or len(indices))
    assert same(order, batches_of(corpus, **options).order(0))


def test_the_order_differs_between_epochs_and_between_seeds():
    corpus = corpus_of(lines_of_lengths([5, 9, 13] * 100))
    order = batches_of(corpus).order(0)
    assert not same(order, batches_of(corpus).order(1))
    assert not same(order, batches_of(corpus, seed=1).order(0))
    members = {frozenset(indices.tolist()) for indices in order}
    assert members.isdisjoint(frozenset(indices.tolist()) for indices in batches_of(corpus).order(1))


def test_batches_come_in_no_order_of_length():
    lengths = np.random.default_rng(0).integers(1, 30, 400)
    batches = batches_of(corpus_of(lines_of_lengths(lengths.tolist())))
    means = [batches.lengths()[indices].mean() for indices in batches.order(0)]
    assert 25 < len(means) <= POOL_BATCHES  # one pool: unshuffled, its batches are sorted
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


def test_little_of_a_batch_is_padding():
    lengths = np.random.default_rng(0).poisson(15, 5000)
    batches = batches_of(corpus_of(lines_of_lengths(lengths.tolist())))
    order, lengths = batches.order(0), batches.lengths()
    area = sum(len(indices) * lengths[indices].max() for indices in order)
    assert lengths.sum() / area > 0.95
    assert area / (200 * len(order)) > 0.9  # and batches are full


def test_a_batch_holds_its_lines():
    lines = lines_of_lengths([3, 0, 40, 7])
    batch = batches_of(corpus_of(lines), crop=10).batch(0, np.array([2, 0, 1]))
    assert batch.ids.shape == (3, 10)
    assert batch.number.tolist() == [2, 0, 1]
    assert batch.place.tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    assert batch.length_mask.sum(1).tolist() == [10, 4, 1]
    rows = [row[mask].tolist() for row, mask in zip(batch.ids, batch.length_mask, strict=True)]
    assert rows == [lines[2][:10], [*lines[0], 1], [1]]
    assert (batch.ids[~batch.length_mask] == PAD).all()
    assert batch.length_mask.long().diff(dim=1).max() <= 0  # the text comes first


def example(batch, number):
    (row,) = np.flatnonzero(batch.number.numpy() == number)
    mask = batch.length_mask[row]
    assert not batch.cond_mask[row][~mask].any()
    return batch.ids[row][mask].tolist(), batch.cond_mask[row][mask].tolist(), batch.place[row].item()


@settings(max_examples=30)
@given(seed=seeds, epoch=st.integers(0, 1000), data=st.data())
def test_an_example_is_the_same_in_any_batch_and_in_any_part_of_it(seed, epoch, data):
    batches = batches_of(corpus_of(lines_of_lengths([5, 3, 12, 9, 1, 7] * 3)), seed=seed)
    some = np.array(data.draw(st.lists(st.integers(0, 17), min_size=1, unique=True)))
    batch = batches.batch(epoch, some)
    part = batches.batch(epoch, some, rows=slice(len(some) // 2, None))
    for number in some[len(some) // 2 :]:
        alone = batches.batch(epoch, np.array([number]))
        assert example(alone, number)[:2] == example(batch, number)[:2]
        assert example(part, number) == example(batch, number)


def test_given_tokens_differ_between_epochs_and_there_are_none_unless_wanted():
    batches = batches_of(corpus_of(lines_of_lengths([9] * 200)), cond_rate=1.0)
    first, second = (batches.batch(epoch, np.arange(200)) for epoch in (0, 1))
    assert (first.cond_mask != second.cond_mask).any(1).float().mean() > 0.8
    assert first.free.any(1).all()
    assert len(set(map(tuple, first.cond_mask.tolist()))) > 50  # and from text to text
    batches.config = replace(batches.config, cond_rate=0.0)
    assert not batches.batch(0, np.arange(200)).cond_mask.any()


@settings(max_examples=200)
@given(length=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_given_positions_are_all_but_a_span_or_anywhere(length, seed):
    for share in (0.0, 1.0):
        config = Config(cond_rate=1.0, span_share=share)
        drawn = draw_cond_mask(config, np.random.default_rng(seed), length)
        assert not drawn.all()
        if share:
            free = np.diff([0, *(~drawn).astype(int), 0])
            assert (free == 1).sum() == 1  # one run of free positions
    assert not draw_cond_mask(Config(cond_rate=0.0), np.random.default_rng(seed), length).any()


def test_given_tokens_come_in_the_shares_asked_for():
    rng = np.random.default_rng(0)
    config = Config(cond_rate=0.6, span_share=0.5)
    drawn = [draw_cond_mask(config, rng, 40) for _ in range(5000)]
    assert np.mean([mask.any() for mask in drawn]) == pytest.approx(0.6, abs=0.03)
    rates = [draw_cond_mask(Config(cond_rate=1.0, span_share=0.0), rng, 40).mean() for _ in range(3000)]
    assert np.histogram(rates, bins=4, range=(0, 1))[0].min() > 0.2 * len(rates)


@settings(max_examples=60)
@given(size=st.integers(1, 300), window=st.integers(1, 40), epoch=st.integers(0, 50), seed=seeds)
def test_windows_cover_running_text_without_overlap(size, window, epoch, seed):
    ids = np.arange(size, dtype=np.uint16)
    options = {"stream": True, "window": window, "batch_tokens": 50, "seed": seed}
    batches = batches_of(Corpus(ids, np.array([0, size])), **options)
    made = [batches.batch(epoch, indices) for indices in batches.order(epoch)]
    assert all(batch.length_mask.all() and batch.ids.numel() <= 50 for batch in made)
    windows = {int(i): row for batch in made for i, row in zip(batch.number, batch.ids, strict=True)}
    text = np.concatenate([windows[i].numpy() for i in range(len(windows))])
    assert (np.diff(text) == 1).all()
    assert all(len(row) == min(window, size) for row in windows.values())
    assert (size - len(text)) < 2 * window
    assert text[0] < window
    assert set(batches.lengths(epoch).tolist()) == {min(window, size)}


def test_windows_start_elsewhere_in_each_epoch():
    batches = batches_of(Corpus(np.arange(1000, dtype=np.uint16), np.array([0, 1000])), stream=True)
    starts = [int(batches.batch(epoch, np.array([0])).ids[0, 0]) for epoch in range(200)]
    assert set(starts) == set(range(30))


def test_an_empty_part_has_no_batches():
    for stream in (False, True):
        batches = batches_of(Corpus(np.zeros(0, np.uint16), np.zeros(1, np.int64)), stream=stream)
        assert batches.order(0) == []
        assert len(batches.lengths()) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_spread_choice_has_the_lengths_of_the_whole(stream):
    lengths = np.random.default_rng(0).integers(1, 28, 400)
    batches = batches_of(corpus_of(lines_of_lengths(lengths.tolist())), stream=stream)
    everything = np.concatenate(batches.spread(10**6))
    assert sorted(everything.tolist()) == list(range(len(everything)))
    some = np.concatenate(batches.spread(40))
    assert len(set(some.tolist())) == 40
    assert same(batches.spread(40), batches.spread(40))
    if not stream:
        assert abs(batches.lengths()[some].mean() - batches.lengths().mean()) < 0.5


def test_a_tokenizer_is_the_documents_and_reads_back_what_it_wrote():
    lines = ["a cat sat on 12 mats .", "the cat and the dog ran home ."] * 20
    tokenizer = Tokenizer.train(lines, 60, hard_vocab_limit=False)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.pieces.unk_id()) == (1, 2, 3)
    ids = tokenizer.encode(lines[0])
    assert tokenizer.decode([*ids, 1, 5]) == lines[0]
    assert (
        tokenizer.decode([*ids, 1, *tokenizer.encode(lines[1]), 1], stream=True)
        == "\n".join(lines[:2]) + "\n"
    )
    assert tokenizer.special_ids == [0, 1, 2, 3]
    digits = [tokenizer.pieces.id_to_piece(i) for i in tokenizer.encode("12")]
    assert digits[-2:] == ["1", "2"]
