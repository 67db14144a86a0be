"""Contenders side by side: the same data, tokens, trunk and minutes, and everything measured.

OUT/
    NAME-SEED/        a run of each contender and seed
    results.json      all figures; written after every run that is measured
    results.md        the tables
    results.png       quality against steps and seconds, and against variety
"""

import dataclasses
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ..generation import DiffusionLM
from ..model.slots import STEPS
from ..run import run_training
from ..text.corpus import Prepared
from ..training import checkpoint
from ..training.config import Config, with_overrides
from ..training.recipes import modern, original, with_objective
from .evaluate import real_rows, reference_texts
from .metrics import example_texts, likelihood
from .report import comparison_tables, contender, plot_comparison
from .samples import Reference, sample_metrics

CONTENDERS = {
    "modern": modern(),
    "original": original(),
    "masked": with_objective(modern(), "masked"),
    "autoregressive": with_objective(modern(), "autoregressive"),
}
TURNS = 5  # in which each trains, so that other load hits all alike; each of a minute or more
TEMPERATURES = (0.8, 0.5, 0.6, 0.7, 0.9, 1.0)  # the first is the table's, with STEPS
FEWER_STEPS = 16  # at every temperature as well
OTHER_STEPS = (4, 8, 32)  # at the first temperature
SHOWN = 20  # lines of each kept in the results


def run_compare(
    data: Prepared,
    out: Path,
    *,
    contenders: Mapping[str, Config],
    minutes: float,
    seeds: Iterable[int],
    examples: int,
    samples: int,
    overrides: Mapping[str, str],
    within: Callable[[str], AbstractContextManager[Any]] = lambda contender: nullcontext(),
) -> str:
    """Trains and measures what is not yet trained and measured; returns the tables.

    overrides are for all contenders, and their budget is `minutes` each. within gives a context for
    each of them, in which it is trained and measured (benchmarks/variants.py).

    Raises UserError as training and evaluating do.
    """
    settings = {**overrides, "minutes": str(minutes)}
    configs = {
        f"{name}-{seed}": with_overrides(config, {**settings, "seed": str(seed)})
        for seed in seeds
        for name, config in contenders.items()
    }
    for config in configs.values():
        config.check()
    path = out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"lines": {}, "runs": {}}
    about = {"minutes": minutes, "examples": examples, "samples": samples, **overrides}
    if results.get("settings") != about:
        results = {"settings": about, "lines": {}, "runs": {}}
    missing = {name: config for name, config in configs.items() if name not in results["runs"]}
    turns = min(TURNS, max(1, int(minutes)))
    for turn in range(1, turns + 1):
        for name, config in missing.items():
            with within(contender(name)):
                train_until(config, data, out / name, minutes * 60 * turn / turns)

    reference: Reference | None = None
    for name in missing:
        with within(contender(name)):
            model = DiffusionLM.from_pretrained(out / name)
            if reference is None:
                reference = Reference.of(
                    reference_texts(model, data.train),
                    example_texts(model, data.valid, samples),
                )
                rows = real_rows(reference)
                results["lines"] = {k: dataclasses.asdict(v) for k, v in rows.items()}
            print(f"measuring {name}", file=sys.stderr)
            figures = measure(model, data, reference, examples, samples)
            results["runs"][name] = {"machine": machine(), **figures}
        checkpoint.write_atomically(
            path, json.dumps(results, indent=1, ensure_ascii=False).encode()
        )
    tables = comparison_tables(results)
    (out / "results.md").write_text(tables + "\n", encoding="utf-8")
    plot_comparison(results, out / "results.png")
    return tables


def train_until(config: Config, data: Prepared, run: Path, seconds: float) -> None:
    """Trains a run up to this many seconds of training, if it is not there yet."""
    found = checkpoint.newest(run)
    if found is None or found.manifest["progress"]["seconds"] < seconds:
        print(f"training {run.name} up to {seconds / 60:.1f} minutes", file=sys.stderr)
        run_training(config, data, run, pause_at=seconds)


def measure(
    model: DiffusionLM,
    data: Prepared,
    reference: Reference,
    examples: int,
    samples: int,
) -> dict[str, Any]:
    """The likelihood, and a point for every way of sampling: steps, temperature, time, figures."""
    points = [(STEPS, temperature) for temperature in TEMPERATURES]
    if not model.model.writes_length:
        points += [(FEWER_STEPS, temperature) for temperature in TEMPERATURES]
        points += [(steps, TEMPERATURES[0]) for steps in OTHER_STEPS]
    result: dict[str, Any] = {
        "progress": model.progress,
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "likelihood": dataclasses.asdict(likelihood(model, data.valid, examples=examples)),
        "points": [],
    }
    for steps, temperature in points:
        began = time.monotonic()
        lines = model.generate(samples, steps=steps, temperature=temperature, seed=1)
        seconds = (time.monotonic() - began) / samples
        point = {"steps": steps, "temperature": temperature, "seconds_per_line": seconds}
        metrics = dataclasses.asdict(sample_metrics(lines, reference))
        result["points"].append({**point, "metrics": metrics})
        if "samples" not in result:
            result["samples"] = lines[:SHOWN]
    return result


def machine() -> dict[str, Any]:
    """What the numbers were measured on, by what, and when."""
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": capabilities.get("cpu_name", platform.processor()),
        "cores": capabilities.get("num_physical_cores"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }
