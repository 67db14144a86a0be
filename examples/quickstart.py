"""From a text file to generated lines, in Python.

    python examples/quickstart.py [OUT] [STEPS]

Writes a corpus of the built-in toy language, trains on it, generates, fills a gap.
"""

import sys
from dataclasses import replace
from pathlib import Path

from simple_diffusion_lm import RECIPES, DiffusionLM, prepare, run_training
from simple_diffusion_lm.tasks.toy import ToyLanguage


def main(out: Path, steps: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    corpus = out / "corpus.txt"
    corpus.write_text("\n".join(ToyLanguage().lines(5_000, seed=0)) + "\n")

    data = prepare([corpus], out / "prepared")
    run_training(replace(RECIPES["modern"], steps=steps), data, out / "run")

    model = DiffusionLM.from_pretrained(out / "run")
    for line in model.generate(5, seed=1):
        print(line)
    print(model.infill(["every morning the ___ her goats ."])[0])


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/quickstart")
    main(out, steps=int(sys.argv[2]) if len(sys.argv) > 2 else 500)
