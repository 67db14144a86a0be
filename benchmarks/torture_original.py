"""Some of torture.py's faults, put to a checkout of the original project."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import original_script
import sentencepiece as spm
import torch
from torture_bench import Bench, Done, Row, end, wait_for
from torture_runs import Malicious, damage

SMALL = ("-b", "16", "-mdim", "256", "-numl", "1", "-ngen", "1")


class Original:
    """Its script, with a corpus and a tokenizer that it takes."""

    def __init__(self, checkout: Path, bench: Bench) -> None:
        self.script = checkout / "pytorch" / "train.py"
        self.bench = bench
        self.corpus = bench.place / "corpus.txt"
        self.corpus.write_text("\n".join(bench.corpus.read_text().splitlines()[:64]) + "\n")
        self.tokenizer = bench.place / "tokenizer"
        spm.SentencePieceTrainer.train(
            input=str(bench.corpus), model_prefix=str(self.tokenizer), vocab_size=200,
            pad_id=3, minloglevel=2,
        )  # fmt: skip

    def start(
        self,
        checkpoint: Path,
        *more: object,
        corpus: Path | None = None,
        spm_model: Path | None = None,
    ) -> subprocess.Popen[str]:
        spm_model = spm_model or Path(f"{self.tokenizer}.model")
        command = [sys.executable, self.script, "-d", corpus or self.corpus, "-spm", spm_model,
                   "-ckpt", checkpoint, *SMALL, *more]  # fmt: skip
        return subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def run(self, checkpoint: Path, *more: object, **files: Path) -> Done:
        process = self.start(checkpoint, *more, **files)
        _, said = process.communicate(timeout=300)
        return Done(process.returncode, "", said)


def kill(process: subprocess.Popen[str]) -> None:
    """With its four workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def readable(path: Path) -> bool:
    try:
        torch.load(path, weights_only=True)
    except Exception:
        return False
    return True


def c1(checkout: Path, bench: Bench) -> str:
    """kill -9 at random instants, inside saving too: nothing unreadable"""
    theirs, path = Original(checkout, bench), bench.place / "run.pt"
    chance, unreadable, kills = random.Random(0), 0, 2 if bench.quick else 10
    for number in range(kills):
        before = path.stat().st_mtime_ns if path.exists() else 0
        process = theirs.start(path, "-ep", 1000)
        wait_for(lambda b=before: path.exists() and path.stat().st_mtime_ns > b, process)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 1) * (number % 2))  # every second one in the first save
        kill(process)
        if not readable(path):
            unreadable += 1
            path.unlink()
    assert not unreadable, (
        f"{unreadable} of {kills} checkpoints cannot be read, and there is no other"
    )
    return f"{kills} kills"


def c3(checkout: Path, bench: Bench) -> str:
    """SIGTERM in a step"""
    theirs, path = Original(checkout, bench), bench.place / "run.pt"
    long = bench.corpus
    process = theirs.start(path, "-ep", 1000, corpus=long)
    time.sleep(20)
    done, _ = end(process, signal.SIGTERM)
    assert path.exists(), f"exit code {done.code}, nothing saved"
    return "a checkpoint is there"


def c6(checkout: Path, bench: Bench) -> str:
    """the checkpoint has a flipped bit; is cut"""
    theirs, path = Original(checkout, bench), bench.place / "run.pt"
    theirs.run(path, "-ep", 1).fine()
    whole = path.read_bytes()
    content = bytearray(whole)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    flipped = theirs.run(path, "-ep", 1)
    assert flipped.code != 0, "a flipped bit is loaded silently"
    path.write_bytes(whole)
    damage(path, "cut")
    return theirs.run(path, "-ep", 1).refused("")


def c7(checkout: Path, bench: Bench) -> str:
    """a pickle that runs code in the place of the checkpoint"""
    theirs, path, canary = Original(checkout, bench), bench.place / "run.pt", bench.place / "canary"
    torch.save({"model_state_dict": Malicious(canary)}, path)
    done = theirs.run(path, "-ep", 1)
    assert not canary.exists(), "it ran"
    return f"did not run: exit code {done.code}"


def c8(checkout: Path, bench: Bench) -> str:
    """two runs on one checkpoint"""
    theirs, path = Original(checkout, bench), bench.place / "run.pt"
    first = theirs.start(path, "-ep", 1000)
    wait_for(path.exists, first)
    second = theirs.run(path, "-ep", 1)
    kill(first)
    return second.refused("")


def c9(checkout: Path, bench: Bench) -> str:
    """a missing parent directory"""
    theirs = Original(checkout, bench)
    done = theirs.run(bench.place / "some" / "where.pt", "-ep", 1)
    assert done.code == 0, f"a traceback after the first epoch: {done.last[:100]}"
    return "made"


def n1(checkout: Path, bench: Bench) -> str:
    """an absurd learning rate"""
    theirs, path = Original(checkout, bench), bench.place / "run.pt"
    theirs.run(path, "-ep", 1, "-lr", "1e9", "-wup", 1).fine()
    tensors = torch.load(path, weights_only=True)["model_state_dict"].values()
    broken = sum(not t.isfinite().all() for t in tensors if t.is_floating_point())
    assert not broken, f"exit code 0, and {broken} of {len(tensors)} tensors are not numbers"
    return "finite"


def d1(checkout: Path, bench: Bench) -> str:
    """an empty corpus"""
    empty = bench.place / "empty.txt"
    empty.write_text("")
    return (
        Original(checkout, bench)
        .run(bench.place / "run.pt", "-ep", 1, corpus=empty)
        .refused("empty", 1)
    )


def d4(checkout: Path, bench: Bench) -> str:
    """latin-1"""
    latin = bench.place / "latin.txt"
    latin.write_bytes(b"fine\ncaf\xe9\n" * 8)
    return (
        Original(checkout, bench)
        .run(bench.place / "run.pt", "-ep", 1, corpus=latin)
        .refused("latin", 1)
    )


def t1(checkout: Path, bench: Bench) -> str:
    """a SentencePiece model of its own defaults, without padding"""
    spm.SentencePieceTrainer.train(
        input=str(bench.corpus),
        model_prefix=str(bench.place / "own"),
        vocab_size=200,
        minloglevel=2,
    )
    own = bench.place / "own.model"
    Original(checkout, bench).run(bench.place / "run.pt", "-ep", 1, spm_model=own).fine()
    return "trained on"


def rows(checkout: Path) -> dict[str, Row]:
    """Raises UserError when the checkout cannot be run here."""
    original_script.load(checkout)
    found = {
        "C1": c1,
        "C3": c3,
        "C6": c6,
        "C7": c7,
        "C8": c8,
        "C9": c9,
        "N1": n1,
        "D1": d1,
        "D4": d4,
        "T1": t1,
    }
    made: dict[str, Row] = {}
    for name, row in found.items():
        one = partial(row, checkout)
        one.__doc__ = row.__doc__
        made[name] = one
    return made
