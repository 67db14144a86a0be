"""Each benchmark runs, at its smallest, as its first lines say; and says what it lacks."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def finite(value: Any) -> bool:
    """Every number below is one."""
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or abs(value) < float("inf")


@pytest.mark.slow  # a good part of a minute, and more
def test_speed(tmp_path: Path) -> None:
    done = run("speed.py", "--smoke", "--out", tmp_path / "speed.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "speed.json").read_text())
    assert {"command", "machine", "training", "sampling", "latency"} <= set(results)
    rows = results["training"]["smoke"]
    assert set(rows) == {"modern", "masked", "autoregressive", "original"}
    for row in rows.values():
        assert 0 < row["utilisation"]["median"] < 1
        assert row["mflop_per_token"] > 0
    assert rows["modern"]["memory_mb"] > 100
    timed = {(row["name"], row["lengths"]): row["steps_per_forward"] for row in results["sampling"]}
    assert timed["modern", "drawn"] is None
    assert len(timed) == 5
    assert sum(ratio is not None for ratio in timed.values()) == 2
    assert [row["passes"] for row in results["latency"]] == [4, 8, 64, 256]
    assert all(row["seconds"]["min"] > 0 for row in results["latency"])
    assert finite(results)
    assert done.stdout.count("| modern |") == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no corpus: give a text file"),
        (["--corpus", "nowhere"], "nowhere: give a text file"),
        (["--smoke", "--out", "/dev/null/x.json"], "/dev/null/x.json: cannot be"),
    ],
)
def test_what_is_missing_is_said_in_a_line(arguments: list[str], said: str) -> None:
    done = run("speed.py", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # a good part of a minute, and more
def test_ablations(tmp_path: Path) -> None:
    small = ["--steps", "5", "--examples", "20", "--lines", "20", "--seed", "3"]
    shape = ["--model-dim=32", "--layers=1", "--heads=2", "--embedding-dim=16"]
    names = ["objective=masked", "mse_weight=1,ce_weight=0.5"]
    done = run("ablations.py", "--out", tmp_path, "--only", *names, *small, *shape)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["runs"]) == {f"{name}-3" for name in ["modern", *names]}


@pytest.mark.parametrize("name", ["typo", "typo=1"])
def test_an_ablation_that_is_none_is_named(name: str, tmp_path: Path) -> None:
    done = run("ablations.py", "--out", tmp_path, "--only", name)
    assert done.returncode == 2
    assert "typo" in done.stderr


@pytest.mark.slow  # most of a minute
def test_sudoku(tmp_path: Path) -> None:
    contenders = ["modern", "objective=masked", "objective=autoregressive"]
    shape = ["--model-dim=32", "--layers=1", "--heads=2", "--embedding-dim=16", "--samples=0"]
    few = ["--size", "4", "--minutes", "0.02", "--count", "5", "--contenders", *contenders]
    done = run("sudoku.py", "--out", tmp_path, *few, *shape)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "| solved, 4 x 4, 4 clues; steps: | 1 | 2 | 4 | 8 | 16 | 64 |"
    runs = json.loads((tmp_path / "sudoku.json").read_text())["runs"]
    orders = {name: {point["order"] for point in found["points"]} for name, found in runs.items()}
    several = {"random", "confidence", "reading"}
    assert orders == {f"{n}-0": several if "masked" in n else {None} for n in contenders}
    solved = [p["solved"] for found in runs.values() for point in found["points"] for p in point["puzzles"]]
    assert all(0 <= share <= 1 for share in solved)


def test_varying(toy_run: Path, tmp_path: Path) -> None:
    done = run("varying.py", toy_run, "--out", tmp_path / "v.json", "--count", "4")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "v.json").read_text())
    first, *others = results["varied"]
    assert first["words of the source"] == first["pairs of the source"] == first["grammatical"] == 1
    assert [other["how"] for other in others[:3]] == ["vary 0.1", "  left out, filled", "  swapped"]
    assert len(others) == 15
    assert all(other["n-gram perplexity"] > first["n-gram perplexity"] for other in others[3:])
    swapped, varied = others[-1], others[-3]  # as many words are left as the model left
    assert swapped["words of the source"] == pytest.approx(varied["words of the source"], abs=0.15)
    ends = [found for found in results["blended"] if found["how"].startswith("blend")]
    assert len(results["blended"]) == 8
    assert ends[0]["words of the first"] > 0.9 < ends[-1]["words of the second"]
    assert finite(results)


def test_infilling(toy_run: Path, tmp_path: Path) -> None:
    few = ["--out", tmp_path / "i.json", "--count", "3", "--steps", "2", "--candidates", "2"]
    few += ["--temperatures", "0.5"]
    done = run("infilling.py", toy_run, *few)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "i.json").read_text())
    found = {row["filled by"]: row for row in results["gaps"]}
    assert set(found) == {"what stood there", "5-gram model", "run at 0.5", "run at 0.5, best of 2"}
    assert found["what stood there"]["exact"] == 1
    assert found["5-gram model"]["exact"] > 0.1  # it has seen the language, the run has not
    assert finite(results)


def test_pictures(toy_run: Path, tmp_path: Path) -> None:
    done = run("pictures.py", toy_run, "--out", tmp_path, "--template", "the ___ .")
    assert done.returncode == 0, done.stderr
    ElementTree.parse(tmp_path / "terminal.svg")


@pytest.mark.slow  # a good part of a minute
def test_trace() -> None:
    done = run("trace.py")
    assert done.returncode == 0, done.stderr
    core, core_line, train, generate = re.split(r"\n(?=\S)", done.stdout.strip())
    loss, sampling = ("diffusion_loss", "Attention.forward"), ("sample_text", "Attention.forward")
    for listed, known, unknown in (
        (core, loss, ("orthogonal", "sample_text", "Train.__call__")),
        (core_line, sampling, ("diffusion_loss", "State.of")),
        (train, (*loss, "Train.__call__"), ("orthogonal", "sample_text")),
        (generate, (*sampling, "Generate.__call__"), ("diffusion_loss",)),
    ):
        assert all(name in listed for name in known)
        assert not any(name in listed for name in (*unknown, "<lambda>", "<genexpr>", "<listcomp>"))
    # What a reader of the core passes is limited.
    for listed, most_functions, most_files in ((core, 70, 12), (core_line, 50, 9)):
        functions, files = re.findall(r"(\d+) f", listed)[:2]
        assert int(functions) <= most_functions
        assert int(files) <= most_files


@pytest.mark.slow  # a good part of a minute, and more
def test_torture(tmp_path: Path) -> None:
    """A part of `make torture`, with fewer repetitions."""
    rows = ["C1", "C5", "E1", "E2", "N1", "F1", "P1", "A1", "M1", "M3"]
    done = run("torture.py", "--quick", "--only", *rows, "--out", tmp_path / "t.json")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert set(results) == set(rows)
    assert all(row["passed"] for row in results.values())
