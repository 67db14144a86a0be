"""Faults of runs: kills, signals, disks, damage, other settings, numbers that are none."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from torture_bench import OPEN_ENDED, Bench, Row, end, steps_of, wait_for, weights

from simple_diffusion_lm.sealing import sealed
from simple_diffusion_lm.training import checkpoint


def saving(run: Path) -> bool:
    """A checkpoint is half written."""
    return any(path.name.startswith(".step") for path in os.scandir(run / "checkpoints"))


def killed(bench: Bench, kills: int, lead: int, *settings: str) -> str:
    """Kills a run at random instants, then leads it and an undisturbed one to the same step."""
    run, whole = bench.place / "killed", bench.place / "whole"
    chance = random.Random(0)
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
    last = step + lead
    bench.sdlm(*bench.train(run, last, *often)).fine()
    bench.sdlm(*bench.train(whole, last, *often)).fine()
    assert not saving(run), "what a kill left is still there"
    assert weights(run) == weights(whole), "another end than the undisturbed run's"
    return f"{kills} kills, {inside} of them while saving; the same {last} steps, bit for bit"


def c1(bench: Bench) -> str:
    """kill -9 at random instants, inside saving too: nothing unreadable, the same end"""
    return killed(bench, 3 if bench.quick else 50, 5)


def c2(bench: Bench) -> str:
    """the same with compiled layers"""
    return killed(bench, 1 if bench.quick else 3, 5, "compile=True")


SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}


def c3(bench: Bench) -> str:
    """SIGTERM, SIGINT, SIGUSR1 in a step, while validating and sampling, while compiling"""
    longest = 0.0
    for number, code in list(SIGNALS.items())[: 1 if bench.quick else None]:
        phases = {
            "step": ("validate_every=100000",),
            "validation": ("validate_every=1", "samples=200"),
            "compile": ("compile=True",),
        }
        for phase, settings in phases.items():
            run = bench.place / f"{phase}-{number}"
            process = bench.start(*bench.train(run, 10**6, "save_every=100000", *settings))
            sign = run / (".lock" if phase == "compile" else "metrics.jsonl")
            wait_for(sign.exists, process)
            time.sleep(4 if phase == "compile" else 1)
            done, seconds = end(process, number)
            assert done.code == code, f"{phase}: exit code {done.code}: {done.said[-400:]}"
            assert "Traceback" not in done.said, done.said[-400:]
            assert seconds < 10, f"{phase}: {seconds:.0f} s"
            assert phase == "compile" or steps_of(run) > 0, f"{phase}: no checkpoint"
            longest = max(longest, seconds)
    return f"at most {longest:.1f} s"


def c4(bench: Bench) -> str:
    """SIGTERM with two processes under torchrun"""
    run = bench.place / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m",
               *bench.command(*bench.train(run, 10**6))[2:]]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for((run / "metrics.jsonl").exists, process)
    _, seconds = end(process, signal.SIGTERM)
    assert seconds < 30, f"{seconds:.0f} s"
    assert steps_of(run) > 0, "no checkpoint"
    return f"{seconds:.1f} s"


def c5(bench: Bench) -> str:
    """the disk is full while saving"""
    run = bench.place / "run"
    bench.sdlm(*bench.train(run, 4)).fine()
    before = weights(run)
    full = bench.sdlm(*bench.train(run, 8), limits={resource.RLIMIT_FSIZE: 300_000})
    line = full.refused("bytes")
    assert str(run) in line, line
    assert weights(run) == before, "the old checkpoint is another now"
    assert not list((run / "checkpoints").glob(".*")), "something temporary is left"
    return line


def damage(path: Path, kind: str) -> None:
    """One way in which a file can be wrong."""
    content = bytearray(path.read_bytes())
    if kind == "cut":
        content = content[: len(content) // 2]
    elif kind == "flipped bit":
        content[-3] ^= 1
    elif kind == "page of zeros":
        content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    elif kind == "one byte more":
        content += b"\0"
    elif kind == "random":
        content = bytearray(random.Random(0).randbytes(len(content)))
    elif kind == "empty":
        content = bytearray()
    path.write_bytes(content)


def c6(bench: Bench) -> str:
    """the newest checkpoint is cut, zeroed, flipped, random, without a manifest; then all are"""
    run, spoiled = bench.place / "run", bench.place / "spoiled"
    bench.sdlm(*bench.train(run, 4, "save_every=2")).fine()
    kinds = ("cut", "flipped bit", "page of zeros", "one byte more", "random", "empty", "gone")
    count = 0
    for name in (checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST):
        for kind in kinds[:: 4 if bench.quick else 1]:
            shutil.rmtree(spoiled, ignore_errors=True)
            shutil.copytree(run, spoiled)
            newest = spoiled / "checkpoints" / "step-4" / name
            newest.unlink() if kind == "gone" else damage(newest, kind)
            done = bench.sdlm("generate", spoiled, "--count", 1, "--steps", 2).fine()
            assert "step-4" in done.said, f"{name}, {kind}: not named"
            count += 1
    for path in (spoiled / "checkpoints").glob("step-*"):
        damage(path / checkpoint.MODEL, "flipped bit")
    bench.sdlm("generate", spoiled, "--steps", 2).refused("no whole checkpoint")
    return f"{count} kinds of damage"


class Malicious:
    """A pickle that leaves its mark where it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.canary}",)


def c7(bench: Bench) -> str:
    """a pickle in the place of the weights"""
    run, canary = bench.place / "run", bench.place / "canary"
    bench.sdlm(*bench.train(run, 2)).fine()
    (path,) = (run / "checkpoints").glob("step-*")
    torch.save({"model": Malicious(canary)}, path / checkpoint.MODEL)
    bench.sdlm("generate", run).refused("no whole checkpoint")
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    pickle = (path / checkpoint.MODEL).read_bytes()
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
    bench.sdlm(*bench.train(run, 3)).fine()
    return line


def c9(bench: Bench) -> str:
    """a place that cannot be written, a missing parent, a file in its place"""
    bench.sdlm(*bench.train(Path("/proc/run"), 2)).refused("/proc/run")
    bench.sdlm(*bench.train(bench.corpus, 2)).refused("is a file")
    bench.sdlm(*bench.train(bench.place / "some" / "where", 2)).fine()
    return "said before training"


def c10(bench: Bench) -> str:
    """resumed with another corpus, tokenizer of the same size, network, number of threads"""
    run, other = bench.place / "run", bench.place / "other.txt"
    bench.sdlm(*bench.train(run, 3)).fine()
    lines = bench.corpus.read_text().splitlines()
    other.write_text("\n".join(lines[500:]) + "\n")
    for source, size in ((other, 300), (bench.corpus, 290)):
        made = bench.place / f"prepared-{size}"
        bench.sdlm("prepare", source, "--out", made, "--vocab-size", size).fine()
        line = bench.sdlm(*bench.train(run, 6, corpus=made)).refused("--finetune-from")
        assert "was trained with another" in line, line
    bench.sdlm(*bench.train(run, 6, "layers=3")).refused("layers was 2, now 3")
    threads = bench.sdlm(*bench.train(run, 6), env={"OMP_NUM_THREADS": "1"}).fine()
    if (os.cpu_count() or 1) > 1 and os.environ.get("OMP_NUM_THREADS") != "1":
        assert "not to the last bit" in threads.said, threads.said[-400:]
    tuned = [*bench.train(bench.place / "tuned", 2, corpus=other), "--finetune-from", run]
    bench.sdlm(*tuned).fine()
    return "refused with the way on; other threads are told of"


def n1(bench: Bench) -> str:
    """a weight that is not a number; an absurd learning rate"""
    run = bench.place / "run"
    bench.sdlm(*bench.train(run, 4, "save_every=2")).fine()
    found = checkpoint.newest(run)
    assert found is not None
    about = {k: v for k, v in found.manifest.items() if k not in ("seal", "sha256", "step")}
    name = "model.denoiser.head.weight"
    poisoned = {**found.state(), name: torch.full_like(found.state()[name], torch.nan)}
    checkpoint.save(run, 4, found.model(), poisoned, about)
    before = weights(run)
    line = bench.sdlm(*bench.train(run, 8)).refused("training broke at step 5", code=3)
    assert weights(run) == before, "the checkpoint is another now"
    absurd = bench.sdlm(
        *bench.train(bench.place / "absurd", 50, "learning_rate=1e30", "warmup_steps=1")
    )
    absurd.refused("training broke", code=3)
    return line


def n2(bench: Bench) -> str:
    """gradients far longer than they may be"""
    run = bench.place / "run"
    bench.sdlm(*bench.train(run, 5, "clip=1e-6")).fine()
    found = checkpoint.newest(run)
    assert found is not None
    assert found.manifest["progress"]["clipped"] == 5, found.manifest["progress"]
    return "clipped and counted"


def r1(bench: Bench) -> str:
    """the same seed twice; text by text or in a batch"""
    runs = [bench.place / name for name in ("one", "two")]
    for run in runs:
        bench.sdlm(*bench.train(run, 5)).fine()
    assert weights(runs[0]) == weights(runs[1]), "two runs of one seed differ"
    many = bench.sdlm("generate", runs[0], "--count", 8, "--steps", 4).fine().out
    one = bench.sdlm("generate", runs[0], "--count", 1, "--steps", 4).fine().out
    assert many.startswith(one), "text 0 depends on its company"
    return "the same to the last bit"


def o1(bench: Bench) -> str:
    """more memory than there is"""
    huge = bench.train(bench.place / "run", 2, "model_dim=4096", "layers=24", "heads=32")
    return bench.sdlm(*huge, limits={resource.RLIMIT_AS: 6 * 2**30}).refused("out of memory")


FSYNC = """
import os, sys
from pathlib import Path
import torch
from simple_diffusion_lm.training import checkpoint
real, seen = os.fsync, []
def fsync(handle):
    seen.append(os.readlink(f"/proc/self/fd/{handle}"))
    real(handle)
os.fsync = fsync
checkpoint.save(Path(sys.argv[1]), 1, {"a": torch.ones(3)}, {"b": torch.ones(3)}, {})
print("\\n".join(seen))
"""


def p1(bench: Bench) -> str:
    """what is saved is on the disk: files, and the directories that name them"""
    done = subprocess.run(
        [sys.executable, "-c", FSYNC, str(bench.place)], capture_output=True, text=True, check=True
    )
    names = [Path(line).name for line in done.stdout.split()]
    expected = [
        checkpoint.MODEL,
        checkpoint.STATE,
        checkpoint.MANIFEST,
        ".step-1.tmp",
        "checkpoints",
    ]
    assert names == expected, names
    return f"fsync of {len(names)}, the manifest last of the files"


ROWS: dict[str, Row] = {
    "C1": c1, "C2": c2, "C3": c3, "C4": c4, "C5": c5, "C6": c6, "C7": c7, "C8": c8, "C9": c9,
    "C10": c10, "N1": n1, "N2": n2, "R1": r1, "O1": o1, "P1": p1,
}  # fmt: skip
