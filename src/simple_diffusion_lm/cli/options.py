"""Flags that several commands share.

A command is a dataclass: its fields are the flags, the comments beside them the help.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypedDict

from tyro.conf import FlagConversionOff, Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from ..core import Config
from ..core.generate import ORDERS, Sampling
from ..core.sampler import SAMPLERS
from ..corpus.prepare import Prepared, is_prepared, open_prepared, prepare
from ..corpus.tokenizer import TRAINED, Tokenizer
from ..devices.processes import on_rank_0
from ..errors import UserError
from ..runs.checkpoint import MANIFEST
from ..runs.export import TOY, find_run


def one_of(names: Iterable[str]) -> PrimitiveConstructorSpec[str]:
    """Marks a flag that takes one of these names: its help lists them, and no other is accepted."""
    known = tuple(names)
    shown = f"{{{','.join(known)}}}"
    return PrimitiveConstructorSpec(1, shown, "".join, known.__contains__, lambda name: [name], choices=known)


def run_named(words: list[str]) -> Path:
    """See runs.export.find_run. Of the model in the package one line on stderr says what it is."""
    if (run := find_run(words[0])) == TOY:
        made = json.loads((TOY / MANIFEST).read_text())
        minutes, bound = made["progress"]["seconds"] / 60, made["bound"]
        trained = f"trained in {minutes:.0f} minutes by sdlm demo: <= {bound:.2f} nats a held-out token"
        print(f"toy: the language of a grammar with 260 words, {trained}", file=sys.stderr)
    return run


# A trained model by its name: a run's directory, an exported model's, USER/NAME of the hub, or toy.
Run = Annotated[
    Path, PrimitiveConstructorSpec(1, "RUN", run_named, lambda x: isinstance(x, Path), lambda x: [str(x)])
]

Texts = Annotated[tuple[str, ...], arg(metavar="TEXT ..."), Positional]  # of the command line
Corpus = Annotated[tuple[str, ...], arg(metavar="CORPUS ..."), Positional]


@dataclass(kw_only=True)
class OnDevice:
    """Where a model runs."""

    device: str | None = None  # cpu, cuda, cuda:1 or mps; by default the fastest there is


@dataclass(frozen=True)
class SamplingOptions:
    """How noise becomes text."""

    steps: int | None = None  # passes of the network; more is better and slower (64; a student's own)
    # how much of the noise is new after each pass: all (renoise, the default), a part (ddpm), none (ddim)
    sampler: Annotated[str, one_of(SAMPLERS)] | None = None
    temperature: float | None = None  # 1: as the model is, below: less varied (0.9 in 64 steps, 0.7 in 4)
    # of a masked model alone: at random, the surest first (confidence), from left to right (reading)
    order: Annotated[str, one_of(ORDERS)] = Sampling.order

    @property
    def given(self) -> dict[str, Any]:
        """Without what the model decides."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(kw_only=True)
class TextOptions:
    """How a corpus is read."""

    vocab_size: int | None = None  # pieces of a bpe tokenizer; by default up to 4096, fewer of little text
    stream: bool = False  # running text (a book) rather than one example a line
    valid: tuple[str, ...] = ()  # held-out files; by default a part of the corpus is held out
    tokenizer: str = "bpe"  # or chars, or bytes; or a file: a SentencePiece model, a tokenizer.json (GPT-2's)
    field: str = "text"  # the field (.jsonl, .json) or column (.csv, .tsv, .parquet) with the text
    seed: int = 0  # of all that is random

    def prepare(self, corpus: tuple[str, ...], out: Path) -> Prepared:
        """The corpus, tokenized and encoded into the directory `out`."""
        options = {option.name: getattr(self, option.name) for option in fields(TextOptions)}
        on_rank_0(lambda: prepare(corpus, out, **options))
        return open_prepared(out)

    def open(self, corpus: tuple[str, ...], run: Path) -> Prepared:
        """The corpus, prepared inside the run's directory where it is not yet."""
        if len(corpus) != 1 or not is_prepared(corpus[0]):
            return self.prepare(corpus, run / "corpus")
        prepared = open_prepared(corpus[0])
        fingerprint, given = prepared.tokenizer.fingerprint, self.tokenizer
        another = given != "bpe" and (given in TRAINED or Tokenizer.load(given).fingerprint != fingerprint)
        if self.vocab_size or self.valid or self.stream or self.field != "text" or another:
            flags = "--tokenizer, --vocab-size, --valid, --field and --stream"
            raise UserError(f"{corpus[0]} is prepared already: {flags} belong to sdlm prepare")
        return prepared


def _flags() -> Any:
    """A flag for each field of core.Config that has none elsewhere, with the comment beside it as help."""
    comments = dict(re.findall(r"^ +(\w+): [^#\n]*(?:# (.*))?$", inspect.getsource(Config), re.MULTILINE))

    def flag(name: str, kind: Any, default: object) -> Any:
        return Annotated[kind, arg(help=comments[name], help_behavior_hint=f"(modern: {default})")]

    own = [option.name for option in fields(TextOptions)]
    flags = {f.name: flag(f.name, f.type, f.default) for f in fields(Config) if f.name not in own}
    return TypedDict("Given", flags, total=False)  # type: ignore[operator]


# A dictionary of those fields of core.Config that are given as flags.
Settings = Annotated[dict[str, Any], arg(name="", constructor=_flags()), FlagConversionOff]
