"""Flags that several commands share."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .errors import UserError
from .model.guidance import Guidance
from .model.slots import SAMPLER, STEPS, TEMPERATURE, SamplerName
from .text.corpus import Prepared, is_prepared, open_prepared, prepare
from .text.tokenizer import Tokenizer
from .training.checkpoint import run_of
from .training.processes import on_rank_0


@dataclass
class TextOptions:
    """How a corpus is read.

    Attributes:
        vocab_size: pieces of the tokenizer; by default 4096, or what a small corpus allows.
        stream: running text (a book) rather than one example a line.
        valid: held-out files; by default a part of the corpus is held out.
        tokenizer: a SentencePiece model to use instead of training one.
        field: the field of .jsonl files that holds the text.
        seed: of everything random.
    """

    vocab_size: int | None = None
    stream: bool = False
    valid: tuple[str, ...] = ()
    tokenizer: Path | None = None
    field: str = "text"
    seed: int = 0

    def prepare(self, corpus: tuple[str, ...], out: Path) -> Prepared:
        on_rank_0(
            lambda: prepare(
                list(corpus),
                out,
                tokenizer=self.tokenizer,
                vocab_size=self.vocab_size,
                stream=self.stream,
                valid=list(self.valid) or None,
                field=self.field,
                seed=self.seed,
            )
        )
        return open_prepared(out)

    def like(self, run: Path) -> "TextOptions":
        """These options with a run's own tokenizer. Raises UserError where they say another."""
        if self.tokenizer or self.vocab_size:
            raise UserError("--finetune-from takes the tokenizer from its run")
        return replace(self, tokenizer=run_of(run) / "tokenizer.model")

    def open(self, corpus: tuple[str, ...], run: Path) -> Prepared:
        """The corpus, prepared inside the run's directory where it is not yet."""
        if len(corpus) == 1 and is_prepared(corpus[0]):
            prepared = open_prepared(corpus[0])
            another = self.tokenizer and (
                Tokenizer.load(self.tokenizer).fingerprint != prepared.tokenizer.fingerprint
            )
            if self.vocab_size or self.valid or self.stream or another:
                raise UserError(
                    f"{corpus[0]} is prepared already: --tokenizer, --vocab-size, --valid and "
                    "--stream belong to sdlm prepare"
                )
            return prepared
        return self.prepare(corpus, run / "corpus")


@dataclass
class SamplingOptions:
    """How noise becomes text.

    Attributes:
        steps: evaluations of the network; more is better and slower.
        sampler: see diffusion/sampler.py.
        temperature: 1 is the model's own distribution; below it is safer and less varied.
        seed: the same seed gives the same texts.
    """

    steps: int = STEPS
    sampler: SamplerName = SAMPLER
    temperature: float = TEMPERATURE
    seed: int = 0


@dataclass
class WritingOptions(SamplingOptions):
    """How noise becomes text.

    Attributes:
        guide_given: how far to lead predictions on from those without the given text.
        guide_previous: how far to lead them on from those without the one before.
    """

    guide_given: float = 0.0
    guide_previous: float = 0.0

    def settings(self) -> dict[str, Any]:
        """What the model's methods are called with."""
        settings = asdict(self)
        guidance = Guidance(settings.pop("guide_given"), settings.pop("guide_previous"))
        return {**settings, "guidance": guidance}
