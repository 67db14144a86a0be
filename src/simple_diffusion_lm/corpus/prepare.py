"""Text files to a directory of ids, which training maps into memory.

corpus.json         what the corpus was made of, counts, and the SHA-256 of each file of ids
tokenizer.model     a copy of the tokenizer (or tokenizer.json)
PART.ids.bin        the ids of all lines of a part (train, valid), EOS after each, BOS before a document
PART.offsets.bin    where in them each line begins, and where the last one ends (int64)
"""

import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..core.data import Corpus
from ..errors import UserError, writing_to
from .reading import Source
from .sealing import digest_of, sealed
from .tokenizer import BORDER, SAMPLE_CHARACTERS, TRAINED, Tokenizer, train_tokenizer

FORMAT = 2
PARTS = ("train", "valid")
KINDS = ("ids", "offsets")

VALID_SHARE = 0.05  # of the lines, held out where there are no validation files
VALID_LINES = 5_000  # held out at most
LINES_TO_SPLIT = 100  # nothing is held out of a text of fewer lines


class Prepared(NamedTuple):
    """A prepared corpus: what `prepare` wrote into a directory. `meta` is its corpus.json."""

    directory: Path
    tokenizer: Tokenizer
    train: Corpus
    valid: Corpus
    stream: bool
    meta: dict[str, Any]

    def check(self) -> None:
        """Reads all ids. Raises UserError where they are not those that were written."""
        for (part, kind), path in _files(self.directory).items():
            if _digest(path) != self.meta["sha256"][part][kind]:
                raise UserError(f"{path} is damaged: delete {self.directory}, prepare again")


def is_prepared(path: str | Path) -> bool:
    """Whether the path is a directory that `prepare` wrote."""
    return (Path(path) / "corpus.json").is_file()


def open_prepared(directory: str | Path) -> Prepared:
    """Opens a prepared corpus without reading its ids. Raises UserError if its files do not fit together."""
    directory = Path(directory)
    try:
        meta = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise UserError(f"{directory}: prepared by another version: prepare the corpus again")
        tokenizer = Tokenizer.load(directory)
        if meta != sealed(meta) or tokenizer.fingerprint != meta["tokenizer"]:
            raise ValueError("another corpus.json or tokenizer")
        arrays = {}
        for (part, kind), path in _files(directory).items():
            counts = meta["parts"][part]
            dtype = meta["dtype"] if kind == "ids" else "int64"
            count = counts["tokens"] if kind == "ids" else counts["lines"] + 1
            if path.stat().st_size != count * np.dtype(dtype).itemsize:
                raise ValueError(f"{path} should hold {count} items")
            arrays[part, kind] = np.memmap(path, dtype, mode="r") if count else np.zeros(0, dtype)
        train, valid = (Corpus(*(arrays[part, kind] for kind in KINDS)) for part in PARTS)
        return Prepared(directory, tokenizer, train, valid, meta["stream"], meta)
    except FileNotFoundError as error:
        raise UserError(f"{directory}: no prepared corpus (it lacks {Path(error.filename).name})") from None
    except OSError as error:
        raise UserError(f"{directory}: cannot read this corpus: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{directory}: damaged or incomplete: delete it, prepare again") from None


def prepare(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path = "bpe",
    vocab_size: int | None = None,
    stream: bool = False,
    valid: Sequence[str | Path] | None = None,
    field: str = "text",
    seed: int = 0,
    quiet: bool = False,
) -> Prepared:
    """Encodes a corpus into the directory `out`, in constant memory; again only if it changed.

    Args:
        inputs: files (reading.py has the kinds that are understood) and glob patterns.
        out: the directory to write. If it holds this very corpus, it is opened as it is.
        tokenizer: one of TRAINED, trained on the training part; or a SentencePiece model, a tokenizer.json.
        vocab_size: of the BPE tokenizer to train; None: up to 4096 pieces, fewer of little text.
        stream: running text, with its line breaks and blank lines; each file or record is a document.
            Otherwise each line is an example, and blank lines are left out.
        valid: validation files; None: a part of `inputs` is held out. In a stream this is its end. Lines are
            chosen by content, so that no held-out line is trained on.
        field: where the text is in files of records.
        seed: of the sample that a tokenizer is trained on, where the corpus is very large.
        quiet: no progress and no summary on stderr.

    Raises UserError for files that are no text, a vocabulary that does not fit it, or an `out` that is taken.
    """
    out = Path(out)
    _check_free(out)
    if tokenizer != "bpe" and vocab_size is not None:
        raise UserError("--vocab-size is of a BPE tokenizer to train: leave it out with --tokenizer")
    loaded = None if tokenizer in TRAINED else Tokenizer.load(tokenizer)
    text = Source(inputs, field=field, stream=stream, quiet=quiet)
    sources = [text, Source(valid, field=field, stream=stream, quiet=quiet)] if valid else [text]

    # Everything that decides what is written is known before a tokenizer is trained.
    contents = [text.digest, sources[1].digest if valid else None]
    trained_with = [tokenizer, vocab_size, seed] if loaded is None else loaded.fingerprint
    key = digest_of([FORMAT, contents, trained_with, stream])
    if not is_prepared(out):
        if loaded is None:
            is_held_out = hold_out(sources, stream)
            own = (line for i, line in enumerate(text) if not is_held_out(i, line))
            share = min(1, SAMPLE_CHARACTERS / text.characters)
            if not quiet:
                print("training a tokenizer", file=sys.stderr)
            kind = str(tokenizer)
            loaded = train_tokenizer(own, vocab_size, stream=stream, seed=seed, kind=kind, share=share)
        files = {"inputs": list(map(str, inputs)), "valid_inputs": list(map(str, valid or ()))}
        _write(out, sources, loaded, {"format": FORMAT, "key": key, **files, "stream": stream}, quiet)
    prepared = open_prepared(out)
    if prepared.meta["key"] != key:
        raise UserError(f"{out}: holds another corpus: choose another --out")
    if not quiet:
        print(_summary(prepared), file=sys.stderr)
    return prepared


def _check_free(out: Path) -> None:
    """A corpus can be written or found here. Nothing is ever overwritten."""
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise UserError(f"{out}: cannot be written ({out.parent} is read-only): choose another --out")
        if out.exists() and any(out.iterdir()) and not is_prepared(out):
            raise UserError(f"{out}: holds something else: choose another --out")


def hold_out(sources: Sequence[Source], stream: bool) -> Callable[[int, str], bool]:
    """Chooses by number and line what to hold out: a second source, else a stream's end, else by content."""
    text, *given = sources
    share = 0 if given or text.size < LINES_TO_SPLIT else min(VALID_SHARE, VALID_LINES / text.size)
    end = text.size - round(share * text.size) if stream else text.size
    spared = text.first.split()  # so that a text of few different lines is not all held out

    def is_held_out(number: int, line: str) -> bool:
        if stream or number >= end:  # the lines of a second source come after those of the first
            return number >= end
        words = line.split()
        digest = hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest()
        return words != spared and int.from_bytes(digest) < share * 2**64

    return is_held_out


def _write(
    out: Path, sources: list[Source], tokenizer: Tokenizer, about: dict[str, Any], quiet: bool
) -> None:
    """Writes beside `out` and renames: a corpus is there as a whole or not at all."""
    is_held_out = hold_out(sources, about["stream"])
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    size = sum(source.size for source in sources)
    lines = tqdm(chain(*sources), "encoding", size, unit=" lines", unit_scale=True, disable=quiet or None)
    with writing_to(out):
        counts = {part: Counter(lines=0, skipped=0, tokens=0, changed=0) for part in PARTS}
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            directory = Path(beside) / "corpus"
            directory.mkdir()
            paths = _files(directory)
            with lines, ExitStack() as stack:
                files = {key: stack.enter_context(path.open("wb")) for key, path in paths.items()}
                for part in PARTS:
                    files[part, "offsets"].write(np.int64(0).tobytes())
                for number, line in enumerate(lines):
                    part = "valid" if is_held_out(number, line) else "train"
                    ids = tokenizer.encode(line)
                    # A line without ids has only characters that normalisation removes: it is blank, too.
                    if not about["stream"] and (not ids or line.isspace()):
                        counts[part]["skipped"] += 1
                        continue
                    counts[part].update(lines=1, characters=len(line), tokens=len(ids) + 1)
                    counts[part]["changed"] += tokenizer.decode(ids) != line.removeprefix(BORDER)
                    files[part, "ids"].write(np.array([*ids, tokenizer.eos_id], dtype).tobytes())
                    files[part, "offsets"].write(np.int64(counts[part]["tokens"]).tobytes())
            if not counts["train"]["lines"]:
                raise UserError("no text in the corpus: every line is empty once it is normalised")
            (directory / tokenizer.name).write_bytes(tokenizer.model)
            digests = {part: {kind: _digest(paths[part, kind]) for kind in KINDS} for part in PARTS}
            about |= {"dtype": dtype.name, "vocab_size": len(tokenizer), "tokenizer": tokenizer.fingerprint}
            about |= {"parts": counts, "sha256": digests}
            text = json.dumps(sealed(about), indent=2, ensure_ascii=False)
            (directory / "corpus.json").write_text(text + "\n", encoding="utf-8")
            directory.replace(out)


def _files(directory: Path) -> dict[tuple[str, str], Path]:
    return {(part, kind): directory / f"{part}.{kind}.bin" for part in PARTS for kind in KINDS}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _summary(prepared: Prepared) -> str:
    train, valid = (Counter(prepared.meta["parts"][part]) for part in PARTS)
    total = train + valid
    return (
        f"{prepared.directory}: {train['lines']:,} lines to train on, {valid['lines']:,} held out, "
        f"{total['skipped']:,} blank ones skipped; vocabulary of {len(prepared.tokenizer):,}; "
        f"{total['tokens'] / total['lines']:.1f} tokens per line, "
        f"{total['changed']:,} lines that the tokenizer does not give back as they were"
    )
