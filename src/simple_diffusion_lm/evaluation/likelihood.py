"""How probable is held-out text? The bound on it, and the same in units that people compare."""

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..core.bound import Bound, held_out_bound
from ..core.data import Batches, Corpus
from ..core.denoiser import Batch
from ..core.noise import Keys, PerText
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
    made = (batches.batch(0, numbers).each(lambda x: x.to(device)) for numbers in chosen)
    with tqdm(total=draws * len(chosen), desc="measuring", disable=None) as bar:

        def bound(batch: Batch, u: PerText, keys: Keys) -> Bound:
            bar.update()
            return network.bound(batch, u, keys)

        weights = None if model.stream or exact else model.length_weights
        count = sum(map(len, chosen))
        found = held_out_bound(bound, made, texts=count, draws=draws, length_weights=weights, seed=seed)
    split, ends = units_of(example_texts(model, corpus, 1000)), 0 if model.stream else count  # enough to tell
    texts = (model.decode(batches.example(0, int(i))) for numbers in chosen for i in numbers)
    sizes = (np.array([len(text), len(split(text))]) for text in texts)  # one at a time: there may be many
    characters, words = sum(sizes, np.array([ends, ends])).tolist()  # a line costs its end, a line break
    nats, parts = found.total * found.tokens, found._asdict()
    return {
        "is_bound": not exact,
        "nats_per_token": parts.pop("total"),
        "standard_error": parts.pop("error"),
        **parts,
        "nats_per_text": nats / found.texts,
        "bits_per_character": nats / characters / math.log(2),
        "perplexity_per_word": math.exp(nats / words),  # or a character: see units_of
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
