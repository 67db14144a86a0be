"""Each benchmark runs, at its smallest, as its first lines say; and says what it lacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def finite(value):
    """Every number below is one."""
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or abs(value) < float("inf")


def test_speed(tmp_path):
    done = run("speed.py", "--smoke", "--out", tmp_path / "speed.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "speed.json").read_text())
    assert {"command", "machine", "training", "sampling", "starts", "memory"} <= set(results)
    rows = results["training"]["smoke"]
    assert set(rows) == {"modern", "masked", "autoregressive", "original"}
    for row in rows.values():
        assert 0 < row["utilisation"]["median"] < 1
        assert 0 <= row["padding"] < 0.3
        assert row["flops_per_token"] > 0
    timed = {(row["name"], row["lengths"]) for row in results["sampling"]}
    assert ("modern", "drawn") in timed
    assert len(timed) == 6
    assert results["memory"]["smoke"]["modern"] > 1e8
    assert finite(results)
    assert done.stdout.count("| modern |") == 3


def test_gpu(tmp_path):
    done = run("gpu.py", "--smoke", "--out", tmp_path / "gpu.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert len(results["throughput"]) == 5
    assert not any("left_out" in row for row in results["throughput"] + results["sampling"])
    assert {tuple(row["cell"][3:]) for row in results["throughput"]} == {
        (False, True),
        (False, False),
        (True, True),
    }
    assert results["sampling"][0]["steps_per_forward"] > 0
    assert results["captions"]["validation"][-1]["bound"] > 0
    assert results["captions"]["likelihood"]["nats_per_token"] > 0
    assert finite(results)


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("speed.py", ["--original", "nowhere", "--smoke"], "nowhere: no pytorch/train.py"),
        ("speed.py", [], "give a corpus"),
        ("speed.py", ["--smoke", "--out", "/dev/null/x.json"], "/dev/null/x.json: cannot be"),
        ("gpu.py", ["--corpus", "nowhere"], "nowhere: no file"),
    ],
)
def test_what_is_missing_is_said_in_a_line(script, arguments, said):
    done = run(script, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_is_missing_is_named(tmp_path):
    (tmp_path / "pytorch").mkdir()
    (tmp_path / "pytorch" / "train.py").write_text("import a_package_that_is_not_there\n")
    done = run("speed.py", "--smoke", "--original", tmp_path)
    assert done.returncode == 2
    assert "needs the package a_package_that_is_not_there" in done.stderr


def test_ablations(tmp_path):
    small = ["--minutes", "0.02", "--examples", "20", "--samples", "20", "--seed", "3"]
    shape = ["--set", "model_dim=32", "layers=1", "heads=2", "embedding_dim=16"]
    done = run("ablations.py", "--out", tmp_path, "--only", "objective", *small, *shape)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["runs"]) == {"modern-3", "objective-mse-added-3"}
    assert run("ablations.py", "--out", tmp_path, "--only", "typo").returncode == 2


def test_infilling(toy_run, tmp_path):
    done = run(
        "infilling.py", toy_run, "--out", tmp_path / "i.json", "--count", "3", "--steps", "2"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "i.json").read_text())["results"]
    assert set(results) == {"what stood there", "5-gram model", "run", "run, best of 8"}
    assert results["what stood there"]["exact"] == 1
    assert results["5-gram model"]["exact"] > 0.1  # it has seen the language, the run has not
    assert finite(results)
