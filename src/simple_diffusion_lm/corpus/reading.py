"""Files to lines of text: plain or compressed, or a field of records; strictly UTF-8, in constant memory."""

import bz2
import csv
import glob
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..errors import UserError, installed
from .tokenizer import BORDER, is_unicode

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# What would be read as text, and is none.
PACKED, NO_TEXT = (".zip", ".zst", ".tar", ".tgz"), (".pdf", ".docx", ".arrow")


class Source:
    """The lines of files. All are read once at the beginning, so that faults are found before other work.
    Raises UserError as `find_files` and `read_lines` do, and if all lines are blank."""

    def __init__(self, inputs: Sequence[str | Path], *, field: str, stream: bool, quiet: bool) -> None:
        self._files, self._field, self._stream = find_files(inputs), field, stream
        self.size = self.characters = 0  # how many lines there are, and characters, line ends included
        self.first = ""  # the first line that is not blank
        digest = hashlib.sha256()
        for line in tqdm(self, "reading", unit=" lines", unit_scale=True, disable=quiet or None):
            digest.update(line.encode() + b"\n")
            self.size += 1
            self.characters += len(line) + 1
            self.first = self.first or line.removeprefix(BORDER).strip()
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
        if "://" in name:
            raise UserError(f"{name}: nothing is downloaded: fetch it first, and give the file")
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

    Files of records (.jsonl, .json, .csv, .tsv, .parquet) have their text in `field`: one line (its line
    breaks become spaces) or, in a stream, as many as it has. Any but .parquet may be compressed (OPENERS).
    In a stream each record, and each file of plain text, is a document of its own (BORDER).
    Raises UserError if a file cannot be read, or (with FILE:LINE) a line is not UTF-8, has a NUL or no text.
    """
    for file in files:
        kind = _kind_of(file)
        if kind in PACKED + NO_TEXT:
            way = "unpack it first" if kind in PACKED else "save its text as .txt or .jsonl first"
            raise UserError(f"{file}: a {kind} file cannot be read: {way}")
        if kind not in RECORDS:
            for number, (_, line) in enumerate(_text_lines(file)):
                yield BORDER + line if stream and number == 0 else line
            continue
        for where, text in RECORDS[kind](file, field):
            if not isinstance(text, str):
                raise UserError(f"{where}: no text under {field!r}: name what holds it by --field")
            if "\0" in text or not is_unicode(text):  # the escapes of JSON can spell what UTF-8 cannot
                raise UserError(f"{where}: an escape that is not a character: mend the text")
            text = text.replace("\r\n", "\n").removesuffix("\n")
            yield from (BORDER + text).split("\n") if stream else [text.replace("\n", " ")]


def _kind_of(file: Path) -> str:
    """The ending of a file's name that says what is in it, in lower case."""
    name = Path(file.name.lower())
    return (name.with_suffix("") if name.suffix in OPENERS else name).suffix


def _text_lines(file: Path) -> Iterator[tuple[str, str]]:
    """FILE:LINE and the line, split at \\n alone, without byte order mark and \\r\\n."""
    opener = OPENERS.get(file.suffix.lower(), open)
    try:
        with opener(file, "rb") as lines:
            for number, raw in enumerate(lines, start=1):
                body = raw.removesuffix(b"\n").removesuffix(b"\r")
                line = body.decode("utf-8" if number > 1 else "utf-8-sig")
                if "\0" in line:  # a binary file, or UTF-16
                    raise UserError(f"{file}:{number}: a NUL byte, so not plain text: re-save it as UTF-8")
                yield f"{file}:{number}", line
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(f"{file}:{number}: not UTF-8 ({byte}): re-save the file as UTF-8") from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:  # of the system; what unpacks has none
            raise UserError(f"{file}: cannot read: {error.strerror}") from None
        raise UserError(f"{file}: is not a whole {file.suffix} file: compress it again") from None


# Each of these: the records of a file, as where each stands and the text in its field, or another value.


def _json_lines(file: Path, field: str) -> Iterator[tuple[str, Any]]:
    for where, line in _text_lines(file):
        if line.strip():
            record = _parsed(line, where, "a .jsonl file holds one object a line")
            yield where, _field_of(record, field, where)


def _json_array(file: Path, field: str) -> Iterator[tuple[str, Any]]:
    """The file is read as a whole: a large one is better had as JSON lines."""
    whole = "\n".join(line for _, line in _text_lines(file))
    records = _parsed(whole, str(file), "one object a line is a .jsonl file: rename it")
    if not isinstance(records, list):
        raise UserError(f"{file}: a .json file has to hold a list of objects or of texts")
    for number, record in enumerate(records, start=1):
        where = f"{file}: item {number}"
        yield where, record if isinstance(record, str) else _field_of(record, field, where)


def _table(file: Path, field: str) -> Iterator[tuple[str, Any]]:
    """A .csv or .tsv file with the names of its columns in the first row."""
    csv.field_size_limit(2**31 - 1)
    dialect = "excel-tab" if _kind_of(file) == ".tsv" else "excel"
    rows = csv.reader((f"{line}\n" for _, line in _text_lines(file)), dialect, strict=True)
    try:
        names = next(rows, [])
        _check_column(f"{file}:1", field, names)
        place = names.index(field)
        for row in rows:
            if row:
                yield f"{file}:{rows.line_num}", row[place] if place < len(row) else None
    except csv.Error as error:
        raise UserError(f"{file}:{rows.line_num}: not a table: {error}") from None


def _parquet(file: Path, field: str) -> Iterator[tuple[str, Any]]:
    pyarrow = installed("pyarrow", f"{file}: .parquet files need pyarrow", "simple-diffusion-lm[data]")
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as table:
            _check_column(str(file), field, table.schema_arrow.names)
            batches = table.iter_batches(columns=[field])
            texts = (text for batch in batches for text in batch.column(0).to_pylist())
            for row, text in enumerate(texts, start=1):
                yield f"{file}: row {row}", text
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file}: is not a whole .parquet file ({error})") from None


def _check_column(where: str, field: str, names: Collection[str]) -> None:
    if field not in names:
        columns = ", ".join(names)
        raise UserError(f"{where}: no text under {field!r}: name what holds it by --field, of {columns}")


def _parsed(text: str, where: str, advice: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not JSON: {advice}") from None


def _field_of(record: Any, field: str, where: str) -> Any:
    if not isinstance(record, dict):
        return None
    _check_column(where, field, record)
    return record[field]


RECORDS: dict[str, Callable[[Path, str], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}
