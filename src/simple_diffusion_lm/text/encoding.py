"""Lines to the bytes of their ids, at several times SentencePiece's own speed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .tokenizer import SPACE, Tokenizer

# Words remembered, and the most characters of one: some 20 MB in all.
WORDS = 100_000
WORD_CHARACTERS = 40

Split = Callable[[int, str], bool]  # (number of the line, line) -> whether it is held out


class Encoded(NamedTuple):
    """What is written of some lines of one part."""

    ids: bytes  # each line's, then EOS
    lengths: bytes  # int64: the number of ids of each line, EOS included
    counts: dict[str, int]  # lines, skipped, characters, tokens, unknown


@dataclass(frozen=True)
class Encoder:
    """Says to which part lines belong, and encodes them."""

    tokenizer: Tokenizer
    split: Split
    dtype: np.dtype  # of the ids
    stream: bool
    words: "Words"

    def __call__(self, first: int, lines: list[str]) -> tuple[Encoded, Encoded]:
        """The training and the held-out part of lines that follow one another.

        first: the number of the first line in the text.
        """
        sides: tuple[list[str], list[str]] = ([], [])
        for number, line in enumerate(lines, first):
            sides[self.split(number, line)].append(line)
        return self._encoded(sides[0]), self._encoded(sides[1])

    def _encoded(self, lines: list[str]) -> Encoded:
        # A blank line is no example, but it is a paragraph break in a stream. A line may also
        # turn out blank in encoding, which drops what has no width.
        kept = [
            (line, ids)
            for line, ids in zip(lines, self.words.encode(lines), strict=True)
            if self.stream or (ids and not line.isspace())
        ]
        eos = np.array([self.tokenizer.eos_id], self.dtype).tobytes()
        joined = b"".join([ids + eos for _, ids in kept])
        ids = np.frombuffer(joined, self.dtype)
        lengths = np.array([len(ids) for _, ids in kept], np.int64) // self.dtype.itemsize + 1
        counts = {
            "lines": len(kept),
            "skipped": len(lines) - len(kept),
            "characters": sum(len(line) for line, _ in kept),
            "tokens": len(ids),
            "unknown": int(np.count_nonzero(ids == self.tokenizer.unk_id)),
        }
        return Encoded(joined, lengths.tobytes(), counts)


class Words(dict[str, bytes]):
    """The ids of words, so that each is encoded once: text repeats its words.

    Where a tokenizer does not encode the words of a line independently, lines are encoded whole.

    Args:
        tokenizer: the tokenizer.
        dtype: of the ids.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._apart = tokenizer.encodes_words_apart()

    def encode(self, lines: list[str]) -> list[bytes]:
        """The ids of each line, without EOS: those that Tokenizer.encode gives."""
        if not self._apart:
            return [self._bytes(ids) for ids in self._tokenizer.encode_lines(lines)]
        normal = self._tokenizer.normalize(lines)
        return [self._line(*both) for both in zip(lines, normal, strict=True)]

    def _line(self, line: str, normal: str) -> bytes:
        try:
            # A normalised line begins with a space, as every word does.
            return b"".join(map(self.__getitem__, normal.split(SPACE)[1:]))
        except KeyError:
            return self._bytes(self._tokenizer.encode(line))

    def __missing__(self, word: str) -> bytes:
        # Encoding normalises, here for the second time, which may change a word.
        if word and self._tokenizer.normalize([word]) != [SPACE + word]:
            raise KeyError(word)
        text_ids = self._tokenizer.encode(word) if word else [self._tokenizer.space_id]
        ids = self._bytes(text_ids)
        if len(word) <= WORD_CHARACTERS:
            if len(self) >= WORDS:
                self.clear()
            self[word] = ids
        return ids

    def _bytes(self, ids: list[int]) -> bytes:
        return np.array(ids, self._dtype).tobytes()
