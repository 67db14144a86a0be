"""The `sdlm` command line. Text goes to stdout, everything else to stderr."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from .cli_options import SamplingOptions, TextOptions
from .cli_serving import serve_command
from .cli_training import SizeName, overrides, prepare_command, report_command, train_command
from .cli_writing import (
    blend_command,
    generate_command,
    infill_command,
    score_command,
    vary_command,
)
from .demo import run_demo, toy_data
from .evaluation.compare import CONTENDERS, run_compare
from .evaluation.evaluate import evaluate_run
from .evaluation.report import evaluation_table, likelihood_lines
from .exits import exit_cleanly
from .training.processes import alone
from .training.recipes import sized

ContenderName = Literal["modern", "original", "masked", "autoregressive"]
EstimateName = Literal["two-pass", "carried", "flow"]
Run = Positional[Path]
Text = OmitArgPrefixes[TextOptions]
Sampling = OmitArgPrefixes[SamplingOptions]


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
        estimate: of the likelihood; carried is of the ddpm sampler, flow of its ODE.
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
    size: SizeName = "tiny",
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
        size: width, depth and learning rate of all of them.
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
            contenders={name: sized(CONTENDERS[name], size) for name in contenders},
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
    "serve": serve_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
    "report": report_command,
}


def main() -> None:
    """Entry point of `sdlm`."""
    exit_cleanly(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="sdlm"))  # type: ignore[arg-type]
