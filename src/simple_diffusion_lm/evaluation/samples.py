"""What can be said of generated lines: how likely, how varied, how new, how like real ones.

No single figure here is a verdict. A model that writes one safe line has a splendid perplexity, so
perplexity is never shown without entropy; and real text, and real text with its words shuffled, go
through the same functions as samples do.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import UserError, installed
from ..tasks.toy import ToyLanguage
from .judge import AutoregressiveJudge, KneserNey, Split

FEWEST_LINES = 10
SELF_BLEU_LINES = 200  # its cost is the square of their number


class Reference:
    """What samples are held against: the training part, and held-out lines.
    valid: held-out lines. autoregressive: a model that judges too, if there is one."""

    def __init__(
        self, train: Sequence[str], valid: Sequence[str], autoregressive: AutoregressiveJudge | None = None
    ) -> None:
        self.train_lines = None if any("\n" in x for x in train) else set(train)  # windows begin anywhere
        self.valid, self.autoregressive = valid, autoregressive
        self.split = split = units_of(train)
        self.four_grams = set(_grams(map(split, train), 4))  # all runs of four words in the training part
        self.judge = KneserNey(train, split=split)  # the n-gram judge of the training part,
        self.reversed_judge = KneserNey(train, reverse=True, split=split)  # and that of its lines backwards
        language = ToyLanguage()  # which judges its own lines exactly
        self.toy = language if all(map(language.is_grammatical, valid[:100])) else None


def sample_metrics(lines: Sequence[str], reference: Reference) -> dict[str, Any]:
    """Figures of a set of lines, by name. Words are what spaces separate, or characters (see units_of).
    Shares are between 0 and 1. To be compared between sets of the same number of lines.

    Raises UserError as check_measurable does.
    """
    check_measurable(len(lines))
    texts = list(map(reference.split, lines))
    words = [word for text in texts for word in text]
    lengths = np.array([len(text) for text in texts])
    pairs, fours, toy, judge = _grams(texts, 2), _grams(texts, 4), reference.toy, reference.autoregressive
    known = reference.train_lines
    shares = np.array(list(Counter(words).values())) / max(len(words), 1)
    return {
        "lines": len(lines),
        # A word, ends of lines included; by an autoregressive model only where there is one to judge.
        "ngram_perplexity": reference.judge.perplexity(lines),
        "reversed_perplexity": reference.reversed_judge.perplexity(lines),
        "autoregressive_perplexity": judge.perplexity(lines, reference.split) if judge else None,
        "entropy": float(-(shares * np.log(shares)).sum()),  # of the words' frequencies, in nats
        "distinct_2": len(set(pairs)) / max(len(pairs), 1),  # of all pairs of adjacent words
        "self_bleu": self_bleu([" ".join(text) for text in texts]),  # 0 to 100; lower is more varied
        "repetition": sum(a == b for a, b in pairs) / max(len(words), 1),  # of the word just before
        "words_mean": float(lengths.mean()),
        "words_deviation": float(lengths.std()),
        "copied_lines": None if known is None else sum(line in known for line in lines) / len(lines),
        "copied_4grams": sum(gram in reference.four_grams for gram in fours) / max(len(fours), 1),
        "grammatical": sum(map(toy.is_grammatical, lines)) / len(lines) if toy else None,
    }


def check_measurable(lines: int) -> None:
    """Raises UserError without the extra `eval`, and for fewer than FEWEST_LINES lines: before any work."""
    installed("sacrebleu", "sample metrics need sacrebleu", "simple-diffusion-lm[eval]")
    if lines < FEWEST_LINES:
        fault = f"{lines} lines are too few to be measured: {FEWEST_LINES} or more have to be held out"
        raise UserError(f"{fault} (--valid), and as many generated (sdlm evaluate --samples 0 does without)")


def units_of(lines: Sequence[str]) -> Split:
    """What counts as the words of lines: what spaces separate; their characters, where hardly any line has a
    space (names, Chinese, Japanese, Thai, SMILES)."""
    parts = [part for line in lines for part in line.splitlines()]  # of running text each line
    spaced = sum(len(part.split()) > 1 for part in parts)
    return str.split if spaced > 0.1 * len(parts) else list


def shuffled_words(lines: Sequence[str], split: Split = str.split) -> list[str]:
    """The same lines with the words of each in random order: what a bad model looks like."""
    rng, between = np.random.default_rng(0), " " if split is str.split else ""
    return [between.join(rng.permutation(split(line)).tolist()) for line in lines]


def self_bleu(lines: Sequence[str]) -> float:
    """The mean BLEU-4 of each line against all others (1802.01886), of at most SELF_BLEU_LINES."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)
    some = list(lines[:SELF_BLEU_LINES])
    scores = [bleu.sentence_score(x, some[:i] + some[i + 1 :]).score for i, x in enumerate(some)]
    return float(np.mean(scores))


def _grams(texts: Iterable[list[str]], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
