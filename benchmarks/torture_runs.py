"""Faults of runs: kills, signals, disks, damage, other settings, numbers that are none, memory."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import time
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from unittest.mock import patch

import torch
from torture_bench import Bench, Row, end, steps_of, wait_for, weights

from simple_diffusion_lm.corpus.sealing import sealed
from simple_diffusion_lm.runs import checkpoint
from simple_diffusion_lm.tasks.toy import ToyLanguage

# Settings with which a run's course does not depend on its budget, so that it can be resumed further.
OPEN_ENDED = ("decay_steps=100000", "dropout=0.1", "dropout_from=0")
LARGE, ROOM = 64_000, 4096  # a vocabulary, and the MiB that a small model with it may take


def saving(run: Path) -> bool:
    """A checkpoint is half written."""
    return any(path.name.startswith(".step") for path in os.scandir(run / "checkpoints"))


def killed(bench: Bench, kills: int, *settings: str) -> str:
    """Kills a run at random instants, then takes it and an undisturbed one to the same step."""
    run, chance = bench.place / "killed", random.Random(0)
    often = ("save_every=2", "validate_every=7", *OPEN_ENDED, *settings)
    inside, step = 0, 0
    for number in range(kills):
        process = bench.start(*bench.train(run, 10**6, *often))
        wait_for(lambda before=step: steps_of(run) > before, process)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 1))
        while number % 2 and not saving(run) and process.poll() is None:
            pass  # every second one while it saves
        process.kill()
        process.communicate()
        inside += saving(run)
        found = steps_of(run)
        assert found >= step, f"step {step} was there, now {found}"
        step = found
    bench.trained(step + 5, *often, name="killed")
    whole = bench.trained(step + 5, *often, name="whole")
    assert not saving(run), "what a kill left is still there"
    assert weights(run) == weights(whole), "another end than the undisturbed run's"
    return f"{kills} kills, {inside} of them while saving; the same {step + 5} steps, bit for bit"


def c1(bench: Bench) -> str:
    """kill -9 at random instants, inside saving too: nothing unreadable, the same end"""
    return killed(bench, 3 if bench.quick else 50)


def c2(bench: Bench) -> str:
    """the same with compiled layers"""
    return killed(bench, 1 if bench.quick else 3, "compile=True")


def c3(bench: Bench) -> str:
    """SIGTERM, SIGINT, SIGUSR1 in a step, while validating and sampling, while compiling"""
    longest = 0.0
    phases = {
        "step": ("validate_every=100000",),
        "validation": ("validate_every=1", "samples=200"),
        "compile": ("compile=True",),
    }
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)[: 1 if bench.quick else None]:
        for phase, settings in phases.items():
            run = bench.place / f"{phase}-{number}"
            process = bench.start(*bench.train(run, 10**6, "save_every=100000", *settings))
            wait_for((run / (".lock" if phase == "compile" else "metrics.jsonl")).exists, process)
            time.sleep(4 if phase == "compile" else 1)
            done, seconds = end(process, number)
            assert done.code == 128 + number, f"{phase}: exit code {done.code}: {done.said[-400:]}"
            assert "Traceback" not in done.said, done.said[-400:]
            assert seconds < 10, f"{phase}: {seconds:.0f} s"
            assert phase == "compile" or steps_of(run) > 0, f"{phase}: no checkpoint"
            longest = max(longest, seconds)
    return f"at most {longest:.1f} s"


def c4(bench: Bench) -> str:
    """SIGTERM with two processes under torchrun"""
    run = bench.place / "run"
    torchrun = (*bench.python, "-m", "torch.distributed.run", "--nproc-per-node=2")
    process = replace(bench, python=torchrun).start(*bench.train(run, 10**6))
    wait_for((run / "metrics.jsonl").exists, process)
    _, seconds = end(process, signal.SIGTERM)
    assert seconds < 30, f"{seconds:.0f} s"
    assert steps_of(run) > 0, "no checkpoint"
    return f"{seconds:.1f} s"


def c5(bench: Bench) -> str:
    """the disk is full while saving"""
    run = bench.trained(4, wider := "model_dim=64")
    before = weights(run)
    limit = resource.RLIMIT_FSIZE, 300_000  # room for its tokenizer, and not for its weights
    line = bench.sdlm(*bench.train(run, 8, wider), limit=limit).refused("cannot save it")
    assert str(run) in line, line
    assert weights(run) == before, "the old checkpoint is another now"
    assert not list((run / "checkpoints").glob(".*")), "something temporary is left"
    return line


def damage(path: Path, kind: str) -> None:
    """One way in which a file can be wrong."""
    whole = path.read_bytes()
    half = len(whole) // 2
    damaged = {
        "cut": whole[:half],
        "flipped bit": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        "page of zeros": whole[:half] + bytes(4096) + whole[half + 4096 :],
        "one byte more": whole + b"\0",
        "random": random.Random(0).randbytes(len(whole)),
        "empty": b"",
    }
    path.unlink() if kind == "gone" else path.write_bytes(damaged[kind])


def c6(bench: Bench) -> str:
    """the newest checkpoint is cut, zeroed, flipped, random, without a manifest; then all are"""
    run, spoiled = bench.trained(4, "save_every=2"), bench.place / "spoiled"
    every = ("cut", "flipped bit", "page of zeros", "one byte more", "random", "empty", "gone")
    kinds = every[:: 4 if bench.quick else 1]
    for name in (checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST):
        for kind in kinds:
            shutil.rmtree(spoiled, ignore_errors=True)
            shutil.copytree(run, spoiled)
            damage(spoiled / "checkpoints" / "step-4" / name, kind)
            done = bench.sdlm("generate", spoiled, "--count", 1, "--steps", 2).fine()
            assert "step-4" in done.said, f"{name}, {kind}: not named"
    for path in (spoiled / "checkpoints").glob("step-*"):
        damage(path / checkpoint.MODEL, "flipped bit")
    bench.sdlm("generate", spoiled, "--steps", 2).refused("no whole checkpoint")
    return f"{3 * len(kinds)} kinds of damage"


def c7(bench: Bench) -> str:
    """a pickle in the place of the weights"""
    run, canary = bench.trained(2), bench.place / "canary"
    (path,) = (run / "checkpoints").glob("step-*")
    pickle = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()  # runs a command where it is loaded
    (path / checkpoint.MODEL).write_bytes(pickle)
    bench.sdlm("generate", run).refused("no whole checkpoint")
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    manifest["sha256"][checkpoint.MODEL] = hashlib.sha256(pickle).hexdigest()
    (path / checkpoint.MANIFEST).write_text(json.dumps(sealed(manifest)))
    bench.sdlm("generate", run).refused("no whole checkpoint")
    assert not canary.exists(), "it ran"
    return "refused, and did not run"


def c8(bench: Bench) -> str:
    """two runs in one directory; then a lock whose holder was killed"""
    run = bench.place / "run"
    first = bench.start(*bench.train(run, 10**6))
    wait_for((run / "metrics.jsonl").exists, first)
    line = bench.sdlm(*bench.train(run, 10**6)).refused("another process trains here")
    assert str(first.pid) in line, line
    first.kill()
    first.communicate()
    bench.trained(3)
    return line


def c9(bench: Bench) -> str:
    """a place that cannot be written, a missing parent, a file in its place"""
    bench.sdlm(*bench.train(Path("/proc/run"), 2)).refused("/proc/run")
    bench.sdlm(*bench.train(bench.corpus, 2)).refused("is a file")
    bench.trained(2, name="some/where")
    return "said before training"


def c10(bench: Bench) -> str:
    """resumed with another corpus, tokenizer of the same size, network, number of threads"""
    run, other = bench.trained(3), bench.place / "other.txt"
    other.write_text("\n".join(bench.corpus.read_text().splitlines()[500:]) + "\n")
    for source, size in ((other, 300), (bench.corpus, 290)):
        made = bench.place / f"prepared-{size}"
        bench.sdlm("prepare", source, "--out", made, "--vocab-size", size).fine()
        line = bench.sdlm(*bench.train(run, 6, corpus=made)).refused("--finetune-from")
        assert "was trained with another" in line, line
    bench.sdlm(*bench.train(run, 6, "layers=3")).refused("layers was 2, now 3")
    threads = bench.sdlm(*bench.train(run, 6), OMP_NUM_THREADS="1").fine()
    if (os.cpu_count() or 1) > 1 and os.environ.get("OMP_NUM_THREADS") != "1":
        assert "not to the last bit" in threads.said, threads.said[-400:]
    tuned = bench.train(bench.place / "tuned", 2, corpus=other)
    bench.sdlm(*tuned, "--finetune-from", run).fine()
    return "refused with the way on; other threads are told of"


def n1(bench: Bench) -> str:
    """a weight that is not a number; an absurd learning rate"""
    run = bench.trained(4, "save_every=2")
    found = checkpoint.newest(run)
    assert found is not None
    about = {k: v for k, v in found.manifest.items() if k not in ("seal", "sha256", "step")}
    model = found.read(checkpoint.MODEL)
    model["head.weight"].fill_(torch.nan)
    checkpoint.save(run, 4, model, found.read(checkpoint.STATE), about)
    before = weights(run)
    line = bench.sdlm(*bench.train(run, 8)).refused("training broke at step 5", code=3)
    assert weights(run) == before, "the checkpoint is another now"
    absurd = bench.train(bench.place / "absurd", 50, "learning_rate=1e30", "warmup_steps=1")
    bench.sdlm(*absurd).refused("training broke", code=3)
    return line


def n2(bench: Bench) -> str:
    """gradients far longer than they may be"""
    found = checkpoint.newest(bench.trained(5, "clip=1e-6"))
    assert found is not None
    assert found.manifest["progress"]["clipped"] == 5, found.manifest["progress"]
    return "clipped and counted"


def r1(bench: Bench) -> str:
    """the same seed twice; text by text or in a batch"""
    run, again = bench.trained(5), bench.trained(5, name="again")
    assert weights(run) == weights(again), "two runs of one seed differ"
    many, one = (bench.sdlm("generate", run, "--steps", 4, "--count", n).fine().out for n in (8, 1))
    assert many.startswith(one), "text 0 depends on the rest of its batch"
    return "the same to the last bit"


def o1(bench: Bench) -> str:
    """more memory than there is"""
    huge = bench.train(bench.place / "run", 2, "model_dim=4096", "layers=24", "heads=32")
    return bench.sdlm(*huge, limit=(resource.RLIMIT_AS, 6 * 2**30)).refused("out of memory")


def p1(bench: Bench) -> str:
    """what is saved is on the disk: files, and the directories that name them"""
    fsync, seen = os.fsync, list[str]()

    def note(handle: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    with patch.object(os, "fsync", note):
        checkpoint.save(bench.place, 1, {"a": torch.ones(3)}, {"b": torch.ones(3)}, {})
    files = [checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST]
    assert seen == [*files, ".step-1.tmp", "checkpoints"], seen
    return f"fsync of {len(seen)}, the manifest last of the files"


def peak(bench: Bench, *arguments: object) -> float:
    """MiB that a command, which must end well, took at most. With one arena: with several, glibc's malloc
    holds free memory in each, and more the longer a process runs, which says nothing of what is kept."""
    process = bench.start(*arguments, errors="replace", env=os.environ | {"MALLOC_ARENA_MAX": "1"})
    said = process.stderr.read()  # type: ignore[union-attr]
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said[-600:]
    return used.ru_maxrss / 1024


def steady(bench: Bench, *arguments: object) -> str:
    """A command, to which a number of lines is added, takes no more memory for many."""
    lines = 4000 if bench.quick else 100_000
    few, many = peak(bench, *arguments, 2000), peak(bench, *arguments, lines)
    said = f"{many:.0f} MiB for {lines:,} lines, {few:.0f} MiB for 2,000"
    assert many < 1.1 * few, said
    return said


def m1(bench: Bench) -> str:
    """100,000 lines are written"""
    return steady(bench, "generate", bench.trained(5), "--steps", 2, "--count")


def m2(bench: Bench) -> str:
    """100,000 lines are measured"""
    run, held_out = bench.trained(5), bench.place / "held-out.txt"
    held_out.write_text("\n".join(ToyLanguage().lines(100_000, seed=1)) + "\n")
    return steady(bench, "evaluate", run, "--data", held_out, "--samples", 0, "--examples")


def m3(bench: Bench) -> str:
    """a vocabulary of 64,000"""
    size = LARGE // 32 if bench.quick else LARGE
    syllables, chance = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"], random.Random(0)
    known = list(map("".join, islice(product(syllables, repeat=3), 2 * size)))
    corpus = bench.place / "words.txt"
    with corpus.open("w") as file:
        for words in (chance.sample(known, len(known)) for _ in range(4)):
            file.writelines(" ".join(words[i : i + 10]) + "\n" for i in range(0, len(words), 10))
    run, prepared = bench.place / "run", bench.place / "prepared"
    bench.sdlm("prepare", corpus, "--out", prepared, "--vocab-size", size).fine()
    trained = peak(bench, *bench.train(run, 3, "batch_tokens=2048", corpus=prepared))
    written = peak(bench, "generate", run, "--steps", 2, "--count", 2000)
    assert max(trained, written) < ROOM, f"training {trained:.0f}, writing {written:.0f} MiB"
    return f"training {trained:.0f} MiB (2,048 tokens a batch), writing 2,000 lines {written:.0f}"


ROWS: dict[str, Row] = {
    row.__name__.upper(): row
    for row in (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, n1, n2, r1, o1, p1, m1, m2, m3)
}
