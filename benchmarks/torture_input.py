"""Bad input: corpora, tokenizers, arguments, and files with something in them changed."""

import gzip
import json
import os
import random
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import sentencepiece as spm
import torch
from torture_bench import Bench, Done, Row

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.generation import DiffusionLM
from simple_diffusion_lm.text.corpus import open_prepared

LINES = [
    f"the {colour} {animal} sleeps ."
    for colour in ("red", "blue", "old")
    for animal in ("cat", "dog")
]


def given(bench: Bench, content: bytes, name: str = "corpus.txt") -> Done:
    """A corpus of these bytes, trained on for two steps."""
    path = bench.place / name
    path.write_bytes(content)
    return bench.sdlm(*bench.train(bench.place / f"run-{name}", 2, corpus=path))


def counts(bench: Bench, name: str = "corpus.txt") -> dict[str, int]:
    """What corpus.json says went into the training part."""
    path = bench.place / f"run-{name}" / "corpus" / "corpus.json"
    found: dict[str, int] = json.loads(path.read_text())["parts"]["train"]
    return found


def text(lines: list[str], end: str = "\n") -> bytes:
    return "".join(line + end for line in lines).encode()


def d1(bench: Bench) -> str:
    """an empty corpus, and one of blank lines"""
    given(bench, b"").refused("corpus.txt")
    return given(bench, b"\n  \n\t\n", "blank.txt").refused("blank.txt")


def d2(bench: Bench) -> str:
    """one line; one token; fewer lines than a batch"""
    given(bench, b"the red cat sleeps .\n").fine()
    given(bench, b"a\n", "token.txt").fine()
    given(bench, text(LINES), "few.txt").fine()
    found = counts(bench, "few.txt")
    assert (found["lines"], found["skipped"]) == (len(LINES), 0), found
    return "trained on"


def d3(bench: Bench) -> str:
    """no newline at the end, CRLF, a byte order mark, blank lines between"""
    plain = given(bench, text(LINES)).fine()
    assert "6 lines" in plain.said
    variants = {
        "no-end.txt": text(LINES)[:-1],
        "crlf.txt": text(LINES, "\r\n"),
        "bom.txt": b"\xef\xbb\xbf" + text(LINES),
        "blanks.txt": text([line for pair in LINES for line in (pair, "")]),
    }
    expected = counts(bench)
    for name, content in variants.items():
        given(bench, content, name).fine()
        found = counts(bench, name)
        assert found["tokens"] == expected["tokens"], f"{name}: {found}"
        assert found["lines"] == len(LINES), f"{name}: {found}"
    assert counts(bench, "blanks.txt")["skipped"] == len(LINES)
    return "the same tokens as the plain file"


def d4(bench: Bench) -> str:
    """latin-1, UTF-16, a binary file, a NUL byte"""
    given(bench, b"fine\ncaf\xe9\n", "latin.txt").refused("latin.txt:2")
    given(bench, "\n".join(LINES).encode("utf-16"), "wide.txt").refused("wide.txt:1")
    given(bench, random.Random(0).randbytes(10_000), "binary.txt").refused("binary.txt:")
    return given(bench, b"fine\na\0b\n", "nul.txt").refused("nul.txt:2")


def d5(bench: Bench) -> str:
    """a line of 10 MB"""
    size = 1_000_000 if bench.quick else 10_000_000
    line = ("the red cat sleeps . " * (size // 21)).encode()
    given(bench, text(LINES * 20) + line + b"\n", "long.txt").fine()
    return f"{counts(bench, 'long.txt')['tokens']:,} tokens"


def d6(bench: Bench) -> str:
    """emoji, right-to-left text, combining characters, duplicate lines"""
    lines = ["🐈 🐕‍🦺 !", "قطة تنام على السرير", "e\u0301a\u0308 ﬁ", *LINES, *LINES]
    given(bench, text(lines), "unicode.txt").fine()
    assert counts(bench, "unicode.txt")["lines"] == len(lines)
    return f"{len(lines)} of {len(lines)} lines"


def d7(bench: Bench) -> str:
    """a directory, a missing file, a glob without match, gzip, a gzip cut short, JSON lines"""
    train = lambda corpus: bench.sdlm(*bench.train(bench.place / "no-run", 2, corpus=corpus))  # noqa: E731
    train(bench.place).refused("is a directory")
    train(bench.place / "missing.txt").refused("no such file")
    train(bench.place / "*.nothing").refused("no file matches")
    packed = gzip.compress(text(LINES))
    given(bench, packed, "lines.txt.gz").fine()
    given(bench, packed[:-9], "cut.txt.gz").refused("not a whole gzip file")
    given(bench, b'{"text": "a cat ."}\n{"txt": 1}\n', "lines.jsonl").refused("lines.jsonl:2")
    return given(bench, b'{"text": "a cat ."}\n{"text"\n', "bad.jsonl").refused("bad.jsonl:2")


def d8(bench: Bench) -> str:
    """a corpus that is edited between a run and its resumption"""
    path, run = bench.place / "corpus.txt", bench.place / "run"
    path.write_bytes(text(LINES))
    bench.sdlm(*bench.train(run, 2, corpus=path)).fine()
    path.write_bytes(text([*LINES[:-1], "the old dog wakes ."]))
    return bench.sdlm(*bench.train(run, 4, corpus=path)).refused("holds another corpus")


def t1(bench: Bench) -> str:
    """SentencePiece models without padding, with a vocabulary too large, of the wrong kind"""
    corpus, place = bench.corpus, bench.place
    spm.SentencePieceTrainer.train(  # its own defaults: no padding
        input=str(corpus), model_prefix=str(place / "own"), vocab_size=200, minloglevel=2
    )
    train = [*bench.train(place / "run", 2, corpus=corpus), "--tokenizer"]
    bench.sdlm(*train, place / "own.model").fine()
    other = [*bench.train(place / "other", 2, corpus=corpus)]
    bench.sdlm(*other, "--tokenizer", place / "own.vocab").refused("SentencePiece")
    bench.sdlm(*other, "--tokenizer", corpus).refused("SentencePiece")
    bench.sdlm(*other, "--tokenizer", place / "none.model").refused("none.model")
    return bench.sdlm(*other, "--vocab-size", 50_000).refused("50000")


def a1(bench: Bench) -> str:
    """arguments of the wrong kind, out of range, misspelled"""
    run = bench.place / "run"
    bench.sdlm(*bench.train(run, 2)).fine()
    for words, *arguments in (
        ("1 step", "generate", run, "--steps", 0),
        ("temperature", "generate", run, "--temperature", -1),
        ("length", "generate", run, "--length", "x"),
        ("tokens", "generate", run, "--length", 900),
        ("candidate", "infill", run, "a ___", "--candidates", 0),
        ("character 2", "infill", run, "a[[0]]"),
        ("strength", "vary", run, "the cat .", "--strength", 3),
        ("no run here", "generate", bench.place / "nothing"),
        ("dropout must be between 0 and 1", *bench.train(bench.place / "x", 2, "dropout=2")),
        ("heads", *bench.train(bench.place / "x", 2, "model_dim=130")),
        ("crop", *bench.train(bench.place / "x", 2, "crop=1")),
        ("lerning_rate", *bench.train(bench.place / "x", 2, "lerning_rate=1")),
        ("takes int", *bench.train(bench.place / "x", 2, "layers=two")),
        ("one budget", *bench.train(bench.place / "x", 2), "--minutes", 1),
        ("token", "serve", run, "--host", "0.0.0.0"),
    ):
        bench.sdlm(*arguments).refused(words)
    for arguments in (
        ["generate", run, "--stps", 3],
        ["generate", run, "--steps", "many"],
        ["fly"],
    ):
        done = bench.sdlm(*arguments)
        assert done.code == 2, done.said
        assert "Traceback" not in done.said, done.said
    return "each named, each exit code 2"


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Bytes with one thing changed: a byte, a bit, a piece cut, doubled, or moved."""
    at = chance.randrange(len(content))
    size = chance.choice([1, 1, 1, 8, 64])
    piece = content[at : at + size]
    return {
        0: content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
        1: content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :],
        2: content[:at] + content[at + size :],
        3: content[:at] + piece + content[at:],
        4: content[:at],
        5: content[:at] + chance.randbytes(size) + content[at + size :],
    }[chance.randrange(6)]


def meaning(run: Path) -> object:
    """All that a run means to who opens it, or None where it is refused."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        try:
            model = DiffusionLM.from_pretrained(run)
        except UserError:
            return None
    tensors = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    return tensors, model.config, model.length_weights, model.stream, model.tokenizer.model


def same(first: object, second: object) -> bool:
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    alike = all(torch.equal(first[0][k], second[0][k]) for k in first[0])
    return alike and first[1:] == second[1:]


def f1(bench: Bench) -> str:
    """10,000 changes of checkpoints, configurations, tokenizers and caches"""
    run, spoiled = bench.place / "run", bench.place / "spoiled"
    bench.sdlm(*bench.train(run, 2)).fine()
    whole = meaning(run)
    shutil.copytree(run, spoiled)
    cache = bench.place / "cache"
    shutil.copytree(bench.prepared, cache)
    (step,) = (path.name for path in (run / "checkpoints").glob("step-*"))
    folder = spoiled / "checkpoints" / step
    files = [folder / "model.safetensors", folder / "manifest.json", spoiled / "config.json",
             spoiled / "tokenizer.model", *sorted(cache.iterdir())]  # fmt: skip
    chance = random.Random(0)
    refused, harmless = 0, 0
    for number in range(300 if bench.quick else 10_000):
        path = files[number % len(files)]
        content = path.read_bytes()
        changed = mutated(content, chance)
        path.write_bytes(changed)
        try:
            if path.parent == cache:
                try:
                    open_prepared(cache).check()
                except UserError:
                    refused += 1
                    continue
                unchanged = changed == content
                if path.suffix == ".json" and not unchanged:
                    unchanged = json.loads(changed) == json.loads(content)
                assert unchanged, f"{path.name} was opened"
                harmless += 1
            else:
                found = meaning(spoiled)
                if found is None:
                    refused += 1
                else:
                    assert same(whole, found), f"{path.name} was loaded as something else"
                    harmless += 1
        except Exception as error:
            raise AssertionError(f"{path.name}: {type(error).__name__}: {error}") from error
        finally:
            path.write_bytes(content)
    return f"{refused:,} refused, {harmless:,} changed nothing that is read"


ROWS: dict[str, Row] = {
    "D1": d1, "D2": d2, "D3": d3, "D4": d4, "D5": d5, "D6": d6, "D7": d7, "D8": d8,
    "T1": t1, "A1": a1, "F1": f1,
}  # fmt: skip
