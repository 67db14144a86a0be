"""A corpus, encoded once: flat ids and the offsets of its lines, memory-mapped."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt

from ..errors import UserError
from ..sealing import sealed
from .tokenizer import Tokenizer
from .tokenizer_training import train_tokenizer
from .writing import Cache, HoldOutNone, hold_out, scan

FORMAT = 2
PARTS = ("train", "valid")

COUNT_TOKENS = 10_000_000  # counted at a time


@dataclass(frozen=True)
class Corpus:
    """The lines of one part, each followed by EOS. Line i is ids[offsets[i] : offsets[i + 1]]."""

    ids: UInt[np.ndarray, " T"]
    offsets: Int[np.ndarray, " N_plus_1"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> UInt[np.ndarray, " L"]:
        """The ids of line i, counted from 0, its EOS included."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """The number of ids of each line, its EOS included."""
        return np.diff(self.offsets)

    def counts(self, vocab_size: int) -> Int[np.ndarray, " V"]:
        """How often each id occurs."""
        total = np.zeros(vocab_size, np.int64)
        for start in range(0, len(self.ids), COUNT_TOKENS):
            total += np.bincount(self.ids[start : start + COUNT_TOKENS], minlength=vocab_size)
        return total


@dataclass(frozen=True)
class Prepared:
    """A prepared corpus: what `prepare` wrote into a directory. `meta` is its corpus.json."""

    directory: Path
    tokenizer: Tokenizer
    train: Corpus
    valid: Corpus
    stream: bool
    meta: dict[str, Any]

    def check(self) -> None:
        """Reads all of it, once. Raises UserError where it is not what was written."""
        for part, digests in self.meta["sha256"].items():
            for name, digest in digests.items():
                path = self.directory / f"{part}.{name}.bin"
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        raise UserError(
                            f"{path} is damaged: delete {self.directory}, prepare again"
                        )


def is_prepared(path: str | Path) -> bool:
    """Whether the path is a directory that `prepare` wrote."""
    return (Path(path) / "corpus.json").is_file()


def open_prepared(directory: str | Path) -> Prepared:
    """Opens a prepared corpus without reading it.

    Raises:
        UserError: this is not one, or its files do not belong together.
    """
    directory = Path(directory)
    try:
        meta = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise UserError(f"{directory}: prepared by another version: prepare the corpus again")
        if meta != sealed(meta):
            raise ValueError("another corpus.json")
        tokenizer = Tokenizer.load(directory / "tokenizer.model")
        if tokenizer.fingerprint != meta["tokenizer"]:
            raise ValueError("another tokenizer")
        train, valid = (_map(directory, part, meta) for part in PARTS)
        return Prepared(directory, tokenizer, train, valid, meta["stream"], meta)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise UserError(f"{directory}: no prepared corpus (it lacks {missing})") from None
    except OSError as error:
        raise UserError(f"{directory}: cannot read this corpus: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{directory}: damaged or incomplete: delete it, prepare again") from None


def _map(directory: Path, part: str, meta: dict[str, Any]) -> Corpus:
    counts = meta["parts"][part]
    return Corpus(
        _map_file(directory / f"{part}.ids.bin", meta["dtype"], counts["tokens"]),
        _map_file(directory / f"{part}.offsets.bin", "int64", counts["lines"] + 1),
    )


def _map_file(path: Path, dtype: str, count: int) -> np.ndarray:
    if path.stat().st_size != count * np.dtype(dtype).itemsize:
        raise ValueError(f"{path} should hold {count} items")
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, mode="r") if count else np.zeros(0, dtype)


def prepare(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: Path | None = None,
    vocab_size: int | None = None,
    stream: bool = False,
    valid: Sequence[str | Path] | None = None,
    field: str = "text",
    seed: int = 0,
    quiet: bool = False,
) -> Prepared:
    """Encodes a corpus into the directory `out`, in constant memory; again only if it changed.

    Args:
        inputs: text files and glob patterns; `.gz` and `.jsonl` are understood.
        out: the directory to write. If it holds this very corpus it is opened as it is.
        tokenizer: a SentencePiece model; None: one is trained on the training part.
        vocab_size: of the tokenizer to train; None: as many as the text allows, up to 4096.
        stream: running text, where line breaks and blank lines are part of the text. Otherwise
            each line is an example, and blank lines are left out.
        valid: validation files; None: a part of `inputs` is held out. Of a stream that is its
            end. Of lines it is a choice by content, so that no held-out line is trained on.
        field: where the text is in the objects of a `.jsonl` file.
        seed: of the sample that a tokenizer is trained on, where the corpus is very large.
        quiet: no progress and no summary on stderr.

    Raises:
        UserError: a file cannot be read, is not text or holds none; the vocabulary does not
            fit the text; `out` cannot be written, or holds something else.
    """
    out = Path(out)
    _check_free(out)
    if tokenizer is not None and vocab_size is not None:
        raise UserError("--vocab-size is of a tokenizer to train: leave it out with --tokenizer")
    loaded = None if tokenizer is None else Tokenizer.load(tokenizer)
    text = scan(inputs, field=field, stream=stream, quiet=quiet)
    valid_text = scan(valid, field=field, stream=stream, quiet=quiet) if valid else None

    # Everything that decides what is written, known before a tokenizer is trained.
    contents = [text.digest, valid_text.digest if valid_text else None]
    trained_with = [vocab_size, seed] if loaded is None else loaded.fingerprint
    key = hashlib.sha256(json.dumps([FORMAT, contents, trained_with, stream]).encode()).hexdigest()
    if not is_prepared(out):
        split = HoldOutNone() if valid_text else hold_out(text, stream=stream)
        if loaded is None:
            own = (line for i, line in enumerate(text.lines()) if not split(i, line))
            loaded = train_tokenizer(own, vocab_size, stream=stream, seed=seed)
        files = {"inputs": list(map(str, inputs)), "valid_inputs": list(map(str, valid or ()))}
        cache = Cache(text, valid_text, split, loaded, stream)
        _write(out, cache, {"format": FORMAT, "key": key, **files}, quiet=quiet)
    prepared = open_prepared(out)
    if prepared.meta["key"] != key:
        raise UserError(f"{out}: holds another corpus: choose another --out, or delete it")
    if not quiet:
        print(_summary(prepared), file=sys.stderr)
    return prepared


def _check_free(out: Path) -> None:
    """A corpus can be written or found here. Nothing is ever overwritten."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise UserError(f"{out}: cannot write a corpus here: {out.parent} is read-only")
        is_free = is_prepared(out) or not out.exists() or not any(out.iterdir())
    except OSError as error:
        raise UserError(f"{out}: cannot write a corpus here: {error.strerror}") from None
    if not is_free:
        raise UserError(f"{out}: holds something else: choose another --out")


def _write(out: Path, cache: Cache, meta: dict[str, Any], *, quiet: bool) -> None:
    """Writes beside `out` and renames: a corpus is there as a whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            directory = Path(beside) / "corpus"
            directory.mkdir()
            meta |= cache.write(directory, quiet=quiet)
            text = json.dumps(sealed(meta), indent=2, ensure_ascii=False)
            (directory / "corpus.json").write_text(text + "\n", encoding="utf-8")
            directory.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot write a corpus here: {error.strerror}") from None


def _summary(prepared: Prepared) -> str:
    train, valid = (prepared.meta["parts"][part] for part in PARTS)
    tokens = train["tokens"] + valid["tokens"]
    return (
        f"{prepared.directory}: {train['lines']:,} lines to train on, {valid['lines']:,} held out, "
        f"{train['skipped'] + valid['skipped']:,} blank ones skipped; "
        f"vocabulary of {len(prepared.tokenizer):,}; "
        f"{tokens / (train['lines'] + valid['lines']):.1f} tokens per line, "
        f"{(train['unknown'] + valid['unknown']) / tokens:.2%} of them unknown"
    )
