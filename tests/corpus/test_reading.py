import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simple_diffusion_lm.corpus.reading import find_files, read_lines
from simple_diffusion_lm.errors import UserError


def read(*files: Path, field: str = "text", stream: bool = False) -> list[str]:
    return list(read_lines(files, field=field, stream=stream))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["x.txt", "x", "x.txt.gz"])
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


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    records = [{"body": "one"}, {"body": "t\nw\r\no", "other": 1}, {"body": ""}, {"body": "é"}]
    file = write(tmp_path / name, "\n\n".join(map(json.dumps, records)).encode())
    assert read(file, field="body") == ["one", "t w o", "", "é"]
    assert read(file, field="body", stream=True) == ["one", "t", "w", "o", "é"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"fine\ncaf\xe9\n", r"x.txt:2: not UTF-8 \(byte 0xe9\): re-save the file"),
        ("x.txt.gz", b"\xff\xfeo\0n\0e\0", r"x.txt.gz:1: not UTF-8 \(byte 0xff\): re-save"),
        ("x.txt", b"fine\nfine\na\0b", r"x.txt:3: a NUL byte, so not plain text: re-save"),
        ("x.jsonl", b'{"text": "a"}\n{"text": ', r"x.jsonl:2: not JSON: a .jsonl file holds"),
        ("x.jsonl", b'{"txt": "a"}', r"x.jsonl:1: no text under 'text': name the field"),
        ("x.jsonl", b'{"text": 3}', r"x.jsonl:1: no text under 'text': name the field"),
        ("x.jsonl", b'["a"]', r"x.jsonl:1: no text under 'text': name the field"),
        ("x.jsonl", b'{"text": "\\ud800"}', r"x.jsonl:1: an escape that is not a character"),
        ("x.jsonl", b'{"text": "\\u0000"}', r"x.jsonl:1: an escape that is not a character"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_a_broken_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b"some text\n" * 1000)
    for content in (whole[:-20], b"plain text", whole[:20] + b"xxxx" + whole[24:]):
        file = tmp_path / "x.gz"
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.gz: is not a whole gzip file: compress it again"):
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
    with pytest.raises(UserError, match="no corpus was given"):
        find_files([])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: not a regular file: save its text to one"):
        find_files([tmp_path / "pipe"])
