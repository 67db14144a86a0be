"""What only continuous diffusion does: held-out lines varied, and taken to noise and back.

    python benchmarks/varying.py RUN --out DIR

Writes varying.json and varying.png: how much of a line is left, and what the judge says of what
came of it, as the strength grows; and the share of lines that come back from noise exactly.
"""

import json
import sys
from pathlib import Path

import tyro
from measure import markdown
from sacrebleu.metrics import BLEU
from tyro.conf import Positional

from simple_diffusion_lm.evaluation.compare import machine
from simple_diffusion_lm.evaluation.evaluate import reference_texts
from simple_diffusion_lm.evaluation.judge import KneserNey
from simple_diffusion_lm.evaluation.metrics import example_texts
from simple_diffusion_lm.exits import exit_cleanly
from simple_diffusion_lm.generation import DiffusionLM

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHOWN = 5


def varied(model: DiffusionLM, lines: list[str], judge: KneserNey, steps: int) -> list[dict]:
    """For each strength: BLEU against the source, lines that are unchanged, judge perplexity."""
    rows = []
    for strength in STRENGTHS:
        written = model.vary(lines, strength, steps=steps)
        rows.append(
            {
                "strength": strength,
                "bleu": BLEU(tokenize="none", force=True).corpus_score(written, [lines]).score,
                "unchanged": sum(map(str.__eq__, written, lines)) / len(lines),
                "judge_perplexity": judge.perplexity(written),
                "lines": written[:SHOWN],
            }
        )
    return rows


def draw(rows: list[dict], real: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    strengths = [row["strength"] for row in rows]
    axes.plot(strengths, [row["bleu"] for row in rows], "o-", label="BLEU with the source")
    axes.set(xlabel="strength", ylabel="BLEU with the source", ylim=(0, 102))
    other = axes.twinx()
    other.plot(strengths, [row["judge_perplexity"] for row in rows], "s-", color="C1")
    other.axhline(real, color="C1", linestyle=":", label="held-out text")
    other.set(ylabel="judge perplexity", ylim=(0, None))
    other.yaxis.label.set_color("C1")
    axes.yaxis.label.set_color("C0")
    axes.set_title("A line noised part of the way and written anew")
    other.legend(loc="lower left", frameon=False)
    figure.savefig(path, dpi=150)


def main(run: Positional[Path], out: Path, count: int = 200, steps: int = 64) -> None:
    """Varies held-out lines, and takes them to noise and back.

    Args:
        run: a run of continuous diffusion.
        out: directory for the figures and the picture.
        count: lines.
        steps: of sampling, and of the way to noise and back.
    """
    model = DiffusionLM.from_pretrained(run)
    data = model.trained_on(run)
    judge = KneserNey(reference_texts(model, data.train))
    lines = example_texts(model, data.valid, count)
    rows = varied(model, lines, judge, steps)
    back = sum(model.blend(line, line, count=1, steps=steps) == [line] for line in lines)
    real = judge.perplexity(lines)
    figures = [
        [str(row["strength"]), f"{row['bleu']:.1f}", f"{row['unchanged']:.0%}",
         f"{row['judge_perplexity']:.1f}"]
        for row in rows
    ]  # fmt: skip
    head = ["strength", "BLEU with the source", "unchanged", "judge perplexity"]
    print(markdown(head, [["0", "100.0", "100%", f"{real:.1f}"], *figures]))
    print(f"\n{back} of {len(lines)} lines come back from noise exactly, in {steps} steps each way")
    out.mkdir(parents=True, exist_ok=True)
    results = {
        "command": f"python benchmarks/varying.py {' '.join(sys.argv[1:])}",
        "machine": machine(),
        "steps": steps,
        "sources": lines[:SHOWN],
        "held_out_perplexity": real,
        "varied": rows,
        "returned": back / len(lines),
    }
    (out / "varying.json").write_text(json.dumps(results, indent=1, ensure_ascii=False))
    draw(rows, real, out / "varying.png")


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(main))
