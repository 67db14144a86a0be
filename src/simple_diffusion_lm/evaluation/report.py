"""Tables and pictures of what was measured."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from ..errors import UserError
from ..runs.log import read_metrics
from .likelihood import Likelihood
from .puzzles import PuzzleScore
from .samples import SampleMetrics

Run = Mapping[str, Any]  # what results.json says of a run (compare.py),
Point = Mapping[str, Any]  # and of one way of sampling it

COLUMNS = {  # heading: how a figure is shown
    "n-gram judge perplexity": lambda m: f"{m.ngram_perplexity:.1f}",
    "read backwards": lambda m: f"{m.reversed_perplexity:.1f}",
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
# How a contender writes, in every row: in flight are the positions of a text that are between noise
# and clean at a time, passes are evaluations of the network.
NONE: Mapping[str, Sequence[str]] = {}
WAY = ("stagger", "in flight", "passes per text")
# (kind, field) of a record of metrics.jsonl: title. What is predicted in training, and from what, differs
# from one objective to the next: only runs of the same one have comparable cross-entropies there.
PANELS = {
    ("valid", "bound"): "held-out text, nats per token",
    ("train", "ce"): "cross-entropy in its own training task",
    ("train", "accuracy"): "accuracy in its own training task",
    ("train", "mse"): "mean squared error of x0",
    ("valid", "nearest_mean"): "nearest rows of the table, apart",
    ("train", "grad_norm"): "norm of the gradient",
    ("train", "learning_rate"): "learning rate",
    ("train", "tokens_per_second"): "tokens a second",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def evaluation_table(rows: Mapping[str, SampleMetrics], ways: Mapping[str, Sequence[str]] = NONE) -> str:
    """A Markdown table of sets of lines, as samples.py explains them. ways: the cells of WAY, if any."""
    toy = any(metrics.grammatical is not None for metrics in rows.values())
    names = [name for name in COLUMNS if toy or name != "grammatical"]
    width = len(WAY) if ways else 0
    cells = {row: [COLUMNS[name](metrics) for name in names] for row, metrics in rows.items()}
    body = ([row, *ways.get(row, [""] * width), *rest] for row, rest in cells.items())
    return table(["lines", *WAY[:width], *names], body)


def puzzle_table(scores: Sequence[PuzzleScore]) -> str:
    """A Markdown table of puzzles by their number of clues."""
    rows = ([f"{s.clues}", f"{s.puzzles}", f"{s.solved:.1%}", f"{s.cells:.1%}"] for s in scores)
    return table(["clues", "puzzles", "solved", "empty cells right"], rows)


def likelihood_lines(result: Likelihood) -> str:
    """The likelihood, in every unit."""
    sign, found = "<= " if result.is_bound else "", result.held_out
    return (
        f"{sign}{found.total:.4f} nats per token (± {found.error:.4f})\n"
        f"{sign}{result.bits_per_character:.4f} bits per character\n"
        f"{sign}{result.perplexity_per_word:.2f} perplexity per word\n"
        f"{sign}{result.nats_per_text:.3f} nats per text\n"
        f"of it prior {found.prior:.4f}, diffusion {found.diffusion:.4f}, reconstruction "
        f"{found.reconstruction:.4f}, length {found.length:.4f} nats per token; "
        f"{found.texts:,} texts, {found.tokens:,} tokens, {result.characters:,} characters"
    )


def training_figure(runs: Sequence[Path], entropy: float | None = None) -> Any:
    """The bound, the table, losses, gradient, learning rate and throughput, against minutes.

    entropy, in nats per token, is drawn as the line that the bound cannot cross.
    """
    records = [{kind: read_metrics(run, kind) for kind in ("train", "valid")} for run in runs]
    figure, axes = pyplot().subplots(2, 4, figsize=(14, 6), layout="constrained")
    for axis, ((kind, field), title) in zip(axes.flat, PANELS.items(), strict=True):
        for run, record in zip(runs, records, strict=True):
            having = [each for each in record[kind] if field in each]
            if not any(each[field] for each in having):
                continue  # a baseline has no x0, and its squared error is logged as 0
            minutes = [each["seconds"] / 60 for each in having]
            errors = [each[f"{field}_error"] for each in having if f"{field}_error" in each]
            style = {"marker": "o", "markersize": 3} if kind == "valid" else {"linewidth": 1}
            label = run.resolve().name
            axis.errorbar(minutes, [each[field] for each in having], errors or None, label=label, **style)
        axis.set(title=title, xlabel="minutes")
    if entropy is not None:
        axes[0, 0].axhline(entropy, color="black", linestyle="--", label="exact entropy")
    axes[0, 0].legend()
    return figure


def plot_losses(run: Path, picture: Path, *, entropy: float | None = None) -> None:
    """Draws the training of one run. Raises UserError without matplotlib (the extra `plot`)."""
    save(training_figure([run], entropy), picture)


def contender(run: str) -> str:
    """The name of a run without its seed."""
    return run.rsplit("-", 1)[0]


def way(runs: Sequence[Run], points: Iterable[Point]) -> list[str]:
    """The cells of WAY for the runs of one contender, and some points of them."""
    stagger, passes = runs[0]["stagger"], f"{fmean(point['passes'] for point in points):.3g}"
    if stagger is None:
        return ["", "", passes]
    tokens = fmean(run["likelihood"]["tokens"] / run["likelihood"]["texts"] for run in runs)
    return [f"{stagger:g}", f"{tokens / (1 + stagger):.1f}", passes]


def comparison_tables(results: Mapping[str, Any]) -> str:
    """Three Markdown tables: the likelihood of held-out text, and samples at the defaults and at
    equal entropy.

    Runs that differ only in their seed share a row: means, and ± their standard deviation; of one
    run alone ± is the standard error over texts.
    """
    contenders: dict[str, list[Run]] = {}
    for name, run in results["runs"].items():
        contenders.setdefault(contender(name), []).append(run)
    lines = {name: SampleMetrics(**metrics) for name, metrics in results["lines"].items()}
    rows, ways = [], {}
    for name, runs in contenders.items():
        first = [run["points"][0] for run in runs]
        lines[name] = mean_metrics([SampleMetrics(**point["metrics"]) for point in first])
        ways[name] = way(runs, first)
        found = [run["likelihood"] for run in runs]
        nats, bits = ([each[k] for each in found] for k in ("nats_per_token", "bits_per_character"))
        spread = stdev(nats) if len(runs) > 1 else found[0]["standard_error"]
        sign = "<= " if found[0]["is_bound"] else ""
        tokens, steps = (fmean(run["progress"][k] for run in runs) for k in ("tokens", "step"))
        label = f"{name}, {len(runs)} seeds" if len(runs) > 1 else name
        cells = [f"{sign}{fmean(nats):.3f} ± {spread:.3f}", f"{sign}{fmean(bits):.3f}"]
        rows.append([label, *cells, *ways[name], f"{tokens / 1e6:.1f} M", f"{steps:,.0f}"])
    head = ["contender", "nats per token", "bits per character", *WAY, "tokens seen", "training steps"]
    return "\n\n".join([table(head, rows), evaluation_table(lines, ways), front_table(contenders)])


def front_table(contenders: Mapping[str, Sequence[Run]]) -> str:
    """A Markdown table of n-gram judge perplexity at the highest entropy that all of them reach.

    Either of the two alone can be had by another temperature. In as many steps as were tried at
    several temperatures; between two of them the logarithm is interpolated, and of what has more
    entropy even at the coldest nothing is said.
    """
    curves: dict[tuple[str, int], list[list[Point]]] = {}
    for name, runs in contenders.items():
        for steps, curve in (item for run in runs for item in temperature_curves(run).items()):
            curves.setdefault((name, steps), []).append(curve)
    highest = min(curve[-1]["metrics"]["entropy"] for tried in curves.values() for curve in tried)
    entropy = math.floor(10 * highest) / 10

    def perplexity(curve: list[Point], judge: str) -> float:
        entropies, perplexities = ([p["metrics"][k] for p in curve] for k in ("entropy", judge))
        return math.exp(np.interp(entropy, entropies, np.log(perplexities)))

    rows = []
    for (name, _), tried in curves.items():
        points = [point for curve in tried for point in curve]
        cold = [curve for curve in tried if curve[0]["metrics"]["entropy"] <= entropy]
        judges = ("ngram_perplexity", "reversed_perplexity")
        found = [f"{fmean(perplexity(c, judge) for c in cold):.1f}" if cold else "" for judge in judges]
        seconds = f"{fmean(point['seconds_per_line'] for point in points):.2g}"
        rows.append([name, *way(contenders[name], points), *found, seconds])
    return table([f"at entropy {entropy:.1f}", *WAY, *list(COLUMNS)[:2], "seconds a line"], rows)


def temperature_curves(run: Run) -> dict[int, list[Point]]:
    """Steps: their points by rising entropy, where several temperatures were tried."""
    curves: dict[int, list[Point]] = {}
    for point in sorted(run["points"], key=lambda point: point["metrics"]["entropy"]):
        curves.setdefault(point["steps"], []).append(point)
    return {steps: curves[steps] for steps in sorted(curves, reverse=True) if len(curves[steps]) > 1}


def mean_metrics(several: Sequence[SampleMetrics]) -> SampleMetrics:
    """Figure by figure, of sets of equally many lines."""
    columns = list(zip(*map(astuple, several), strict=True))[1:]
    means = [None if None in column else fmean(column) for column in columns]
    return SampleMetrics(several[0].lines, *means)  # type: ignore[arg-type]


def plot_comparison(results: Mapping[str, Any], picture: Path) -> None:
    """N-gram judge perplexity against passes, against seconds, and against entropy over temperature.

    Runs that differ only in their seed share a colour.
    """
    figure, axes = pyplot().subplots(1, 3, figsize=(13, 4), layout="constrained", sharey=True)

    def draw(axis: Any, x: str, points: Iterable[Point], **style: Any) -> None:
        flat = [{**point, **point["metrics"]} for point in points]
        axis.plot([p[x] for p in flat], [p["ngram_perplexity"] for p in flat], marker="o", **style)

    colours: dict[str, str] = {}
    for name, run in results["runs"].items():
        label = None if contender(name) in colours else contender(name)
        colour = colours.setdefault(contender(name), f"C{len(colours)}")
        first = run["points"][0]
        alike = [point for point in run["points"] if point["temperature"] == first["temperature"]]
        alike.sort(key=lambda point: point["passes"])
        draw(axes[0], "passes", alike, color=colour, label=label)
        draw(axes[1], "seconds_per_line", alike, color=colour)
        for steps, curve in temperature_curves(run).items():
            draw(axes[2], "entropy", curve, color=colour, linestyle="-" if steps == first["steps"] else "--")
    real = results["lines"]["held-out text"]
    for axis, what in zip(axes, ("passes per text", "seconds per line", "entropy, nats"), strict=True):
        axis.axhline(real["ngram_perplexity"], color="black", linestyle=":", label="held-out text")
        axis.set(xlabel=what, xscale="linear" if axis is axes[2] else "log", yscale="log")
    axes[2].plot(real["entropy"], real["ngram_perplexity"], "k*", markersize=12)
    axes[2].set(title="by temperature; dashed: fewer steps")
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].set(ylabel="n-gram judge perplexity per word")
    axes[0].legend()
    save(figure, picture)


def save(figure: Any, picture: Path) -> None:
    figure.savefig(picture, dpi=120)
    pyplot().close(figure)


def pyplot() -> Any:
    """matplotlib's; raises UserError without the extra `plot`."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UserError("pictures need matplotlib: pip install 'simple-diffusion-lm[plot]'") from None
    return plt
