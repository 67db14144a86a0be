"""The `sdlm` command line. Text goes to stdout, everything else to stderr."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from .demo import run_demo
from .errors import UserError
from .evaluation.metrics import evaluate_run
from .exits import exit_cleanly
from .generation import DiffusionLM
from .run import check_free, run_training
from .text.corpus import is_prepared, open_prepared, prepare
from .training.config import with_overrides
from .training.recipes import RECIPES, sized, with_objective

SamplerName = Literal["ancestral", "ddim", "dpm2m", "renoise"]
RecipeName = Literal["modern", "original"]
ObjectiveName = Literal["continuous", "masked", "autoregressive"]
SizeName = Literal["tiny", "small", "base", "large"]
Run = Positional[Path]


def prepare_command(
    corpus: Positional[tuple[str, ...]],
    out: Path,
    vocab_size: int | None = None,
    stream: bool = False,
    valid: tuple[str, ...] = (),
    tokenizer: Path | None = None,
    field: str = "text",
    seed: int = 0,
) -> None:
    """sdlm prepare corpus.txt --out prepared

    Trains a tokenizer and encodes a corpus once, so that training starts at once.

    Args:
        corpus: .txt files (one example a line), .gz, .jsonl, or globs of them.
        out: directory to make.
        vocab_size: pieces of the tokenizer; by default 2048, or what a small corpus allows.
        stream: running text (a book) rather than one example a line.
        valid: held-out files; by default a part of the corpus is held out.
        tokenizer: a SentencePiece model to use instead of training one.
        field: the field of .jsonl files that holds the text.
        seed: decides which lines the tokenizer is trained on where the corpus is very large.
    """
    prepare(
        list(corpus),
        out,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        stream=stream,
        valid=list(valid) or None,
        field=field,
        seed=seed,
    )


def train_command(
    corpus: Positional[tuple[str, ...]],
    out: Path,
    recipe: RecipeName = "modern",
    objective: ObjectiveName = "continuous",
    size: SizeName | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    save_every: int | None = None,
    tokenizer: Path | None = None,
    vocab_size: int | None = None,
    valid: tuple[str, ...] = (),
    stream: bool = False,
    field: str = "text",
    seed: int = 0,
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
        minutes: budget in minutes; 20 when no budget is given.
        save_every: steps between checkpoints.
        tokenizer: a SentencePiece model to use instead of training one.
        vocab_size: pieces of the tokenizer, where one is trained.
        valid: held-out files; by default a part of the corpus is held out.
        stream: running text rather than one example a line.
        field: the field of .jsonl files that holds the text.
        seed: of everything random.
        set: any field of training/config.py, as in --set layers=6 ema=0.99
    """
    config = with_objective(RECIPES[recipe](), objective)
    if size is not None:
        config = sized(config, size)
    if steps is None and epochs is None and minutes is None:
        minutes = 20.0
    pairs = dict(_pair(text) for text in set)
    budget = {"steps": steps, "epochs": epochs, "minutes": minutes, "save_every": save_every}
    pairs |= {k: str(v) for k, v in budget.items() if v is not None}
    config = with_overrides(config, {**pairs, "seed": str(seed)})
    config.check()
    if len(corpus) == 1 and is_prepared(corpus[0]):
        if tokenizer or vocab_size or valid or stream:
            raise UserError(
                f"{corpus[0]} is prepared already: --tokenizer, --vocab-size, --valid and "
                "--stream belong to sdlm prepare"
            )
        data = open_prepared(corpus[0])
    else:
        check_free(out)
        data = prepare(
            list(corpus),
            out / "corpus",
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            stream=stream,
            valid=list(valid) or None,
            field=field,
            seed=seed,
        )
    run_training(config, data, out)
    print(f"trained. Now: sdlm generate {shlex.quote(str(out))}", file=sys.stderr)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes NAME=VALUE, not {text!r}")
    return name, value


def generate_command(
    run: Run,
    count: int = 8,
    length: int | None = None,
    steps: int = 64,
    sampler: SamplerName = "ancestral",
    temperature: float = 0.7,
    seed: int = 0,
) -> None:
    """sdlm generate run --count 20

    Generates texts, one a line.

    Args:
        run: a run directory.
        count: how many.
        length: tokens of each; by default drawn from the training lengths.
        steps: evaluations of the network; more is better and slower.
        sampler: how noise becomes text (diffusion/sampler.py).
        temperature: 1 is the model's own distribution; below it is safer and less varied.
        seed: the same seed gives the same texts.
    """
    model = DiffusionLM.from_pretrained(run)
    texts = model.generate(
        count, length=length, steps=steps, sampler=sampler, temperature=temperature, seed=seed
    )
    print("\n".join(texts))


def infill_command(
    run: Run,
    template: Positional[tuple[str, ...]],
    steps: int = 64,
    sampler: SamplerName = "ancestral",
    temperature: float = 0.7,
    seed: int = 0,
) -> None:
    """sdlm infill run "a man in a ___ shirt ."

    Fills the gaps (___) of each template; one line out for each.

    Args:
        run: a run directory.
        template: texts with gaps.
        steps: evaluations of the network; more is better and slower.
        sampler: how noise becomes text (diffusion/sampler.py).
        temperature: 1 is the model's own distribution; below it is safer and less varied.
        seed: the same seed gives the same texts.
    """
    model = DiffusionLM.from_pretrained(run)
    texts = model.infill(template, steps=steps, sampler=sampler, temperature=temperature, seed=seed)
    print("\n".join(texts))


def evaluate_command(
    run: Run,
    data: tuple[str, ...] = (),
    examples: int = 2000,
    seed: int = 0,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """sdlm evaluate run

    The likelihood bound of a run on held-out text.

    Args:
        run: a run directory.
        data: text files; by default the part that was held out in training.
        examples: the most texts to measure.
        seed: of the noise.
        as_json: print all figures as JSON.
    """
    result = evaluate_run(run, data, examples=examples, seed=seed)
    if as_json:
        print(json.dumps(asdict(result), indent=1))
        return
    print(f"<= {result.nats_per_token:.4f} nats per token (± {result.standard_error:.4f})")
    print(f"<= {result.bits_per_character:.4f} bits per character")
    print(f"<= {result.nats_per_text:.3f} nats per text")
    print(
        f"of it prior {result.prior:.4f}, diffusion {result.diffusion:.4f}, reconstruction "
        f"{result.reconstruction:.4f}, length {result.length:.4f} nats per token; "
        f"{result.texts:,} texts, {result.tokens:,} tokens, {result.characters:,} characters"
    )


def demo_command(out: Path = Path("demo"), minutes: float = 4.0) -> None:
    """sdlm demo

    The whole system in a few minutes, on the built-in toy language.

    Args:
        out: directory for the corpus, the run and the picture.
        minutes: training time.
    """
    run_demo(out, minutes)


COMMANDS = {
    "demo": demo_command,
    "prepare": prepare_command,
    "train": train_command,
    "generate": generate_command,
    "infill": infill_command,
    "evaluate": evaluate_command,
}


def main() -> None:
    """Entry point of `sdlm`."""
    exit_cleanly(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="sdlm"))  # type: ignore[arg-type]
