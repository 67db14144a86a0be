"""Files to lines of text: plain, gzipped or JSON lines, strictly UTF-8, in constant memory."""

import codecs
import glob
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UserError
from .tokenizer import is_unicode


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
    """The files that paths and glob patterns (`**` too) stand for, in order.

    Raises:
        UserError: a path is missing or no file, a pattern matches no file, or there are none.
    """
    if not inputs:
        raise UserError("no corpus was given: name one or more text files")
    return [file for name in map(str, inputs) for file in _find(name)]


def _find(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise UserError(f"{name}: is a directory: name its files, such as '{path / '*.txt'}'")
    if path.exists():
        raise UserError(f"{name}: not a regular file: save its text to one, which is read twice")
    if glob.has_magic(name):
        matches = glob.glob(name, recursive=True)
        if files := [Path(match) for match in sorted(matches) if Path(match).is_file()]:
            return files
        raise UserError(f"{name}: no file matches this pattern: check the path")
    raise UserError(f"{name}: no such file: check the path")


def read_lines(files: Sequence[Path], *, field: str, stream: bool) -> Iterator[str]:
    """Every line of text, blank ones too, without its line ending.

    A `.gz` file is decompressed. Each line of a `.jsonl` file is an object whose `field` holds
    the text: one line (its line breaks become spaces) or, in a stream, as many as it has.

    Raises:
        UserError: a line is not UTF-8, holds a NUL, or is not such an object (names FILE:LINE);
            a file cannot be read.
    """
    for file in files:
        is_json = file.name.lower().removesuffix(".gz").endswith(".jsonl")
        for number, raw in enumerate(_raw_lines(file), start=1):
            where = f"{file}:{number}"
            line = _decode(raw, where)
            if not is_json:
                yield line
            elif line.strip():
                parts = _json_text(line, field, where).splitlines()
                yield from parts if stream else [" ".join(parts)]


def _raw_lines(file: Path) -> Iterator[bytes]:
    """Lines as the file has them, split at \\n alone, without byte order mark and \\r\\n."""
    opener = gzip.open if file.name.lower().endswith(".gz") else open
    try:
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines):
                body = line.removesuffix(b"\n").removesuffix(b"\r")
                yield body.removeprefix(codecs.BOM_UTF8) if number == 0 else body
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{file}: is not a whole gzip file: compress it again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot read: {error.strerror}") from None


def _decode(raw: bytes, where: str) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 (byte 0x{raw[error.start]:02x}): re-save the file as UTF-8"
        ) from None
    # No text has a NUL: it comes of a binary file, or of UTF-16.
    if "\0" in text:
        raise UserError(f"{where}: a NUL byte, so not plain text: re-save the file as UTF-8")
    return text


def _json_text(line: str, field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not JSON: a .jsonl file holds one object a line") from None
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{where}: no text under {field!r}: name the field that holds the text")
    # The escapes of JSON can spell what UTF-8 cannot.
    if "\0" in text or not is_unicode(text):
        raise UserError(f"{where}: an escape that is not a character: mend the text")
    return text
