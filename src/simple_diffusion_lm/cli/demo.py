"""`sdlm demo`. The toy language's probabilities are known exactly, so it can say what a corpus cannot:
how many lines are grammatical, and how far the likelihood bound stands above the true entropy."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ..core import Config
from ..core.generate import Sampling
from ..corpus.prepare import Prepared, prepare
from ..devices.processes import alone
from ..errors import UserError, writing_to
from ..evaluation.evaluate import EXACT, puzzle_scores
from ..evaluation.likelihood import likelihood
from ..evaluation.report import evaluation_tables, new_figure, table, training_figure
from ..evaluation.run_report import write_report
from ..runs.run import run_training
from ..tasks.sudoku import Sudoku, template
from ..tasks.toy import ToyLanguage
from ..writing.model import DiffusionLM
from ..writing.watching import evenly
from .options import OnDevice, TextOptions, one_of
from .training import glance

LINES, VOCAB_SIZE, CELLS = 60_000, 640, {"tokenizer": "chars"}  # a token for each cell of a Sudoku
SURE = Sampling(temperature=EXACT)
TEMPLATES = (
    "yesterday the ___ because she was tired .",
    "every morning two farmers ___ their ___ near the river .",
    "tomorrow the famous king ___ .",
)


@dataclass(kw_only=True)
class Demo(OnDevice):
    """sdlm demo

    The whole system in a few minutes, on the built-in toy language, or on Sudoku puzzles.
    """

    out: Path = Path("demo")  # directory for the corpus, the run and the picture
    task: Annotated[str, one_of(("toy", "sudoku"))] = "toy"  # what to learn
    steps: int = 1200  # of training, which take three to six minutes on two cores
    size: int = 6  # of a Sudoku: 4, 6 or 9

    def __call__(self) -> None:
        alone("sdlm demo")
        (self.toy if self.task == "toy" else self.sudoku)()

    def toy(self) -> None:
        """Lines of the toy language: how many are grammatical, and how near the bound is to the entropy."""
        new_figure(1, 1)  # what is missing is said before all work
        data, language, run = toy_data(self.out), ToyLanguage(), self.out / "run"
        run_training(Config(steps=self.steps), data, run, after_validation=glance)
        model = DiffusionLM.from_pretrained(run)
        lines = model.generate(200, seed=1)
        marks = [" " if language.is_grammatical(line) else "*" for line in lines]
        print("\nGenerated from noise (* not in the language):")
        for mark, line in list(zip(marks, lines, strict=True))[:12]:
            print(f"  {mark} {line}")
        print("\nGaps filled:")
        for gaps, filled in zip(TEMPLATES, model.infill(TEMPLATES, seed=1), strict=True):
            print(f"    {gaps}\n    {filled}")
        share = marks.count(" ") / len(lines)
        print(f"\nof {len(lines)} lines {share:.1%} are grammatical, {len(set(lines))} distinct")

        # The bound cannot go below the entropy, and the gap is at least the model's KL from the truth.
        bound, entropy = likelihood(model, data.valid), language.entropy()
        nats, per_token = bound["nats_per_text"], bound["texts"] / bound["tokens"]
        print(f"held-out lines cost <= {nats:.2f} nats each; ", end="")
        gap = f"{(nats - entropy) * per_token:.3f} (± {bound['standard_error']:.3f}) nats/token"
        print(f"the language's exact entropy is {entropy:.2f}: a gap of at most {gap}")
        picture, report = self.out / "loss.png", run / "report.html"
        training_figure([run], entropy * per_token).savefig(picture, dpi=120)
        write_report([run], report)
        print(f"loss curve: {picture}\nwhat can be seen of the run: {report}")

    def sudoku(self) -> None:
        """Puzzles: one is watched while it is solved, and the share of those that are solved exactly."""
        sudoku, run = Sudoku(self.size), self.out / f"sudoku-{self.size}"
        # Cells are given in most examples, here and there, as they are in a puzzle.
        config = Config(steps=self.steps, cond_rate=0.9, span_share=0.0)
        grids = written(sudoku.lines(LINES, seed=0), run / "corpus", f"sudoku-{sudoku.size}.txt", **CELLS)
        run_training(config, grids, run)
        model = DiffusionLM.from_pretrained(run)
        text = sudoku.text(sudoku.puzzle(np.random.default_rng(1))[0])
        kept = evenly([text, *model.unfold(template(text), **asdict(SURE))], 5)
        print(f"\nA puzzle, and what the model says after each quarter of {SURE.steps} passes:")
        for row in zip(*(grid.strip("|").split("|") for grid in kept), strict=True):
            print("   " + "   ".join(" ".join(cells) for cells in row))
        (scores,) = evaluation_tables({}, puzzle_scores(model, sudoku, SURE))
        print(f"\n{table(scores)}")


def toy_data(out: Path, given: TextOptions | None = None) -> Prepared:
    """The toy corpus: written as a text file, and prepared. UserError where flags of a corpus are given."""
    if given and not vars(TextOptions(seed=given.seed)).items() <= vars(given).items():
        raise UserError("the toy language takes no --stream, --tokenizer and such: name a corpus")
    return written(ToyLanguage().lines(LINES, seed=0), out, "toy.txt", vocab_size=VOCAB_SIZE)


def written(lines: Sequence[str], out: Path, name: str, **options: Any) -> Prepared:
    """Writes lines to a text file and prepares them. options: of `prepare`."""
    path = out / name
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{path}: {len(lines):,} lines", file=sys.stderr)
    return prepare([path], out / "prepared", **options)
