"""How probable is held-out text? The bound on it, and the same in units that people compare."""

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..core.bound import held_out_bound
from ..core.data import Batches, Corpus
from ..errors import check_count
from ..writing.model import DiffusionLM
from .samples import units_of


def likelihood(
    model: DiffusionLM, corpus: Corpus, *, examples: int = 2000, draws: int = 8, seed: int = 0
) -> dict[str, Any]:
    """What up to `examples` texts of a corpus cost, in figures by name: where is_bound, upper ones.

    A text is its ids and, in line mode, its length: both are paid for (core/bound.py). draws: of its noise.
    """
    check_count("the number of texts", examples)
    network, batches = model.model.eval(), plain_batches(model, corpus)
    if not model.stream and (cut := int((np.diff(corpus.offsets) > model.longest).sum())):
        longer = f"{cut:,} of {len(corpus):,} texts are longer than the model's longest"
        print(f"{longer}, {model.longest} tokens: of these the beginning is measured", file=sys.stderr)
    exact, device = network.writes_length, network.embedding.weight.device
    draws = 1 if exact else draws
    chosen = batches.spread(examples)
    shown = tqdm(chosen, "measuring", disable=None)
    made = (batches.batch(0, numbers).each(lambda x: x.to(device)) for numbers in shown)
    weights = None if model.stream or exact else model.length_weights
    count = sum(map(len, chosen))
    found = held_out_bound(network.bound, made, texts=count, draws=draws, length_weights=weights, seed=seed)
    split = units_of(example_texts(model, corpus, 1000))  # enough to tell
    characters = words = 0 if model.stream else count  # a line costs its end, a line break
    for i in np.concatenate(chosen).tolist():
        text = model.decode(batches.example(0, i))
        characters += len(text)
        words += len(split(text))
    nats, parts = found.total * found.tokens, found._asdict()
    error = parts.pop("error")
    return {
        "is_bound": not exact,
        "nats_per_token": parts.pop("total"),
        "standard_error": error if count > 1 else None,  # JSON has no number for it
        **parts,
        "nats_per_text": nats / found.texts,
        "bits_per_character": nats / characters / math.log(2),
        "perplexity_per_word": math.exp(min(nats / words, 700)),  # or a character: units_of; 709 is too much
        "characters": characters,
        "words": words,
    }


def plain_batches(model: DiffusionLM, corpus: Corpus) -> Batches:
    """The texts of a corpus, cut as in training, with nothing given, and the same windows for every run."""
    config = replace(model.config, seed=0, cond_rate=0.0, crop=model.longest)
    return Batches(config, corpus, model.tokenizer.pad_id, model.stream)


def example_texts(model: DiffusionLM, corpus: Corpus, count: int) -> list[str]:
    """Up to `count` texts of a corpus, lines or windows, chosen evenly over their lengths."""
    batches = plain_batches(model, corpus)
    rows = np.random.default_rng(0).permutation(np.concatenate(batches.spread(count)))
    return [model.decode(batches.example(0, int(i)).tolist()) for i in rows]
