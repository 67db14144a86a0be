"""Tables and pictures of what was measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from ..errors import UserError
from ..run_log import read_metrics
from .metrics import Likelihood
from .samples import SampleMetrics

COLUMNS = {  # heading: how a figure is shown
    "judge perplexity": lambda m: f"{m.judge_perplexity:.1f}",
    "entropy": lambda m: f"{m.entropy:.2f}",
    "distinct-2": lambda m: f"{m.distinct_2:.2f}",
    "self-BLEU": lambda m: f"{m.self_bleu:.1f}",
    "repetition": lambda m: f"{m.repetition:.1%}",
    "words": lambda m: f"{m.words_mean:.1f} ± {m.words_deviation:.1f}",
    "copied lines": lambda m: f"{m.copied_lines:.1%}",
    "copied 4-grams": lambda m: f"{m.copied_4grams:.0%}",
    "divergence score": lambda m: f"{m.divergence:.2f}",
    "grammatical": lambda m: "" if m.grammatical is None else f"{m.grammatical:.1%}",
}


def evaluation_table(rows: Mapping[str, SampleMetrics]) -> str:
    """A Markdown table of sets of lines. What is meant is in evaluation/samples.py."""
    toy = any(metrics.grammatical is not None for metrics in rows.values())
    names = [name for name in COLUMNS if toy or name != "grammatical"]
    head = f"| lines | {' | '.join(names)} |\n|---|{'---|' * len(names)}"
    cells = {row: [COLUMNS[name](m) for name in names] for row, m in rows.items()}
    return "\n".join([head, *(f"| {row} | {' | '.join(c)} |" for row, c in cells.items())])


def likelihood_lines(result: Likelihood) -> str:
    """The likelihood, in every unit."""
    return (
        f"{result.sign}{result.nats_per_token:.4f} nats per token (± {result.standard_error:.4f})\n"
        f"{result.sign}{result.bits_per_character:.4f} bits per character\n"
        f"{result.sign}{result.perplexity_per_word:.2f} perplexity per word\n"
        f"{result.sign}{result.nats_per_text:.3f} nats per text\n"
        f"of it prior {result.prior:.4f}, diffusion {result.diffusion:.4f}, reconstruction "
        f"{result.reconstruction:.4f}, length {result.length:.4f} nats per token; "
        f"{result.texts:,} texts, {result.tokens:,} tokens, {result.characters:,} characters"
    )


def plot_losses(run: Path, picture: Path, *, entropy: float | None = None) -> None:
    """Draws cross-entropy and accuracy, and the bound on held-out text, against time.

    entropy, in nats per token, is drawn as the line that the bound cannot cross.
    Raises UserError when matplotlib (the extra `plot`) is missing.
    """
    plt = pyplot()
    train, valid = read_metrics(run, "train"), read_metrics(run, "valid")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")

    minutes = [record["seconds"] / 60 for record in train]
    left.plot(minutes, [record["ce"] for record in train], color="C0", label="cross-entropy")
    left.set(xlabel="minutes", ylabel="nats per token", title="training, at mixed noise levels")
    accuracy = left.twinx()
    accuracy.plot(minutes, [record["accuracy"] for record in train], color="C1")
    accuracy.set_ylabel("accuracy", color="C1")
    left.legend(loc="center right")

    bounded = [record for record in valid if "bound" in record]
    right.errorbar(
        [record["seconds"] / 60 for record in bounded],
        [record["bound"] for record in bounded],
        [record["bound_error"] for record in bounded],
        marker="o",
        label="bound (±1 standard error)",
    )
    if entropy is not None:
        right.axhline(entropy, color="black", linestyle="--", label="exact entropy")
    right.set(xlabel="minutes", ylabel="nats per token, at most", title="held-out text")
    right.legend()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def contender(run: str) -> str:
    """The name of a run without its seed."""
    return run.rsplit("-", 1)[0]


def comparison_tables(results: Mapping[str, Any]) -> str:
    """Two Markdown tables: the likelihood of held-out text, and the samples at the defaults.

    Runs that differ only in their seed share a row: means, and ± their standard deviation; of one
    run alone ± is the standard error over texts.
    """
    contenders: dict[str, list[Mapping[str, Any]]] = {}
    for name, run in results["runs"].items():
        contenders.setdefault(contender(name), []).append(run)
    rows = [
        "| contender | nats per token | bits per character | tokens seen | steps |",
        "|---|---|---|---|---|",
    ]
    lines = {name: SampleMetrics(**m) for name, m in results["lines"].items()}
    for name, runs in contenders.items():
        found = [Likelihood(**run["likelihood"]) for run in runs]
        nats = [each.nats_per_token for each in found]
        spread = stdev(nats) if len(runs) > 1 else found[0].standard_error
        sign = found[0].sign
        label = f"{name}, {len(runs)} seeds" if len(runs) > 1 else name
        rows.append(
            f"| {label} | {sign}{fmean(nats):.3f} ± {spread:.3f} "
            f"| {sign}{fmean(each.bits_per_character for each in found):.3f} "
            f"| {fmean(run['progress']['tokens'] for run in runs) / 1e6:.1f} M "
            f"| {fmean(run['progress']['step'] for run in runs):,.0f} |"
        )
        lines[name] = mean_metrics([SampleMetrics(**r["points"][0]["metrics"]) for r in runs])
    return "\n".join([*rows, "", evaluation_table(lines), "", front_table(contenders)])


def front_table(contenders: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A Markdown table of judge perplexity at the highest entropy that all of them reach.

    Either of the two alone can be had by another temperature. In as many steps as were tried at
    several temperatures; between two of them the logarithm is interpolated, and beyond the coldest
    nothing is said.
    """
    curves = {name: [temperature_curves(run) for run in runs] for name, runs in contenders.items()}
    every = [run for runs in curves.values() for run in runs]
    highest = min(entropies[-1] for run in every for entropies, _ in run.values())
    entropy = math.floor(10 * highest) / 10
    steps = sorted({s for run in every for s in run}, reverse=True)
    head = [f"judge perplexity at entropy {entropy:.1f}", *(f"{s} steps" for s in steps)]
    rows = [f"| {' | '.join(head)} |", "|---|" + len(steps) * "---|"]
    for name, runs in curves.items():
        cells = []
        for s in steps:
            tried = [run[s] for run in runs if s in run and run[s][0][0] <= entropy]
            found = [math.exp(np.interp(entropy, *curve)) for curve in tried]
            cells.append(f"{fmean(found):.1f}" if found else "")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def temperature_curves(run: Mapping[str, Any]) -> dict[int, tuple[list[float], list[float]]]:
    """Steps: entropies, rising, and log judge perplexities, where several temperatures were had."""
    pairs: dict[int, list[tuple[float, float]]] = {}
    for point in run["points"]:
        metrics = point["metrics"]
        here = (metrics["entropy"], math.log(metrics["judge_perplexity"]))
        pairs.setdefault(point["steps"], []).append(here)
    curves = {}
    for steps, found in pairs.items():
        if len(found) > 1:
            entropies, logarithms = zip(*sorted(found), strict=True)
            curves[steps] = (list(entropies), list(logarithms))
    return curves


def mean_metrics(several: Sequence[SampleMetrics]) -> SampleMetrics:
    """Figure by figure, of sets of equally many lines."""
    columns = list(zip(*map(astuple, several), strict=True))[1:]
    means = [None if None in column else fmean(column) for column in columns]
    return SampleMetrics(several[0].lines, *means)  # type: ignore[arg-type]


def plot_comparison(results: Mapping[str, Any], picture: Path) -> None:
    """Judge perplexity against steps, against seconds, and against entropy over temperature.

    Runs that differ only in their seed share a colour.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharey=True)
    colours: dict[str, str] = {}
    for run_name, run in results["runs"].items():
        name = contender(run_name)
        label = None if name in colours else name
        colour = colours.setdefault(name, f"C{len(colours)}")
        first, others = run["points"][0], run["points"][1:]
        fewer = [p for p in others if p["temperature"] == first["temperature"]]
        fewer = sorted([*fewer, first], key=lambda p: p["steps"])
        style = {"marker": "o", "color": colour, "label": label}
        for axis, against in ((axes[0], "steps"), (axes[1], "seconds_per_line")):
            perplexities = [p["metrics"]["judge_perplexity"] for p in fewer]
            axis.plot([p[against] for p in fewer], perplexities, **style)
        for steps, (entropies, logarithms) in temperature_curves(run).items():
            if steps != first["steps"]:
                style = {"marker": "o", "color": colour, "linestyle": "--"}
            axes[2].plot(entropies, np.exp(logarithms), **style)
    tried = sorted({p["steps"] for run in results["runs"].values() for p in run["points"]})
    real = results["lines"]["held-out text"]
    for axis in axes:
        axis.axhline(real["judge_perplexity"], color="black", linestyle=":", label="held-out text")
    axes[2].plot(real["entropy"], real["judge_perplexity"], "k*", markersize=12)
    axes[0].set(xlabel="steps", xscale="log", ylabel="judge perplexity per word", yscale="log")
    axes[0].set_xticks(tried, [str(steps) for steps in tried])
    axes[1].set(xlabel="seconds per line", xscale="log")
    for axis in axes[:2]:
        axis.xaxis.set_minor_formatter(plt.NullFormatter())
    axes[2].set(xlabel="entropy of the words, nats\n(by temperature; dashed: fewer steps)")
    axes[2].legend()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def pyplot() -> Any:
    """matplotlib's; raises UserError without the extra `plot`."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UserError(
            "pictures need matplotlib: pip install 'simple-diffusion-lm[plot]'"
        ) from None
    return plt
