"""Tables and pictures of what was measured."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from ..errors import installed
from ..runs.log import read_metrics

Figures = Mapping[str, Any]  # by name: of a set of lines, of a way of sampling (a point), of a run
Curves = dict[int, list[list[Figures]]]  # by steps: the points of each run by rising entropy
# Figure: its heading, and how tables show it, in this order. Passes are evaluations of the network.
COLUMNS = {
    "nats_per_token": ("nats per token", "{sign}{:.3f} ± {spread:.3f}"),
    "bits_per_character": ("bits per character", "{sign}{:.3f}"),
    "passes": ("passes per text", "{:.3g}"),
    "seconds_per_line": ("seconds a line", "{:.3f}"),
    "millions_seen": ("tokens seen", "{:.1f} M"),
    "step": ("training steps", "{:,.0f}"),
    "lines": ("how many", "{:,.0f}"),
    "ngram_perplexity": ("n-gram judge perplexity", "{:.1f}"),
    "reversed_perplexity": ("read backwards", "{:.1f}"),
    "autoregressive_perplexity": ("autoregressive judge", "{:.1f}"),
    "entropy": ("entropy", "{:.2f}"),
    "distinct_2": ("distinct-2", "{:.2f}"),
    "self_bleu": ("self-BLEU", "{:.1f}"),
    "repetition": ("repetition", "{:.1%}"),
    "words_mean": ("words", "{:.1f} ± {words_deviation:.1f}"),
    "copied_lines": ("copied lines", "{:.1%}"),
    "copied_4grams": ("copied 4-grams", "{:.0%}"),
    "grammatical": ("grammatical", "{:.1%}"),
    "puzzles": ("puzzles", "{}"),
    "solved": ("solved", "{:.1%}"),
    "cells": ("empty cells right", "{:.1%}"),
}
# What the tables at equal entropy are of.
FRONTS = (*(field for field in COLUMNS if "perplexity" in field), "grammatical", "seconds_per_line")
AXES = ("passes", "seconds_per_line", "ngram_perplexity")
# (kind, field) of a record of metrics.jsonl: title. What is predicted in training, and from what, differs
# from one objective to the next: only runs of the same one have comparable cross-entropies there.
PANELS = {
    ("valid", "bound"): "held-out text, nats per token",
    ("train", "ce"): "cross-entropy in its own training task",
    ("train", "accuracy"): "accuracy in its own training task",
    ("train", "grad_norm"): "norm of the gradient",
    ("train", "learning_rate"): "learning rate",
    ("train", "tokens_per_second"): "tokens a second",
}


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; its head is the first row."""
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))


def cell(field: str, figures: Figures) -> str:
    """A figure as a table shows it; of one that there is not, nothing."""
    value = figures.get(field)
    return "" if value is None else COLUMNS[field][1].format(value, **figures)


def figure_rows(what: str, rows: Mapping[str, Figures]) -> list[list[str]]:
    """The head and the rows of a table: a column for each of COLUMNS that any row has."""
    fields = [field for field in COLUMNS if any(cell(field, figures) for figures in rows.values())]
    head = [what, *(COLUMNS[field][0] for field in fields)]
    return [head, *([row, *(cell(field, figures) for field in fields)] for row, figures in rows.items())]


def evaluation_tables(lines: Mapping[str, Figures], scores: Sequence[Figures]) -> list[list[list[str]]]:
    """The tables (figure_rows) of sets of lines, and of puzzles by their clues, where there are any."""
    puzzles = {str(score["clues"]): score for score in scores}
    return [figure_rows(what, rows) for what, rows in (("lines", lines), ("clues", puzzles)) if rows]


def likelihood_lines(found: Figures) -> str:
    """The likelihood, in every unit."""
    within = f" (± {found['standard_error']:.4f})" if found["texts"] > 1 else ""
    return (
        "{sign}{nats_per_token:.4f} nats per token{within}\n"
        "{sign}{bits_per_character:.4f} bits per character\n"
        "{sign}{perplexity_per_word:.2f} perplexity per word (of text without spaces: per character)\n"
        "{sign}{nats_per_text:.3f} nats per text\n"
        "of it prior {prior:.4f}, diffusion {diffusion:.4f}, reconstruction {reconstruction:.4f}, length "
        "{length:.4f} nats per token; {texts:,} texts, {tokens:,} tokens, {characters:,} characters"
    ).format(sign="<= " if found["is_bound"] else "", within=within, **found)


def training_figure(runs: Sequence[Path], entropy: float | None = None) -> Any:
    """The bound, the table, losses, gradient, learning rate and throughput, against steps.
    entropy, in nats per token, is drawn as the line that the bound cannot cross."""
    records = [{kind: read_metrics(run, kind) for kind in ("train", "valid")} for run in runs]
    axes = (figure := new_figure(12, 6)).subplots(2, 3)
    for axis, ((kind, field), title) in zip(axes.flat, PANELS.items(), strict=True):
        for run, record in zip(runs, records, strict=True):
            having = [each for each in record[kind] if field in each]
            steps = [each["step"] for each in having]
            errors = [each[f"{field}_error"] for each in having if f"{field}_error" in each]
            style = {"marker": "o", "markersize": 3} if kind == "valid" else {"linewidth": 1}
            label = run.resolve().name
            axis.errorbar(steps, [each[field] for each in having], errors or None, label=label, **style)
        axis.set(title=title, xlabel="steps")
    if entropy is not None:
        axes[0, 0].axhline(entropy, color="black", linestyle="--", label="exact entropy")
    if len(axes[0, 0].get_legend_handles_labels()[0]) > 1:
        axes[0, 0].legend(frameon=False)
    return figure


def by_contender(results: Mapping[str, Any]) -> dict[str, list[Figures]]:
    """The runs of each contender: they differ in their seed."""
    contenders: dict[str, list[Figures]] = {}
    for name, run in results["runs"].items():
        contenders.setdefault(name.rsplit("-", 1)[0], []).append(run)
    return contenders


def comparison_tables(results: Mapping[str, Any]) -> str:
    """Three Markdown tables: held-out likelihood, samples at one temperature, and at equal entropy.

    Runs that differ only in their seed share a row: means, and ± their standard deviation; of one
    run alone ± is the standard error over texts.
    """
    contenders, lines = by_contender(results), dict(results["lines"])
    costs = {}
    for name, runs in contenders.items():
        lines[name] = mean_of([run["points"][0] for run in runs])
        found = mean_of([run["likelihood"] | {"step": run["progress"]["step"]} for run in runs])
        nats = [run["likelihood"]["nats_per_token"] for run in runs]
        spread = stdev(nats) if len(runs) > 1 else found["standard_error"]
        seen = fmean(run["progress"]["tokens"] for run in runs) / 1e6
        about = {"spread": spread, "sign": "<= " if found["is_bound"] else "", "millions_seen": seen}
        label = f"{name}, {len(runs)} seeds" if len(runs) > 1 else name
        costs[label] = found | about | {"passes": lines[name]["passes"]}
    tables = [table(figure_rows("contender", costs)), table(figure_rows("lines", lines))]
    return "\n\n".join([*tables, front_tables(contenders, results["lines"]["held-out text"])])


def front_tables(contenders: Mapping[str, Sequence[Figures]], real: Figures) -> str:
    """Quality at one entropy by the number of steps: Markdown tables of the perplexities of all judges, of
    seconds, and, of the toy language, of the share that is grammatical.

    Perplexity and entropy can each be had alone by another temperature, so the first is interpolated
    between temperatures to the entropy of held-out text, or to the highest that all contenders reach in
    4 steps and in more, if less. Nothing is said where no temperature has so much. Where all have more the
    lowest stands, with a star."""
    fronts, entropy = fronts_of(contenders), shared_entropy(contenders, real)
    steps, tables = sorted({count for curves in fronts.values() for count in curves}), []
    for field in FRONTS:
        if field in real and real[field] is None:  # no such judge, or not the toy language
            continue
        rows = [[f"{COLUMNS[field][0]}, at entropy {entropy:.2f}; steps:", *map(str, steps)]]
        for label, curves in fronts.items():
            found = (values_at(curves.get(count, []), field, entropy) for count in steps)
            rows.append([label, *(shown(*each) for each in found)])
        tables.append(table(rows))
    return "\n\n".join(tables)


def fronts_of(contenders: Mapping[str, Sequence[Figures]]) -> dict[str, Curves]:
    """Curves of each contender, and for each order of revealing where a model can choose: a row of the tables
    at equal entropy, and a line of the picture."""
    fronts: dict[str, Curves] = {}
    for name, runs in contenders.items():
        for run in runs:
            own: dict[tuple[str, int], list[Figures]] = {}
            for point in run["points"]:
                label = name if point["order"] is None else f"{name}, {point['order']}"
                own.setdefault((label, point["steps"]), []).append(point)
            for (label, steps), curve in own.items():
                curve.sort(key=lambda point: point["entropy"])
                fronts.setdefault(label, {}).setdefault(steps, []).append(curve)
    return fronts


def shared_entropy(contenders: Mapping[str, Sequence[Figures]], real: Figures) -> float:
    """That of held-out text, or the highest that all runs reach in each number of steps from 4 on, in the
    order that is most varied, if that is less."""
    runs = (run for several in contenders.values() for run in several)
    most = (dict(sorted((each["steps"], each["entropy"]) for each in run["points"])) for run in runs)
    reached = (entropy for by_steps in most for steps, entropy in by_steps.items() if steps >= 4)
    return math.floor(100 * min([real["entropy"], *reached])) / 100


def values_at(curves: Sequence[Sequence[Figures]], field: str, entropy: float) -> tuple[list[float], bool]:
    """A figure of each run at this entropy, none where not all have so much; and whether some have more at
    any temperature: theirs is of the lowest. Of a perplexity or of seconds the logarithm is interpolated."""
    found = list[float]()
    for curve in curves:
        entropies, is_share = [point["entropy"] for point in curve], field == "grammatical"
        if entropy > entropies[-1]:
            return [], False
        values = [point[field] for point in curve]
        value = np.interp(entropy, entropies, values if is_share else np.log(values))
        found.append(float(value if is_share else np.exp(value)))
    return found, any(curve[0]["entropy"] > entropy for curve in curves)


def shown(values: Sequence[float], more_varied: bool = False) -> str:
    """The mean, and of several seeds ± their standard deviation; a star where the texts are more varied."""
    if not values:
        return ""
    digits = 3 if max(values) <= 1 else 1
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}{' *' * more_varied}"


def mean_of(several: Sequence[Figures]) -> dict[str, Any]:
    """Figure by figure; of one that not all have, none."""
    columns = {name: [each[name] for each in several] for name in several[0] if name != "order"}
    return {name: None if None in values else fmean(values) for name, values in columns.items()}


def plot_comparison(results: Mapping[str, Any], picture: Path) -> None:
    """N-gram judge perplexity at equal entropy against passes of the network, and against seconds."""
    axes = (figure := new_figure(11, 4.5)).subplots(1, 2, sharey=True)
    real = results["lines"]["held-out text"]
    contenders = by_contender(results)
    fronts, entropy = fronts_of(contenders), shared_entropy(contenders, real)
    for label, curves in fronts.items():
        rows = []
        for steps in sorted(curves):
            found = [values_at(curves[steps], field, entropy)[0] for field in AXES]
            rows += [[fmean(values) for values in found]] if all(found) else []
        for axis, x in zip(axes, zip(*rows, strict=True), strict=False):
            axis.plot(x, [row[-1] for row in rows], marker="o" if len(rows) > 1 else "*", label=label)
    for axis, what in zip(axes, ("passes of the network per text", "seconds per line"), strict=True):
        axis.axhline(real["ngram_perplexity"], color="black", linestyle=":", label="held-out text")
        axis.set(xlabel=what, xscale="log", yscale="log")
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].set(ylabel="n-gram judge perplexity per word: lower is better", title=f"at entropy {entropy:.2f}")
    axes[0].legend()
    figure.savefig(picture, dpi=120)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches; raises UserError without the extra `plot`."""
    # Without pyplot, which keeps all figures and may want a display.
    library = installed("matplotlib.figure", "pictures need matplotlib", "simple-diffusion-lm[plot]")
    return library.Figure(figsize=(width, height), layout="constrained")
