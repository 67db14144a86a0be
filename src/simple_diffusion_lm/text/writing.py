"""Lines of text to the files of a prepared corpus: read, split, encoded, written in pieces."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from .encoding import Encoded, Encoder, Split, Words
from .parallel import MOST_WORKERS, cores, map_in_order
from .reading import find_files, read_lines
from .tokenizer import Tokenizer

# Where no validation text is given: this share of the lines is held out, but no more than this
# many, and none of a text of fewer lines than the last.
VALID_SHARE = 0.05
VALID_LINES = 5_000
LINES_TO_SPLIT = 100

CHUNK_CHARACTERS = 1_000_000  # encoded and written at a time
PARALLEL_CHARACTERS = 20_000_000  # a smaller text, of a second or two, is not worth the processes


class Text(NamedTuple):
    """Lines that can be read again and again, and what the first reading found."""

    lines: Callable[[], Iterator[str]]
    digest: str  # SHA-256 of the lines
    size: int  # the number of lines, blank ones too
    characters: int  # in them, line ends too
    first: str  # the first line that is not blank


def scan(inputs: Sequence[str | Path], *, field: str, stream: bool, quiet: bool) -> Text:
    """Reads the files once, so that every fault of theirs is found before any work is done.

    Raises:
        UserError: as `find_files` and `read_lines` do, and if all lines are blank.
    """
    files = find_files(inputs)

    def lines() -> Iterator[str]:
        return read_lines(files, field=field, stream=stream)

    digest, size, characters, first = hashlib.sha256(), 0, 0, ""
    for line in tqdm(lines(), "reading", unit=" lines", unit_scale=True, disable=quiet):
        digest.update(line.encode() + b"\n")
        size += 1
        characters += len(line) + 1
        first = first or line.strip()
    if not first:
        raise UserError(f"{', '.join(map(str, inputs))}: no text in it: every line is empty")
    return Text(lines, digest.hexdigest(), size, characters, first)


@dataclass(frozen=True)
class HoldOutNone:
    def __call__(self, number: int, line: str) -> bool:
        return False


@dataclass(frozen=True)
class HoldOutAfter:
    """The lines from this number on."""

    end: int

    def __call__(self, number: int, line: str) -> bool:
        return number >= self.end


@dataclass(frozen=True)
class HoldOutByContent:
    """A share of the different lines, whatever their order.

    Lines of the same words are on the same side, so no held-out line is trained on.
    """

    share: float
    first: str  # always trains, so that a text of few different lines is not all held out

    def __call__(self, number: int, line: str) -> bool:
        words = " ".join(line.split())
        digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.share * 2**64 and words != self.first


def hold_out(text: Text, *, stream: bool) -> Split:
    """Chooses the validation lines: the end of a stream; else by content."""
    if text.size < LINES_TO_SPLIT:
        return HoldOutNone()
    share = min(VALID_SHARE, VALID_LINES / text.size)
    if stream:
        return HoldOutAfter(text.size - round(share * text.size))
    return HoldOutByContent(share, " ".join(text.first.split()))


class Part:
    """The files of one part, NAME.ids.bin and NAME.offsets.bin, and counts of what went in."""

    def __init__(self, directory: Path, name: str) -> None:
        self.counts = dict.fromkeys(("lines", "skipped", "characters", "tokens", "unknown"), 0)
        self._ids = (directory / f"{name}.ids.bin").open("wb")
        self._offsets = (directory / f"{name}.offsets.bin").open("wb")
        self._digests = {name: hashlib.sha256() for name in ("ids", "offsets")}
        self._append("offsets", np.zeros(1, np.int64).tobytes())

    def _append(self, name: str, content: bytes) -> None:
        (self._ids if name == "ids" else self._offsets).write(content)
        self._digests[name].update(content)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of both files."""
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def add(self, encoded: Encoded) -> None:
        lengths = np.frombuffer(encoded.lengths, np.int64)
        self._append("ids", encoded.ids)
        self._append("offsets", (self.counts["tokens"] + lengths.cumsum()).tobytes())
        for name, count in encoded.counts.items():
            self.counts[name] += count

    def close(self) -> None:
        self._ids.close()
        self._offsets.close()


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
        parts = {name: Part(directory, name) for name in ("train", "valid")}
        try:
            self._write(self.text, self.split, dtype, parts, quiet=quiet)
            if self.valid:
                self._write(self.valid, HoldOutAfter(0), dtype, parts, quiet=quiet)
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
            "sha256": {name: part.digests for name, part in parts.items()},
        }

    def _write(
        self, text: Text, split: Split, dtype: np.dtype, parts: dict[str, Part], *, quiet: bool
    ) -> None:
        """Encodes one text into the parts."""
        encoder = Encoder(self.tokenizer, split, dtype, self.stream, Words(self.tokenizer, dtype))
        workers = min(cores(), MOST_WORKERS) if text.characters >= PARALLEL_CHARACTERS else 1
        encoded: Generator[tuple[Encoded, Encoded], None, None]
        encoded = map_in_order(encoder, _chunks(text.lines()), workers=workers)
        bar = tqdm(desc="encoding", total=text.size, unit=" lines", unit_scale=True, disable=quiet)
        with bar, closing(encoded):
            for both in encoded:
                for part, some in zip(parts.values(), both, strict=True):
                    part.add(some)
                    bar.update(some.counts["lines"] + some.counts["skipped"])


def _chunks(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Lines by the chunk, each with the number of its first."""
    first, characters = 0, 0
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        characters += len(line) + 1
        if characters >= CHUNK_CHARACTERS:
            yield first, chunk
            first, characters, chunk = first + len(chunk), 0, []
    if chunk:
        yield first, chunk
