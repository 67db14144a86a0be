"""How good is a run? The likelihood bound on held-out text, in units people compare."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..generation import DiffusionLM
from ..text.batches import Batches, Masks
from ..text.corpus import Corpus, Prepared, prepare
from ..text.tokenizer import Tokenizer
from ..training.config import Config
from ..training.validation import HeldOut, held_out_bound


@dataclass(frozen=True)
class Likelihood:
    """The bound on a set of texts. Every figure is an upper bound in expectation.

    A text is its ids and, in line mode, its length: the model of a line is p(length) p(ids |
    length), and both are paid for. `length` is the share of the length, nats per token.
    """

    nats_per_token: float
    nats_per_text: float
    bits_per_character: float
    prior: float
    diffusion: float
    reconstruction: float
    length: float
    standard_error: float  # of nats_per_token, over texts
    texts: int
    tokens: int
    characters: int  # of the decoded text, a line break counted for each line


def likelihood(
    model: DiffusionLM, corpus: Corpus, *, examples: int = 2000, draws: int = 1, seed: int = 0
) -> Likelihood:
    """The bound on up to `examples` texts of a corpus, with `draws` noise draws for each."""
    config = model.config or Config()
    batches = Batches(
        corpus,
        model.tokenizer,
        batch_tokens=config.batch_tokens,
        crop=config.crop,
        stream=model.stream,
        masks=Masks(0, 0, 0),
    )
    bound = held_out_bound(
        model.model,
        batches,
        model.length_weights,
        examples=examples,
        draws=draws,
        seed=seed,
        device=model.model.embedding.weight.device,
    )
    rows = np.concatenate(batches.spread(examples))
    texts = [batches.batch(0, rows[i : i + 1]).ids[0].tolist() for i in range(len(rows))]
    decode = model.tokenizer.decode_stream if model.stream else model.tokenizer.decode
    breaks = 0 if model.stream else 1  # a line costs its end, which the text shows as a line break
    characters = sum(len(decode(ids)) + breaks for ids in texts)
    return _in_units(bound, characters)


def _in_units(bound: HeldOut, characters: int) -> Likelihood:
    nats = bound.total * bound.tokens
    return Likelihood(
        nats_per_token=bound.total,
        nats_per_text=nats / bound.sequences,
        bits_per_character=nats / characters / math.log(2),
        prior=bound.prior,
        diffusion=bound.diffusion,
        reconstruction=bound.reconstruction,
        length=bound.length,
        standard_error=bound.error,
        texts=bound.sequences,
        tokens=bound.tokens,
        characters=characters,
    )


def prepare_for(tokenizer_file: Path, data: Sequence[str | Path], directory: Path) -> Prepared:
    """Encodes files whole with a run's tokenizer, none of them held out."""
    Tokenizer.load(tokenizer_file)
    return prepare(data, directory, tokenizer=tokenizer_file, valid=data, quiet=True)


def evaluate_run(
    run: Path, data: Sequence[str | Path] = (), *, examples: int = 2000, seed: int = 0
) -> Likelihood:
    """The bound of a run on the given files, or on its own held-out part.

    Raises UserError when there is no run, or nothing was held out and no file is given.
    """
    model = DiffusionLM.from_pretrained(run)
    if data:
        with tempfile.TemporaryDirectory() as directory:
            corpus = prepare_for(run / "tokenizer.model", data, Path(directory) / "corpus").train
            return likelihood(model, corpus, examples=examples, seed=seed)
    corpus = model.held_out(run)
    if not len(corpus):
        raise UserError(f"{run}: nothing was held out from its corpus; give --data FILE")
    return likelihood(model, corpus, examples=examples, seed=seed)
