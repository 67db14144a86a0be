"""`sdlm demo`. The toy language's probabilities are known exactly, so it can say what a corpus cannot:
how many lines are grammatical, and how far the likelihood bound stands above the true entropy.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from ..core import Config
from ..corpus.prepare import Prepared, prepare
from ..devices.processes import alone
from ..errors import UserError
from ..evaluation.likelihood import likelihood
from ..evaluation.report import plot_losses
from ..evaluation.run_report import write_report
from ..runs.run import run_training
from ..tasks.toy import ToyLanguage
from ..writing.model import DiffusionLM

LINES, VOCAB_SIZE = 60_000, 640
TEMPLATES = (
    "yesterday the ___ because she was tired .",
    "every morning two farmers ___ their ___ near the river .",
    "tomorrow the famous king ___ .",
)


@dataclass(kw_only=True)
class Demo:
    """sdlm demo

    The whole system in a few minutes, on the built-in toy language.
    """

    out: Path = Path("demo")  # directory for the corpus, the run and the picture
    steps: int = 1200  # of training, which take about three minutes on two cores

    def __call__(self) -> None:
        alone("sdlm demo")
        data, language, run = toy_data(self.out), ToyLanguage(), self.out / "run"
        run_training(Config(steps=self.steps), data, run)
        model = DiffusionLM.from_pretrained(run)
        lines = model.generate(200, seed=1)
        marks = [" " if language.is_grammatical(line) else "*" for line in lines]
        print("\nGenerated from noise (* not in the language):")
        for mark, line in list(zip(marks, lines, strict=True))[:12]:
            print(f"  {mark} {line}")
        print("\nGaps filled:")
        for template, filled in zip(TEMPLATES, model.infill(TEMPLATES, seed=1), strict=True):
            print(f"    {template}\n    {filled}")
        share = marks.count(" ") / len(lines)
        print(f"\nof {len(lines)} lines {share:.1%} are grammatical, {len(set(lines))} distinct")

        # The bound cannot go below the entropy, and the gap is at least the model's KL from the truth.
        bound, entropy = likelihood(model, data.valid), language.entropy()
        print(f"held-out lines cost <= {bound.nats_per_text:.2f} nats each; ", end="")
        gap = f"{bound.above(entropy):.3f} (± {bound.held_out.error:.3f}) nats/token"
        print(f"the language's exact entropy is {entropy:.2f}: a gap of at most {gap}")
        picture, report = self.out / "loss.png", run / "report.html"
        plot_losses(run, picture, entropy=entropy * bound.held_out.texts / bound.held_out.tokens)
        write_report([run], report)
        print(f"loss curve: {picture}\nwhat can be seen of the run: {report}")


def toy_data(out: Path) -> Prepared:
    """The toy corpus: written as a text file, one line an example, and prepared."""
    path = out / "toy.txt"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in ToyLanguage().lines(LINES, seed=0)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    print(f"{path}: {LINES:,} lines of the toy language", file=sys.stderr)
    return prepare([path], out / "prepared", vocab_size=VOCAB_SIZE)
