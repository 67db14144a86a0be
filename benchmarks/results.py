"""Writes docs/results.md from benchmarks/results/, and what the README shows of it between its marks.

    python benchmarks/results.py

Run it after a file of results was made anew. A test holds both documents against the files.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from textwrap import indent
from typing import Any

from simple_diffusion_lm.evaluation.report import (
    COLUMNS,
    Curves,
    by_contender,
    fronts_of,
    shown,
    table,
    values_at,
)

ROOT = Path(__file__).parent.parent
PASSES = (4, 16, 64)
Results = Mapping[str, Any]


def where(results: Results) -> str:
    """The machines, commits and days that the runs of a comparison were measured on, at and on."""
    found = sorted(
        {
            "{processor}, {threads} thread{s}, torch {torch}, commit {commit}, {date}".format(
                **run["machine"], s="s" * (run["machine"]["threads"] > 1)
            )
            for run in results["runs"].values()
        }
    )
    return "; ".join(found)


def quality(curves: Curves, field: str, entropy: float) -> list[str]:
    """A figure in each of PASSES at one entropy; where no temperature gives one so high, nothing."""
    return [shown(values_at(curves.get(count, []), field, entropy)) for count in PASSES]


def ingredients(results: Results) -> str:
    """A row for each thing that was changed in the recipe."""
    field = "ngram_perplexity" if results["lines"]["held-out text"]["grammatical"] is None else "grammatical"
    fronts, rows = fronts_of(by_contender(results)), []
    for name, runs in by_contender(results).items():
        nats = [run["likelihood"]["nats_per_token"] for run in runs]
        bound = f"<= {fmean(nats):.3f}" + (f" ± {stdev(nats):.3f}" if len(nats) > 1 else "")
        cells = quality(fronts[f"{name}, random"], field, results["entropy"])
        rows.append([name, str(len(runs)), bound, *cells])
    title = f"{COLUMNS[field][0]} at entropy {results['entropy']:.2f}, passes:"
    return table([title, "seeds", "nats a token", *map(str, PASSES)], rows)


def demo(text: str) -> str:
    """What `make demo` printed, under the paragraph that says where."""
    place, printed = text.strip().split("\n\n", 1)
    return f"({place})\n\n{indent(printed, '    ')}"


# Blocks of the README by the file of results that they show.
BLOCKS: dict[str, Callable[[str], str]] = {"demo.txt": demo}


def filled(text: str) -> str:
    """The README's text with every block as the results have it. Raises ValueError where one is missing."""
    for file, write in BLOCKS.items():
        name = Path(file).stem
        results = (ROOT / "benchmarks/results" / file).read_text(encoding="utf-8")
        block = f"<!-- {name} -->\n\n{write(results)}\n\n<!-- end {name} -->"
        pattern = rf"<!-- {name} -->.*<!-- end {name} -->"
        text, count = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"README.md has {count} blocks <!-- {name} --> ... <!-- end {name} -->")
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
