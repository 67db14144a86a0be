import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import decoded, write

from simple_diffusion_lm.corpus import prepare as module
from simple_diffusion_lm.corpus.prepare import is_prepared, open_prepared, prepare
from simple_diffusion_lm.corpus.tokenizer import Tokenizer, train_tokenizer
from simple_diffusion_lm.errors import UserError


def test_validation_files_are_all_that_is_held_out(tmp_path: Path, corpus: Path, lines: list[str]) -> None:
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
        with pytest.raises(UserError, match=r"holds another corpus: choose another --out$"):
            prepare(inputs, out, quiet=True, **options)
    assert open_prepared(out).meta == before
    (tmp_path / "full").mkdir()
    write(tmp_path / "full" / "precious.txt", ["text"])
    with pytest.raises(UserError, match="holds something else: choose another --out"):
        prepare([corpus], tmp_path / "full", quiet=True)
    (tmp_path / "empty").mkdir()
    assert len(prepare([corpus], tmp_path / "empty", quiet=True).train)


def test_ids_have_the_smallest_type_and_are_mapped(tmp_path: Path, corpus: Path, model: Path) -> None:
    prepared = prepare([corpus], tmp_path / "out", tokenizer=model, quiet=True)
    assert prepared.train.ids.dtype == np.uint16
    assert isinstance(prepared.train.ids, np.memmap)
    counts = prepared.train.counts(len(prepared.tokenizer))
    assert counts[prepared.tokenizer.eos_id] == len(prepared.train)
    assert counts.sum() == prepared.train.offsets[-1] == len(prepared.train.ids)


def test_the_summary_is_one_line_on_stderr(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepare([corpus], tmp_path / "out")
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    held_out, train = len(prepared.valid), len(prepared.train)
    assert out == ""
    assert f"{train} lines to train on, {held_out} held out, 0 blank ones skipped; voc" in last
    assert last.endswith(" 0 lines that the tokenizer does not give back as they were")
    assert "training a tokenizer" in err.splitlines()
    prepare([corpus], tmp_path / "out", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_tokenizer_is_trained_on_a_bounded_sample_of_the_training_part(
    tmp_path: Path, corpus: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shares(name: str) -> list[float]:
        asked: list[float] = []

        def recorded(own: Iterable[str], *rest: Any, share: float, **options: Any) -> Tokenizer:
            own = list(own)
            assert set(own) < set(lines)
            asked.append(share)
            return train_tokenizer(own, *rest, share=share, **options)

        monkeypatch.setattr(module, "train_tokenizer", recorded)
        prepare([corpus], tmp_path / name, quiet=True)
        return asked

    assert shares("whole") == [1]
    monkeypatch.setattr(module, "SAMPLE_CHARACTERS", len(corpus.read_text(encoding="utf-8")) / 4)
    assert shares("characters") == [0.25]


@pytest.mark.parametrize("content", [[], ["", "   ", "\t"], ["\u200b"]])
def test_an_empty_corpus_is_refused(tmp_path: Path, folding: Path, content: list[str]) -> None:
    file = write(tmp_path / "c.txt", content)
    with pytest.raises(UserError, match=r"no text in (it|the corpus): every line is empty"):
        prepare([file], tmp_path / "out", tokenizer=folding, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"c.txt", "folding.model"}


def test_what_cannot_be_done_is_told_in_a_line(tmp_path: Path, corpus: Path, model: Path) -> None:
    for out, options, message in (
        (corpus, {}, r"corpus.txt: cannot be written .Not a directory"),
        (corpus / "out", {}, r"corpus.txt/out: cannot be written .File exists"),
        (tmp_path / "out", {"vocab_size": 9999}, r"9999 does not fit .* --vocab-size \d+ or less"),
        (tmp_path / "out", {"tokenizer": corpus}, r"corpus.txt: not a SentencePiece .model file"),
        (tmp_path / "out", {"valid": ["none.txt"]}, r"none.txt: no such file"),
        (tmp_path / "out", {"tokenizer": model, "vocab_size": 60}, r"--vocab-size is of a BPE tok"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            prepare([corpus], out, quiet=True, **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_read_only_directory_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match=r"out: cannot be written .* is read-only"):
        prepare(["missing.txt"], tmp_path / "out", quiet=True)


def test_a_killed_preparation_leaves_nothing(
    tmp_path: Path, corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, text: str) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(module.Tokenizer, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare([corpus], tmp_path / "out", tokenizer=model, quiet=True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.Counter, "update", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"out: cannot be written .No space left on dev"):
        prepare([corpus], tmp_path / "out", tokenizer=model, quiet=True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_line_that_was_spoiled_between_the_readings_is_named(
    tmp_path: Path, lines: list[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "c.txt", lines)
    good = file.read_bytes().split(b"\n")
    read_whole = module.Source.__init__

    def then_spoil(self: module.Source, *args: Any, **options: Any) -> None:
        read_whole(self, *args, **options)
        file.write_bytes(b"\n".join([*good[:76], b"caf\xe9", *good[77:]]))

    monkeypatch.setattr(module.Source, "__init__", then_spoil)
    with pytest.raises(UserError, match=r"c.txt:77: not UTF-8 \(byte 0xe9\)"):
        prepare([file], tmp_path / "out", tokenizer=model, quiet=True)
    assert not (tmp_path / "out").exists()


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
