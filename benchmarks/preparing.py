"""Preparing a corpus: MB/s on one core and on all, peak memory, and how soon it can be read.

    python benchmarks/preparing.py corpus.txt --out benchmarks/results/preparing.json

The corpus is repeated up to the size. Each run is a process of its own, one core and all of them
by turns; the tokenizer is trained beforehand, but for one last run that includes it. Linux only:
cores are chosen by affinity, and memory is read from /proc (Pss: what processes share counts once).
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simple_diffusion_lm.evaluation.compare import machine
from simple_diffusion_lm.text.batches import Batches, Masks
from simple_diffusion_lm.text.corpus import open_prepared, prepare
from simple_diffusion_lm.training.checkpoint import write_atomically

# Run in a process of its own: seconds to read the text once, and to prepare it. That comes first,
# so that what a process does only once is in the longer of the two.
CHILD = """
import sys, time
from pathlib import Path
from simple_diffusion_lm.text.corpus import prepare
from simple_diffusion_lm.text.writing import scan
corpus, out, tokenizer, stream = sys.argv[1:]
stream = stream == "stream"
began = time.perf_counter()
prepare([corpus], out, tokenizer=Path(tokenizer) if tokenizer else None, stream=stream, quiet=True)
prepared = time.perf_counter()
scan([corpus], field="text", stream=stream, quiet=True)
print(time.perf_counter() - prepared, prepared - began)
"""


def repeat(corpus: Path, target: Path, megabytes: float) -> float:
    """Writes the corpus over and over up to a size; returns the size in MB (10^6 bytes)."""
    text = corpus.read_bytes().removesuffix(b"\n") + b"\n"
    written = 0
    with target.open("wb") as file:
        while written < megabytes * 1e6:
            written += file.write(text)
    return written / 1e6


def tree_memory(pid: int) -> float:
    """The memory of a process and those it started, in MB."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        mine = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, StopIteration):  # it ended meanwhile
        return 0.0
    return mine / 1e3 + sum(tree_memory(int(child)) for child in children)


def run(
    corpus: Path, out: Path, cores: set[int], tokenizer: Path | None, *, stream: bool = False
) -> dict[str, float]:
    """Prepares in a process that may use these cores. Memory is sampled ten times a second."""
    mode = "stream" if stream else "lines"
    arguments = [str(corpus), str(out), str(tokenizer or ""), mode]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True
        )
    finally:
        os.sched_setaffinity(0, before)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, tree_memory(process.pid))
        time.sleep(0.1)
    said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"preparing failed with exit code {process.returncode}")
    reading, seconds = map(float, said.split())
    return {"reading_seconds": reading, "seconds": seconds, "peak_megabytes": peak}


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def summarise(runs: list[dict[str, float]], megabytes: float) -> dict[str, Any]:
    """MB/s of reading, of encoding and writing, and of all of it; peak memory."""
    return {
        "reading": summary([megabytes / r["reading_seconds"] for r in runs]),
        "encoding": summary([megabytes / (r["seconds"] - r["reading_seconds"]) for r in runs]),
        "preparing": summary([megabytes / r["seconds"] for r in runs]),
        "peak_megabytes": summary([r["peak_megabytes"] for r in runs]),
    }


def timed(task: Callable[[], Any]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def opening(prepared: Path) -> dict[str, float]:
    """Seconds until a corpus is open, and for what training asks of it before its first step."""
    seconds = {"open": timed(lambda: open_prepared(prepared))}
    data = open_prepared(prepared)
    seconds["counts"] = timed(lambda: data.train.counts(len(data.tokenizer)))

    def order() -> None:
        masks = Masks(0, 0, 0)
        options = {"batch_tokens": 2048, "crop": 64, "stream": False, "masks": masks}
        Batches(data.train, data.tokenizer, **options).order(0)

    return {**seconds, "order": timed(order)}


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast a corpus is prepared.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one small run of each, in seconds")
    args = parser.parse_args()
    megabytes, runs = (0.1, 1) if args.smoke else (args.megabytes, args.runs)

    every = os.sched_getaffinity(0)
    one = {min(every)}
    with tempfile.TemporaryDirectory() as directory:
        tmp = Path(directory)
        corpus = tmp / "corpus.txt"
        size = repeat(args.corpus, corpus, megabytes)
        prepare([args.corpus], tmp / "tokenizer", quiet=True)
        model = tmp / "tokenizer/tokenizer.model"
        done: dict[str, list[dict[str, float]]] = {"one core": [], "all cores": []}
        for number in range(runs):
            for name, cores in (("one core", one), ("all cores", every)):
                done[name].append(run(corpus, tmp / f"{name}-{number}", cores, model))
        result = {
            "command": shlex.join(sys.argv),
            "machine": machine(),
            "megabytes": size,
            "cores": len(every),
            "megabytes_per_second": {n: summarise(some, size) for n, some in done.items()},
            "stream": run(corpus, tmp / "stream", every, None, stream=True),
            "with_tokenizer": run(corpus, tmp / "with", every, None),
            "opening_seconds": opening(tmp / "with"),
        }
    write_atomically(args.out, json.dumps(result, indent=1).encode())
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
