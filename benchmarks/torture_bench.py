"""What the rows of torture.py share: commands in processes of their own, and what they leave on disk."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from simple_diffusion_lm.runs import checkpoint
from simple_diffusion_lm.tasks.toy import ToyLanguage

Process = subprocess.Popen[str]
SMALL = ("model-dim=32", "layers=2", "heads=2", "embedding-dim=16", "batch-tokens=512", "samples=1")


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    said: str  # on stderr

    def refused(self, words: str, code: int = 2) -> str:
        """Asserts that it ended with one clear line. Returns the line."""
        last = (self.said.strip().splitlines() or [""])[-1]
        assert self.code == code, f"exit code {self.code}: {self.said[-600:]}"
        assert "Traceback" not in self.said, self.said[-600:]
        assert words in last, f"{words!r} is not in {last!r}"
        return last

    def fine(self) -> "Done":
        assert self.code == 0, f"exit code {self.code}: {self.said[-600:]}"
        return self


@dataclass(frozen=True)
class Bench:
    """A directory to be cruel in, with a corpus, as text and prepared.

    quick: fewer repetitions. served: the run that is served, if not a small one made for it.
    """

    place: Path
    quick: bool
    served: Path | None
    corpus: Path
    prepared: Path
    python: tuple[str, ...] = (sys.executable,)

    @classmethod
    def at(cls, place: Path, *, quick: bool, served: Path | None) -> "Bench":
        bench = cls(place, quick, served and served.resolve(), place / "toy.txt", place / "prepared")
        bench.corpus.write_text("\n".join(ToyLanguage().lines(2000, seed=0)) + "\n")
        bench.sdlm("prepare", bench.corpus, "--out", bench.prepared, "--vocab-size", 300).fine()
        return bench

    def room(self, name: str) -> "Bench":
        """The same with a directory of its own."""
        (self.place / name).mkdir(exist_ok=True)
        return replace(self, place=self.place / name)

    def sdlm(self, *arguments: object, limit: tuple[int, int] | None = None, **env: str) -> Done:
        """Runs a command to its end. limit: of a resource, as (resource.RLIMIT_FSIZE, 300_000)."""
        limited = None if limit is None else partial(resource.setrlimit, limit[0], (limit[1],) * 2)
        process = self.start(*arguments, stdout=subprocess.PIPE, preexec_fn=limited, env=os.environ | env)
        out, said = process.communicate(timeout=600)
        return Done(process.returncode, out, said)

    def start(self, *arguments: object, stdout: int = subprocess.DEVNULL, **options: Any) -> Process:
        command = [*self.python, "-m", "simple_diffusion_lm", *map(str, arguments)]
        return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, **options)

    def train(self, run: Path, steps: int, *settings: str, corpus: Path | None = None) -> list[object]:
        """The arguments of a small run. settings: layers=3."""
        place = ["train", corpus or self.prepared, "--out", run]
        return [*place, "--steps", steps, *(f"--{setting}" for setting in (*SMALL, *settings))]

    def trained(self, steps: int, *settings: str, name: str = "run") -> Path:
        """A small run that went well."""
        self.sdlm(*self.train(self.place / name, steps, *settings)).fine()
        return self.place / name

    @property
    def run(self) -> Path:
        """The run that is served: the one that was asked for, or a small one."""
        return self.served or self.trained(3)


Row = Callable[[Bench], str]


def end(process: Process, number: int, patience: float = 60) -> tuple[Done, float]:
    """Sends a signal; what the process made of it, and how long that took."""
    began = time.monotonic()
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError(f"still there {patience:.0f} s after {signal.Signals(number).name}") from None
    return Done(process.returncode, "", said), time.monotonic() - began


def wait_for(condition: Callable[[], bool], process: Process, patience: float = 120) -> None:
    """Waits until something is true while a process runs."""
    deadline = time.monotonic() + patience
    while not condition():
        assert process.poll() is None, f"it ended: {process.communicate()[1][-600:]}"
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def weights(run: Path) -> str:
    """SHA-256 of all that the newest checkpoint of a run holds."""
    found = checkpoint.newest(run)
    assert found is not None, "no whole checkpoint"
    files = (found.path / name for name in (checkpoint.MODEL, checkpoint.STATE))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def steps_of(run: Path) -> int:
    """The step of the newest whole checkpoint, 0 without one."""
    found = checkpoint.newest(run)
    return 0 if found is None else int(found.manifest["step"])
