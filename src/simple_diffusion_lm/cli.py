"""The `sdlm` command line. Text goes to stdout, everything else to stderr."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from .cli_options import SamplingOptions, TextOptions
from .cli_writing import (
    blend_command,
    generate_command,
    infill_command,
    score_command,
    vary_command,
)
from .demo import run_demo, toy_data
from .errors import UserError
from .evaluation.compare import CONTENDERS, run_compare
from .evaluation.evaluate import evaluate_run
from .evaluation.report import evaluation_table, likelihood_lines
from .exits import exit_cleanly
from .run import check_free, run_training
from .training.config import with_overrides
from .training.processes import alone, on_rank_0
from .training.recipes import RECIPES, sized, with_objective

RecipeName = Literal["modern", "original"]
ObjectiveName = Literal["continuous", "masked", "autoregressive"]
SizeName = Literal["tiny", "small", "base", "large"]
ContenderName = Literal["modern", "original", "masked", "autoregressive"]
EstimateName = Literal["two-pass", "carried", "flow"]
Run = Positional[Path]


Text = OmitArgPrefixes[TextOptions]
Sampling = OmitArgPrefixes[SamplingOptions]


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
        set: any field of training/config.py, as in --set layers=6 ema=0.99
    """
    config = with_objective(RECIPES[recipe](), objective)
    if size is not None:
        config = sized(config, size)
    if steps is None and epochs is None and minutes is None:
        minutes = 20.0
    budget = {"steps": steps, "epochs": epochs, "minutes": minutes, "save_every": save_every}
    pairs = overrides(set) | {k: str(v) for k, v in budget.items() if v is not None}
    config = with_overrides(config, {**pairs, "seed": str(text.seed)})
    config.check()
    on_rank_0(lambda: check_free(out))
    run_training(config, text.open(corpus, out), out, shard=shard)
    print(f"trained. Now: sdlm generate {shlex.quote(str(out))}", file=sys.stderr)


def overrides(settings: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE words as a dictionary."""
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--set takes NAME=VALUE, not {setting!r}")
    return dict(setting.split("=", 1) for setting in settings)


def evaluate_command(
    run: Run,
    sampling: Sampling,
    data: tuple[str, ...] = (),
    examples: int = 2000,
    samples: int = 500,
    estimate: EstimateName = "two-pass",
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """sdlm evaluate run

    The likelihood of held-out text, and what can be said of generated lines.

    Args:
        run: a run directory.
        data: held-out text files; by default the part that was held out in training.
        examples: the most texts to measure.
        samples: lines to generate and measure; 0 for the likelihood alone.
        estimate: of the likelihood; carried is of the sampler as it is, flow of ODE.
        as_json: print all figures as JSON.
    """
    result = evaluate_run(
        run, data, examples=examples, samples=samples, estimate=estimate, **asdict(sampling)
    )
    if as_json:
        print(json.dumps(asdict(result), indent=1))
        return
    print(likelihood_lines(result.likelihood))
    if result.lines:
        print(f"\n{evaluation_table(result.lines)}")


def compare_command(
    out: Path,
    text: Text,
    corpus: Positional[tuple[str, ...]] = (),
    minutes: float = 20.0,
    contenders: tuple[ContenderName, ...] = ("modern", "original", "masked", "autoregressive"),
    seeds: int = 1,
    examples: int = 5000,
    samples: int = 500,
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = (),
) -> None:
    """sdlm compare corpus.txt --out comparison --minutes 20

    Trains contenders for the same minutes, by turns, and measures all: a table, a picture, JSON.
    The same command again goes on where it was.

    Args:
        out: directory for the runs and the results.
        corpus: as for `sdlm train`; by default the built-in toy language.
        minutes: training time of each.
        contenders: what to train.
        seeds: runs of each contender, with this seed and those after it.
        examples: the most held-out texts to measure.
        samples: lines to generate at each setting.
        set: as for `sdlm train`, for all contenders.
    """
    alone("sdlm compare")
    data = text.open(corpus, out) if corpus else toy_data(out)
    print(
        run_compare(
            data,
            out,
            minutes=minutes,
            contenders={name: CONTENDERS[name] for name in contenders},
            seeds=range(text.seed, text.seed + seeds),
            examples=examples,
            samples=samples,
            overrides=overrides(set),
        )
    )


def demo_command(out: Path = Path("demo"), steps: int = 1600) -> None:
    """sdlm demo

    The whole system in a few minutes, on the built-in toy language.

    Args:
        out: directory for the corpus, the run and the picture.
        steps: of training; 1600 take about three minutes on two cores.
    """
    alone("sdlm demo")
    run_demo(out, steps)


COMMANDS = {
    "demo": demo_command,
    "prepare": prepare_command,
    "train": train_command,
    "generate": generate_command,
    "infill": infill_command,
    "vary": vary_command,
    "blend": blend_command,
    "score": score_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
}


def main() -> None:
    """Entry point of `sdlm`."""
    exit_cleanly(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="sdlm"))  # type: ignore[arg-type]
