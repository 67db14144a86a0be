"""Writes docs/results.md and its picture from benchmarks/results/, and the README's blocks between
<!-- NAME --> and <!-- end NAME -->.

    python benchmarks/results.py

Run it after a file of results was made anew. A test holds both documents against the files.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from textwrap import indent
from typing import Any

from simple_diffusion_lm.evaluation.report import (
    COLUMNS,
    by_contender,
    comparison_tables,
    fronts_of,
    new_figure,
    shared_entropy,
    shown,
    table,
    values_at,
)

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "pictures" / "passes.png"
PASSES = (4, 8, 16, 64)
INTRODUCTION = """# Results

This page is written by `python benchmarks/results.py`, from the files in
[benchmarks/results/](../benchmarks/results/). [Is it any good?](measuring.md) says what the figures are.

In a comparison every contender has the same text, tokenizer, trunk, batches and number of steps; its
checkpoint is chosen on one half of the held-out text, and measured on the other. ± is the standard
deviation over seeds; of one run alone, the standard error over texts. *blanks* is the control: the recipe
with a blank in place of noise (its bound is not shown: no position is in flight in so few draws). Where a
cell is empty no temperature gives so high an entropy. No seconds are shown, because other work ran beside
some of the runs."""
SAMPLES = 6  # lines of each contender
Results = Mapping[str, Any]


def read(name: str) -> Results:
    """Results without the seconds of a line: other work ran beside some of them."""
    results = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    for run in results.get("runs", {}).values():
        results["lines"]["held-out text"]["seconds_per_line"] = None
        for point in run["points"]:
            point["seconds_per_line"] = None
    return results


def where(results: Results) -> str:
    """The machines that runs were measured on, at which commit and when."""
    found = {
        "{processor}, {threads} thread, torch {torch}, commit {commit}, {date}".format(**run["machine"])
        for run in results.get("runs", {"": results}).values()
    }
    return "; ".join(sorted(found))


def field_of(results: Results) -> str:
    """What quality is: the share that is grammatical where that is known, else the n-gram judge."""
    known = results["lines"]["held-out text"]["grammatical"] is not None
    return "grammatical" if known else "ngram_perplexity"


def best(results: Results, name: str, steps: int) -> list[float]:
    """Each seed's quality in so many steps, at the entropy of held-out text or nearly, in the order
    of writing that is best; none where no temperature gives so high an entropy."""
    fronts = fronts_of(by_contender(results))
    entropy, field = shared_entropy(fronts, results["lines"]["held-out text"]), field_of(results)
    own = [curves.get(steps, []) for label, curves in fronts.items() if label.split(",")[0] == name]
    found = [values for curves in own if (values := values_at(curves, field, entropy))]
    return (max if field == "grammatical" else min)(found, key=fmean, default=[])


def short_table(results: Results) -> str:
    """The README's: quality by passes, each contender in its best order of writing."""
    rows, field = [], field_of(results)
    for name, runs in by_contender(results).items():
        one_way = len({point["steps"] for point in runs[0]["points"]}) == 1  # from left to right
        cells = [shown(best(results, name, steps)) for steps in PASSES]
        passes = fmean(run["points"][0]["passes"] for run in runs)
        last = f"{cells[-1]} in {passes:.0f}" if one_way else cells[-1]
        rows.append([name, str(len(runs)), *cells[:-1], last])
    real = results["lines"]["held-out text"]
    entropy = shared_entropy(fronts_of(by_contender(results)), real)
    label = f"held-out text, entropy {real['entropy']:.2f}"
    rows.append([label, "", *[""] * (len(PASSES) - 1), shown([real[field]])])
    return table(
        [[f"{COLUMNS[field][0]} at entropy {entropy:.2f}; passes:", "seeds", *map(str, PASSES)], *rows]
    )


def comparison(results: Results) -> str:
    """Likelihood, figures at the defaults and at equal entropy, and lines as they came."""
    lines = [
        f"**{name}**\n\n{indent(chr(10).join(run['samples'][:SAMPLES]), '    ')}"
        for name, run in ((name, runs[0]) for name, runs in by_contender(results).items())
    ]
    return "\n\n".join([comparison_tables(results), *lines])


def between(results: Results) -> str:
    """What `vary` and `blend` write, beside their controls."""
    parts = []
    for corpus in ("toy", "captions"):
        for which, rows in results[corpus].items():
            head = [name for name in rows[0] if rows[0][name] is not None]
            body = [
                [row[name] if isinstance(row[name], str) else f"{row[name]:.2f}" for name in head]
                for row in rows
            ]
            parts.append(f"{corpus}, {which}\n\n{table([head, *body])}")
    return "\n\n".join(parts)


def demo(text: str) -> str:
    """What `make demo` printed, under the paragraph that says where."""
    place, printed = text.strip().split("\n\n", 1)
    return f"({place})\n\n{indent(printed, '    ')}"


def picture(panels: Mapping[str, Results]) -> None:
    """Quality against passes, each contender in its best order of writing: a panel for each corpus."""
    axes = (figure := new_figure(10, 4)).subplots(1, len(panels))
    for axis, (title, results) in zip(axes, panels.items(), strict=True):
        field, real = field_of(results), results["lines"]["held-out text"]
        for name, runs in by_contender(results).items():
            points = runs[0]["points"]
            steps = sorted({point["steps"] for point in points})
            found = {count: fmean(values) for count in steps if (values := best(results, name, count))}
            if len(steps) == 1:  # from left to right: a pass a token
                found = {points[0]["passes"]: next(iter(found.values()))}
            axis.plot(found.keys(), found.values(), marker="o" if len(steps) > 1 else "*", label=name)
        axis.axhline(real[field], color="black", linestyle=":", label="held-out text")
        axis.set(title=title, xlabel="passes of the network for a text", ylabel=COLUMNS[field][0])
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        if field != "grammatical":
            axis.set(yscale="log", yticks=(20, 50, 100, 200))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
    axes[0].legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


COMPARE = "sdlm compare{} --out DIR --steps 1200 --seeds 3 --lines 200 --examples 2000 --compile False"
VARYING = "python benchmarks/varying.py RUN --count 100"
# Heading, file, command, what is written of the results.
SECTIONS: tuple[tuple[str, str, str, Callable[[Results], str]], ...] = (
    ("Toy language", "toy", COMPARE.format(""), comparison),
    ("Captions", "captions", COMPARE.format(" captions.txt") + " --judge JUDGE", comparison),
    ("Lines varied, and between two lines", "varying", VARYING, between),
)


def page() -> str:
    """docs/results.md."""
    demo_text = (FOLDER / "demo.txt").read_text(encoding="utf-8")
    parts = [INTRODUCTION, f"## The demo\n\n{demo(demo_text)}"]
    for heading, name, command, write in SECTIONS:
        results = read(name)
        parts.append(f"## {heading}\n\n`{command}` ({where(results)})\n\n{write(results)}")
    return "\n\n".join(parts) + "\n"


def filled(readme: str) -> str:
    """The README with its table as the results have it."""
    tables = "\n\n".join(short_table(read(name)) for name in ("toy", "captions"))
    block = f"<!-- passes -->\n\n{tables}\n\n<!-- end passes -->"
    before, rest = readme.split("<!-- passes -->")
    return before + block + rest.split("<!-- end passes -->")[1]


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / "docs" / "results.md").write_text(page(), encoding="utf-8")
    picture({"toy language": read("toy"), "captions": read("captions")})
