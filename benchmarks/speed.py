"""How fast: training, sampling, starting, and how much memory; contenders side by side in one run.

    python benchmarks/speed.py --corpus captions.txt --original ../simple-diffusion-lm-original

The contenders of a measurement alternate, because a machine's speed drifts, and its matmul peak is
measured again before each turn. Models are untrained, which changes no cost: the autoregressive
twin, which ends its lines itself, is run to the length of the longest of as many real lines.
"""

import multiprocessing
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import measure
import original_script
import torch
import tyro
from measure import Training, say, seconds_of, spread, summary
from original_script import OriginalTraining
from sampling import Sampling, samplers

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.exits import exit_cleanly
from simple_diffusion_lm.text.corpus import Prepared, open_prepared
from simple_diffusion_lm.training.config import Config
from simple_diffusion_lm.training.recipes import SIZES, modern, original, sized, with_objective

VOCAB_SIZE = 2048
DEVICE = torch.device("cpu")
SCRIPT = "original's script"
RECIPES: dict[str, Config] = {
    "modern": modern(),
    "masked": with_objective(modern(), "masked"),
    "autoregressive": with_objective(modern(), "autoregressive"),
    "original": original(),
}
SAMPLED = ("modern", "masked", "autoregressive")
SAMPLED_SIZE = "small"
STARTS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import simple_diffusion_lm": ["-c", "import simple_diffusion_lm"],
    "sdlm --help": ["-m", "simple_diffusion_lm", "--help"],
}
SMOKE_SIZE = {"model_dim": 32, "layers": 2, "heads": 2}


def contender(
    name: str, size: str, data: Prepared, script: ModuleType | None
) -> Training | OriginalTraining:
    """One that trains at a size; "smoke" is a size too."""
    if name == SCRIPT:
        assert script is not None
        dim, layers = (int(SIZES[size][field]) for field in ("model_dim", "layers"))
        return OriginalTraining(script, data, dim, layers)
    config = RECIPES[name]
    config = replace(config, **SMOKE_SIZE) if size == "smoke" else sized(config, size)
    return Training(config, data, DEVICE)


def contenders(size: str, script: ModuleType | None) -> list[str]:
    """The original's heads are eight of at least 32: narrow sizes are not for it."""
    fits = script is not None and SIZES.get(size, {}).get("model_dim", 0) >= 256
    return [*RECIPES, *([SCRIPT] if fits else [])]


class Turn(NamedTuple):
    """One contender's turn at training, and the matmul peak just before."""

    tokens_per_second: float
    seconds_per_step: float
    peak: float


def take_turn(
    model: Training | OriginalTraining, seconds: float, peak: Mapping[str, float]
) -> Turn:
    """Trains for at least these seconds, in whole units of steps."""
    tokens, spent = [], 0.0
    while spent < seconds or len(tokens) % model.unit:
        spent += seconds_of(lambda: tokens.append(model.step()), DEVICE)
    return Turn(sum(tokens) / spent, spent / len(tokens), peak[measure.name_of(model.dtype)])


def measure_training(
    size: str, data: Prepared, script: ModuleType | None, *, turns: int, seconds: float, smoke: bool
) -> dict[str, Any]:
    """What each contender does at one size."""
    models = {name: contender(name, size, data, script) for name in contenders(size, script)}
    flops = {}
    for name, model in models.items():
        say(f"counting FLOPs, {size}: {name}")
        model.step()
        flops[name] = model.flops()
        if isinstance(model, Training) and not smoke:
            model.compile()
            model.step()
    taken: dict[str, list[Turn]] = defaultdict(list)
    for turn in range(turns):
        say(f"training, {size}: turn {turn + 1} of {turns}")
        peak = measure.peaks(DEVICE, smoke=smoke)
        for name in list(models)[:: 1 if turn % 2 == 0 else -1]:
            taken[name].append(take_turn(models[name], seconds, peak))
    rows = {}
    for name, model in models.items():
        needed, executed, optimizer = flops[name]
        rows[name] = {
            "parameters": model.parameters,
            "dtype": measure.name_of(model.dtype),
            "tokens_per_second": summary([t.tokens_per_second for t in taken[name]]),
            "step_ms": summary([1000 * t.seconds_per_step for t in taken[name]]),
            "padding": model.padding(),
            "utilisation": summary([t.tokens_per_second * needed / t.peak for t in taken[name]]),
            "executed": summary(
                [(t.tokens_per_second * executed + optimizer / t.seconds_per_step) / t.peak
                 for t in taken[name]]
            ),
            "flops_per_token": needed,
            "flops_executed_per_token": executed,
            "optimizer_flops_per_step": optimizer,
            "peak_flops": summary([t.peak for t in taken[name]]),
        }  # fmt: skip
    return rows


def measure_sampling(
    data: Prepared, script: ModuleType | None, *, size: str, counts: list[int], turns: int,
    steps: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Each way of sampling in turn, on untrained models of one size."""
    models = {name: contender(name, size, data, script) for name in SAMPLED}
    theirs = contender(SCRIPT, size, data, script).model if script else None
    rows = []
    for count in counts:
        ways: list[Sampling] = samplers(models, theirs, count, steps)
        times = defaultdict(list)
        for turn in range(turns):
            say(f"sampling {count}: turn {turn + 1} of {turns}")
            for way in ways if turn % 2 == 0 else ways[::-1]:
                times[way].append(way.time(DEVICE))
        for way in ways:
            rows.append(way.row(times[way]))
    return rows


def measure_starts(turns: int) -> dict[str, Any]:
    """Seconds until a fresh process has done this."""
    times = defaultdict(list)
    for _ in range(turns):
        for name, arguments in STARTS.items():
            command = [sys.executable, *arguments]
            start = partial(subprocess.run, command, check=True, capture_output=True)
            times[name].append(seconds_of(start, DEVICE))
    return {name: summary(values) for name, values in times.items()}


def peak_memory(name: str, size: str, directory: Path, checkout: Path | None) -> int:
    """Bytes that a process had at most in two steps. To be run in a process of its own."""
    script = original_script.load(checkout) if checkout else None
    model = contender(name, size, open_prepared(directory), script)
    for _ in range(2):
        model.step()
    # Not ru_maxrss: a process begins with that of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure_memory(sizes: list[str], data: Prepared, checkout: Path | None) -> dict[str, Any]:
    rows = {}
    for size in sizes:
        names = [name for name in contenders(size, checkout) if name in ("modern", SCRIPT)]
        rows[size] = {}
        for name in names:
            say(f"memory, {size}: {name}")
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as fresh:
                job = fresh.submit(peak_memory, name, size, data.directory, checkout)
                rows[size][name] = job.result()
    return rows


def tables(results: Mapping[str, Any]) -> str:
    """The results for reading; median, and least to most in brackets."""
    parts = []
    for size, rows in results["training"].items():
        memory = results.get("memory", {}).get(size, {})
        lines = [
            [name, spread(row["tokens_per_second"], "{:,.0f}"), spread(row["step_ms"], "{:,.0f}"),
             f"{row['padding']:.1%}", f"{row['flops_per_token'] / 1e6:.1f}", row["dtype"],
             spread(row["utilisation"], "{:.1f}", 100), spread(row["executed"], "{:.1f}", 100),
             f"{memory[name] / 1e6:,.0f}" if name in memory else ""]
            for name, row in rows.items()
        ]  # fmt: skip
        head = ["training, " + size, "real tokens/s", "ms a step", "padding", "MFLOP a token",
                "dtype", "% of its peak", "the same, with padding and optimiser",
                "memory, MB"]  # fmt: skip
        parts.append(measure.markdown(head, lines))
    head = ["sampling", "texts", "tokens each", "texts/s in 64 steps", "ms a step and text",
            "step / one forward"]  # fmt: skip
    lines = [
        [row["name"], str(row["count"]), row["lengths"], f"{row['texts_per_second']:.2f}",
         spread(row["step_ms_per_text"], "{:.3f}"),
         f"{row['steps_per_forward']:.2f}" if row["steps_per_forward"] else ""]
        for row in results["sampling"]
    ]  # fmt: skip
    parts.append(measure.markdown(head, lines))
    lines = [[name, spread(row, "{:.2f}")] for name, row in results["starts"].items()]
    parts.append(measure.markdown(["start", "seconds"], lines))
    return "\n\n".join(parts)


def main(
    corpus: Path | None = None,
    original: Path | None = None,
    out: Path = Path("benchmarks/results/speed.json"),
    work: Path | None = None,
    smoke: bool = False,
) -> None:
    """Measures everything; a table to stdout, all figures to OUT. About twelve minutes.

    Args:
        corpus: a text file, one example a line, or a directory that `sdlm prepare` made.
        original: a checkout of the original project, to run its script beside ours.
        out: results as JSON, written after each part.
        work: directory for the prepared corpus; a temporary one by default.
        smoke: everything at its smallest, on the toy language: do the scripts still run?
    """
    if corpus is None and not smoke:
        raise UserError("give a corpus (--corpus), or --smoke")
    script = original_script.load(original) if original else None
    sizes = ["smoke"] if smoke else ["tiny", "small", "base"]
    turns, seconds = (1, 0.01) if smoke else (3, 4.0)
    results: dict[str, Any] = {**measure.about(), "training": {}}
    measure.write_results(out, results)
    with tempfile.TemporaryDirectory() as temporary:
        data = measure.corpus(
            corpus, work or Path(temporary) / "work", vocab_size=VOCAB_SIZE, smoke=smoke
        )
        for size in sizes:
            results["training"][size] = measure_training(
                size, data, script, turns=turns, seconds=seconds, smoke=smoke
            )
            measure.write_results(out, results)
        results["sampling"] = measure_sampling(
            data, script, size="smoke" if smoke else SAMPLED_SIZE,
            counts=[4] if smoke else [64, 256], turns=turns, steps=2 if smoke else 8,
        )  # fmt: skip
        measure.write_results(out, results)
        results["starts"] = measure_starts(1 if smoke else 3)
        results["memory"] = measure_memory(sizes, data, original)
        measure.write_results(out, results)
    print(tables(results))


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(main))
