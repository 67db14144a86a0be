from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.text.batches import (
    POOL_BATCHES,
    Batch,
    Batches,
    Masks,
    draw_cond_mask,
)
from simple_diffusion_lm.text.corpus import Corpus
from simple_diffusion_lm.text.tokenizer import Tokenizer

SOME_MASKS = Masks(prefix=0.2, span=0.2, random=0.2)
NO_MASKS = Masks(0.0, 0.0, 0.0)
seeds = st.integers(-5, 2**40)


def corpus_of(lines: Sequence[list[int]]) -> Corpus:
    """A corpus in memory. 1 is EOS."""
    offsets = np.cumsum([0, *(len(line) + 1 for line in lines)], dtype=np.int64)
    return Corpus(np.array([i for line in lines for i in (*line, 1)], np.uint16), offsets)


def lines_of_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Lines whose ids tell where they come from."""
    return [[4 + (i + j) % 100 for j in range(length)] for i, length in enumerate(lengths)]


def batches_of(corpus: Corpus, tokenizer: Tokenizer, **changes: object) -> Batches:
    options = {"batch_tokens": 200, "crop": 30, "stream": False, "masks": SOME_MASKS, "seed": 0}
    return Batches(corpus, tokenizer, **(options | changes))


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 60), max_size=300),
    batch_tokens=st.integers(30, 400),
    batch_size=st.none() | st.integers(1, 20),
    seed=seeds,
)
def test_an_epoch_is_every_line_once_in_batches_within_bounds(
    tokenizer: Tokenizer, lengths: list[int], batch_tokens: int, batch_size: int | None, seed: int
) -> None:
    corpus = corpus_of(lines_of_lengths(lengths))
    options = {"batch_tokens": batch_tokens, "batch_size": batch_size, "seed": seed}
    batches = batches_of(corpus, tokenizer, **options)
    order = batches.order(0)
    assert sorted(np.concatenate(order).tolist() if order else []) == list(range(len(lengths)))
    for indices in order:
        assert len(indices) * batches.lengths[indices].max() <= batch_tokens
        assert len(indices) <= (batch_size or len(indices))
    assert same(order, batches_of(corpus, tokenizer, **options).order(0))


def test_the_order_differs_between_epochs_and_between_seeds(tokenizer: Tokenizer) -> None:
    corpus = corpus_of(lines_of_lengths([5, 9, 13] * 100))
    order = batches_of(corpus, tokenizer).order(0)
    assert not same(order, batches_of(corpus, tokenizer).order(1))
    assert not same(order, batches_of(corpus, tokenizer, seed=1).order(0))
    members = {frozenset(indices.tolist()) for indices in order}
    assert members.isdisjoint(
        frozenset(indices.tolist()) for indices in batches_of(corpus, tokenizer).order(1)
    )


def test_batches_come_in_no_order_of_length(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    corpus = corpus_of(lines_of_lengths(rng.integers(1, 30, 400).tolist()))
    batches = batches_of(corpus, tokenizer)
    means = [batches.lengths[indices].mean() for indices in batches.order(0)]
    assert 25 < len(means) <= POOL_BATCHES  # one pool: unshuffled, its batches are sorted
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


def test_little_of_a_batch_is_padding(tokenizer: Tokenizer) -> None:
    lengths = np.random.default_rng(0).poisson(15, 5000)
    batches = batches_of(corpus_of(lines_of_lengths(lengths.tolist())), tokenizer)
    order = batches.order(0)
    area = sum(len(indices) * batches.lengths[indices].max() for indices in order)
    assert batches.lengths.sum() / area > 0.95
    assert area / (200 * len(order)) > 0.9  # and batches are full


def test_a_batch_holds_its_lines(tokenizer: Tokenizer) -> None:
    lines = lines_of_lengths([3, 0, 40, 7])
    batch = batches_of(corpus_of(lines), tokenizer, crop=10).batch(0, np.array([2, 0, 1]))
    assert batch.ids.shape == (3, 10)
    assert batch.index.tolist() == [2, 0, 1]
    assert batch.length_mask.sum(1).tolist() == [10, 4, 1]
    rows = [row[mask].tolist() for row, mask in zip(batch.ids, batch.length_mask, strict=True)]
    assert rows == [lines[2][:10], [*lines[0], 1], [1]]
    assert (batch.ids[~batch.length_mask] == tokenizer.pad_id).all()
    assert batch.length_mask.long().diff(dim=1).max() <= 0  # the text comes first


def example(batch: Batch, index: int) -> tuple[list[int], list[bool]]:
    (row,) = np.flatnonzero(batch.index.numpy() == index)
    mask = batch.length_mask[row]
    assert not batch.cond_mask[row][~mask].any()
    return batch.ids[row][mask].tolist(), batch.cond_mask[row][mask].tolist()


@settings(max_examples=30)
@given(seed=seeds, epoch=st.integers(0, 1000), data=st.data())
def test_an_example_is_the_same_in_any_batch(
    tokenizer: Tokenizer, lines: list[str], seed: int, epoch: int, data: st.DataObject
) -> None:
    corpus = corpus_of(tokenizer.encode_lines(lines))
    batches = batches_of(corpus, tokenizer, seed=seed, subword_alpha=0.3)
    some = data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, unique=True))
    batch = batches.batch(epoch, np.array(some))
    for index in some[:5]:
        alone = batches.batch(epoch, np.array([index]))
        assert example(alone, index) == example(batch, index)


def test_masks_and_segmentations_differ_between_epochs(
    tokenizer: Tokenizer, lines: list[str]
) -> None:
    corpus = corpus_of(tokenizer.encode_lines(lines))
    batches = batches_of(corpus, tokenizer, subword_alpha=0.3)
    first, second = (batches.batch(epoch, np.arange(len(lines))) for epoch in (0, 1))
    pairs = [(example(first, i), example(second, i)) for i in range(len(lines))]
    assert sum(a[0] != b[0] for a, b in pairs) > 50
    assert sum(a[1] != b[1] for a, b in pairs) > 50
    assert len({tuple(mask) for (_, mask), _ in pairs}) > 50


def test_sampled_segmentations_keep_the_text(tokenizer: Tokenizer, lines: list[str]) -> None:
    lines = [*lines, "a man 漢 sits"]
    corpus = corpus_of(tokenizer.encode_lines(lines))
    batches = batches_of(corpus, tokenizer, subword_alpha=0.5, crop=100)
    batch = batches.batch(0, np.arange(len(lines)))
    for i, line in enumerate(lines[:-1]):
        ids, _ = example(batch, i)
        assert tokenizer.decode(ids) == line
        assert ids[-1] == tokenizer.eos_id
    assert example(batch, len(lines) - 1)[0] == corpus[len(lines) - 1].tolist()


def test_a_segmentation_that_grew_is_cropped(tokenizer: Tokenizer, lines: list[str]) -> None:
    corpus = corpus_of(tokenizer.encode_lines(lines))
    batch = batches_of(corpus, tokenizer, subword_alpha=0.9, crop=8).batch(0, np.arange(50))
    assert batch.ids.shape[1] == 8


@settings(max_examples=200)
@given(length=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_masks_are_what_they_are_named_for(length: int, seed: int) -> None:
    def drawn(masks: Masks) -> np.ndarray:
        given_positions = draw_cond_mask(np.random.default_rng(seed), length, masks)
        assert not given_positions.all()
        return given_positions

    prefix, span, random = (drawn(Masks(*kind)) for kind in np.eye(3).tolist())
    if length == 1:
        assert not np.concatenate([prefix, span, random]).any()
        return
    assert prefix[0]
    assert (np.diff(prefix.astype(int)) <= 0).all()
    gaps = np.diff([1, *span.astype(int), 1])
    assert 1 <= (gaps == -1).sum() <= 2
    assert not drawn(NO_MASKS).any()


def test_masks_come_in_the_shares_asked_for() -> None:
    rng = np.random.default_rng(0)
    masks = Masks(prefix=0.3, span=0.2, random=0.1)
    drawn = [draw_cond_mask(rng, 40, masks) for _ in range(5000)]
    assert np.mean([not mask.any() for mask in drawn]) == pytest.approx(0.4, abs=0.03)
    prefixes = [mask for mask in drawn if mask[0] and (np.diff(mask.astype(int)) != 0).sum() == 1]
    assert np.mean([mask.sum() for mask in prefixes]) == pytest.approx(20, abs=1.5)
    rates = [draw_cond_mask(rng, 40, Masks(0, 0, 1)).mean() for _ in range(3000)]
    assert np.histogram(rates, bins=4, range=(0, 1))[0].min() > 0.2 * len(rates)


@settings(max_examples=60)
@given(size=st.integers(1, 300), crop=st.integers(1, 40), epoch=st.integers(0, 50), seed=seeds)
def test_windows_cover_running_text_without_overlap(
    tokenizer: Tokenizer, size: int, crop: int, epoch: int, seed: int
) -> None:
    ids = np.arange(size, dtype=np.uint16)
    corpus = Corpus(ids, np.array([0, size]))
    batches = batches_of(corpus, tokenizer, stream=True, crop=crop, batch_tokens=50, seed=seed)
    order = batches.order(epoch)
    made = [batches.batch(epoch, indices) for indices in order]
    assert all(batch.length_mask.all() and batch.ids.numel() <= 50 for batch in made)
    windows = {int(i): row for batch in made for i, row in zip(batch.index, batch.ids, strict=True)}
    text = np.concatenate([windows[i].numpy() for i in range(len(windows))])
    assert (np.diff(text) == 1).all()
    assert all(len(row) == min(crop, size) for row in windows.values())
    assert (size - len(text)) < 2 * crop
    assert text[0] < crop
    assert set(batches.lengths.tolist()) == {min(crop, size)}


def test_windows_start_elsewhere_in_each_epoch(tokenizer: Tokenizer) -> None:
    corpus = Corpus(np.arange(1000, dtype=np.uint16), np.array([0, 1000]))
    batches = batches_of(corpus, tokenizer, stream=True)
    starts = [int(batches.batch(epoch, np.array([0])).ids[0, 0]) for epoch in range(200)]
    assert set(starts) == set(range(30))


def test_an_empty_part_has_no_batches(tokenizer: Tokenizer) -> None:
    for stream in (False, True):
        batches = batches_of(corpus_of([]), tokenizer, stream=stream)
        assert batches.order(0) == []
        assert len(batches.lengths) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 25}, r"of 30 ids does not fit into batch_tokens=25: set batch_tokens to"),
        ({"crop": 0}, "crop=0, batch_size=None: both must be 1 or more"),
        ({"batch_size": 0}, "crop=30, batch_size=0: both must be 1 or more"),
        ({"masks": Masks(0.5, 0.5, 0.5)}, "shares must be 0 or more and add up to 1 at most"),
        ({"masks": Masks(-0.1, 0.5, 0.5)}, "shares must be 0 or more and add up to 1 at most"),
        ({"subword_alpha": 1.5}, r"subword_alpha=1.5: must be in \[0, 1\)"),
        ({"subword_alpha": 0.1, "stream": True}, "subword_alpha needs whole lines"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    tokenizer: Tokenizer, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        batches_of(corpus_of(lines_of_lengths([40, 3])), tokenizer, **changes)


@pytest.mark.parametrize("stream", [False, True])
def test_a_spread_choice_has_the_lengths_of_the_whole(tokenizer: Tokenizer, stream: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 28, 400)
    corpus = corpus_of(lines_of_lengths(lengths.tolist()))
    batches = batches_of(corpus, tokenizer, stream=stream)
    everything = np.concatenate(batches.spread(10**6))
    assert sorted(everything.tolist()) == list(range(len(everything)))
    some = np.concatenate(batches.spread(40))
    assert len(set(some.tolist())) == 40
    assert same(batches.spread(40), batches.spread(40))
    if not stream:
        assert abs(batches.lengths[some].mean() - batches.lengths.mean()) < 0.5
