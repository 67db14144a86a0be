import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.text import corpus as module
from simple_diffusion_lm.text import writing
from simple_diffusion_lm.text.corpus import Corpus, Prepared, is_prepared, open_prepared, prepare
from simple_diffusion_lm.text.tokenizer import Tokenizer

some_lines = st.lists(st.text("adeims 12é", max_size=12), max_size=30)
per_example = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def model(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    path = tmp_path / "given.model"
    path.write_bytes(tokenizer.model)
    return path


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def decoded(prepared: Prepared, part: Corpus) -> list[str]:
    assert all(ids[-1] == prepared.tokenizer.eos_id for ids in part)
    return [prepared.tokenizer.decode(ids) for ids in part]


@pytest.fixture
def corpus(tmp_path: Path, lines: list[str]) -> Path:
    return write(tmp_path / "corpus.txt", lines)


@per_example
@given(extra=some_lines, seed=st.integers(0, 99))
def test_every_line_comes_back_once_and_no_duplicate_is_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    model: Path,
    extra: list[str],
    seed: int,
) -> None:
    written = [*lines, *extra, *extra, *(f"  {line} " for line in extra)]
    random.Random(seed).shuffle(written)
    tmp = tmp_path_factory.mktemp("prepare")
    prepared = prepare([write(tmp / "c.txt", written)], tmp / "out", tokenizer=model, quiet=True)

    kept = [" ".join(line.split()) for line in written if line.strip()]
    train, valid = decoded(prepared, prepared.train), decoded(prepared, prepared.valid)
    assert train == [line for line in kept if line not in set(valid)]
    assert valid == [line for line in kept if line in set(valid)]
    parts = prepared.meta["parts"]
    assert parts["train"]["skipped"] + parts["valid"]["skipped"] == len(written) - len(kept)
    assert parts["train"]["lines"] == len(prepared.train) == len(train)


@per_example
@given(extra=some_lines)
def test_running_text_comes_back_and_ends_in_the_validation_part(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    stream_tokenizer: Tokenizer,
    extra: list[str],
) -> None:
    written = [*lines, *extra]
    tmp = tmp_path_factory.mktemp("prepare")
    (tmp / "given.model").write_bytes(stream_tokenizer.model)
    file = write(tmp / "c.txt", written)
    prepared = prepare([file], tmp / "out", tokenizer=tmp / "given.model", stream=True, quiet=True)
    assert prepared.stream
    assert len(prepared.valid) == round(0.05 * len(written))
    ids = np.concatenate([prepared.train.ids, prepared.valid.ids])
    text = stream_tokenizer.decode_stream(ids)
    assert text == "\n".join(written) + "\n"


def test_held_out_lines_are_held_out_in_any_order_and_company(
    tmp_path: Path, lines: list[str], model: Path
) -> None:
    def held_out(written: list[str], name: str) -> set[str]:
        file = write(tmp_path / f"{name}.txt", written)
        prepared = prepare([file], tmp_path / name, tokenizer=model, quiet=True)
        return set(decoded(prepared, prepared.valid))

    some = held_out(lines, "some")
    assert 2 <= len(some) <= 20
    shuffled = [lines[0], *random.Random(0).sample(lines[1:], len(lines) - 1)]
    assert held_out(shuffled, "shuffled") == some
    assert held_out(lines[:50] * 2, "fewer") == some & set(lines[:50])


def test_a_text_of_one_line_many_times_is_trained_on(tmp_path: Path, model: Path) -> None:
    for i in range(40):
        file = write(tmp_path / "c.txt", [f"a man sits {i}"] * 200)
        prepared = prepare([file], tmp_path / f"{i}", tokenizer=model, quiet=True)
        assert (len(prepared.train), len(prepared.valid)) == (200, 0)


def test_a_small_corpus_spares_nothing(tmp_path: Path, model: Path, lines: list[str]) -> None:
    file = write(tmp_path / "c.txt", lines[:90])
    for stream in (False, True):
        out = tmp_path / f"stream-{stream}"
        prepared = prepare([file], out, tokenizer=model, stream=stream, quiet=True)
        assert (len(prepared.train), len(prepared.valid)) == (90, 0)
        assert len(prepared.valid.ids) == len(prepared.valid.lengths) == 0
        assert prepared.valid.counts(5).tolist() == [0] * 5


def test_validation_files_are_all_that_is_held_out(
    tmp_path: Path, corpus: Path, lines: list[str]
) -> None:
    valid = write(tmp_path / "v.txt", ["a man sings ."])
    prepared = prepare([corpus], tmp_path / "out", valid=[valid], quiet=True)
    assert decoded(prepared, prepared.train) == lines
    assert decoded(prepared, prepared.valid) == ["a man sings ."]


def test_every_form_of_the_same_lines_is_the_same_corpus(
    tmp_path: Path, corpus: Path, lines: list[str], model: Path
) -> None:
    text = corpus.read_text(encoding="utf-8")
    zipped, jsonl, crlf = (tmp_path / name for name in ("c.gz", "c.jsonl", "crlf.txt"))
    zipped.write_bytes(gzip.compress(text.encode()))
    jsonl.write_text("\n".join(json.dumps({"body": line}) for line in lines))
    crlf.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    write(tmp_path / "half-1.txt", lines[:70])
    write(tmp_path / "half-2.txt", lines[70:])

    out = tmp_path / "out"
    first = prepare([corpus], out, tokenizer=model, quiet=True)
    written = (out / "corpus.json").stat().st_mtime_ns
    for inputs in ([zipped], [jsonl], [crlf], [f"{tmp_path}/half-?.txt"]):
        again = prepare(inputs, out, tokenizer=model, field="body", quiet=True)
        assert again.meta == first.meta
    assert (out / "corpus.json").stat().st_mtime_ns == written


def test_a_directory_that_holds_another_corpus_is_left_alone(
    tmp_path: Path, corpus: Path, lines: list[str], model: Path
) -> None:
    out = tmp_path / "out"
    before = prepare([corpus], out, quiet=True).meta
    other = write(tmp_path / "other.txt", [*lines, "one more"])
    for inputs, options in (
        ([other], {}),
        ([corpus], {"tokenizer": model}),
        ([corpus], {"stream": True}),
        ([corpus], {"vocab_size": 60}),
        ([corpus], {"valid": [other]}),
    ):
        with pytest.raises(UserError, match="holds another corpus: choose another --out, or del"):
            prepare(inputs, out, quiet=True, **options)
    assert open_prepared(out).meta == before
    (tmp_path / "full").mkdir()
    write(tmp_path / "full" / "precious.txt", ["text"])
    with pytest.raises(UserError, match="holds something else: choose another --out"):
        prepare([corpus], tmp_path / "full", quiet=True)
    (tmp_path / "empty").mkdir()
    assert len(prepare([corpus], tmp_path / "empty", quiet=True).train)


def test_ids_have_the_smallest_type_and_are_counted_in_pieces(
    tmp_path: Path, corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare([corpus], tmp_path / "out", tokenizer=model, quiet=True)
    assert prepared.train.ids.dtype == np.uint16
    assert isinstance(prepared.train.ids, np.memmap)
    monkeypatch.setattr(module, "COUNT_TOKENS", 17)
    counts = prepared.train.counts(len(prepared.tokenizer))
    assert counts[prepared.tokenizer.eos_id] == len(prepared.train)
    assert counts.sum() == prepared.train.lengths.sum() == len(prepared.train.ids)


def test_unknown_characters_are_counted(tmp_path: Path, model: Path) -> None:
    file = write(tmp_path / "c.txt", ["a man 漢", "a man", "\u200b"])
    prepared = prepare([file], tmp_path / "out", tokenizer=model, quiet=True)
    train = prepared.meta["parts"]["train"]
    assert (train["unknown"], train["lines"], train["skipped"]) == (1, 2, 1)
    assert train["characters"] == len("a man 漢a man")


def test_the_summary_is_one_line_on_stderr(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepare([corpus], tmp_path / "out")
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    held_out, train = len(prepared.valid), len(prepared.train)
    assert out == ""
    assert f"{train} lines to train on, {held_out} held out, 0 blank ones skipped; voc" in last
    prepare([corpus], tmp_path / "out", quiet=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("content", [[], ["", "   ", "\t"], ["\u200b"]])
def test_an_empty_corpus_is_refused(tmp_path: Path, model: Path, content: list[str]) -> None:
    file = write(tmp_path / "c.txt", content)
    with pytest.raises(UserError, match=r"no text in (it|the corpus): every line is empty"):
        prepare([file], tmp_path / "out", tokenizer=model, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"c.txt", "given.model"}


def test_what_cannot_be_done_is_told_in_a_line(tmp_path: Path, corpus: Path, model: Path) -> None:
    for out, options, message in (
        (corpus, {}, r"corpus.txt: cannot write a corpus here: Not a directory"),
        (corpus / "out", {}, r"corpus.txt/out: cannot write a corpus here: File exists"),
        (tmp_path / "out", {"vocab_size": 9999}, r"9999 is too large .* --vocab-size \d+ or less"),
        (tmp_path / "out", {"tokenizer": corpus}, r"corpus.txt: not a SentencePiece .model file"),
        (tmp_path / "out", {"valid": ["none.txt"]}, r"none.txt: no such file"),
        (tmp_path / "out", {"tokenizer": model, "vocab_size": 60}, r"--vocab-size is of a tok"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            prepare([corpus], out, quiet=True, **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_read_only_directory_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match=r"out: cannot write a corpus here: .* is read-only"):
        prepare(["missing.txt"], tmp_path / "out", quiet=True)


def test_a_killed_preparation_leaves_nothing(
    tmp_path: Path, corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Tokenizer, lines: list[str]) -> list[list[int]]:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "encode_lines", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare([corpus], tmp_path / "out", tokenizer=model, quiet=True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_directory_is_not_opened(tmp_path: Path, corpus: Path) -> None:
    def damaged(name: str) -> Path:
        out = tmp_path / name
        prepare([corpus], out, quiet=True)
        assert is_prepared(out)
        return out

    cut = damaged("cut")
    (cut / "train.ids.bin").write_bytes((cut / "train.ids.bin").read_bytes()[:-2])
    swapped = damaged("swapped")
    prepare([corpus], tmp_path / "small", vocab_size=60, quiet=True)
    (swapped / "tokenizer.model").write_bytes((tmp_path / "small/tokenizer.model").read_bytes())
    garbled = damaged("garbled")
    (garbled / "corpus.json").write_text("{")
    for out in (cut, swapped, garbled):
        with pytest.raises(UserError, match="damaged or incomplete: delete it, prepare again"):
            open_prepared(out)
    lacking = damaged("lacking")
    (lacking / "valid.offsets.bin").unlink()
    with pytest.raises(UserError, match=r"no prepared corpus \(it lacks valid.offsets.bin\)"):
        open_prepared(lacking)
    assert not is_prepared(tmp_path)
    with pytest.raises(UserError, match=r"no prepared corpus \(it lacks corpus.json\)"):
        open_prepared(tmp_path)


def test_a_corpus_is_encoded_and_written_in_pieces(
    tmp_path: Path, corpus: Path, lines: list[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []
    encode_lines = Tokenizer.encode_lines

    def recorded(self: Tokenizer, lines: list[str]) -> list[list[int]]:
        pieces.append(sum(map(len, lines)))
        return encode_lines(self, lines)

    monkeypatch.setattr(Tokenizer, "encode_lines", recorded)
    monkeypatch.setattr(writing, "WRITE_CHARACTERS", 200)
    prepared = prepare([corpus], tmp_path / "out", tokenizer=model, quiet=True)
    assert len(pieces) > 15
    assert max(pieces) < 200 + max(map(len, lines))
    train, valid = decoded(prepared, prepared.train), decoded(prepared, prepared.valid)
    assert sorted(train + valid) == sorted(lines)
