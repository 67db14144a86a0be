import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora import decoded, write
from hypothesis import HealthCheck, given, settings, strategies as st

from simple_diffusion_lm.corpus.prepare import hold_out, prepare
from simple_diffusion_lm.corpus.reading import Source
from simple_diffusion_lm.corpus.tokenizer import Tokenizer

some_lines = st.lists(st.text("adeims 12é", max_size=12), max_size=30)
per_example = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@per_example
@given(extra=some_lines, seed=st.integers(0, 99))
def test_every_line_comes_back_once_and_no_duplicate_is_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], model: Path, extra: list[str], seed: int
) -> None:
    written = [*lines, *extra, *extra, *(f"  {line} " for line in extra)]  # alike but for their spaces
    random.Random(seed).shuffle(written)
    tmp = tmp_path_factory.mktemp("prepare")
    prepared = prepare([write(tmp / "c.txt", written)], tmp / "out", tokenizer=model, quiet=True)

    kept = [line for line in written if line.strip()]
    train, valid = decoded(prepared, prepared.train), decoded(prepared, prepared.valid)
    assert train == [line for line in kept if line not in set(valid)]
    assert valid == [line for line in kept if line in set(valid)]
    assert not {tuple(line.split()) for line in train} & {tuple(line.split()) for line in valid}
    parts = prepared.meta["parts"]
    assert parts["train"]["skipped"] + parts["valid"]["skipped"] == len(written) - len(kept)
    assert parts["train"]["lines"] == len(prepared.train) == len(train)


@per_example
@given(extra=some_lines)
def test_running_text_comes_back_and_ends_in_the_validation_part(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], stream_tokenizer: Tokenizer, extra: list[str]
) -> None:
    written = [*lines, *extra]
    tmp = tmp_path_factory.mktemp("prepare")
    (tmp / "given.model").write_bytes(stream_tokenizer.model)
    file = write(tmp / "c.txt", written)
    prepared = prepare([file], tmp / "out", tokenizer=tmp / "given.model", stream=True, quiet=True)
    assert prepared.stream
    assert len(prepared.valid) == round(0.05 * len(written))
    ids = np.concatenate([prepared.train.ids, prepared.valid.ids])
    text = stream_tokenizer.decode(ids, stream=True)
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


def test_a_text_of_one_line_many_times_is_trained_on(tmp_path: Path) -> None:
    def is_held_out(line: str, first: str) -> bool:
        file = write(tmp_path / "c.txt", [first] * 200)
        source = Source([file], field="text", stream=False, quiet=True)
        return hold_out([source], stream=False)(0, line)

    lines = [f"line  {i}" for i in range(400)]
    assert not any(is_held_out(line, first=line) for line in lines)
    assert 5 < sum(is_held_out(line, first="another") for line in lines) < 40


def test_a_small_corpus_spares_nothing(tmp_path: Path, model: Path, lines: list[str]) -> None:
    file = write(tmp_path / "c.txt", lines[:90])
    for stream in (False, True):
        out = tmp_path / f"stream-{stream}"
        prepared = prepare([file], out, tokenizer=model, stream=stream, quiet=True)
        assert (len(prepared.train), len(prepared.valid)) == (90, 0)
        assert len(prepared.valid.ids) == prepared.valid.offsets[-1] == 0
        assert prepared.valid.counts(5).tolist() == [0] * 5


def test_lines_that_do_not_come_back_are_counted(
    tmp_path: Path, folding: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Characters without a piece, and what a tokenizer made elsewhere normalises."""
    file = write(tmp_path / "c.txt", ["a man 漢", "a man", "\u200b", "a  man", "ａ man"])
    prepared = prepare([file], tmp_path / "out", tokenizer=folding)
    train = prepared.meta["parts"]["train"]
    assert (train["changed"], train["lines"], train["skipped"]) == (3, 4, 1)
    assert train["characters"] == len("a man 漢a mana  manａ man")
    assert " 3 lines that the tokenizer does not give back as they were" in capsys.readouterr().err


def test_documents_of_running_text_do_not_run_into_each_other(tmp_path: Path) -> None:
    """Each record, or file of plain text, begins with an id that is no text and that nothing else has."""
    poems = ["roses are red\n\nviolets are blue\n", "  a single line", "", "the end"]
    records = tmp_path / "poems.jsonl"
    records.write_text("\n".join(json.dumps({"text": poem}) for poem in poems))
    books = [
        write(tmp_path / f"{n}.txt", poem.removesuffix("\n").split("\n")) for n, poem in enumerate(poems)
    ]
    prepared = [
        prepare(files, tmp_path / f"out-{len(files)}", stream=True, vocab_size=60, quiet=True)
        for files in ([records], books)
    ]
    for data in prepared:
        tokenizer, ids = data.tokenizer, data.train.ids.tolist()
        assert tokenizer.border_id in tokenizer.special_ids
        assert tokenizer.border_id != tokenizer.eos_id
        starts = [i for i, each in enumerate(ids) if each == tokenizer.border_id] + [len(ids)]
        documents = [tokenizer.decode(ids[a:b], stream=True) for a, b in pairwise(starts)]
        assert documents == [poem.removesuffix("\n") + "\n" for poem in poems]
    assert prepared[0].meta["key"] == prepared[1].meta["key"]
