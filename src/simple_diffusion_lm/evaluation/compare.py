"""Contenders side by side: the same data, tokens, trunk and minutes, and everything measured.

OUT/NAME-SEED/ is a run; results.json has all figures, and is written after each run that is measured;
results.md has tables, results.png quality at equal entropy against passes and against seconds. One half of
the held-out part chooses between the checkpoints of a run; the other is measured on.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..baselines import MODELS
from ..core import Config
from ..core.data import Corpus
from ..core.denoiser import Batch
from ..core.generate import ORDERS, Frame, Sampling
from ..corpus.prepare import Prepared
from ..errors import check_count
from ..runs import checkpoint
from ..runs.config import RECIPES, check, with_objective, with_settings
from ..runs.distil import STUDENT, distil
from ..runs.run import machine, run_training
from ..writing.model import DiffusionLM
from .evaluate import real_rows, reference_texts
from .judge import AutoregressiveJudge
from .likelihood import example_texts, likelihood
from .report import comparison_tables, new_figure, plot_comparison
from .samples import Reference, check_measurable, sample_metrics

# The recipes, the other objectives (masked diffusion is the control), and a student of TEACHER beside it.
CONTENDERS = {
    **RECIPES,
    **{name: with_objective(Config(), name) for name in MODELS if name != Config().objective},
    "student": dataclasses.replace(Config(), **STUDENT),
}
TEACHER = "modern"
TURNS = 5  # in which each trains, so that other load hits all alike; each of a minute or more
TEMPERATURES = (0.7, 0.55, 0.85, 1.0)  # the first is that of the table of samples,
STEPS = (64, 32, 16, 8, 4, 2, 1)  # and the first of these
SHOWN = 20  # lines of each kept in the results
FORMAT = 4  # of results.json


def run_compare(
    data: Prepared,
    out: Path,
    *,
    contenders: Mapping[str, Config],
    seeds: Iterable[int],
    examples: int,
    samples: int,
    settings: Mapping[str, Any],
    judge: Path | None = None,
    steps: Sequence[int] = STEPS,
    orders: Sequence[str] = ORDERS,
) -> str:
    """Trains and measures what is not yet trained and measured; returns the tables.

    settings are for all contenders, their budget included. judge: an autoregressive run on the same
    corpus. steps, orders: in how many and which lines are written, where a contender has the choice.
    Raises UserError as training and evaluating do.
    """
    configs = {}
    for seed, (name, own) in product(seeds, contenders.items()):
        configs[f"{name}-{seed}"] = config = with_settings(own, {**settings, "seed": seed})
        check(config, has_teacher=own.passes is not None and TEACHER in contenders)
    check_count("the number of runs", len(configs))
    check_count("the number of texts", examples)
    reader = AutoregressiveJudge(judge) if judge else None
    reference: Reference | None = None
    path = out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    choosing, measuring = halves(data.valid, data.stream)
    measured_by = {"examples": examples, "samples": samples, "judge": judge and str(judge)}
    about = {"format": FORMAT, "corpus": data.meta["key"], "settings": {**measured_by, **settings}}
    if any(results.get(key) != value for key, value in about.items()):
        results = {**about, "lines": {}, "runs": {}}
    missing = {n: c for n, c in configs.items() if results["runs"].get(n, {}).get("config") != vars(c)}
    new_figure(1, 1)  # what is missing is said before all work
    window = next(iter(configs.values())).window
    check_measurable(min(samples, len(measuring.ids) // window if data.stream else len(measuring)))
    train_by_turns({out / name: (config, data._replace(valid=choosing)) for name, config in missing.items()})
    for name, config in missing.items():
        model = DiffusionLM.from_pretrained(out / name)
        if reference is None:
            valid = example_texts(model, measuring, samples)
            reference = Reference(reference_texts(model, data.train), valid, reader)
            results["lines"], samples = real_rows(reference), len(valid)  # figures depend on how many lines
        print(f"measuring {name}", file=sys.stderr)
        measured = measure(model, measuring, reference, examples, samples, steps, orders)
        results["runs"][name] = {"config": vars(config), "machine": machine(), **measured}
        checkpoint.write_atomically(path, json.dumps(results, indent=1, ensure_ascii=False).encode())
    tables = comparison_tables(results)
    (out / "results.md").write_text(tables + "\n", encoding="utf-8")
    plot_comparison(results, out / "results.png")
    return tables


def train_by_turns(runs: Mapping[Path, tuple[Config, Prepared]]) -> None:
    """Trains each of the runs for its budget, and resumes what is there. Minutes are given in TURNS parts;
    steps and passes over the corpus are the same whatever else the machine does. A student comes last, since
    its teacher has to have learned all that it teaches."""
    for turn in range(1, TURNS + 1):
        for run, (config, data) in runs.items():
            if config.passes is not None or (config.minutes is None and turn > 1):
                continue
            turns = min(TURNS, max(1, int(config.minutes or 1)))
            until = 60 * (config.minutes or math.inf) * min(1, turn / turns)
            found = checkpoint.newest(run)
            if found is None or turn == 1 or found.manifest["progress"]["seconds"] < until:
                print(f"training {run.name}, turn {turn}", file=sys.stderr)
                run_training(config, data, run, pause_at=until)
    for run, (config, data) in runs.items():
        if config.passes is not None:
            print(f"training {run.name}", file=sys.stderr)
            distil(run.with_name(f"{TEACHER}-{config.seed}"), data, run, vars(config))


def halves(corpus: Corpus, stream: bool) -> list[Corpus]:
    """Every other line, and the others: a file may be sorted. Of running text its halves."""
    number, lengths = np.arange(len(corpus)), np.diff(corpus.offsets)
    first = number < len(corpus) // 2 if stream else number % 2 == 1
    return [Corpus(corpus.ids[np.repeat(x, lengths)], np.cumsum([0, *lengths[x]])) for x in (first, ~first)]


def measure(
    model: DiffusionLM,
    held_out: Corpus,
    reference: Reference,
    examples: int,
    samples: int,
    steps: Sequence[int],
    orders: Sequence[str],
) -> dict[str, Any]:
    """The likelihood, and a point for every way of sampling: order of writing, steps, temperature, passes,
    time, figures of the lines. From left to right passes are tokens; a student has those that it learned."""
    counts = steps[:1] if model.model.writes_length else steps
    if learned := model.config.passes:  # in many more it says the same thing over (docs/log.md)
        counts = [learned, *(count for count in steps if count < learned)]
    own_orders = orders if model.model.takes_turns else [None]  # None: from left to right, or all at once
    cost, points = likelihood(model, held_out, examples=examples), list[dict[str, Any]]()
    passes, shown = list[int](), list[str]()  # a text with nothing to predict needs no pass

    def watch(batch: Batch, frame: Frame) -> None:
        passes.append(int(frame.where.any(1).sum()))

    for order, count, temperature in product(own_orders, counts, TEMPERATURES):
        passes.clear()
        began, options = time.monotonic(), {"steps": count, "temperature": temperature}
        sampling = model.sampling({**options, "order": order or Sampling.order})
        lines = model.generate(samples, seed=1, watch=watch, **dataclasses.asdict(sampling))
        each = {"passes": sum(passes) / samples, "seconds_per_line": (time.monotonic() - began) / samples}
        points.append({"order": order, **options, **each} | sample_metrics(lines, reference))
        shown = shown or lines[:SHOWN]
    return {
        "progress": vars(model.progress),
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "likelihood": cost,
        "points": points,
        "samples": shown,
    }
