import bz2
import csv
import gzip
import io
import json
import lzma
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from simple_diffusion_lm.corpus.reading import find_files, read_lines
from simple_diffusion_lm.corpus.tokenizer import BORDER
from simple_diffusion_lm.errors import UserError


def read(*files: Path, field: str = "text", stream: bool = False) -> list[str]:
    return list(read_lines(files, field=field, stream=stream))


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(PACKED.get(path.suffix.lower(), bytes)(content))
    return path


@pytest.mark.parametrize("name", ["x.txt", "x", "x.v2.txt", "x.txt.gz", "x.txt.BZ2", "x.xz"])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\n\r\ntwo\r\n", ["one", "", "two"]),
        (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n", ["one", "\ufefftwo"]),
        (b"", []),
        ("a\u2028b\x0bc\x85\n".encode(), ["a\u2028b\x0bc\x85"]),
    ],
)
def test_lines_end_at_line_feeds_only(tmp_path: Path, name: str, content: bytes, lines: list[str]) -> None:
    assert read(write(tmp_path / name, content)) == lines


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_characters="\0\r\n", codec="utf-8"))))
def test_whatever_is_written_is_read(tmp_path: Path, texts: list[str]) -> None:
    # Only at the start of the file is this character a byte order mark.
    texts = ["first", *texts]
    assert read(write(tmp_path / "x.txt", "\r\n".join(texts).encode())) == [
        *texts[:-1],
        *([texts[-1]] if texts[-1] else []),
    ]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.ndjson.xz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    records = [{"body": "one"}, {"body": "t\nw\r\no", "other": 1}, {"body": ""}, {"body": "é"}]
    file = write(tmp_path / name, "\n\n".join(map(json.dumps, records)).encode())
    assert read(file, field="body") == ["one", "t w o", "", "é"]
    stream = [f"{BORDER}one", f"{BORDER}t", "w", "o", BORDER, f"{BORDER}é"]
    assert read(file, field="body", stream=True) == stream


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"fine\ncaf\xe9\n", r"x.txt:2: not UTF-8 \(byte 0xe9\): re-save the file"),
        ("x.txt.gz", b"\xff\xfeo\0n\0e\0", r"x.txt.gz:1: not UTF-8 \(byte 0xff\): re-save"),
        ("x.txt", b"fine\nfine\na\0b", r"x.txt:3: a NUL byte, so not plain text: re-save"),
        ("x.jsonl", b'{"text": "a"}\n{"text": ', r"x.jsonl:2: not JSON: a .jsonl file holds"),
        ("x.jsonl", b'{"txt": "a", "b": 1}', r"x.jsonl:1: no text under 'text': .* by --field, of txt, b"),
        ("x.jsonl", b'{"text": 3}', r"x.jsonl:1: no text under 'text': name what holds it by --field"),
        ("x.json", b'{"text": "a"}\n{"text": "b"}', r"x.json: not JSON: one object a line is a .jsonl file"),
        ("x.json", b'{"text": "a"}', r"x.json: a .json file has to hold a list"),
        (
            "x.json",
            b'["a", {"txt": "a"}]',
            r"x.json: item 2: no text under 'text': name what holds it by --field",
        ),
        ("x.csv", b"a,b\n1,2\n", r"x.csv:1: no text under 'text': name what .* by --field, of a, b"),
        ("x.csv", b"text\na\rb\n", r"x.csv:2: not a table"),
        ("x.csv", b'text\n"Hello\nworld\nlast\n', r"x.csv:4: not a table"),  # all would be one line
        ("x.tsv", b'text\n"Yes" he said\n', r"x.tsv:2: not a table"),  # the quotes would be lost
        ("x.csv", b"a,text\n1,2\n3\n", r"x.csv:3: no text under 'text'"),
        ("x.csv", b"", r"x.csv:1: no text under 'text'"),
        ("x.parquet", b"text\n", r"x.parquet: is not a whole .parquet file"),
        ("x.jsonl", b'["a"]', r"x.jsonl:1: no text under 'text': name what holds it by --field"),
        ("x.jsonl", b'{"text": "\\ud800"}', r"x.jsonl:1: an escape that is not a character"),
        ("x.jsonl", b'{"text": "\\u0000"}', r"x.jsonl:1: an escape that is not a character"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


TEXTS = st.lists(st.text(st.characters(exclude_characters="\0\r", codec="utf-8")), min_size=1)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS)
@pytest.mark.parametrize("kind", ["json", "csv", "tsv", "parquet"])
def test_what_is_written_as_records_is_read(tmp_path: Path, kind: str, texts: list[str]) -> None:
    """Text with line breaks, quotes and commas in it too: as one line, or in a stream as many as it has."""
    file, rows = tmp_path / f"x.{kind}", [{"number": i, "body": text} for i, text in enumerate(texts)]
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), file)
    elif kind == "json":
        file.write_text(json.dumps(rows, indent=1))
    else:
        table = io.StringIO(newline="")
        dialect = "excel" if kind == "csv" else "excel-tab"
        made = csv.DictWriter(table, ["number", "body"], dialect=dialect, lineterminator="\n")
        made.writeheader()
        made.writerows(rows)
        file.write_bytes(table.getvalue().encode())
    texts = [text.removesuffix("\n") for text in texts]
    assert read(file, field="body") == [text.replace("\n", " ") for text in texts]
    assert "\n".join(read(file, field="body", stream=True)) == "\n".join(BORDER + text for text in texts)


def test_a_list_of_texts_is_read_too(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.json", b'["one", "two\\nlines"]')) == ["one", "two lines"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_a_broken_compressed_file_is_named(tmp_path: Path, suffix: str) -> None:
    whole = PACKED[suffix](b"some text\n" * 1000)
    for content in (whole[:-20], b"plain text", whole[:20] + b"xxxx" + whole[24:]):
        file = tmp_path / f"x{suffix}"
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"x\{suffix}: is not a whole {suffix} file: compress it again"):
            read(file)


@pytest.mark.parametrize("name", ["x.zst", "x.txt.zst", "x.zip", "x.tar.gz", "x.PDF", "x.docx", "x.arrow"])
def test_what_is_no_text_is_refused_with_the_way_on(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"text that could be read")
    with pytest.raises(UserError, match=r"cannot be read: (unpack|save)"):
        read(file)


def test_files_are_found_by_name_and_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    a, b, c = (write(tmp_path / name, b"") for name in ("a.txt", "b.txt", "deep/c.txt"))
    odd = write(tmp_path / "[odd].txt", b"")
    assert find_files([b, f"{tmp_path}/?.txt"]) == [b, a, b]
    assert find_files([f"{tmp_path}/**/*.txt"]) == sorted([a, b, c, odd])
    assert find_files([odd]) == [odd]


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/missing\.txt: no such file: check the path"):
        find_files([tmp_path / "missing.txt"])
    with pytest.raises(UserError, match=r": is a directory: name its files, such as '.*\*\.txt'"):
        find_files([tmp_path])
    (tmp_path / "only.d").mkdir()
    with pytest.raises(UserError, match=r"\*\.d: no file matches this pattern"):
        find_files([tmp_path / "*.d"])
    with pytest.raises(UserError, match="hf://user/name: nothing is downloaded"):
        find_files(["hf://user/name"])
    with pytest.raises(UserError, match="no corpus was given"):
        find_files([])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: not a regular file: save its text to one"):
        find_files([tmp_path / "pipe"])
