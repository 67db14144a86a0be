import math
from itertools import product

import numpy as np
import pytest

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation.evaluate import real_rows
from simple_diffusion_lm.evaluation.judge import KneserNey
from simple_diffusion_lm.evaluation.samples import Reference, sample_metrics, self_bleu, shuffled_words
from simple_diffusion_lm.tasks.toy import ToyLanguage

TRAIN = ToyLanguage().lines(2000, seed=0)
REFERENCE = Reference(TRAIN, ToyLanguage().lines(300, seed=1))


def test_real_lines_shuffled_lines_and_one_safe_line_differ():
    fresh = ToyLanguage().lines(300, seed=2)
    real, shuffled, safe, copied = (
        sample_metrics(lines, REFERENCE)
        for lines in (fresh, shuffled_words(fresh), fresh[:1] * 300, TRAIN[:300])
    )
    assert real["grammatical"] == 1.0
    assert shuffled["grammatical"] is not None
    assert shuffled["grammatical"] < 0.01
    assert real["ngram_perplexity"] < 0.2 * shuffled["ngram_perplexity"]
    assert real["reversed_perplexity"] < 0.2 * shuffled["reversed_perplexity"]
    assert real["reversed_perplexity"] == KneserNey(TRAIN, reverse=True).perplexity(fresh)
    assert shuffled["entropy"] == pytest.approx(real["entropy"])  # the same words
    assert safe["entropy"] < 0.6 * real["entropy"]
    assert safe["self_bleu"] == pytest.approx(100.0)
    assert real["self_bleu"] < 80
    assert real["words_mean"] == pytest.approx(shuffled["words_mean"])
    assert copied["copied_lines"] == copied["copied_4grams"] == 1.0
    assert real["copied_lines"] < 0.05
    assert shuffled["copied_4grams"] < real["copied_4grams"] < 1.0


def test_figures_of_lines_counted_by_hand():
    metrics = sample_metrics(["a a b"] * 5 + ["a b c d"] * 5, REFERENCE)
    assert metrics["distinct_2"] == pytest.approx(4 / 25)  # aa ab bc cd, of 2 x 5 + 3 x 5
    assert metrics["repetition"] == pytest.approx(5 / 35)
    shares = np.array([15, 10, 5, 5]) / 35
    assert metrics["entropy"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert (metrics["words_mean"], metrics["words_deviation"]) == (3.5, 0.5)
    assert metrics["lines"] == 10
    assert metrics["copied_lines"] == 0


def test_self_bleu_is_of_a_line_against_the_others_only():
    assert self_bleu(["one two three four", "five six seven eight"]) == pytest.approx(0.0, abs=1e-6)
    assert self_bleu(["one two three four"] * 2) == pytest.approx(100.0)


def test_the_toy_language_is_recognised_and_nothing_else_is():
    assert REFERENCE.toy is not None
    other = Reference(["a man ."] * 50, ["a man in a red shirt ."] * 50)
    assert other.toy is None
    metrics = sample_metrics(["a man in a shirt ."] * 12, other)
    assert metrics["grammatical"] is None
    assert all(v is None or math.isfinite(v) for v in metrics.values())


def test_too_few_lines_are_refused():
    with pytest.raises(UserError, match="too few"):
        sample_metrics(["a man ."] * 9, REFERENCE)


def test_lines_of_single_words_are_measured_by_their_characters():
    names = [
        "".join(parts) for parts in product(("Da", "Be", "Al", "Jo"), ("li", "ve", "ra"), ("s", "el", "on"))
    ]
    reference = Reference(names * 5, names)
    metrics, shuffled = (
        sample_metrics(lines, reference) for lines in (names, shuffled_words(names, reference.split))
    )
    assert metrics["words_mean"] == pytest.approx(sum(map(len, names)) / len(names))
    assert metrics["ngram_perplexity"] < 0.5 * shuffled["ngram_perplexity"]
    assert metrics["entropy"] == pytest.approx(shuffled["entropy"])
    assert all(v is None or math.isfinite(v) for v in metrics.values())
    assert Reference(["one two", "three"] * 9, ["four five"]).split is str.split


@pytest.mark.parametrize(("words", "units"), [("谁 知 道", str.split), ("谁知道", list)])
def test_running_text_without_spaces_is_measured_by_characters_too(words, units):
    """Its lines stand in one text: a line break is no space between words."""
    windows = [f"{words}\n{words}\n\n{words}"] * 12
    reference = Reference(windows, windows)
    assert reference.split is units
    found = real_rows(reference)
    assert [row["copied_lines"] for row in found.values()] == [None, None]  # windows begin anywhere
    assert found["held-out text"]["copied_4grams"] == 1.0
