"""Puts what was measured into the README: what stands between <!-- NAME --> and <!-- end NAME -->.

    python benchmarks/readme.py

Run it after a file in benchmarks/results/ was made anew. A test holds the README against them.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from textwrap import indent
from typing import Any

from simple_diffusion_lm.evaluation.metrics import Likelihood
from simple_diffusion_lm.evaluation.report import comparison_tables, contender
from simple_diffusion_lm.text.toy import ToyLanguage

ROOT = Path(__file__).parent.parent
Results = Mapping[str, Any]


def measured(results: Results) -> str:
    """On what, when, and how; a machine that some runs only were measured on, with their names."""
    settings, runs = results["settings"], results["runs"]
    where: dict[str, list[str]] = {}
    for name, run in runs.items():
        machine = run["machine"]
        place = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['date']}, commit "
            f"{machine['commit']}, torch {machine['torch']}"
        )
        where.setdefault(place, []).append(name)
    first, *others = where
    places = "; ".join([first, *(f"{', '.join(where[place])}: {place}" for place in others)])
    one = next(iter(runs.values()))
    point = one["points"][0]
    return (
        f"({places}; {settings['minutes']:g} minutes of training each; "
        f"{one['likelihood']['texts']:,} held-out texts; {settings['samples']} "
        f"texts written in {point['steps']} steps at temperature {point['temperature']}.)"
    )


def lines_of(results: Results, run: str, count: int) -> str:
    return "\n".join(f"    {line}" for line in results["runs"][run]["samples"][:count])


def captions(results: Results) -> str:
    """The tables, and uncurated lines."""
    return f"""\
{measured(results)}

{comparison_tables(results)}

![Judge perplexity against steps, seconds and entropy](benchmarks/results/captions.png)

Twenty uncurated lines of `modern`, the first of those that the table is of:

{lines_of(results, "modern-0", 20)}

Ten of `masked` and of `original`, likewise:

{lines_of(results, "masked-0", 10)}

{lines_of(results, "original-0", 10)}"""


def shakespeare(results: Results) -> str:
    """The tables, and uncurated windows."""
    windows = "\n\n".join(
        f"`{name}`:\n\n```text\n{window.strip()}\n```"
        for name in ("modern", "masked", "autoregressive")
        for window in results["runs"][f"{name}-0"]["samples"][:2]
    )
    return f"""\
{measured(results)}

{comparison_tables(results)}

Two uncurated windows of each, the first of those that the table is of:

{windows}"""


def toy(results: Results) -> str:
    """How far above the entropy, and how much of what is written is in the language."""
    entropy = ToyLanguage().entropy()
    rows: dict[str, list[tuple[float, float, float, float, str]]] = {}
    for name, run in results["runs"].items():
        found = Likelihood(**run["likelihood"])
        shares = {
            point["temperature"]: point["metrics"]["grammatical"]
            for point in run["points"]
            if point["steps"] == run["points"][0]["steps"]
        }
        row = (found.nats_per_text, found.above(entropy), shares[0.8], shares[0.5], found.sign)
        rows.setdefault(contender(name), []).append(row)
    table = [
        "| contender | nats a line | above the entropy, nats a token | grammatical | at 0.5 |",
        "|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        nats, gaps, grammatical, colder, (sign, *_) = zip(*runs, strict=True)
        table.append(
            f"| {name} | {sign}{fmean(nats):.2f} | {sign}{fmean(gaps):.3f} ± {stdev(gaps):.3f} "
            f"| {fmean(grammatical):.1%} | {fmean(colder):.1%} |"
        )
    return f"{measured(results)}\n\n" + "\n".join(table)


def demo(text: str) -> str:
    """What `make demo` printed, under the paragraph that says where."""
    where, printed = text.strip().split("\n\n", 1)
    return f"({where})\n\n{indent(printed, '    ')}"


# File of results: what is written about it.
BLOCKS: dict[str, Callable[[Any], str]] = {
    "demo.txt": demo,
    "toy.json": toy,
    "captions.json": captions,
    "shakespeare.json": shakespeare,
}


def filled(text: str) -> str:
    """The README's text with every block as the results have it."""
    for file, write in BLOCKS.items():
        name, kind = file.split(".")
        results = (ROOT / "benchmarks/results" / file).read_text(encoding="utf-8")
        if kind == "json":
            results = json.loads(results)
        block = f"<!-- {name} -->\n\n{write(results)}\n\n<!-- end {name} -->"
        pattern = rf"<!-- {name} -->.*<!-- end {name} -->"
        text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
