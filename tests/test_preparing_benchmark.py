"""The benchmark of preparing runs; and, measured by it, memory does not grow with the corpus."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simple_diffusion_lm.text.toy import ToyLanguage

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "preparing.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def measured(tmp_path: Path, *options: str) -> dict[str, Any]:
    corpus, out = tmp_path / "corpus.txt", tmp_path / "result.json"
    corpus.write_text("\n".join(ToyLanguage().lines(2000, seed=0)))
    command = [sys.executable, str(SCRIPT), str(corpus), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_it_runs(tmp_path: Path) -> None:
    result = measured(tmp_path, "--smoke")
    assert {"command", "machine", "megabytes", "opening_seconds"} <= set(result)
    for some in result["megabytes_per_second"].values():
        assert some["encoding"]["median"] > some["preparing"]["median"] > 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peaks(megabytes: int) -> list[float]:
        result = measured(tmp_path, "--megabytes", str(megabytes), "--runs", "1")
        rates = result["megabytes_per_second"].values()
        some = [rate["peak_megabytes"]["median"] for rate in rates]
        return [
            *some,
            result["stream"]["peak_megabytes"],
            result["with_tokenizer"]["peak_megabytes"],
        ]

    # A tokenizer's sample is full at 50 MB.
    small, large = peaks(60), peaks(180)
    assert max(large) < 600
    assert all(b < a + 50 for a, b in zip(small, large, strict=True))
