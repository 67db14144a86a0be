"""Lines that must have words and must not have others, and the best of n: what they cost.

    python benchmarks/choosing.py RUN --out choosing.json

For pairs of words that stand together in held-out lines: the share of lines in which both stand and
none of the forbidden ones, the judge's perplexity, and seconds a line; and the same figures of the
best of n lines by the model's own -log p, for several n.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro
from measure import markdown
from tyro.conf import Positional

from simple_diffusion_lm.evaluation.compare import machine
from simple_diffusion_lm.evaluation.evaluate import reference_texts
from simple_diffusion_lm.evaluation.metrics import example_texts
from simple_diffusion_lm.evaluation.samples import Reference, sample_metrics
from simple_diffusion_lm.exits import exit_cleanly
from simple_diffusion_lm.generation import DiffusionLM

CANDIDATES = (1, 4, 16)
FORBIDDEN = 2  # the most frequent words of the corpus that have more than three letters


def pairs_of(lines: Sequence[str], count: int, banned: Sequence[str]) -> list[tuple[str, str]]:
    """Two words each of held-out lines, of more than three letters, none of them banned."""
    rng, pairs = np.random.default_rng(0), []
    for line in lines:
        words = sorted({w for w in line.split() if len(w) > 3 and w.isalpha() and w not in banned})
        if len(words) >= 2 and len(pairs) < count:
            first, second = rng.choice(words, 2, replace=False)
            pairs.append((str(first), str(second)))
    return pairs


def main(run: Positional[Path], out: Path = Path("choosing.json"), count: int = 200) -> None:
    """Writes lines under constraints, and chooses among several.

    Args:
        run: a run of a model that fills gaps.
        out: where the figures go.
        count: lines of each kind.
    """
    model = DiffusionLM.from_pretrained(run)
    data = model.trained_on(run)
    train = reference_texts(model, data.train)
    held_out = example_texts(model, data.valid, 4 * count)
    frequent = Counter(w for line in train for w in line.split() if len(w) > 3 and w.isalpha())
    never = [word for word, _ in frequent.most_common(FORBIDDEN)]
    pairs = pairs_of(held_out, count, never)
    reference = Reference.of(train, held_out[:count])
    rows = []

    def measure(name: str, lines: list[str], met: list[bool], seconds: float) -> None:
        metrics = sample_metrics(lines, reference)
        row = {
            "lines": name,
            "met": float(np.mean(met)),
            "judge_perplexity": metrics.judge_perplexity,
            "entropy": metrics.entropy,
            "seconds_per_line": seconds / len(lines),
            "first": lines[:5],
        }
        rows.append(row)
        print(f"{name}: {row['met']:.1%}", file=sys.stderr)

    measure("held-out text", held_out[:count], [True] * count, 0.0)
    for n in CANDIDATES:
        began = time.monotonic()
        lines = model.generate(count, candidates=n, seed=1)
        measure(f"best of {n}", lines, [True] * count, time.monotonic() - began)
        began = time.monotonic()
        lines = [
            model.generate(1, must=pair, never=never, candidates=n, seed=number)[0]
            for number, pair in enumerate(pairs)
        ]
        met = [
            set(pair) <= set(line.split()) and not set(never) & set(line.split())
            for pair, line in zip(pairs, lines, strict=True)
        ]
        kind = f"best of {n}, two words in it, {' and '.join(never)} not"
        measure(kind, lines, met, time.monotonic() - began)
    head = ["lines", "constraints met", "judge perplexity", "entropy", "seconds a line"]
    figures = [
        [r["lines"], f"{r['met']:.1%}", f"{r['judge_perplexity']:.1f}", f"{r['entropy']:.2f}",
         f"{r['seconds_per_line']:.2f}"]
        for r in rows
    ]  # fmt: skip
    print(markdown(head, figures))
    command = f"python benchmarks/choosing.py {' '.join(sys.argv[1:])}"
    record = {"command": command, "machine": machine(), "never": never, "rows": rows}
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(main))
