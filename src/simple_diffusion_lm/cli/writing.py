"""The commands of `sdlm` that write text with a trained model. Text goes to stdout."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm
from tyro.conf import OmitArgPrefixes, Positional

from ..corpus.reading import read_lines
from ..errors import UserError, check_count
from ..writing.model import DiffusionLM, seed_of
from ..writing.templates import parse_length
from ..writing.watching import Onlooker, Terminal
from ..writing.writer import AT_ONCE, Options, Request
from .options import OnDevice, Run, SamplingOptions, Texts


@dataclass(kw_only=True)
class Writing(OnDevice):
    """What generate, infill and vary share."""

    run: Positional[Run]  # a run, an exported model, USER/NAME of the hub, or toy: a small model to try
    count: int = 1  # texts for each that is given, each another one
    jsonl: bool = False  # print JSON, a line a text: the text, the seed, and what fills each gap
    sampling: OmitArgPrefixes[SamplingOptions]
    seed: int | Literal["random"] = 0  # the same seed gives the same texts; random: one that is printed
    batch_size: int = 64  # texts at a time; fewer take less memory
    top_p: float = 1.0  # of each position only the most probable tokens, with this probability together
    watch: bool = False  # see texts come out of the noise, candidates too, where this is a terminal

    def __post_init__(self) -> None:
        check_count("--count", self.count)
        if self.seed == "random":
            self.seed = seed_of(None)
            print(f"--seed {self.seed}", file=sys.stderr)

    @contextmanager
    def options(self, model: DiffusionLM) -> Iterator[Options]:
        """What the model's methods take; with --watch, texts are drawn on the terminal meanwhile."""
        watched = self.watch and sys.stderr.isatty()
        with Terminal(Onlooker(model)) if watched else nullcontext() as terminal:
            yield Options(batch_size=self.batch_size, top_p=self.top_p, watch=terminal)

    def write(
        self, model: DiffusionLM, requests: Sequence[Request], candidates: int, never: Sequence[str]
    ) -> Iterable[dict[str, Any]]:
        """Lines as they are done; where someone watches, all of them once there is no more to see."""
        with self.options(model) as options:
            sampling = model.sampling(self.sampling.given)
            written = model.write(requests, candidates, never, seed_of(int(self.seed)), sampling, **options)
            records = ({**line._asdict(), "seed": self.seed} for line in written)
            return list(records) if options["watch"] else records


@dataclass(kw_only=True)
class Generate(Writing):
    """sdlm generate run --count 20

    Generates texts, one a line; of running text with a rule between them.
    """

    count: int = 8  # how many
    length: str | None = None  # tokens of each, as 12 or 8-16; by default drawn from the training lengths
    must: tuple[str, ...] = ()  # words that every line must have, anywhere and in any order
    never: tuple[str, ...] = ()  # words that no line may have
    candidates: int = 1  # lines to write for each that is printed, which is the most probable of them

    def __call__(self) -> None:
        model = DiffusionLM.from_pretrained(self.run)
        length = None if self.length is None else parse_length(self.length)
        requests = [model.request(length, self.must)] * self.count
        show(model, self.write(model, requests, self.candidates, self.never), self.count, self.jsonl)


@dataclass(kw_only=True)
class Infill(Writing):
    r"""sdlm infill run "a man in a ___ shirt ."

    Fills the gaps of each template: ___ of 1 to 8 tokens (or more at an end), [[5]] of 5, [[2-6]] of 2 to 6.
    """

    # texts with gaps; \___ and \[[ are the characters themselves; -- stands before texts that begin with -
    template: Texts = ()
    file: Path | None = None  # templates, one a line, instead
    field: str = "template"  # the field or column with the templates, where the file has records
    never: tuple[str, ...] = ()  # words that no gap may be filled with
    candidates: int = 8  # lines to write for each, with gaps of several lengths; the best is printed

    def __call__(self) -> None:
        if (self.file is None) == (not self.template):
            before = ", before --never, which takes all that follows," if self.never else ""
            raise UserError(f"give templates{before} or --file with one a line")
        own = read_lines([self.file], field=self.field, stream=False) if self.file else self.template
        templates = [template for template in own for _ in range(self.count)]
        model = DiffusionLM.from_pretrained(self.run)
        written = self.write(model, [Request.of(t) for t in templates], self.candidates, self.never)
        records = ({"template": t, **record} for t, record in zip(templates, written, strict=True))
        show(model, records, len(templates), self.jsonl)


@dataclass(kw_only=True)
class Vary(Writing):
    """sdlm vary run "a man in a red shirt ." --strength 0.4

    Noises each text part of the way and writes it anew: a dial from a copy to something new.
    """

    text: Texts  # texts to vary; -- stands before those that begin with -
    strength: float = 0.4  # how far: near 0 a copy, 1 a new text

    def __call__(self) -> None:
        check_count("the number of texts", len(self.text))
        model = DiffusionLM.from_pretrained(self.run)
        texts = [text for text in self.text for _ in range(self.count)]
        with self.options(model) as options:
            varied = model.vary(texts, self.strength, int(self.seed), **options, **self.sampling.given)
        show(model, ({"text": text, "seed": self.seed} for text in varied), len(varied), self.jsonl)


@dataclass(kw_only=True)
class Blend(OnDevice):
    """sdlm blend run "a dog runs ." "two men are playing football ."

    Texts from the first to the second: the noise that both come from, and what is written from between.
    """

    run: Positional[Run]  # a run, an exported model, USER/NAME of the hub, or toy
    first: Positional[str]  # the text to begin with
    second: Positional[str]  # the text to end with
    count: int = 5  # how many, with both ends
    steps: int = 64  # passes to the noise, and as many back; with too few the two ends change
    jsonl: bool = False  # print each text as JSON

    def __call__(self) -> None:
        model = DiffusionLM.from_pretrained(self.run)
        blended = model.blend(self.first, self.second, self.count, self.steps)
        show(model, ({"text": text} for text in blended), len(blended), self.jsonl)


@dataclass(kw_only=True)
class Score(OnDevice):
    """sdlm score run "a dog runs ." "dog a . runs"

    How improbable each text is: -log p in nats (1 nat is 1.44 bits), a tab, and the text.
    """

    run: Positional[Run]  # a run, an exported model, USER/NAME of the hub, or toy
    text: Texts  # texts to score; -- stands before those that begin with -

    def __call__(self) -> None:
        check_count("the number of texts", len(self.text))
        scores = DiffusionLM.from_pretrained(self.run).score(self.text)
        for text, nats in zip(self.text, scores, strict=True):
            print(f"{nats:.2f}\t{text}")


def show(model: DiffusionLM, records: Iterable[dict[str, Any]], count: int, jsonl: bool) -> None:
    """Prints texts as they are done; where there are many, with a progress bar."""
    unfit, few = 0, count <= AT_ONCE or not sys.stderr.isatty()
    for number, record in enumerate(tqdm(records, total=count, unit=" lines", disable=few)):
        if model.stream and number and not jsonl:
            print("-----")  # texts have line breaks of their own
        print(json.dumps(record, ensure_ascii=False) if jsonl else record["text"])
        unfit += not record.get("fits", True)
    if unfit:
        fault = f"{unfit} of {count} lines have a word they were not to have"
        print(f"{fault}: try more --candidates or another --seed", file=sys.stderr)
