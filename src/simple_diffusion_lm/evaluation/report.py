"""Tables and pictures of what was measured."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..runs.log import read_metrics
from .likelihood import Likelihood
from .puzzles import PuzzleScore
from .samples import SampleMetrics

Run = Mapping[str, Any]  # what results.json says of a run (compare.py),
Point = Mapping[str, Any]  # and of one way of sampling it


def cell(value: float | None, form: str) -> str:
    """A figure as a table shows it; of one that there is not, nothing."""
    return "" if value is None else format(value, form)


COLUMNS = {  # heading: how a figure is shown
    "n-gram judge perplexity": lambda m: f"{m.ngram_perplexity:.1f}",
    "read backwards": lambda m: f"{m.reversed_perplexity:.1f}",
    "autoregressive judge": lambda m: cell(m.autoregressive_perplexity, ".1f"),
    "entropy": lambda m: f"{m.entropy:.2f}",
    "distinct-2": lambda m: f"{m.distinct_2:.2f}",
    "self-BLEU": lambda m: f"{m.self_bleu:.1f}",
    "repetition": lambda m: f"{m.repetition:.1%}",
    "words": lambda m: f"{m.words_mean:.1f} ± {m.words_deviation:.1f}",
    "copied lines": lambda m: f"{m.copied_lines:.1%}",
    "copied 4-grams": lambda m: f"{m.copied_4grams:.0%}",
    "grammatical": lambda m: cell(m.grammatical, ".1%"),
}
# How a contender writes, in every row: in flight are the positions of a text that are between noise
# and clean at a time, passes are evaluations of the network.
NONE: Mapping[str, Sequence[str]] = {}
# What the tables at equal entropy are of.
FRONTS = {
    "n-gram judge perplexity": "ngram_perplexity",
    "read backwards": "reversed_perplexity",
    "autoregressive judge": "autoregressive_perplexity",
    "grammatical": "grammatical",
    "seconds a line": "seconds_per_line",
}
AXES = ("passes", "seconds_per_line", "ngram_perplexity")
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


class Front(NamedTuple):
    """One row of the tables at equal entropy, and one line of the picture."""

    runs: Sequence[Run]
    curves: dict[int, list[list[Point]]]  # by steps: the points of each run by rising entropy


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def evaluation_table(rows: Mapping[str, SampleMetrics], ways: Mapping[str, Sequence[str]] = NONE) -> str:
    """A Markdown table of sets of lines, as samples.py explains them. ways: the cells of WAY, if any."""
    names = [name for name, show in COLUMNS.items() if any(map(show, rows.values()))]
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
    if axes[0, 0].get_legend_handles_labels()[0]:  # a short run was never validated
        axes[0, 0].legend()
    return figure


def plot_losses(run: Path, picture: Path, *, entropy: float | None = None) -> None:
    """Draws the training of one run. Raises UserError without matplotlib (the extra `plot`)."""
    save(training_figure([run], entropy), picture)


def contender(run: str) -> str:
    """The name of a run without its seed."""
    return run.rsplit("-", 1)[0]


def by_contender(results: Mapping[str, Any]) -> dict[str, list[Run]]:
    """The runs of each contender: they differ in their seed."""
    contenders: dict[str, list[Run]] = {}
    for name, run in results["runs"].items():
        contenders.setdefault(contender(name), []).append(run)
    return contenders


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
    contenders = by_contender(results)
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
    real = SampleMetrics(**results["lines"]["held-out text"])
    return "\n\n".join([table(head, rows), evaluation_table(lines, ways), front_tables(contenders, real)])


def front_tables(contenders: Mapping[str, Sequence[Run]], real: SampleMetrics) -> str:
    """Quality at one entropy by the number of steps: Markdown tables of the perplexities of all judges, of
    seconds, and, of the toy language, of the share that is grammatical.

    Perplexity and entropy can each be had alone by another temperature, so the first is interpolated
    between temperatures to the entropy of held-out text, or to the highest that all reach in their most
    steps, if that is less. Nothing is said where no temperature has so little or so much.
    """
    fronts = fronts_of(contenders)
    entropy = shared_entropy(fronts, real)
    steps = sorted({count for row in fronts.values() for count in row.curves})
    tables = []
    for title, field in FRONTS.items():
        if getattr(real, field, 0) is None:
            continue
        rows = []
        for label, (runs, curves) in fronts.items():
            found = (shown(values_at(curves.get(count, []), field, entropy)) for count in steps)
            rows.append([label, *way(runs, curves[max(curves)][0])[:2], *found])
        tables.append(table([f"{title}, at entropy {entropy:.2f}; steps:", *WAY[:2], *map(str, steps)], rows))
    return "\n\n".join(tables)


def fronts_of(contenders: Mapping[str, Sequence[Run]]) -> dict[str, Front]:
    """A front for each contender, and for each order of revealing where a model can choose."""
    fronts: dict[str, Front] = {}
    for name, runs in contenders.items():
        for run in runs:
            own: dict[tuple[str, int], list[Point]] = {}
            for point in run["points"]:
                label = name if point["order"] is None else f"{name}, {point['order']}"
                own.setdefault((label, point["steps"]), []).append(point)
            for (label, steps), curve in own.items():
                curve.sort(key=lambda point: point["metrics"]["entropy"])
                fronts.setdefault(label, Front(runs, {})).curves.setdefault(steps, []).append(curve)
    return fronts


def shared_entropy(fronts: Mapping[str, Front], real: SampleMetrics) -> float:
    """That of held-out text, or the highest that all reach in their most steps, if that is less."""
    most = [curve for _, curves in fronts.values() for curve in curves[max(curves)]]
    highest = min(curve[-1]["metrics"]["entropy"] for curve in most)
    return math.floor(100 * min(real.entropy, highest)) / 100


def values_at(curves: Sequence[Sequence[Point]], field: str, entropy: float) -> list[float]:
    """A figure of each run (its own field, or one of its metrics) at this entropy; of a perplexity or of
    seconds the logarithm is interpolated."""
    found = []
    for curve in curves:
        entropies = [point["metrics"]["entropy"] for point in curve]
        if entropies[0] <= entropy <= entropies[-1]:
            values = [point[field] if field in point else point["metrics"][field] for point in curve]
            is_share = field == "grammatical"
            value = np.interp(entropy, entropies, values if is_share else np.log(values))
            found.append(float(value if is_share else np.exp(value)))
    return found


def shown(values: Sequence[float]) -> str:
    """The mean, and of several seeds ± their standard deviation."""
    if not values:
        return ""
    digits = 3 if max(values) <= 1 else 1
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def mean_metrics(several: Sequence[SampleMetrics]) -> SampleMetrics:
    """Figure by figure, of sets of equally many lines."""
    columns = list(zip(*map(astuple, several), strict=True))[1:]
    means = [None if None in column else fmean(column) for column in columns]
    return SampleMetrics(several[0].lines, *means)  # type: ignore[arg-type]


def plot_comparison(results: Mapping[str, Any], picture: Path) -> None:
    """N-gram judge perplexity at equal entropy against passes of the network, and against seconds."""
    figure, axes = pyplot().subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    real = SampleMetrics(**results["lines"]["held-out text"])
    fronts = fronts_of(by_contender(results))
    entropy = shared_entropy(fronts, real)
    for label, (_, curves) in fronts.items():
        rows = []
        for steps in sorted(curves):
            found = [values_at(curves[steps], field, entropy) for field in AXES]
            rows += [[fmean(values) for values in found]] if all(found) else []
        for axis, x in zip(axes, zip(*rows, strict=True), strict=False):
            axis.plot(x, [row[-1] for row in rows], marker="o" if len(rows) > 1 else "*", label=label)
    for axis, what in zip(axes, ("passes of the network per text", "seconds per line"), strict=True):
        axis.axhline(real.ngram_perplexity, color="black", linestyle=":", label="held-out text")
        axis.set(xlabel=what, xscale="log", yscale="log")
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].set(ylabel="n-gram judge perplexity per word: lower is better", title=f"at entropy {entropy:.2f}")
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
