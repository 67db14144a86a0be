"""What the rows of torture.py share: commands in processes of their own, corpora, and a judge."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from simple_diffusion_lm.text.toy import ToyLanguage
from simple_diffusion_lm.training import checkpoint

SMALL = ("model_dim=32", "layers=2", "heads=2", "embedding_dim=16", "batch_tokens=512", "samples=1")
# A course that does not depend on how long the budget is, so that a run can be led on.
OPEN_ENDED = ("decay_steps=100000", "causal=0", "self_cond_from=0", "dropout=0.1", "dropout_from=0")


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    said: str  # on stderr

    @property
    def last(self) -> str:
        return (self.said.strip().splitlines() or [""])[-1]

    def refused(self, words: str, code: int = 2) -> str:
        """Asserts that it ended with one clear line. Returns the line."""
        assert self.code == code, f"exit code {self.code}: {self.said[-600:]}"
        assert "Traceback" not in self.said, self.said[-600:]
        assert words in self.last, f"{words!r} is not in {self.last!r}"
        return self.last

    def fine(self) -> "Done":
        assert self.code == 0, f"exit code {self.code}: {self.said[-600:]}"
        return self


@dataclass(frozen=True)
class Bench:
    """A place to be cruel in."""

    place: Path
    corpus: Path
    prepared: Path
    quick: bool
    served: Path | None = None  # the run that is served, if not a small one made for it

    @classmethod
    def at(cls, place: Path, *, quick: bool, served: Path | None = None) -> "Bench":
        corpus = place / "toy.txt"
        corpus.write_text("\n".join(ToyLanguage().lines(2000, seed=0)) + "\n")
        bench = cls(place, corpus, place / "prepared", quick, served and served.resolve())
        bench.sdlm("prepare", corpus, "--out", bench.prepared, "--vocab-size", 300).fine()
        return bench

    def room(self, name: str) -> "Bench":
        """The same with a directory of its own."""
        place = self.place / name
        place.mkdir(exist_ok=True)
        return replace(self, place=place)

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "simple_diffusion_lm", *map(str, arguments)]

    def sdlm(
        self,
        *arguments: object,
        limits: Mapping[int, int] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> Done:
        """Runs a command to its end. limits: of resources, as resource.RLIMIT_FSIZE."""

        def limit() -> None:
            for kind, most in (limits or {}).items():
                resource.setrlimit(kind, (most, most))

        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            preexec_fn=limit if limits else None,
            env={**os.environ, **(env or {})},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def train(
        self, run: Path, steps: int, *settings: str, corpus: Path | None = None
    ) -> list[object]:
        """The arguments of a small run."""
        return ["train", corpus or self.prepared, "--out", run, "--steps", steps, "--set",
                *SMALL, *settings]  # fmt: skip


def end(process: subprocess.Popen[str], number: int, patience: float = 60) -> tuple[Done, float]:
    """Sends a signal; what the process made of it, and how long that took."""
    began = time.monotonic()
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        raise AssertionError(f"still there {patience:.0f} s after signal {number}") from None
    return Done(process.returncode, "", said), time.monotonic() - began


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[str], patience: float = 120
) -> None:
    """Waits until something is true of a process that goes on."""
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


Row = Callable[[Bench], str | None]
