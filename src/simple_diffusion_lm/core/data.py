"""Text to batches: a tokenizer, a corpus of ids, and which of them are given.

Nothing has a state: order and given tokens are functions of (seed, epoch, an example's number).
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsInt

import numpy as np
import sentencepiece as spm
import torch
from jaxtyping import Bool, Int, Integer

from . import Config
from .denoiser import Batch

# Examples are sorted by length within a pool of about this many batches: enough that little of a
# batch is padding, and few enough that chance decides which examples share a batch.
POOL_BATCHES = 50
Numbers = Int[np.ndarray, " _"]  # of examples
FOR_ORDER, FOR_OFFSET, FOR_EXAMPLE = range(3)  # what a random generator is for


class Tokenizer:
    """A SentencePiece model, from the bytes of a .model file; or other `pieces`, asked as one is."""

    def __init__(self, model: bytes, pieces: Any = None) -> None:
        self.model = model
        self.pieces = pieces or spm.SentencePieceProcessor(model_proto=model)
        self.eos_id: int = self.pieces.eos_id()
        # Padding is always masked, so any id can stand there in a model without one of its own.
        self.pad_id: int = self.pieces.pad_id() if self.pieces.pad_id() >= 0 else self.eos_id
        sp = self.pieces  # special: never text. BOS, EOS, padding, unknown, other control pieces.
        self.special_ids = [i for i in range(len(self)) if sp.is_control(i) or sp.is_unknown(i)]

    @classmethod
    def train(cls, lines: Iterable[str], vocab_size: int, **options: Any) -> "Tokenizer":
        """Byte-pair encoding with digits as pieces of their own, as in the original README."""
        model = io.BytesIO()
        settings: dict[str, Any] = {"model_type": "bpe", "user_defined_symbols": list("0123456789")}
        settings |= {"bos_id": 0, "eos_id": 1, "pad_id": 2, "unk_id": 3, "minloglevel": 5, **options}
        settings |= {"vocab_size": vocab_size, "model_writer": model}
        spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), **settings)
        return cls(model.getvalue())

    def __len__(self) -> int:
        """The size of the vocabulary, V."""
        return self.pieces.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without EOS."""
        return self.pieces.encode(text)

    def decode(self, ids: Iterable[SupportsInt], stream: bool = False) -> str:
        """The text up to the first EOS; of running text all of it, each EOS being a line break."""
        lines: list[list[int]] = [[]]
        for i in map(int, ids):
            if i == self.eos_id:
                lines.append([])
            elif i != self.pieces.unk_id():
                lines[-1].append(i)
        return "\n".join(map(self.pieces.decode, lines if stream else lines[:1]))


@dataclass(frozen=True)
class Corpus:
    """Lines, each followed by EOS. Line i is ids[offsets[i] : offsets[i + 1]]."""

    ids: Integer[np.ndarray, " T"]
    offsets: Int[np.ndarray, " N_plus_1"]

    @classmethod
    def of(cls, lines: Iterable[Sequence[int]], eos_id: int) -> "Corpus":
        """From the ids of each line, without EOS."""
        rows = [np.array([*line, eos_id]) for line in lines]
        return cls(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Integer[np.ndarray, " L"]:
        """The ids of line i, its EOS included."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def counts(self, vocab_size: int) -> Int[np.ndarray, " V"]:
        """How often each id occurs."""
        parts = np.array_split(self.ids, len(self.ids) // 10_000_000 + 1)  # bounds the memory
        return sum(np.bincount(part, minlength=vocab_size) for part in parts)  # type: ignore[return-value]


def draw_cond_mask(config: Config, rng: np.random.Generator, length: int) -> Bool[np.ndarray, " L"]:
    """Chooses the given positions of an example: often none; else all but a span (a prefix or a suffix
    is then given, or both), or a random share of them, anywhere. At least one position is not given."""
    given = np.zeros(length, bool)
    if rng.random() < config.cond_rate and length > 1:
        if rng.random() < config.span_share:
            start, end = np.sort(rng.choice(length + 1, 2, replace=False))
            given[:start] = given[end:] = True
        else:
            given = rng.random(length) < rng.random()
            given[rng.integers(length)] = False
    return given


@dataclass
class Batches:
    """The batches of a corpus, epoch by epoch: as large as config.batch_tokens and batch_size allow.

    An example is a line, cut after config.crop ids; with `stream` a window of config.window ids of running
    text, at an offset of the epoch's own. conditions: (examples, 1, C).
    """

    config: Config
    corpus: Corpus
    pad_id: int
    stream: bool = False
    conditions: torch.Tensor | None = None

    def lengths(self, epoch: int = 0) -> Int[np.ndarray, " N"]:
        """The number of ids of each example."""
        if not self.stream:
            return np.minimum(np.diff(self.corpus.offsets), self.config.crop)
        if 0 < (ids := len(self.corpus.ids)) < self.config.window:
            return np.array([ids])
        return np.full((ids - self._offset(epoch)) // self.config.window, self.config.window)

    def order(self, epoch: int) -> list[Numbers]:
        """The numbers of the examples of each batch; every example occurs once."""
        lengths, rng = self.lengths(epoch), self._rng(epoch, FOR_ORDER)
        if not len(lengths):
            return []
        shuffled = rng.permutation(len(lengths))
        in_batch = self.config.batch_tokens / lengths.mean()
        pool = max(1, int(POOL_BATCHES * min(in_batch, self.config.batch_size or in_batch)))
        batches = []
        for start in range(0, len(shuffled), pool):
            examples = shuffled[start : start + pool]
            by_length = examples[np.argsort(lengths[examples], kind="stable")]
            batches += self._cut(by_length, lengths[by_length])
        return [batches[i] for i in rng.permutation(len(batches))]

    def spread(self, count: int) -> list[Numbers]:
        """`count` examples (or all), chosen evenly over the lengths, in batches: to measure on."""
        lengths = self.lengths()
        places = (np.arange(count) + 0.5) / max(count, 1) * len(lengths)
        chosen = np.argsort(lengths, kind="stable")
        chosen = chosen if count >= len(chosen) else chosen[places.astype(int)]
        return self._cut(chosen, lengths[chosen])

    def example(self, epoch: int, i: int) -> Int[np.ndarray, " L"]:
        """The ids of example i, as it is in this epoch."""
        if self.stream:
            start = self._offset(epoch) + i * self.config.window
            return self.corpus.ids[start : start + self.config.window].astype(np.int64)
        return self.corpus[i][: self.config.crop].astype(np.int64)

    def batch(self, epoch: int, numbers: Int[np.ndarray, " B"], rows: slice = slice(None)) -> Batch:
        """The examples of these numbers; rows: a process's part of them."""
        number = torch.from_numpy(numbers.astype(np.int64))[rows]
        place = (torch.arange(len(numbers)) / len(numbers))[rows]
        texts = [self.example(epoch, i) for i in number.tolist()]
        ids = np.full((len(texts), max(map(len, texts))), self.pad_id)
        length_mask, cond_mask = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
        for row, (i, text) in enumerate(zip(number.tolist(), texts, strict=True)):
            here = row, slice(len(text))
            ids[here], length_mask[here] = text, True
            cond_mask[here] = draw_cond_mask(self.config, self._rng(epoch, FOR_EXAMPLE, i), len(text))
        cond = None if self.conditions is None else self.conditions[number]
        made = map(torch.from_numpy, (ids, length_mask, cond_mask))
        return Batch(*made, number, place, cond)  # type: ignore[call-arg]

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed % 2**63, *purpose])

    def _cut(self, examples: Int[np.ndarray, " N"], lengths: Int[np.ndarray, " N"]) -> list[Numbers]:
        """Cuts examples of rising length into the largest batches that are allowed."""
        batches, start = [], 0
        while start < len(examples):
            # The last example of a batch is its longest, so the area rises with the size.
            reach = lengths[start : start + self.config.batch_tokens]
            area = np.arange(1, len(reach) + 1) * reach
            size = max(1, int(np.searchsorted(area, self.config.batch_tokens, side="right")))
            size = min(size, self.config.batch_size or size)
            batches.append(examples[start : start + size])
            start += size
        return batches

    def _offset(self, epoch: int) -> int:
        """Where the first window of the epoch begins: anywhere that leaves room for one."""
        room = len(self.corpus.ids) - self.config.window + 1
        return int(self._rng(epoch, FOR_OFFSET).integers(max(1, min(self.config.window, room))))


def read_lines(path: str) -> Iterator[str]:
    """The lines of a text file that are not blank."""
    with open(path, encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file if not line.isspace())
