"""Bad input: corpora, tokenizers, arguments, and files with something in them changed."""

import gzip
import json
import os
import random
import resource
import shutil
from contextlib import redirect_stderr
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import sentencepiece as spm
import torch
from torture_bench import Bench, Done, Row

from simple_diffusion_lm.corpus.prepare import open_prepared
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.writing.model import DiffusionLM

LINES = [f"the {colour} {animal} sleeps ." for colour in ("red", "blue", "old") for animal in ("cat", "dog")]


def given(bench: Bench, content: bytes, name: str = "corpus.txt") -> Done:
    """A corpus of these bytes, trained on for two steps."""
    (bench.place / name).write_bytes(content)
    return bench.sdlm(*bench.train(bench.place / f"run-{name}", 2, corpus=bench.place / name))


def counts(bench: Bench, name: str = "corpus.txt") -> dict[str, int]:
    """What corpus.json says went into the training part."""
    about = json.loads((bench.place / f"run-{name}/corpus/corpus.json").read_text())
    return about["parts"]["train"]


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
    assert (found["lines"], found.get("skipped", 0)) == (len(LINES), 0), found
    return "trained on"


def d3(bench: Bench) -> str:
    """no newline at the end, CRLF, a byte order mark, blank lines between"""
    assert "6 lines" in given(bench, text(LINES)).fine().said
    contents = {
        "no-end.txt": text(LINES)[:-1],
        "crlf.txt": text(LINES, "\r\n"),
        "bom.txt": b"\xef\xbb\xbf" + text(LINES),
        "blanks.txt": text([line for pair in LINES for line in (pair, "")]),
    }
    plain = counts(bench)
    for name, content in contents.items():
        given(bench, content, name).fine()
        found = counts(bench, name)
        assert (found["tokens"], found["lines"]) == (plain["tokens"], len(LINES)), f"{name}: {found}"
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
    line = "the red cat sleeps . " * (size // 21)
    given(bench, text([*LINES * 20, line]), "long.txt").fine()
    return f"{counts(bench, 'long.txt')['tokens']:,} tokens"


def d6(bench: Bench) -> str:
    """emoji, right-to-left text, combining characters, duplicate lines"""
    lines = ["🐈 🐕‍🦺 !", "قطة تنام على السرير", "e\u0301a\u0308 ﬁ", *LINES, *LINES]
    given(bench, text(lines), "unicode.txt").fine()
    assert counts(bench, "unicode.txt")["lines"] == len(lines)
    return f"{len(lines)} of {len(lines)} lines"


def d7(bench: Bench) -> str:
    """a directory, a missing file, a glob without match, gzip, a gzip cut short, JSON lines"""
    for name, words in (
        ("", "is a directory"), ("missing.txt", "no such file"), ("*.nothing", "no file matches")
    ):  # fmt: skip
        bench.sdlm(*bench.train(bench.place / "no-run", 2, corpus=bench.place / name)).refused(words)
    packed = gzip.compress(text(LINES))
    given(bench, packed, "lines.txt.gz").fine()
    given(bench, packed[:-9], "cut.txt.gz").refused("not a whole .gz file")
    given(bench, b'{"text": "a cat ."}\n{"txt": 1}\n', "lines.jsonl").refused("lines.jsonl:2")
    return given(bench, b'{"text": "a cat ."}\n{"text"\n', "bad.jsonl").refused("bad.jsonl:2")


def d8(bench: Bench) -> str:
    """a corpus that is edited between a run and its resumption"""
    given(bench, text(LINES)).fine()
    return given(bench, text([*LINES[:-1], "the old dog wakes ."])).refused("holds another corpus")


def t1(bench: Bench) -> str:
    """SentencePiece models without padding, with a vocabulary too large, of the wrong kind"""
    corpus, own = bench.corpus, bench.place / "own"
    spm.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(own), vocab_size=200, minloglevel=2)
    train = bench.train(bench.place / "run", 2, corpus=corpus)
    bench.sdlm(*train, "--tokenizer", f"{own}.model").fine()  # of its own defaults: no padding
    other = bench.train(bench.place / "other", 2, corpus=corpus)
    for tokenizer, words in ((f"{own}.vocab", "SentencePiece"), (corpus, "SentencePiece"), ("no.model",) * 2):
        bench.sdlm(*other, "--tokenizer", tokenizer).refused(words)
    return bench.sdlm(*other, "--vocab-size", 50_000).refused("50000")


def a1(bench: Bench) -> str:
    """arguments of the wrong kind, out of range, misspelled"""
    run, other = bench.trained(2), bench.place / "x"
    for words, *arguments in (
        ("the number of steps must be at least 1", "generate", run, "--steps", 0),
        ("temperature", "generate", run, "--temperature", -1),
        ("candidate", "infill", run, "a ___", "--candidates", 0),
        ("character 2", "infill", run, "a[[0]]"),
        ("strength", "vary", run, "the cat .", "--strength", 3),
        ("no run here", "generate", bench.place / "nothing"),
        ("dropout must be between 0 and 1", *bench.train(other, 2, "dropout=2")),
        ("heads", *bench.train(other, 2, "model_dim=130")),
        ("crop", *bench.train(other, 2, "crop=1")),
        ("one budget", *bench.train(other, 2), "--minutes", 1),
        ("token", "serve", run, "--host", "0.0.0.0"),
    ):
        bench.sdlm(*arguments).refused(words)
    for setting in ("lerning_rate=1", "layers=two"):
        (done := bench.sdlm(*bench.train(other, 2, setting))).refused("")
        assert setting.split("=")[0] in done.said, done.said
    for wrong in (["generate", run, "--stps", 3], ["generate", run, "--steps", "many"], ["fly"]):
        bench.sdlm(*wrong).refused("")
    return "each named, each exit code 2"


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Bytes with one thing changed: a byte, a bit, a piece cut, doubled, or moved."""
    at = chance.randrange(len(content))
    size = chance.choice([1, 1, 1, 8, 64])
    before, after = content[:at], content[at + 1 :]
    return chance.choice(
        [
            before + bytes([chance.randrange(256)]) + after,
            before + bytes([content[at] ^ (1 << chance.randrange(8))]) + after,
            before + content[at + size :],
            before + content[at : at + size] + content[at:],
            before,
            before + chance.randbytes(size) + content[at + size :],
        ]
    )


def meaning(run: Path) -> Any:
    """All that a run means to who opens it, or None where it is refused."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        try:
            model = DiffusionLM.from_pretrained(run)
        except UserError:
            return None
    about = model.config, model.length_weights, model.stream, model.tokenizer.model
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}, about


def is_harmless(path: Path, content: bytes, whole: Any) -> bool:
    """Whether the changed file is read as it was, content being that; False where it is refused."""
    if (path.parent / "corpus.json").exists():
        try:
            open_prepared(path.parent).check()
        except UserError:
            return False
        changed = path.read_bytes()
        alike = changed == content or (path.suffix == ".json" and json.loads(changed) == json.loads(content))
    else:
        run = path.parent if (path.parent / "config.json").exists() else path.parents[2]
        found = meaning(run)
        if found is None:
            return False
        alike = all(torch.equal(whole[0][k], found[0][k]) for k in whole[0]) and whole[1] == found[1]
    assert alike, f"{path.name} was loaded as something else"
    return True


def f1(bench: Bench) -> str:
    """10,000 changes of checkpoints, exported models, configurations, tokenizers and caches"""
    run, cache = bench.trained(2), bench.place / "cache"
    bench.sdlm("export", run, "--out", model := bench.place / "model").fine()
    shutil.copytree(bench.prepared, cache)
    whole, (folder,) = meaning(run), (run / "checkpoints").glob("step-*")
    names = (folder / "model.safetensors", folder / "manifest.json", "config.json", "tokenizer.model")
    files = [*(run / name for name in names), *sorted(cache.iterdir())]
    files += sorted({*model.iterdir()} - {model / "README.md"})
    chance, harmless, count = random.Random(0), 0, 300 if bench.quick else 10_000
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        path.write_bytes(mutated(content, chance))
        try:
            harmless += is_harmless(path, content, whole)
        except Exception as error:
            raise AssertionError(f"{path.name}: {type(error).__name__}: {error}") from error
        path.write_bytes(content)
    return f"{count - harmless:,} refused, {harmless:,} changed nothing that is read"


def e1(bench: Bench) -> str:
    """the disk is full while a model is exported"""
    run, out = bench.trained(2), bench.place / "model"
    said = bench.sdlm("export", run, "--out", out, limit=(resource.RLIMIT_FSIZE, 20_000)).refused("too large")
    assert [*bench.place.iterdir()] == [run], "something is left of it"
    return said


class Rubbish(BaseHTTPRequestHandler):
    """Whatever it is asked, it answers with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def e2(bench: Bench) -> str:
    """a hub that answers rubbish, then none"""
    bench.sdlm("export", bench.trained(2), "--out", model := bench.place / "model").fine()
    with ThreadingHTTPServer(("127.0.0.1", 0), Rubbish) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        at = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(bench.place / "hub")}
        bench.sdlm("generate", "u/toy", **at).refused("u/toy: no such directory, and the hub refuses")
        bench.sdlm("push", model, "u/toy", HF_TOKEN="hf_none", **at).refused("u/toy: the hub refuses")
        server.shutdown()
    bench.sdlm("push", model, "u/toy", HF_TOKEN="hf_none", **at).refused("u/toy: the hub refuses")
    return bench.sdlm("generate", "u/toy", **at).refused("u/toy: no such directory, and the hub refuses")


ALL = d1, d2, d3, d4, d5, d6, d7, d8, e1, e2, t1, a1, f1
ROWS: dict[str, Row] = {row.__name__.upper(): row for row in ALL}
