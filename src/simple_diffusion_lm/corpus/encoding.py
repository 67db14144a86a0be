"""Lines to the bytes of their ids, several times as fast as SentencePiece alone."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .tokenizer import SPACE, Tokenizer

WORDS = 100_000  # how many are remembered
WORD_CHARACTERS = 40  # longer ones are not remembered; with both bounds they take some 20 MB


class Encoded(NamedTuple):
    """Lines as they are written to the files of a part."""

    ids: bytes  # of each line, followed by EOS
    lengths: np.ndarray  # int64: the number of ids of each line, EOS included
    counts: dict[str, int]  # lines, skipped, characters, tokens, unknown


class Encoder:
    """Encodes lines, those to train on apart from those that are held out.

    Text repeats its words, so each word is encoded once and remembered, and a line is put together from its
    words. Where the pieces of a word depend on its neighbours, lines are encoded whole. is_held_out takes the
    number of a line and the line. With stream, blank lines are kept: they are breaks between paragraphs.
    """

    def __init__(self, tokenizer: Tokenizer, is_held_out: Callable[[int, str], bool], stream: bool) -> None:
        self.tokenizer = tokenizer
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        self.words: dict[str, bytes] = {}
        self._is_held_out, self._stream = is_held_out, stream
        self._by_words = has_independent_words(tokenizer)

    def __call__(self, chunk: tuple[int, list[str]]) -> tuple[Encoded, Encoded]:
        """Encodes successive lines; with them comes the number of the first."""
        sides: tuple[list[str], list[str]] = ([], [])
        for number, line in enumerate(chunk[1], chunk[0]):
            sides[self._is_held_out(number, line)].append(line)
        return self._encoded(sides[0]), self._encoded(sides[1])

    def _encoded(self, lines: list[str]) -> Encoded:
        # A line without ids has only characters that normalisation removes: it is blank, too.
        both = zip(lines, self.encode(lines), strict=True)
        kept = [(line, ids) for line, ids in both if self._stream or (ids and not line.isspace())]
        eos = self._bytes([self.tokenizer.eos_id])
        joined = b"".join([ids + eos for _, ids in kept])
        ids = np.frombuffer(joined, self.dtype)
        counts = {
            "lines": len(kept),
            "skipped": len(lines) - len(kept),
            "characters": sum(len(line) for line, _ in kept),
            "tokens": len(ids),
            "unknown": int(np.count_nonzero(ids == self.tokenizer.unk_id)),
        }
        return Encoded(joined, np.array([len(ids) for _, ids in kept], int) // len(eos) + 1, counts)

    def encode(self, lines: list[str]) -> list[bytes]:
        """The ids of each line, without EOS: the same as those of Tokenizer.encode."""
        if not self._by_words:
            return [self._bytes(self.tokenizer.encode(line)) for line in lines]
        normalised = self.tokenizer.pieces.normalize(lines)
        return [self._line(*both) for both in zip(lines, normalised, strict=True)]

    def _line(self, line: str, normalised: str) -> bytes:
        words = normalised.split(SPACE)[1:]  # a normalised line begins with a space, as every word does
        try:
            return b"".join(map(self.words.__getitem__, words))  # the fastest way, and nearly always enough
        except KeyError:
            ids = [self.words.get(word) or self._word(word) for word in words]
            return b"".join(ids) if all(ids) else self._bytes(self.tokenizer.encode(line))

    def _word(self, word: str) -> bytes:
        """The ids of a word, which are remembered; none if it is long or cannot be encoded alone."""
        # Encoding normalises it for the second time, which may change it.
        is_other = word and self.tokenizer.pieces.normalize([word]) != [SPACE + word]
        if len(word) > WORD_CHARACTERS or is_other:
            return b""
        if len(self.words) >= WORDS:
            self.words.clear()
        ids = self._bytes(self.tokenizer.encode(word) if word else [self.tokenizer.space_id])
        return self.words.setdefault(word, ids)

    def _bytes(self, ids: list[int]) -> bytes:
        return np.array(ids, self.dtype).tobytes()


def has_independent_words(tokenizer: Tokenizer) -> bool:
    """Whether the pieces of a word never depend on the words around it.

    This holds where a word begins with its space, no piece reaches past one, and scores are whole numbers, as
    BPE's ranks are. Sums of other scores are rounded differently in a longer text.
    """
    sp, every = tokenizer.pieces, range(len(tokenizer))
    begins = sp.normalize(["a a"]) == [f"{SPACE}a{SPACE}a"] and tokenizer.space_id != tokenizer.unk_id
    ends = not any(SPACE in piece[1:] or " " in piece for piece in tokenizer.spell(every))
    return begins and ends and all(sp.get_score(i).is_integer() for i in every)
