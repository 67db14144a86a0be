"""Lines of text to the files of a prepared corpus: read, split, encoded, written in pieces."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from .reading import find_files, read_lines
from .tokenizer import Tokenizer

# Where no validation text is given: this share of the lines is held out, but no more than this
# many, and none of a text of fewer lines than the last.
VALID_SHARE = 0.05
VALID_LINES = 5_000
LINES_TO_SPLIT = 100

WRITE_CHARACTERS = 1_000_000  # encoded and written at a time


class Text(NamedTuple):
    """Lines that can be read again and again, and what the first reading found."""

    lines: Callable[[], Iterator[str]]
    digest: str  # SHA-256 of the lines
    size: int  # the number of lines, blank ones too
    first: str  # the first line that is not blank


def scan(inputs: Sequence[str | Path], *, field: str, stream: bool, quiet: bool) -> Text:
    """Reads the files once, so that every fault of theirs is found before any work is done.

    Raises:
        UserError: as `find_files` and `read_lines` do, and if all lines are blank.
    """
    files = find_files(inputs)

    def lines() -> Iterator[str]:
        return read_lines(files, field=field, stream=stream)

    digest, size, first = hashlib.sha256(), 0, ""
    for line in tqdm(lines(), "reading", unit=" lines", unit_scale=True, disable=quiet):
        digest.update(line.encode() + b"\n")
        size += 1
        first = first or line.strip()
    if not first:
        raise UserError(f"{', '.join(map(str, inputs))}: no text in it: every line is empty")
    return Text(lines, digest.hexdigest(), size, first)


Split = Callable[[int, str], bool]  # (number of the line, line) -> whether it is held out


def hold_out_none(number: int, line: str) -> bool:
    return False


def hold_out(text: Text, *, stream: bool) -> Split:
    """Chooses the validation lines: the end of a stream; else by content, whatever their order.

    Lines of the same words are on the same side, so no held-out line is trained on.
    """
    if text.size < LINES_TO_SPLIT:
        return hold_out_none
    share = min(VALID_SHARE, VALID_LINES / text.size)
    if stream:
        end = text.size - round(share * text.size)
        return lambda number, line: number >= end
    first = text.first.split()

    def by_content(number: int, line: str) -> bool:
        words = line.split()
        digest = hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest()
        # The first line always trains, so that a text of few different lines is not all held out.
        return int.from_bytes(digest) < share * 2**64 and words != first

    return by_content


class Part:
    """The files of one part, NAME.ids.bin and NAME.offsets.bin, and counts of what went in."""

    def __init__(
        self, directory: Path, name: str, tokenizer: Tokenizer, dtype: np.dtype, *, stream: bool
    ) -> None:
        self.counts = dict.fromkeys(("lines", "skipped", "characters", "tokens", "unknown"), 0)
        self._tokenizer = tokenizer
        self._stream = stream
        self._dtype = dtype
        self._ids = (directory / f"{name}.ids.bin").open("wb")
        self._offsets = (directory / f"{name}.offsets.bin").open("wb")
        self._offsets.write(np.zeros(1, np.int64).tobytes())
        self._waiting: list[str] = []
        self._waiting_characters = 0

    def add(self, line: str) -> None:
        self._waiting.append(line)
        self._waiting_characters += len(line) + 1
        if self._waiting_characters >= WRITE_CHARACTERS:
            self.flush()

    def close(self) -> None:
        self._ids.close()
        self._offsets.close()

    def flush(self) -> None:
        """Encodes and writes the lines that wait."""
        encoded = self._tokenizer.encode_lines(self._waiting)
        # A blank line is no example, but it is a paragraph break in a stream. A line may also
        # turn out blank in encoding, which drops what has no width.
        kept = [
            (line, ids)
            for line, ids in zip(self._waiting, encoded, strict=True)
            if self._stream or (ids and not line.isspace())
        ]
        eos = self._tokenizer.eos_id
        lengths = np.array([len(ids) + 1 for _, ids in kept], np.int64)
        flat = np.fromiter(
            chain.from_iterable((*ids, eos) for _, ids in kept), self._dtype, lengths.sum()
        )
        self._ids.write(flat.tobytes())
        self._offsets.write((self.counts["tokens"] + lengths.cumsum()).tobytes())
        self.counts["lines"] += len(kept)
        self.counts["skipped"] += len(encoded) - len(kept)
        self.counts["characters"] += sum(len(line) for line, _ in kept)
        self.counts["tokens"] += len(flat)
        self.counts["unknown"] += int((flat == self._tokenizer.unk_id).sum())
        self._waiting, self._waiting_characters = [], 0


class Cache(NamedTuple):
    """What goes into a prepared corpus."""

    text: Text
    valid: Text | None  # follows what the split holds out
    split: Split
    tokenizer: Tokenizer
    stream: bool

    def write(self, directory: Path, *, quiet: bool) -> dict[str, Any]:
        """Writes all files but corpus.json; returns what that has to say of them."""
        # Ids are stored in the smallest type that holds them all.
        dtype = np.dtype(np.uint16 if len(self.tokenizer) <= 2**16 else np.uint32)
        parts = {
            name: Part(directory, name, self.tokenizer, dtype, stream=self.stream)
            for name in ("train", "valid")
        }
        try:
            for number, line in enumerate(_progress(self.text, quiet)):
                parts["valid" if self.split(number, line) else "train"].add(line)
            for line in _progress(self.valid, quiet) if self.valid else ():
                parts["valid"].add(line)
            for part in parts.values():
                part.flush()
        finally:
            for part in parts.values():
                part.close()
        if not parts["train"].counts["lines"]:
            raise UserError("no text in the corpus: every line is empty once it is normalised")
        (directory / "tokenizer.model").write_bytes(self.tokenizer.model)
        return {
            "stream": self.stream,
            "dtype": dtype.name,
            "vocab_size": len(self.tokenizer),
            "tokenizer": self.tokenizer.fingerprint,
            "parts": {name: part.counts for name, part in parts.items()},
        }


def _progress(text: Text, quiet: bool) -> Iterator[str]:
    bar = tqdm(text.lines(), "encoding", text.size, unit=" lines", unit_scale=True, disable=quiet)
    yield from bar
