"""Each benchmark runs, at its smallest, as its first lines say; and says what it lacks."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

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


@pytest.mark.slow  # a good part of a minute, and more
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


@pytest.mark.slow  # a good part of a minute, and more
def test_ablations(tmp_path):
    small = ["--minutes", "0.02", "--examples", "20", "--samples", "20", "--seed", "3"]
    shape = ["--set", "model_dim=32", "layers=1", "heads=2", "embedding_dim=16"]
    names = ["objective-mse-added", "objective-bound-alone"]
    done = run("ablations.py", "--out", tmp_path, "--only", *names, *small, *shape)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["runs"]) == {f"{name}-3" for name in ["modern", *names]}
    assert run("ablations.py", "--out", tmp_path, "--only", "typo").returncode == 2


def test_infilling(toy_run, tmp_path):
    few = ["--out", tmp_path / "i.json", "--count", "3", "--steps", "2", "--ways"]
    done = run("infilling.py", toy_run, *few)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "i.json").read_text())["results"]
    assert {"what stood there", "5-gram model", "run", "run, best of 8"} < set(results)
    assert {"run, guided 1.0", "run, re-injected, w = 0.0", "run, by gradient, w = 8.0"} < set(
        results
    )
    assert results["what stood there"]["exact"] == 1
    assert results["5-gram model"]["exact"] > 0.1  # it has seen the language, the run has not
    assert finite(results)


def test_varying(toy_run, tmp_path):
    done = run("varying.py", toy_run, "--out", tmp_path, "--count", "4", "--steps", "4")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "varying.json").read_text())
    assert len(results["varied"]) == 10
    assert 0 <= results["returned"] <= 1
    assert (tmp_path / "varying.png").stat().st_size > 10_000
    assert finite(results)


def test_pictures(toy_run, tmp_path):
    done = run("pictures.py", toy_run, "--out", tmp_path, "--template", "the ___ .")
    assert done.returncode == 0, done.stderr
    for name in ("noise-to-text.svg", "terminal.svg"):
        ElementTree.parse(tmp_path / name)


@pytest.mark.slow  # a good part of a minute, and more
def test_torture(tmp_path):
    """A part of `make torture`, with fewer repetitions."""
    rows = ["C1", "N1", "F1", "P1", "M1", "M3"]
    done = run("torture.py", "--quick", "--only", *rows, "--out", tmp_path / "t.json")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert set(results) == set(rows)
    assert all(row["passed"] for row in results.values())


@pytest.mark.slow  # a good part of a minute, and more
def test_choosing(toy_run, tmp_path):
    done = run("choosing.py", toy_run, "--out", tmp_path / "c.json", "--count", "10")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "c.json").read_text())
    assert len(results["rows"]) == 7
    assert results["rows"][0]["met"] == 1
    assert finite(results)
