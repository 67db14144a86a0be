"""The `sdlm` command line. Text goes to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from ..devices.processes import alone, rank, use_device
from ..evaluation.compare import CONTENDERS, run_compare
from ..evaluation.evaluate import evaluate_run
from ..evaluation.report import evaluation_tables, likelihood_lines, table
from ..runs.checkpoint import run_of
from ..runs.config import SIZES
from ..runs.log import add_record
from .demo import Demo, toy_data
from .exits import exit_cleanly
from .options import Corpus, OnDevice, Run, SamplingOptions, Settings, TextOptions, one_of
from .serving import Serve
from .training import Distil, Export, Prepare, Push, Report, Train
from .writing import Blend, Generate, Infill, Score, Vary


@dataclass(kw_only=True)
class Evaluate(OnDevice):
    """sdlm evaluate run

    The likelihood of held-out text, and what can be said of generated lines.
    """

    run: Positional[Run]  # a run, an exported model, USER/NAME of the hub, or toy
    sampling: OmitArgPrefixes[SamplingOptions]
    data: tuple[str, ...] = ()  # held-out text files; by default the part that was held out in training
    field: str = "text"  # the field or column with the text, where these files have records
    examples: int = 2000  # the most texts to measure
    samples: int = 500  # lines to generate and measure, no more than are held out; 0: the likelihood alone
    seed: int = 0  # of the noise, and of the lines
    judge: Run | None = None  # a run with --objective autoregressive on the same corpus, to judge lines by
    as_json: Annotated[bool, arg(name="json")] = False  # print all figures as JSON

    def __call__(self) -> None:
        counts = {"examples": self.examples, "samples": self.samples, "seed": self.seed}
        options: dict[str, Any] = {"sampling": self.sampling.given, "judge": self.judge, **counts}
        result = evaluate_run(self.run, self.data, field=self.field, **options)
        if self.as_json:
            print(json.dumps(result, indent=1))
        else:
            print(likelihood_lines(result["likelihood"]))
            for rows in evaluation_tables(result["lines"], result["puzzles"]):
                print(f"\n{table(rows)}")
        run, about = run_of(self.run), {"data": self.data, **counts}
        if (run / "metrics.jsonl").exists() and rank() == 0:  # a run, no exported model
            try:
                add_record(run, {"kind": "evaluation", "step": result["progress"]["step"], **about, **result})
            except OSError as error:
                print(f"{run}: these figures will not be in its report ({error.strerror})", file=sys.stderr)


@dataclass(kw_only=True)
class Compare(TextOptions, OnDevice):
    """sdlm compare corpus.txt --out comparison --minutes 20

    Trains contenders for the same minutes, by turns, or for as many steps, and measures all: a table, a
    picture, JSON. The same command again resumes. Settings are for all contenders, the budget too.
    """

    out: Path  # directory for the runs and the results
    corpus: Corpus = ()  # as for `sdlm train`; by default the built-in toy language
    contenders: tuple[Annotated[str, one_of(CONTENDERS)], ...] = tuple(CONTENDERS)  # what to train
    size: Annotated[str, one_of(SIZES)] = "tiny"  # width, depth and learning rate of all of them
    seeds: int = 1  # runs of each contender, with this seed and those after it
    examples: int = 5000  # the most held-out texts to measure
    lines: int = 500  # to generate at each way of sampling, no more than are held out
    judge: Run | None = None  # a run with --objective autoregressive on the same corpus, to judge lines by
    settings: Settings

    def __call__(self) -> None:
        alone("sdlm compare")
        data = self.open(self.corpus, self.out) if self.corpus else toy_data(self.out, self)
        configs = {name: replace(CONTENDERS[name], **SIZES[self.size]) for name in self.contenders}
        options: dict[str, Any] = {"examples": self.examples, "samples": self.lines, "judge": self.judge}
        options["seeds"] = range(self.seed, self.seed + self.seeds)
        print(run_compare(data, self.out, contenders=configs, settings=self.settings, **options))


WRITING = (Generate, Infill, Vary, Blend, Score)
COMMANDS = (Demo, Prepare, Train, Distil, *WRITING, Serve, Evaluate, Compare, Report, Export, Push)
ABOUT = "Diffusion language models: train, measure, and write text out of noise. --version says which."


def main() -> None:
    """Entry point of `sdlm`."""
    if sys.argv[1:] == ["--version"]:
        print(f"simple-diffusion-lm {version('simple-diffusion-lm')}")
        return
    commands: dict[str, Callable[..., Any]] = {command.__name__.lower(): command for command in COMMANDS}

    def run() -> None:
        command = tyro.extras.subcommand_cli_from_dict(commands, prog="sdlm", description=ABOUT)
        use_device(getattr(command, "device", None))
        command()

    exit_cleanly(run)
