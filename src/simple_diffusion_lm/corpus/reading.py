"""Files to lines of text: plain, gzipped or JSON lines, strictly UTF-8, in constant memory."""

import glob
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from ..errors import UserError
from .tokenizer import is_unicode


class Source:
    """The lines of files. All are read once at the beginning, so that faults are found before other work.

    Raises UserError as `find_files` and `read_lines` do, and if all lines are blank.
    """

    def __init__(self, inputs: Sequence[str | Path], *, field: str, stream: bool, quiet: bool) -> None:
        self._files, self._field, self._stream = find_files(inputs), field, stream
        self.size = self.characters = 0  # how many lines there are, and characters, line ends included
        self.first = ""  # the first line that is not blank
        digest = hashlib.sha256()
        for line in tqdm(self, "reading", unit=" lines", unit_scale=True, disable=quiet):
            digest.update(line.encode() + b"\n")
            self.size += 1
            self.characters += len(line) + 1
            self.first = self.first or line.strip()
        if not self.first:
            raise UserError(f"{', '.join(map(str, inputs))}: no text in it: every line is empty")
        self.digest = digest.hexdigest()

    def __iter__(self) -> Iterator[str]:
        return read_lines(self._files, field=self._field, stream=self._stream)


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
    """The files that paths and glob patterns (`**` too) stand for, in order. Raises UserError for others."""
    if not inputs:
        raise UserError("no corpus was given: name one or more text files")
    files: list[Path] = []
    for name in map(str, inputs):
        path = Path(name)
        if path.is_dir():
            raise UserError(f"{name}: is a directory: name its files, such as '{path / '*.txt'}'")
        if path.exists() and not path.is_file():
            raise UserError(f"{name}: not a regular file: save its text to one, which is read twice")
        matches = [path] if path.exists() else map(Path, sorted(glob.glob(name, recursive=True)))
        if not (found := [match for match in matches if match.is_file()]):
            fault = "no file matches this pattern" if glob.has_magic(name) else "no such file"
            raise UserError(f"{name}: {fault}: check the path")
        files += found
    return files


def read_lines(files: Sequence[Path], *, field: str, stream: bool) -> Iterator[str]:
    """Every line of text, blank ones included, without its line ending.

    A `.gz` file is decompressed. Each line of a `.jsonl` file is an object whose `field` holds the text: one
    line (its line breaks become spaces) or, in a stream, as many as it has. Raises UserError if a file cannot
    be read, or (with FILE:LINE) a line is not UTF-8, has a NUL or is not such an object.
    """
    for file in files:
        is_json = file.name.lower().removesuffix(".gz").endswith(".jsonl")
        for number, line in enumerate(_text_lines(file), start=1):
            where = f"{file}:{number}"
            if "\0" in line:  # a binary file, or UTF-16
                raise UserError(f"{where}: a NUL byte, so not plain text: re-save the file as UTF-8")
            if not is_json:
                yield line
            elif line.strip():
                parts = _json_text(line, field, where).splitlines()
                yield from parts if stream else [" ".join(parts)]


def _text_lines(file: Path) -> Iterator[str]:
    """The lines of a file, split at \\n alone, without byte order mark and \\r\\n."""
    opener = gzip.open if file.name.lower().endswith(".gz") else open
    try:
        with opener(file, "rb") as lines:
            for number, raw in enumerate(lines):
                body = raw.removesuffix(b"\n").removesuffix(b"\r")
                yield body.decode("utf-8" if number else "utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(f"{file}:{number + 1}: not UTF-8 ({byte}): re-save the file as UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{file}: is not a whole gzip file: compress it again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot read: {error.strerror}") from None


def _json_text(line: str, field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not JSON: a .jsonl file holds one object a line") from None
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{where}: no text under {field!r}: name the field that holds the text")
    if "\0" in text or not is_unicode(text):  # the escapes of JSON can spell what UTF-8 cannot
        raise UserError(f"{where}: an escape that is not a character: mend the text")
    return text
