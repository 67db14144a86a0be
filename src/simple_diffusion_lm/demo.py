"""`sdlm demo`: the whole system in a few minutes, on the built-in toy language.

The language's probabilities are known exactly, so the demo can say what a corpus cannot: how many
generated lines are grammatical, and how far the likelihood bound stands above the true entropy.
"""

import sys
from dataclasses import replace
from pathlib import Path

from .errors import UserError
from .evaluation.metrics import Likelihood, likelihood
from .evaluation.report import plot_losses
from .evaluation.run_report import write_report
from .generation import DiffusionLM
from .run import run_training
from .text.corpus import Prepared, prepare
from .text.toy import ToyLanguage
from .training.recipes import modern

LINES = 60_000
VOCAB_SIZE = 640
TEMPLATES = (
    "yesterday the ___ because she was tired .",
    "every morning two farmers ___ their ___ near the river .",
    "tomorrow the famous king ___ .",
)


def run_demo(out: Path, steps: int) -> None:
    """Writes the corpus, trains, generates, fills gaps, measures and draws. Prints to stdout."""
    language = ToyLanguage()
    data = toy_data(out)
    config = replace(modern(), steps=steps)
    run_training(config, data, out / "run")

    model = DiffusionLM.from_pretrained(out / "run")
    lines = model.generate(200, seed=1)
    grammatical = [language.is_grammatical(line) for line in lines]
    print("\nGenerated from noise (* not in the language):")
    for line, fine in list(zip(lines, grammatical, strict=True))[:12]:
        print(f"  {' ' if fine else '*'} {line}")
    print("\nGaps filled:")
    for template, filled in zip(TEMPLATES, model.infill(TEMPLATES, seed=1), strict=True):
        print(f"    {template}\n    {filled}")
    print(
        f"\nof {len(lines)} lines {sum(grammatical) / len(lines):.1%} are grammatical, "
        f"{len(set(lines))} distinct"
    )

    bound = likelihood(model, data.valid)
    report_likelihood(language, bound)
    picture = out / "loss.png"
    tokens_per_line = bound.tokens / bound.texts
    plot_losses(out / "run", picture, entropy=language.entropy() / tokens_per_line)
    print(f"loss curve: {picture}")
    report = out / "run" / "report.html"
    write_report([out / "run"], report)
    print(f"what can be seen of the run: {report}")


def toy_data(out: Path) -> Prepared:
    """The toy corpus: written as a text file, one line an example, and prepared."""
    path = out / "toy.txt"
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = "".join(line + "\n" for line in ToyLanguage().lines(LINES, seed=0))
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    print(f"{path}: {LINES:,} lines of the toy language", file=sys.stderr)
    return prepare([path], out / "prepared", vocab_size=VOCAB_SIZE)


def report_likelihood(language: ToyLanguage, bound: Likelihood) -> None:
    """The bound beside the entropy it cannot go below; the gap is the model's KL from the truth."""
    entropy = language.entropy()
    print(
        f"held-out lines cost <= {bound.nats_per_text:.2f} nats each; the language's exact entropy "
        f"is {entropy:.2f}: a gap of at most {bound.above(entropy):.3f} "
        f"(± {bound.standard_error:.3f}) nats/token"
    )
