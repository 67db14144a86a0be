"""The judges of generated lines: an n-gram model, and an autoregressive one that sees whole lines.

The n-gram judge is a modified Kneser-Ney model of words, trained on the training part.
It is no better a model of text than what it judges, but it is the same for all, exact, and it does
not come out of any of them. (Chen and Goodman 1999, section 3.4, interpolated.) Reading from left
to right, it favours what was written from left to right; so it can also read backwards.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..errors import UserError
from ..writing.model import DiffusionLM

Split = Callable[[str], list[str]]
Ids = Int[np.ndarray, " T"]
START, END, UNKNOWN = 0, 1, 2  # ids before those of words
FALLBACK = (0.5, 1.0, 1.5)  # discounts where a corpus is too small to estimate them


class Order(NamedTuple):
    """The n-grams of one order: looked up by the id of their first n - 1 words and their last."""

    keys: Int[np.ndarray, " N"]  # sorted: prefix id * vocabulary + last word
    discounted: Float[np.ndarray, " N"]  # count minus discount
    total: Float[np.ndarray, " P"]  # of each prefix: the sum of its counts
    left: Float[np.ndarray, " P"]  # of each prefix: the sum of the discounts


class KneserNey:
    """An n-gram model over words; a line ends with an end symbol.
    reverse: of the lines read backwards, their last word first. split: a line to words (samples.units_of)."""

    def __init__(
        self, lines: Iterable[str], order: int = 4, reverse: bool = False, split: Split = str.split
    ) -> None:
        texts = [split(line) for line in lines]
        longest = max(map(len, texts), default=0) + 2  # with START and END
        self.order, self.reverse, self.split = min(order, longest), reverse, split
        words = sorted({word for text in texts for word in text})
        self.ids = {word: i for i, word in enumerate(words, start=UNKNOWN + 1)}
        self.size = len(words) + UNKNOWN + 1
        self.orders: list[Order] = []
        self._fit(*self._flat(texts))

    def nats(self, line: str) -> Float[np.ndarray, " words_plus_1"]:
        """-log p of each word of a line, in the order it is read, and of its end."""
        return -np.log(self._probability(*self._flat([self.split(line)]))[1:])

    def perplexity(self, lines: Sequence[str]) -> float:
        """exp of the mean nats a word, ends of lines included."""
        flat, place = self._flat([self.split(line) for line in lines])
        return float(np.exp(-np.log(self._probability(flat, place)[place > 0]).mean()))

    def _flat(self, texts: list[list[str]]) -> tuple[Ids, Ids]:
        """Word ids of all lines, START and END around each; and each one's place in its line."""
        texts = [text[::-1] for text in texts] if self.reverse else texts
        ids = [[START, *(self.ids.get(w, UNKNOWN) for w in text), END] for text in texts]
        flat = np.array([i for line in ids for i in line], np.int64)
        return flat, np.concatenate([np.arange(len(line)) for line in ids])

    def _fit(self, flat: Ids, place: Ids) -> None:
        """Counts from the highest order down; the lower count how many words come before."""
        grams = [flat]  # the id of the n-gram that ends at each position, -1 at a line's beginning
        keys: list[np.ndarray] = [np.arange(self.size)]
        for n in range(2, self.order + 1):
            whole = place >= n - 1
            key = np.where(whole, np.roll(grams[-1], 1) * self.size + flat, -1)
            keys.append(np.unique(key[whole]))
            grams.append(np.where(whole, np.searchsorted(keys[-1], key), -1))
        for n in range(1, self.order + 1):
            here, count = grams[n - 1], len(keys[n - 1])
            whole = place >= max(n - 1, 1)  # START is never predicted
            counts = np.bincount(here[whole], minlength=count)
            if n < self.order:
                _, first = np.unique(grams[n], return_index=True)
                first = first[grams[n][first] >= 0]
                before = np.bincount(here[first], minlength=count)
                # Nothing comes before START: an n-gram that begins with it keeps its own count.
                counts = np.where(before > 0, before, counts)
            prefix = keys[n - 1] // self.size if n > 1 else np.zeros(count, np.int64)
            discount = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
            size = len(keys[n - 2]) if n > 1 else 1
            sums = (np.bincount(prefix, each, minlength=size) for each in (counts, discount))
            self.orders.append(Order(keys[n - 1], counts - discount, *sums))

    def _probability(self, flat: Ids, place: Ids) -> Float[np.ndarray, " T"]:
        """Of each word after those before it in its line. Meaningless at a line's START."""
        probability = np.full(len(flat), 1 / (self.size - 1))  # all but START
        here, prefix = flat, np.zeros(len(flat), np.int64)
        for n, order in enumerate(self.orders, start=1):
            if n > 1:
                prefix = np.where(place >= n - 1, np.roll(here, 1), -1)
                key = np.where(prefix >= 0, prefix * self.size + flat, -1)
                found = np.searchsorted(order.keys, key).clip(max=len(order.keys) - 1)
                here = np.where(order.keys[found] == key, found, -1)
            total, left = (np.where(prefix >= 0, sums[prefix], 0.0) for sums in (order.total, order.left))
            known = total > 0  # a prefix that was never followed by anything has no say
            share = np.where(here >= 0, order.discounted[here], 0.0)
            mixed = (share + left * probability) / np.where(known, total, 1.0)
            probability = np.where(known, mixed, probability)
        return probability


def discounts(counts: Int[np.ndarray, " N"]) -> tuple[float, float, float]:
    """What is taken from counts of 1, of 2, and of 3 or more, for what was never seen (eq. 26)."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < d <= k for k, d in enumerate(found, start=1)):
            return found
    return FALLBACK


class AutoregressiveJudge:
    """A run that predicts the next token. It sees a line's whole beginning, where the n-gram judge sees
    three words, and reads from left to right as that does."""

    def __init__(self, run: Path) -> None:
        """Raises UserError where there is no such run."""
        self.model = DiffusionLM.from_pretrained(run)
        if not self.model.model.writes_length:
            raise UserError(f"{run}: to judge, a run has to be trained with --objective autoregressive")

    def perplexity(self, lines: Sequence[str], split: Split = str.split) -> float:
        """exp of the mean nats a word, and end of a line; of a longer text only what fits is read."""
        model, room = self.model, self.model.longest - len(self.model.end)
        texts = [model.tokenizer.encode(line, model.stream)[:room] for line in lines]
        read = [split(line) for line in map(model.decode, texts)]
        nats = model.nats([ids + model.end for ids in texts])
        return float(np.exp(sum(nats) / sum(len(words) + len(model.end) for words in read)))
