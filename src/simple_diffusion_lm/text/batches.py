"""Examples in batches: which, in what order, and which of their positions are given.

Nothing here has a state. The order is a function of (seed, epoch), and an example's ids and mask
are a function of (seed, epoch, its number), so that resuming a run, or dividing its batches among
processes, changes neither.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import UserError
from .corpus import Corpus
from .tokenizer import Tokenizer

# Examples are sorted by length within a pool of about this many batches: large enough that
# little of a batch is padding, small enough that which examples meet is left to chance.
POOL_BATCHES = 50

# What a random generator is for, the last number of its seed.
FOR_ORDER, FOR_OFFSET, FOR_EXAMPLE = range(3)


class Batch(NamedTuple):
    """Examples side by side. Outside the text ids are padding, and both masks are False."""

    ids: Int[Tensor, "B L"]
    length_mask: Bool[Tensor, "B L"]  # True: a token of the text, EOS included
    cond_mask: Bool[Tensor, "B L"]  # True: given, not generated
    # The examples' numbers in the corpus. (Hides a method of tuples that nothing here calls.)
    index: Int[Tensor, " B"]  # type: ignore[assignment]


class Masks(NamedTuple):
    """The share of the examples under each kind of conditional mask; the rest has none given."""

    prefix: float  # the beginning is given
    span: float  # all is given but one or two spans: in-filling
    random: float  # each position is given or not, at a rate drawn for the example


def draw_cond_mask(rng: np.random.Generator, length: int, masks: Masks) -> Bool[np.ndarray, " L"]:
    """Chooses the given positions of an example. At least one position is not given."""
    given = np.zeros(length, bool)
    if length < 2:
        return given
    prefix, span, random = np.cumsum(masks)
    kind = rng.random()
    if kind < prefix:
        given[: rng.integers(1, length)] = True
    elif kind < span:
        given[:] = True
        for _ in range(rng.integers(1, 3)):
            width = rng.integers(1, length // 2 + 1)
            start = rng.integers(0, length - width + 1)
            given[start : start + width] = False
    elif kind < random:
        given = rng.random(length) < rng.random()
        if given.all():
            given[rng.integers(length)] = False
    return given


class Batches:
    """The batches of a corpus, epoch by epoch.

    Args:
        corpus: one part of a prepared corpus; an empty one has no batches.
        tokenizer: the one it was prepared with.
        batch_tokens: the most positions of a batch, B * L, padding included.
        batch_size: the most examples of a batch; None: as many as batch_tokens allows.
        crop: the most ids of an example. A longer line ends there, without EOS.
        stream: examples are windows of `crop` ids from the running text, at an offset of the
            epoch's own; what is left over at either end waits for another epoch. Otherwise
            an example is a line.
        masks: how often positions are given.
        subword_alpha: the rate of BPE-dropout, in [0, 1): lines are segmented anew each epoch.
            Longer for it, they may take a batch a little past batch_tokens.
        seed: of all that is drawn.

    Attributes:
        lengths: the number of ids of each example, from which generation draws lengths.

    Raises:
        UserError: an argument is out of its range, or an example does not fit into a batch.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        *,
        batch_tokens: int,
        batch_size: int | None = None,
        crop: int,
        stream: bool,
        masks: Masks,
        subword_alpha: float = 0.0,
        seed: int = 0,
    ) -> None:
        if crop < 1 or (batch_size is not None and batch_size < 1):
            raise UserError(f"crop={crop}, batch_size={batch_size}: both must be 1 or more")
        if min(masks) < 0 or sum(masks) > 1 + 1e-9:
            raise UserError(f"{masks}: shares must be 0 or more and add up to 1 at most")
        if not 0 <= subword_alpha < 1:
            raise UserError(f"subword_alpha={subword_alpha}: must be in [0, 1)")
        if stream and subword_alpha:
            raise UserError("subword_alpha needs whole lines: set it to 0, or prepare by lines")
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.batch_size = batch_size
        self.crop = crop
        self.stream = stream
        self.masks = masks
        self.subword_alpha = subword_alpha
        self.seed = seed
        self._order: tuple[int, list[Int[np.ndarray, " _"]]] = (-1, [])
        self.lengths = self._window_lengths(0) if stream else np.minimum(corpus.lengths, crop)
        if (longest := self.lengths.max(initial=0)) > batch_tokens:
            raise UserError(
                f"an example of {longest} ids does not fit into batch_tokens={batch_tokens}: "
                f"set batch_tokens to {longest} or more, or crop to {batch_tokens} or less"
            )

    def order(self, epoch: int) -> list[Int[np.ndarray, " _"]]:
        """The numbers of the examples of each batch; every example occurs once."""
        # Of a large corpus it takes seconds, and several ask for it as training begins.
        if self._order[0] != epoch:
            self._order = (epoch, self._drawn_order(epoch))
        return self._order[1]

    def _drawn_order(self, epoch: int) -> list[Int[np.ndarray, " _"]]:
        lengths = self._window_lengths(self._offset(epoch)) if self.stream else self.lengths
        if not len(lengths):
            return []
        rng = self._rng(epoch, FOR_ORDER)
        shuffled = rng.permutation(len(lengths))
        in_batch = self.batch_tokens / lengths.mean()
        pool = int(POOL_BATCHES * min(in_batch, self.batch_size or in_batch))
        batches = []
        for start in range(0, len(shuffled), pool):
            examples = shuffled[start : start + pool]
            by_length = examples[np.argsort(lengths[examples], kind="stable")]
            batches += self._cut(by_length, lengths[by_length])
        return [batches[i] for i in rng.permutation(len(batches))]

    def spread(self, count: int) -> list[Int[np.ndarray, " _"]]:
        """Batches of `count` examples (or all there are) chosen evenly over the lengths.

        A fixed choice for measuring: a few batches as they come would be of a few lengths only,
        and what a token costs depends on the length of its text.
        """
        lengths = self._window_lengths(self._offset(0)) if self.stream else self.lengths
        by_length = np.argsort(lengths, kind="stable")
        count = min(count, len(by_length))
        places = ((np.arange(count) + 0.5) / max(count, 1) * len(by_length)).astype(int)
        chosen = by_length[places]
        return self._cut(chosen, lengths[chosen])

    def example(self, epoch: int, i: int) -> Int[np.ndarray, " L"]:
        """The ids of example i, as it is in this epoch."""
        if self.stream:
            return self._window(self._offset(epoch), i)
        return self._line(i, self._rng(epoch, FOR_EXAMPLE, i))

    def batch(self, epoch: int, indices: Int[np.ndarray, " B"]) -> Batch:
        """The examples of these numbers, as they are in this epoch."""
        rngs = [self._rng(epoch, FOR_EXAMPLE, int(i)) for i in indices]
        offset = self._offset(epoch) if self.stream else 0
        rows = [
            self._window(offset, int(i)) if self.stream else self._line(int(i), rng)
            for i, rng in zip(indices, rngs, strict=True)
        ]
        lengths = np.array([len(row) for row in rows])
        ids = np.full((len(rows), lengths.max()), self.tokenizer.pad_id, np.int64)
        cond_mask = np.zeros(ids.shape, bool)
        for b, (row, rng) in enumerate(zip(rows, rngs, strict=True)):
            ids[b, : len(row)] = row
            cond_mask[b, : len(row)] = draw_cond_mask(rng, len(row), self.masks)
        length_mask = np.arange(ids.shape[1]) < lengths[:, None]
        arrays = (ids, length_mask, cond_mask, indices.astype(np.int64))
        return Batch(*map(torch.from_numpy, arrays))

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % 2**63, *purpose])

    def _cut(
        self, examples: Int[np.ndarray, " N"], lengths: Int[np.ndarray, " N"]
    ) -> list[Int[np.ndarray, " _"]]:
        """Cuts examples of rising length into the largest batches that are allowed."""
        batches = []
        start = 0
        while start < len(examples):
            # The last example of a batch is its longest, so the area rises with the size.
            reach = lengths[start : start + self.batch_tokens]
            area = np.arange(1, len(reach) + 1) * reach
            size = int(np.searchsorted(area, self.batch_tokens, side="right"))
            size = min(size, self.batch_size or size)
            batches.append(examples[start : start + size])
            start += size
        return batches

    def _offset(self, epoch: int) -> int:
        """Where the first window of the epoch begins: anywhere that leaves room for one."""
        room = len(self.corpus.ids) - self.crop + 1
        return int(self._rng(epoch, FOR_OFFSET).integers(max(1, min(self.crop, room))))

    def _window_lengths(self, offset: int) -> Int[np.ndarray, " N"]:
        """Whole windows only, unless the text is shorter than one."""
        ids = len(self.corpus.ids)
        if 0 < ids < self.crop:
            return np.array([ids])
        return np.full((ids - offset) // self.crop, self.crop)

    def _window(self, offset: int, i: int) -> Int[np.ndarray, " L"]:
        start = offset + i * self.crop
        return self.corpus.ids[start : start + self.crop].astype(np.int64)

    def _line(self, i: int, rng: np.random.Generator) -> Int[np.ndarray, " L"]:
        ids = self.corpus[i].astype(np.int64)
        text_ids = ids[:-1]
        # What the vocabulary has no piece for cannot be read back from the ids.
        if self.subword_alpha and self.tokenizer.unk_id not in text_ids:
            text = self.tokenizer.decode(text_ids)
            sampled = self.tokenizer.sample(text, self.subword_alpha, int(rng.integers(2**31)))
            ids = np.array([*sampled, self.tokenizer.eos_id])
        return ids[: self.crop]
