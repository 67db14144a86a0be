"""The commands of `sdlm` that make a run, report on it, and share it."""

import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from ..core import Config
from ..devices.processes import on_rank_0
from ..errors import UserError
from ..evaluation.run_report import write_report
from ..runs import checkpoint
from ..runs.config import RECIPES, SIZES, check, with_objective, with_settings
from ..runs.distil import distil
from ..runs.export import push
from ..runs.log import TRACKERS
from ..runs.run import about_run, check_free, run_training
from ..writing.model import DiffusionLM
from .options import Corpus, OnDevice, Run, Settings, TextOptions, one_of


@dataclass(kw_only=True)
class Prepare(TextOptions):
    """sdlm prepare corpus.txt --out prepared

    Trains a tokenizer and encodes a corpus once, so that training starts at once.
    """

    # text files (one example a line; .gz, .bz2 and .xz too), .jsonl, .json, .csv, .tsv, .parquet, patterns
    corpus: Corpus
    out: Path  # directory to make

    def __call__(self) -> None:
        self.prepare(self.corpus, self.out)


@dataclass(kw_only=True)
class Train(TextOptions, OnDevice):
    """sdlm train corpus.txt --out run --minutes 20

    Trains a model. The same command again resumes it.
    """

    corpus: Corpus  # text files, as for `sdlm prepare`, or the directory that it made
    out: Path  # run directory
    # modern is the best known; original is that of the script this project grew from
    recipe: Annotated[str, one_of(RECIPES)] = "modern"
    size: Annotated[str, one_of(SIZES)] | None = None  # width, depth and learning rate together
    config: Run | None = None  # a run, or its config.json, whose settings to take, not (modern: ...)
    finetune_from: Run | None = None  # a run whose weights, tokenizer and settings to begin with
    log: Annotated[str, one_of(TRACKERS)] | None = None  # where metrics go, besides metrics.jsonl
    settings: Settings

    def __call__(self) -> None:
        config = self.configured()
        check(config)
        on_rank_0(lambda: check_free(self.out))
        data = self.open(self.corpus, self.out)
        start = self.finetune_from
        run_training(config, data, self.out, start_from=start, after_validation=glance, tracker=self.log)
        on_rank_0(lambda: finish(self.out, "trained"))

    def configured(self) -> Config:
        """What the flags say. With --finetune-from, self.tokenizer is its run's from then on."""
        config = with_objective(RECIPES[self.recipe], self.settings.get("objective", Config.objective))
        if self.size is not None:
            config = replace(config, **SIZES[self.size])
        if other := self.finetune_from or self.config:
            flag = "--finetune-from" if self.finetune_from else "--config"
            own = ["recipe", "size", *(["config", "tokenizer", "vocab_size"] if self.finetune_from else [])]
            if any(getattr(self, name) != getattr(Train, name) for name in own):
                raise UserError(f"{flag} takes {', '.join(own)} from its run")
            run = other.parent if other.name == "config.json" else other
            config = replace(Config(**about_run(run)["config"]), passes=None)  # no teacher here
        if self.finetune_from is not None:
            config = replace(config, steps=None, epochs=None, minutes=None)
            self.tokenizer = str(checkpoint.run_of(self.finetune_from))
        return with_settings(config, {"seed": self.seed, **self.settings})


@dataclass(kw_only=True)
class Distil(OnDevice):
    """sdlm distil run --out student --passes 4 --minutes 20

    Trains a student, which learns to write in a few passes as its teacher, the run, does in many. What is not
    given is as the teacher has it, but for --passes 4 and --dropout 0; its network stays as it is.
    """

    teacher: Positional[Run]  # a run directory, with its corpus
    out: Path  # directory of the student, a run like any other
    log: Annotated[str, one_of(TRACKERS)] | None = None  # where metrics go, besides metrics.jsonl
    settings: Settings

    def __call__(self) -> None:
        data = DiffusionLM.trained_on(self.teacher)
        distil(self.teacher, data, self.out, self.settings, after_validation=glance, tracker=self.log)
        on_rank_0(lambda: finish(self.out, "distilled"))


def glance(run: Path) -> None:
    """Writes what report.html has of a run under way. A fault is no reason to stop: finish says it."""
    with suppress(Exception):
        write_report([run], run / "report.html", training=True)


def finish(run: Path, what: str) -> None:
    """Writes report.html, where that can be done. Says if an earlier checkpoint was better, and what now."""
    try:
        write_report([run], run / "report.html")
        print(f"what came of it: {run / 'report.html'}", file=sys.stderr)
    except UserError as error:
        print(f"no report.html: {error}", file=sys.stderr)
    used, last = checkpoint.to_use(run), checkpoint.newest(run)
    if used is not None and last is not None and used.path != last.path:
        best = f"{used.path.name}, after {used.manifest['progress']['epoch']} passes over the corpus"
        hint = "more text, or --dropout 0.2, may gain more"
        print(f"held-out text was best at {best}: that is used from now on ({hint})", file=sys.stderr)
    print(f"{what}. Now: sdlm generate {shlex.quote(str(run))}", file=sys.stderr)


@dataclass(kw_only=True)
class Report:
    """sdlm report run

    One page about a run, or about several side by side: curves, noise, table, text.
    """

    runs: Positional[tuple[Run, ...]]  # run directories
    out: Path | None = None  # where the page goes; by default report.html in the run, if it is one

    def __call__(self) -> None:
        if not self.runs or (self.out is None and len(self.runs) > 1):
            raise UserError("give one run, or several and --out FILE.html")
        out = self.out or self.runs[0] / "report.html"
        write_report(self.runs, out)
        print(out)


@dataclass(kw_only=True)
class Export:
    """sdlm export run --out my-model

    A model by itself: weights, configuration, tokenizer and a model card, nothing of this machine. Commands
    that write text, score and serve take it in place of a run.
    """

    run: Positional[Run]  # a run directory
    out: Path  # directory to make
    license: str = "unknown"  # of the model, as the Hugging Face Hub names it, for the card
    half: bool = False  # weights in bfloat16, which take half the room

    def __call__(self) -> None:
        model = DiffusionLM.from_pretrained(self.run)
        model.save_pretrained(self.out, license=self.license, half=self.half)
        print(f"exported; read {self.out}/README.md. Then: sdlm push {self.out} USER/NAME", file=sys.stderr)


@dataclass(kw_only=True)
class Push:
    """sdlm push my-model USER/NAME

    Puts an exported model on the Hugging Face Hub, where commands that write text find it by USER/NAME.
    """

    model: Positional[Path]  # a directory that sdlm export made
    name: Positional[str]  # on the hub, as USER/NAME

    def __call__(self) -> None:
        print(push(self.model, self.name))
