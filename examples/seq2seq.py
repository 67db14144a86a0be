"""From a source to a target: the source is given, and the target is a gap after it.

    python examples/seq2seq.py [OUT] [STEPS]

Trains on dates as people write them and as computers do ("3 march 1987 => 1987-03-03"), then turns dates
that it was not trained on into the second form. Writes the run into OUT, by default runs/dates.
"""

import datetime
import random
import sys
from dataclasses import replace
from pathlib import Path

from simple_diffusion_lm import RECIPES, DiffusionLM, prepare, run_training

COUNT, STEPS = 50, 16  # dates to turn, and passes to do it in


def sources(date: datetime.date) -> list[str]:
    """Ways to write a date."""
    month = date.strftime("%B").lower()
    return [
        f"{date.day} {month} {date.year}",
        f"{month} {date.day}, {date.year}",
        f"{date.day}.{date.month}.{date.year}",
    ]


def main(out: Path, steps: int) -> None:
    rng = random.Random(0)
    first = datetime.date(1900, 1, 1)
    dates = [first + datetime.timedelta(days) for days in rng.sample(range(150 * 365), 20_000)]
    pairs = [(rng.choice(sources(date)), date.isoformat()) for date in dates]
    held_out, trained_on = pairs[:COUNT], pairs[COUNT:]
    out.mkdir(parents=True, exist_ok=True)
    corpus = out / "corpus.txt"
    corpus.write_text("".join(f"{source} => {target}\n" for source, target in trained_on))

    # A token is a character, since digits and letters change places. Tokens are given in nearly all
    # examples; in half of these one span is hidden, often what stands after the arrow.
    data = prepare([corpus], out / "prepared", tokenizer="chars")
    run_training(replace(RECIPES["modern"], steps=steps, cond_rate=0.9, samples=0), data, out / "run")

    model = DiffusionLM.from_pretrained(out / "run")
    length = len(held_out[0][1])  # in tokens, which are characters: of all targets alike
    templates = [f"{source} => [[{length}]]" for source, _ in held_out]
    written = model.infill(templates, candidates=1, steps=STEPS, temperature=0.3, seed=1)
    right = sum(text == f"{s} => {t}" for text, (s, t) in zip(written, held_out, strict=True))
    print("\n".join(written[:8]))
    print(f"{right} of {COUNT} dates are right")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/dates")
    main(out, steps=int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
