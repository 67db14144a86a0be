"""The M rows of torture.py: what much text, and a large vocabulary, take of memory."""

import os
import random
import subprocess
import tempfile
from itertools import islice, repeat
from pathlib import Path

from torture_bench import Bench, Row

from simple_diffusion_lm.text.toy import ToyLanguage

GROWTH = 1.1  # of the peak, at most, from some lines to very many
LARGE = 64_000  # a vocabulary
ROOM = 4096  # MiB that a small model with that vocabulary may take


def peak(bench: Bench, *arguments: object) -> float:
    """MiB that a command, which must end well, took at most."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            bench.command(*arguments), stdout=subprocess.DEVNULL, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        assert process.returncode == 0, said.read().decode()[-600:]
    return used.ru_maxrss / 1024


def steady(few: float, many: float, lines: int) -> str:
    said = f"{many:.0f} MiB for {lines:,} lines, {few:.0f} MiB for 2,000"
    assert many < few * GROWTH, said
    return said


def m1(bench: Bench) -> str:
    """100,000 lines are written"""
    run, count = bench.place / "run", 4000 if bench.quick else 100_000
    bench.sdlm(*bench.train(run, 5)).fine()
    write = ("generate", run, "--steps", 2, "--count")
    return steady(peak(bench, *write, 2000), peak(bench, *write, count), count)


def m2(bench: Bench) -> str:
    """100,000 lines are measured"""
    run, count = bench.place / "run", 4000 if bench.quick else 100_000
    bench.sdlm(*bench.train(run, 5, "stagger=0")).fine()  # which takes fewer draws
    held_out = bench.place / "held-out.txt"
    held_out.write_text("\n".join(ToyLanguage().lines(count, seed=1)) + "\n")
    measure = ("evaluate", run, "--data", held_out, "--samples", 0, "--examples")
    return steady(peak(bench, *measure, 2000), peak(bench, *measure, count), count)


def words(count: int) -> list[str]:
    """As many made-up words, all different."""
    chance = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    made = ("".join(chance.choices(syllables, k=chance.randint(2, 4))) for _ in repeat(None))
    return list(islice(dict.fromkeys(islice(made, 2 * count)), count))


def m3(bench: Bench) -> str:
    """a vocabulary of 64,000"""
    size = LARGE // 32 if bench.quick else LARGE
    corpus, run = Path(bench.place / "words.txt"), bench.place / "run"
    known, chance = words(2 * size), random.Random(1)
    lines = [chance.sample(known, len(known)) for _ in range(4)]
    corpus.write_text("".join(" ".join(o[i : i + 10]) + "\n" for o in lines
                              for i in range(0, len(o), 10)))  # fmt: skip
    prepared = bench.place / "prepared"
    bench.sdlm("prepare", corpus, "--out", prepared, "--vocab-size", size).fine()
    trained = peak(bench, *bench.train(run, 3, "batch_tokens=2048", corpus=prepared))
    written = peak(bench, "generate", run, "--steps", 2, "--count", 2000)
    assert max(trained, written) < ROOM, f"training {trained:.0f}, writing {written:.0f} MiB"
    return f"training {trained:.0f} MiB (2,048 tokens a batch), writing 2,000 lines {written:.0f}"


ROWS: dict[str, Row] = {"M1": m1, "M2": m2, "M3": m3}
