"""Is what `vary` and `blend` write still text, and how far is it from where it came from?

    python benchmarks/varying.py RUN --out varying.json

Each row stands beside its controls. `vary`: the same lines with as many of their words left out at random
and filled anew by the same model, and with as many swapped for words of the corpus. `blend`: lines
that take each word from one of both ends by chance.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import measure
import numpy as np
import tyro
from tqdm import tqdm
from tyro.conf import Positional

from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.evaluation.evaluate import reference_texts
from simple_diffusion_lm.evaluation.likelihood import example_texts
from simple_diffusion_lm.evaluation.samples import Reference
from simple_diffusion_lm.writing.model import DiffusionLM

STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
BETWEEN = 5  # lines of a blend, both ends included


def shared(line: str, other: str, n: int = 1) -> float:
    """The share of a line's runs of n words that stand in another."""
    mine, its = (Counter(zip(*(text.split()[i:] for i in range(n)), strict=False)) for text in (line, other))
    return (mine & its).total() / max(mine.total(), 1)


def row(
    how: str, lines: Sequence[str], ends: Sequence[Sequence[str]], reference: Reference
) -> dict[str, Any]:
    """How probable lines are, and how near each is to its own source, or to its own two ends."""
    toy = reference.toy
    grammatical = fmean(map(toy.is_grammatical, lines)) if toy else None
    found = {"how": how, "n-gram perplexity": reference.judge.perplexity(lines), "grammatical": grammatical}
    for which, own in zip(("source",) if len(ends) == 1 else ("first", "second"), ends, strict=True):
        for name, n in (("words", 1), ("pairs", 2)):
            shares = (shared(line, end, n) for line, end in zip(lines, own, strict=True))
            found[f"{name} of the {which}"] = fmean(shares)
    return found


def crossed(first: str, second: str, share: float, rng: np.random.Generator) -> str:
    """A line of a length between, each word from the second line with this probability, else the first."""
    a, b = first.split(), second.split()
    length = round(len(a) + share * (len(b) - len(a)))
    chosen = (b if side else a for side in rng.random(length) < share)
    return " ".join(words[place % len(words)] for place, words in enumerate(chosen))


def varied(
    model: DiffusionLM, lines: Sequence[str], words: Sequence[str], reference: Reference
) -> list[dict[str, Any]]:
    rows = [row("as they are", lines, [lines], reference)]
    rng = np.random.default_rng(0)
    for strength in STRENGTHS:
        written = model.vary(lines, strength)
        rows.append(row(f"vary {strength}", written, [lines], reference))
        gone = [round(len(a.split()) * (1 - shared(a, b))) for a, b in zip(lines, written, strict=True)]
        places = [rng.permutation(len(a.split()))[:n] for a, n in zip(lines, gone, strict=True)]
        templates, swapped = [], []
        for line, here in zip(lines, places, strict=True):
            other, gaps = line.split(), list(map(measure.literal, line.split()))
            for place in here:
                gaps[place] = f"[[{len(model.tokenizer.encode_after(' ' + other[place]))}]]"
                other[place] = str(rng.choice(words))
            templates.append(" ".join(gaps))
            swapped.append(" ".join(other))
        filled = model.infill(templates, candidates=1)
        rows.append(row("  left out, filled", filled, [lines], reference))
        rows.append(row("  swapped", swapped, [lines], reference))
    return rows


def blended(model: DiffusionLM, lines: Sequence[str], reference: Reference) -> list[dict[str, Any]]:
    """By how far along: what stands between neighbouring lines."""
    rng = np.random.default_rng(0)
    pairs = list(pairwise(lines))[::2]
    found = [model.blend(*pair, count=BETWEEN) for pair in tqdm(pairs, desc="blending", disable=None)]
    ends = list(zip(*pairs, strict=True))
    rows = []
    for i, between in enumerate(zip(*found, strict=True)):
        rows.append(row(f"blend {i / (BETWEEN - 1):.2f}", between, ends, reference))
        if 0 < i < BETWEEN - 1:
            mixed = [crossed(*pair, i / (BETWEEN - 1), rng) for pair in pairs]
            rows.append(row("  each word from one of both", mixed, ends, reference))
    return rows


@dataclass(kw_only=True)
class Vary:
    """Varies and blends held-out lines, and says how near and how probable the results are."""

    run: Positional[Path]  # run directory
    out: Path = Path("varying.json")  # where the figures go
    count: int = 200  # lines; half as many pairs

    def __call__(self) -> None:
        model, data = DiffusionLM.from_pretrained(self.run), DiffusionLM.trained_on(self.run)
        results: dict[str, Any] = measure.about()
        measure.write_results(self.out, results)
        lines = example_texts(model, data.valid, self.count)
        train = reference_texts(model, data.train)
        reference = Reference(train, lines)
        words = [word for line in train[: 100 * self.count] for word in line.split()]
        results["varied"] = varied(model, lines, words, reference)
        print(measure.shown(results["varied"]))
        measure.write_results(self.out, results)
        results["blended"] = blended(model, lines, reference)
        print(f"\n{measure.shown(results['blended'])}")
        measure.write_results(self.out, results)


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(Vary)())
