"""The benchmark of preparing runs; and, measured by it, memory does not grow with the corpus."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simple_diffusion_lm.tasks.toy import ToyLanguage

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "preparing.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def measured(tmp_path: Path, megabytes: float) -> list[dict[str, Any]]:
    corpus, out = tmp_path / "corpus.txt", tmp_path / "result.json"
    corpus.write_text("\n".join(ToyLanguage().lines(2000, seed=0)))
    options = [corpus, "--out", out, "--megabytes", megabytes, "--runs", 1]
    command = [sys.executable, SCRIPT, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert {"command", "machine", "megabytes", "cores"} <= set(result)
    return result["rows"]


def test_it_runs(tmp_path: Path) -> None:
    one, every, *others = measured(tmp_path, 0.1)
    for row in (one, every):
        assert row["encoding"]["median"] > row["preparing"]["median"] > 0
    assert all(row["encoding"] > row["preparing"] > 0 for row in others)
    assert len(others) == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peaks(megabytes: int) -> list[float]:
        found = [row["peak_megabytes"] for row in measured(tmp_path, megabytes)]
        return [each["median"] if isinstance(each, dict) else each for each in found]

    # A tokenizer's sample is full at 50 MB.
    small, large = peaks(60), peaks(180)
    assert max(large) < 600
    assert all(b < a + 50 for a, b in zip(small, large, strict=True))
