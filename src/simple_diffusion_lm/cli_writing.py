"""The commands of `sdlm` that write text with a trained model. Text goes to stdout."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from .cli_options import SamplingOptions
from .errors import UserError
from .generation import DiffusionLM
from .text.reading import read_lines
from .text.templates import parse_length
from .writer import Wish, Written

Run = Positional[Path]
Sampling = OmitArgPrefixes[SamplingOptions]


def generate_command(
    run: Run,
    sampling: Sampling,
    count: int = 8,
    length: str | None = None,
    must: tuple[str, ...] = (),
    never: tuple[str, ...] = (),
    candidates: int = 1,
) -> None:
    """sdlm generate run --count 20

    Generates texts, one a line.

    Args:
        run: a run directory.
        count: how many.
        length: tokens of each, as 12 or 8-16; by default drawn from the training lengths.
        must: words that every line must have, anywhere and in any order.
        never: words that no line may have.
        candidates: lines to write for each that is printed, which is the most probable of them.
    """
    model = DiffusionLM.from_pretrained(run)
    wish = model.wish(None if length is None else parse_length(length), must)
    written = model.write([wish] * count, candidates, never, **asdict(sampling))
    _print(written)


def infill_command(
    run: Run,
    sampling: Sampling,
    template: Positional[tuple[str, ...]] = (),
    file: Path | None = None,
    never: tuple[str, ...] = (),
    candidates: int = 8,
    jsonl: bool = False,
) -> None:
    """sdlm infill run "a man in a ___ shirt ."

    Fills the gaps of each template: ___ of any length, [[5]] of five tokens, [[2-6]] of two to six.
    One line out for each.

    Args:
        run: a run directory.
        template: texts with gaps; \\___ and \\[[ are the characters themselves.
        file: templates, one a line, instead.
        never: words that no gap may be filled with.
        candidates: lines to write for each, with gaps of several lengths; the best is printed.
        jsonl: print JSON: the template, the text, its gaps, their tokens, its score, the seed.
    """
    if (file is None) == (not template):
        raise UserError("give templates, or --file with one a line")
    templates = (
        list(template) if file is None else list(read_lines([file], field="template", stream=False))
    )
    model = DiffusionLM.from_pretrained(run)
    wishes = [Wish.of(each) for each in templates]
    written = model.write(wishes, candidates, never, **asdict(sampling))
    if not jsonl:
        _print(written)
        return
    for each, line in zip(templates, written, strict=True):
        record = {"template": each, **line._asdict(), "seed": sampling.seed}
        print(json.dumps(record, ensure_ascii=False))


def vary_command(
    run: Run, text: Positional[tuple[str, ...]], sampling: Sampling, strength: float = 0.4
) -> None:
    """sdlm vary run "a man in a red shirt ." --strength 0.4

    Noises each text part of the way and writes it anew: a dial from a copy to something new.

    Args:
        run: a run directory.
        text: texts to vary.
        strength: how far: near 0 a copy, 1 a new text.
    """
    model = DiffusionLM.from_pretrained(run)
    print("\n".join(model.vary(text, strength, **asdict(sampling))))


def blend_command(
    run: Run, first: Positional[str], second: Positional[str], count: int = 5, steps: int = 64
) -> None:
    """sdlm blend run "a dog runs ." "two men are playing football ."

    Texts from the first to the second, evenly apart in the noise they come from.

    Args:
        run: a run directory.
        first: the text to begin with.
        second: the text to end with.
        count: how many, with both ends.
        steps: there and back; with too few the ends are not what they were.
    """
    print("\n".join(DiffusionLM.from_pretrained(run).blend(first, second, count, steps)))


def score_command(run: Run, text: Positional[tuple[str, ...]]) -> None:
    """sdlm score run "a dog runs ." "dog a . runs"

    How improbable each text is: nats, a tab and the text.

    Args:
        run: a run directory.
        text: texts to score.
    """
    model = DiffusionLM.from_pretrained(run)
    for each, nats in zip(text, model.score(text), strict=True):
        print(f"{nats:.2f}\t{each}")


def _print(written: Sequence[Written]) -> None:
    print("\n".join(line.text for line in written))
    unfit = sum(not line.fits for line in written)
    if unfit:
        print(
            f"{unfit} of {len(written)} lines have a word they were not to have: "
            "try more --candidates or another --seed",
            file=sys.stderr,
        )
