"""Preparing a corpus: MB/s on one core and on all, and peak memory.

    python benchmarks/preparing.py corpus.txt --out benchmarks/results/preparing.json

The corpus is repeated up to the size. Each run is a process of its own, one core and all of them
by turns; the tokenizer is trained beforehand, but for one last run that includes it. Linux only:
cores are chosen by affinity, and memory is read from /proc (Pss: what processes share counts once).
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import measure
import tyro
from measure import summary
from tyro.conf import Positional

from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.corpus.prepare import prepare

# Run in a process of its own: seconds to read the text once, and to prepare it. That comes first,
# so that what a process does only once is in the longer of the two.
CHILD = """
import sys, time
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.corpus.reading import Source
corpus, out, tokenizer, stream = sys.argv[1:]
options = {"stream": bool(stream), "quiet": True}
began = time.perf_counter()
prepare([corpus], out, tokenizer=tokenizer or None, **options)
prepared = time.perf_counter()
Source([corpus], field="text", **options)
print(time.perf_counter() - prepared, prepared - began)
"""


def tree_memory(pid: int) -> float:
    """The memory of a process and those it started, in MB."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        mine = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, StopIteration):  # it ended meanwhile
        return 0.0
    return mine / 1e3 + sum(tree_memory(int(child)) for child in children)


def run(corpus: Path, cores: set[int], tokenizer: Path | str = "", stream: str = "") -> dict[str, float]:
    """Prepares in a process that may use these cores. Memory is sampled ten times a second."""
    before = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", CHILD, str(corpus), out, str(tokenizer), stream]
        os.sched_setaffinity(0, cores)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(0, before)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.1)
    reading, preparing = map(float, process.communicate()[0].split())
    megabytes = corpus.stat().st_size / 1e6
    return {
        "reading": megabytes / reading,
        "encoding": megabytes / (preparing - reading),  # and writing
        "preparing": megabytes / preparing,  # all of it
        "peak_megabytes": peak,
    }


@dataclass(kw_only=True)
class Preparing:
    """Measures how fast a corpus is prepared, in MB (10^6 bytes) a second."""

    corpus: Positional[Path]  # a text file
    out: Path  # results as JSON
    megabytes: float = 200.0  # the size up to which the corpus is repeated
    runs: int = 5  # of each kind

    def __call__(self) -> None:
        every = os.sched_getaffinity(0)
        with tempfile.TemporaryDirectory() as directory:
            text, known = Path(directory) / "corpus.txt", Path(directory) / "known"
            once = self.corpus.read_bytes().removesuffix(b"\n") + b"\n"
            with text.open("wb") as file:
                while file.tell() < self.megabytes * 1e6:
                    file.write(once)
            tokenizer = prepare([self.corpus], known, quiet=True).directory / "tokenizer.model"
            kinds = {"one core": {min(every)}, "all cores": every}
            found = [{name: run(text, kinds[name], tokenizer) for name in kinds} for _ in range(self.runs)]
            figures = {
                name: {figure: summary([each[name][figure] for each in found]) for figure in found[0][name]}
                for name in kinds
            }
            figures["with its tokenizer"] = run(text, every)
            figures["with its tokenizer, as a stream"] = run(text, every, stream="stream")
        rows = [{"kind": kind, **row} for kind, row in figures.items()]
        about = {**measure.about(), "megabytes": self.megabytes, "cores": len(every)}
        measure.write_results(self.out, {**about, "rows": rows})
        print(measure.shown(rows))


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(Preparing)())
