"""The commands of `sdlm` that write text with a trained model. Text goes to stdout."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm
from tyro.conf import OmitArgPrefixes, Positional

from .cli_options import WritingOptions
from .errors import UserError
from .filling import Wish
from .generation import DiffusionLM
from .model.slots import Watch
from .text.reading import read_lines
from .text.templates import parse_length
from .watching import Onlooker, Terminal
from .writer import AT_ONCE, Written

Run = Positional[Path]
Sampling = OmitArgPrefixes[WritingOptions]


def generate_command(
    run: Run,
    sampling: Sampling,
    count: int = 8,
    length: str | None = None,
    must: tuple[str, ...] = (),
    never: tuple[str, ...] = (),
    candidates: int = 1,
    watch: bool = False,
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
        watch: see them come out of the noise, where this is a terminal.
    """
    model = DiffusionLM.from_pretrained(run)
    wish = model.wish(None if length is None else parse_length(length), must)
    written = _written(model, [wish] * count, candidates, never, sampling, watch)
    _print(written, count)


def infill_command(
    run: Run,
    sampling: Sampling,
    template: Positional[tuple[str, ...]] = (),
    file: Path | None = None,
    never: tuple[str, ...] = (),
    candidates: int = 8,
    jsonl: bool = False,
    watch: bool = False,
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
        watch: see all candidates come out of the noise, where this is a terminal.
    """
    if (file is None) == (not template):
        raise UserError("give templates, or --file with one a line")
    templates = (
        list(template) if file is None else list(read_lines([file], field="template", stream=False))
    )
    model = DiffusionLM.from_pretrained(run)
    wishes = [Wish.of(each) for each in templates]
    written = _written(model, wishes, candidates, never, sampling, watch)
    if not jsonl:
        _print(written, len(wishes))
        return
    for each, line in zip(templates, written, strict=True):
        record = {"template": each, **line._asdict(), "seed": sampling.seed}
        print(json.dumps(record, ensure_ascii=False))


def vary_command(
    run: Run,
    text: Positional[tuple[str, ...]],
    sampling: Sampling,
    strength: float = 0.4,
    watch: bool = False,
) -> None:
    """sdlm vary run "a man in a red shirt ." --strength 0.4

    Noises each text part of the way and writes it anew: a dial from a copy to something new.

    Args:
        run: a run directory.
        text: texts to vary.
        strength: how far: near 0 a copy, 1 a new text.
        watch: see it come out of the noise, where this is a terminal.
    """
    model = DiffusionLM.from_pretrained(run)
    with watched(model, watch) as onlooker:
        written = model.vary(text, strength, watch=onlooker, **sampling.settings())
    print("\n".join(written))


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


@contextmanager
def watched(model: DiffusionLM, wanted: bool, never: Sequence[str] = ()) -> Iterator[Watch | None]:
    """What draws texts on the terminal while they are written, if that is wanted and can be."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    writer = model.writer
    with Terminal(Onlooker(writer, never)) as terminal:
        yield terminal


def _written(
    model: DiffusionLM,
    wishes: Sequence[Wish],
    candidates: int,
    never: Sequence[str],
    sampling: Sampling,
    watch: bool,
) -> Iterable[Written]:
    """Lines as they are done; where someone watches, all of them once there is no more to see."""
    with watched(model, watch, never) as onlooker:
        written = model.write(wishes, candidates, never, watch=onlooker, **sampling.settings())
        return written if onlooker is None else list(written)


def _print(written: Iterable[Written], count: int) -> None:
    """Prints lines as they are done; where it is many, with how many are left."""
    unfit = 0
    few = count <= AT_ONCE or not sys.stderr.isatty()
    for line in tqdm(written, total=count, unit=" lines", disable=few):
        print(line.text)
        unfit += not line.fits
    if unfit:
        print(
            f"{unfit} of {count} lines have a word they were not to have: "
            "try more --candidates or another --seed",
            file=sys.stderr,
        )
