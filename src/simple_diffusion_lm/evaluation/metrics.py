"""How good is a run? The likelihood bound on held-out text, in units people compare."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..errors import UserError
from ..generation import DiffusionLM
from ..model.continuous import ESTIMATES, Continuous
from ..text.batches import Batches, Masks
from ..text.corpus import Corpus
from ..training.config import Config
from ..training.validation import HeldOut, held_out_bound


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of a set of texts. Where it is a bound, every figure is an upper one.

    A text is its ids and, in line mode, its length: the model of a line is p(length) p(ids |
    length), and both are paid for. `length` is the share of the length, nats per token.
    """

    is_bound: bool  # False for an autoregressive model, whose likelihood is exact
    nats_per_token: float
    nats_per_text: float
    bits_per_character: float
    perplexity_per_word: float  # words are what spaces separate, and the ends of lines
    prior: float
    diffusion: float
    reconstruction: float
    length: float
    standard_error: float  # of nats_per_token, over texts
    texts: int
    tokens: int
    characters: int  # of the decoded text, a line break counted for each line

    @property
    def sign(self) -> str:
        """What stands before a figure that may only be too high."""
        return "<= " if self.is_bound else ""

    def above(self, entropy: float) -> float:
        """Nats per token above the exact entropy of a source, which is in nats per text."""
        return (self.nats_per_text - entropy) * self.texts / self.tokens


def likelihood(
    model: DiffusionLM,
    corpus: Corpus,
    *,
    examples: int = 2000,
    draws: int | None = None,
    seed: int = 0,
    estimate: str = "two-pass",
) -> Likelihood:
    """The bound on up to `examples` texts of a corpus, with `draws` noise draws for each.

    Without a number of draws, as many as it takes to see each position of a mean text once, or 8.
    estimate: one of model.continuous.ESTIMATES; all but two-pass take one draw and many passes.
    Raises UserError for another estimate of a model that is no continuous diffusion.
    """
    measure = model.model.bound
    batches = plain_batches(model, corpus)
    if draws is None:
        draws = 8
        if isinstance(model.model, Continuous) and model.model.stagger:
            draws = max(draws, round(batches.lengths.mean()))
    if estimate != "two-pass":
        draws = 1
        if not isinstance(model.model, Continuous):
            raise UserError("only continuous diffusion has several estimates: leave out --estimate")
        measure = partial(ESTIMATES[estimate], model.model)
    bound = held_out_bound(
        model.model,
        batches,
        model.length_weights,
        examples=examples,
        draws=draws,
        seed=seed,
        device=model.model.embedding.weight.device,
        estimate=measure,
        quiet=False,
    )
    texts = example_texts(model, corpus, examples)
    ends = 0 if model.stream else len(texts)  # a line costs its end, shown as a line break
    characters = sum(map(len, texts)) + ends
    words = sum(len(text.split()) for text in texts) + ends
    return _in_units(bound, characters, words, is_bound=not model.model.writes_length)


def plain_batches(model: DiffusionLM, corpus: Corpus) -> Batches:
    """The texts of a corpus, cut as in training, with nothing given."""
    config = model.config or Config()
    return Batches(
        corpus,
        model.tokenizer,
        batch_tokens=config.batch_tokens,
        crop=config.crop,
        stream=model.stream,
        masks=Masks(0, 0, 0),
    )


def example_texts(model: DiffusionLM, corpus: Corpus, count: int) -> list[str]:
    """Up to `count` texts of a corpus, lines or windows, chosen evenly over their lengths."""
    batches = plain_batches(model, corpus)
    rows = np.random.default_rng(0).permutation(np.concatenate(batches.spread(count)))
    return [model.decode(batches.example(0, int(i))) for i in rows]


def _in_units(bound: HeldOut, characters: int, words: int, *, is_bound: bool) -> Likelihood:
    nats = bound.total * bound.tokens
    return Likelihood(
        is_bound=is_bound,
        nats_per_token=bound.total,
        nats_per_text=nats / bound.sequences,
        bits_per_character=nats / characters / math.log(2),
        perplexity_per_word=math.exp(nats / words),
        prior=bound.prior,
        diffusion=bound.diffusion,
        reconstruction=bound.reconstruction,
        length=bound.length,
        standard_error=bound.error,
        texts=bound.sequences,
        tokens=bound.tokens,
        characters=characters,
    )
