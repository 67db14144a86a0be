"""The commands of `sdlm` that make a run, and tell of it."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from .cli_options import TextOptions
from .errors import UserError
from .evaluation.run_report import write_report
from .generation import DiffusionLM
from .run import check_free, run_training
from .training import checkpoint
from .training.config import Config, with_overrides
from .training.processes import on_rank_0
from .training.recipes import RECIPES, sized, with_objective

RecipeName = Literal["modern", "original"]
ObjectiveName = Literal["continuous", "masked", "autoregressive"]
SizeName = Literal["tiny", "small", "base", "large"]
Text = OmitArgPrefixes[TextOptions]


def prepare_command(corpus: Positional[tuple[str, ...]], out: Path, text: Text) -> None:
    """sdlm prepare corpus.txt --out prepared

    Trains a tokenizer and encodes a corpus once, so that training starts at once.

    Args:
        corpus: .txt files (one example a line), .gz, .jsonl, or globs of them.
        out: directory to make.
    """
    text.prepare(corpus, out)


def train_command(
    corpus: Positional[tuple[str, ...]],
    out: Path,
    text: Text,
    recipe: RecipeName = "modern",
    objective: ObjectiveName = "continuous",
    size: SizeName | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    save_every: int | None = None,
    shard: bool = False,
    finetune_from: Path | None = None,
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = (),
) -> None:
    """sdlm train corpus.txt --out run --minutes 20

    Trains a model. The same command again resumes it.

    Args:
        corpus: as for `sdlm prepare`, or the directory that it made.
        out: run directory.
        recipe: modern is the best known; original is the document's own system.
        objective: continuous diffusion, or a twin on the same trunk to compare it with.
        size: width, depth and learning rate together.
        steps: budget in optimiser steps.
        epochs: budget in passes over the corpus.
        minutes: budget in minutes of training; 20 when no budget is given.
        save_every: steps between checkpoints.
        shard: under torchrun, divide optimiser, gradients and average among the processes (FSDP2).
        finetune_from: a run to begin with the weights, the tokenizer and the settings of.
        set: any field of training/config.py, as in --set layers=6 ema=0.99
    """
    config = with_objective(RECIPES[recipe](), objective)
    if size is not None:
        config = sized(config, size)
    if finetune_from is not None:
        if (recipe, objective, size) != ("modern", "continuous", None):
            raise UserError("--finetune-from takes recipe, objective and size from its run")
        config = settings_of(finetune_from)
        text = text.like(finetune_from)
    if steps is None and epochs is None and minutes is None:
        minutes = 20.0
    budget = {"steps": steps, "epochs": epochs, "minutes": minutes, "save_every": save_every}
    pairs = overrides(set) | {k: str(v) for k, v in budget.items() if v is not None}
    config = with_overrides(config, {**pairs, "seed": str(text.seed)})
    config.check()
    on_rank_0(lambda: check_free(out))
    data = text.open(corpus, out)
    run_training(config, data, out, shard=shard, start_from=finetune_from)
    on_rank_0(lambda: report_at_the_end(out))
    on_rank_0(lambda: say_if_past_its_best(out))
    print(f"trained. Now: sdlm generate {shlex.quote(str(out))}", file=sys.stderr)


def say_if_past_its_best(run: Path) -> None:
    """Says so where a run went on past its best, and what can be done about that."""
    used, last = checkpoint.to_use(run), checkpoint.newest(run)
    if used is not None and last is not None and used.path != last.path:
        passes = used.manifest["progress"]["epoch"]
        print(
            f"held-out text was best at {used.path.name}, after {passes} passes over the corpus: "
            "that checkpoint is used from now on (more text, or --set dropout=0.2, may gain more)",
            file=sys.stderr,
        )


def settings_of(run: Path) -> Config:
    """A run's configuration, without its budget."""
    config = DiffusionLM.from_pretrained(run).config
    assert config is not None
    return dataclasses.replace(config, steps=None, epochs=None, minutes=None)


def report_at_the_end(run: Path) -> None:
    """Writes report.html. A run is no worse for not having one: what is missing is one line."""
    try:
        write_report([run], run / "report.html")
        print(f"what came of it: {run / 'report.html'}", file=sys.stderr)
    except UserError as error:
        print(f"no report.html: {error}", file=sys.stderr)


def overrides(settings: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE words as a dictionary."""
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--set takes NAME=VALUE, not {setting!r}")
    return dict(setting.split("=", 1) for setting in settings)


def report_command(runs: Positional[tuple[Path, ...]], out: Path | None = None) -> None:
    """sdlm report run

    One page about a run, or about several side by side: curves, noise, table, text.

    Args:
        runs: run directories.
        out: where the page goes; by default report.html in the run, if it is one.
    """
    if out is None and len(runs) != 1:
        raise UserError("give one run, or several and --out FILE.html")
    out = out or runs[0] / "report.html"
    write_report(runs, out)
    print(out)
