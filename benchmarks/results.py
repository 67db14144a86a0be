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

import measure
from matplotlib.ticker import LogLocator
from sudoku import CLUES, solved, solved_table

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
STEPS = (2, 4, 8, 16, 64)
INTRODUCTION = """# Results

This page is written by `python benchmarks/results.py`, from the files in
[benchmarks/results/](../benchmarks/results/). [Is it any good?](measuring.md) says what the figures are.

In a comparison every contender has the same text, tokenizer, trunk, batches and number of steps (of Sudoku
the autoregressive one has lines with the clues first, twice as long, and twice the steps); its checkpoint is
chosen on one half of the held-out text (a student's is its newest), and measured on the other. ± is the
standard deviation over seeds; of one run alone, the standard error over texts. Masked diffusion is the
control: the same network with blanks in place of noise. A student is taught to write in 4 passes by the
`modern` run of its seed, in as many steps again, each 2.3 to 3 times as costly. A step is a pass of the
network, but masked diffusion makes none where it would write nothing: of a line, 64 steps are as many passes
as it has tokens. An empty cell: not measured, or a run is less varied. A star: all temperatures are more
varied, and the least varied stands there. Tables of lines are of the most steps at one temperature, 0.7:
look at the entropy. Running text was measured by `run_compare(..., steps=(16, 8, 4, 2))`; its command
measures 1 to 64 steps. Among ingredients *objective=masked* has tokens given in training, *masked* none.
Ingredients and speed are of the recipe before [two gains](log.md#2026-12-01-late-times)."""
SAMPLES = 6  # lines of each contender
Results = Mapping[str, Any]
Found = tuple[list[float], bool]  # of values_at
NONE: Found = ([], False)


def read(name: str) -> Results:
    """Results without the seconds of a line: other work ran beside some of them."""
    results = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    points = [point for run in results.get("runs", {}).values() for point in run["points"]]
    for timed in (results.get("lines", {}).get("held-out text", {}), *points):
        timed["seconds_per_line"] = None
    return results


def where(results: Results) -> str:
    """The machines that runs were measured on, at which commit and when."""
    found = {
        "{processor}, {threads} thread(s), torch {torch}, commit {commit}, {date}".format(**run["machine"])
        for run in results.get("runs", {"": results}).values()
    }
    return "; ".join(sorted(found))


def field_of(results: Results) -> str:
    """What quality is: the share that is grammatical where that is known, else the n-gram judge."""
    known = results["lines"]["held-out text"]["grammatical"] is not None
    return "grammatical" if known else "ngram_perplexity"


def best(results: Results) -> tuple[float, dict[str, dict[float, Found]]]:
    """The entropy of held-out text or nearly, and there each contender's quality by steps, of each seed, in
    the order of writing that is best. None where no temperature gives so high an entropy. A model that
    writes from left to right has one number of steps, which means nothing."""
    contenders, field = by_contender(results), field_of(results)
    fronts, better = fronts_of(contenders), max if field == "grammatical" else min
    entropy = shared_entropy(contenders, results["lines"]["held-out text"])
    found: dict[str, dict[float, Found]] = {}
    for name in contenders:
        own = [curves for label, curves in fronts.items() if label.split(", ")[0] == name]
        for count in sorted({count for curves in own for count in curves}):
            orders = [values_at(curves.get(count, []), field, entropy) for curves in own]
            fine = (each for each in orders if each[0])
            found.setdefault(name, {})[count] = better(fine, key=lambda each: fmean(each[0]), default=NONE)
    return entropy, found


def short_table(results: Results) -> str:
    """The README's: quality by steps, each contender in its best order of writing."""
    (entropy, found), field, real = best(results), field_of(results), results["lines"]["held-out text"]
    better = "more" if field == "grammatical" else "less"
    about = f"{COLUMNS[field][0]} ({better} is better) at entropy {entropy:.2f}"
    rows = [[f"{about}; steps:", *map(str, STEPS), "one a token"]]
    for name, by_steps in found.items():
        only = next(iter(by_steps.values())) if len(by_steps) == 1 else NONE
        cells = [shown(*by_steps.get(count, NONE)) if only is NONE else "" for count in STEPS]
        rows.append([name, *cells, shown(*only)])
    label = f"held-out text, more varied ({real['entropy']:.2f})"
    return table([*rows, [label, *[""] * len(STEPS), shown([real[field]])]])


def comparison(results: Results) -> str:
    """Likelihood, figures at one temperature and at equal entropy, and lines as they came."""
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


def speed(results: Results) -> str:
    """Training, writing captions, and writing long texts: medians, and the least and most of all turns."""
    names = ("tokens_per_second", "step_ms", "utilisation", "memory_mb")
    training = [
        {"size": size, "contender": name, **{each: row.get(each) for each in names}}
        for size, rows in results["training"].items()
        for name, row in rows.items()
    ]
    return "\n\n".join(map(measure.shown, (training, results["sampling"], results["latency"])))


def demo(text: str) -> str:
    """What `make demo` printed, under the paragraph that says where."""
    place, printed = text.strip().split("\n\n", 1)
    return f"({place})\n\n{indent(printed, '    ')}"


def solved_by_passes(results: Results) -> dict[str, dict[float, Found]]:
    """Of Sudoku, each contender in its best order: the share solved by passes. What writes from left to right
    writes the whole grid, and its end; masked diffusion writes an empty cell in each pass, or more."""
    size, by_name = results["settings"]["size"], dict[str, dict[float, Found]]()
    for label, by_steps in solved(results).items():
        own = by_name.setdefault(name := label.split(", ")[0], {})
        for steps, values in by_steps.items():
            most = size**2 - CLUES[size][0] if name == "masked" else steps
            passes = min(steps, most) if len(by_steps) > 1 else size * (size + 1) + 2
            own[passes] = max((values, False), own.get(passes, NONE), key=lambda each: sum(each[0]))
    return by_name


def by_passes(results: Results) -> dict[str, dict[float, Found]]:
    """What `best` finds, by the passes that the steps took: masked diffusion needs no more than tokens."""
    taken: dict[tuple[str, int], list[float]] = {}
    for name, runs in by_contender(results).items():
        for point in (point for run in runs for point in run["points"]):
            taken.setdefault((name, point["steps"]), []).append(point["passes"])
    return {name: {fmean(taken[name, n]): own[n] for n in own} for name, own in best(results)[1].items()}


def picture(panels: Mapping[str, Results]) -> None:
    """Quality against passes, each contender in its best order of writing: a panel for each corpus."""
    figure = new_figure(10, 7.5)
    axes = figure.subplots(2, 2).flat
    for axis, (title, results) in zip(axes, panels.items(), strict=True):
        if "lines" in results:
            field, found = field_of(results), by_passes(results)
            real = results["lines"]["held-out text"][field]
        else:
            field, found, real = "solved", solved_by_passes(results), 1.0
        for name in ("modern", "masked", "autoregressive", "student"):  # of one colour everywhere
            means = {passes: fmean(values) for passes, (values, _) in found.get(name, {}).items() if values}
            axis.plot(means.keys(), means.values(), marker="o" if len(means) > 1 else "*", label=name)
        axis.axhline(real, color="black", linestyle=":", label="held-out text")
        axis.set(title=title, xlabel="passes of the network for a text", ylabel=COLUMNS[field][0])
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        if field == "ngram_perplexity":
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
    figure.axes[0].legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


COMPARE = "sdlm compare{} --out DIR --contenders NAMES --seeds SEEDS --steps 1200 --lines 200 --examples 2000"
RUNNING = COMPARE.format(" shakespeare.txt --stream --window 128").replace("--lines 200", "--lines 100")
ABLATE = "python benchmarks/ablations.py{} --out DIR --only NAMES --steps 1200 --seeds SEEDS"
FILLING = "python benchmarks/infilling.py RUN MASKED --temperatures 0.7 0.4 0.1"
SPEED = "python benchmarks/speed.py --corpus captions.txt --script ORIGINAL/pytorch/train.py"
VARYING = "python benchmarks/varying.py RUN --count 100"
SUDOKU = "python benchmarks/sudoku.py --out DIR --contenders NAMES --seeds SEEDS --steps 2400 --count 100"
# Heading, file, command, what is written of the results.
SECTIONS: tuple[tuple[str, str, str, Callable[[Results], str]], ...] = (
    ("Toy language", "toy", COMPARE.format(""), comparison),
    ("Captions", "captions", COMPARE.format(" captions.txt") + " --judge JUDGE", comparison),
    ("Running text in windows of 128 tokens, in 2 to 16 steps", "shakespeare", RUNNING, comparison),
    ("Sudoku", "sudoku", SUDOKU, solved_table),
    ("What each ingredient is worth, on the toy language", "ingredients", ABLATE.format(""), short_table),
    ("The same on captions", "ingredients-captions", ABLATE.format(" captions.txt"), short_table),
    ("Gaps in captions", "infilling", FILLING, lambda found: measure.shown(found["gaps"])),
    ("Lines varied, and between two lines", "varying", VARYING, between),
    ("Speed", "speed", SPEED, speed),
)


def page() -> str:
    """docs/results.md."""
    demo_text = (FOLDER / "demo.txt").read_text(encoding="utf-8")
    parts = [INTRODUCTION, f"## The demo\n\n{demo(demo_text)}"]
    for heading, name, command, write in SECTIONS:
        results = read(name)
        if "runs" in results:
            runs = by_contender(results)
            changed = [name for name in runs if "=" in name]  # in ablations: the recipe is always there
            command = command.replace("NAMES", " ".join(changed or runs))
            command = command.replace("SEEDS", str(max(map(len, runs.values()))))
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
    names = {"toy": "toy language", "captions": "captions", "shakespeare": "running text", "sudoku": "Sudoku"}
    picture({title: read(name) for name, title in names.items()})
