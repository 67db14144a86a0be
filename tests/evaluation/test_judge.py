import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.data import Corpus
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation.evaluate import evaluate_run
from simple_diffusion_lm.evaluation.judge import FALLBACK, AutoregressiveJudge, KneserNey
from simple_diffusion_lm.evaluation.likelihood import likelihood
from simple_diffusion_lm.runs.config import with_objective
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.tasks.toy import ToyLanguage

TOY = ToyLanguage().lines(300, seed=0)


def slow_probability(lines, order, context, word):
    """The same model by the book: dictionaries and recursion, one n-gram at a time."""
    texts = [["<s>", *line.split(), "</s>"] for line in lines]
    raw = [
        Counter(tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1))
        for n in range(1, order + 1)
    ]
    words = {w for t in texts for w in t} - {"<s>"} | {"<unk>"}

    def counts(n):
        if n == order:
            return {g: c for g, c in raw[n - 1].items() if g != ("<s>",)}
        before = Counter(gram[1:] for gram in raw[n])
        return {gram: before.get(gram) or count for gram, count in raw[n - 1].items() if gram != ("<s>",)}

    def discounts(table):
        n1, n2, n3, n4 = (sum(c == k for c in table.values()) for k in (1, 2, 3, 4))
        if not min(n1, n2, n3):
            return FALLBACK
        y = n1 / (n1 + 2 * n2)
        d = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return d if all(0 < x <= k for k, x in enumerate(d, 1)) else FALLBACK

    def p(context, word):
        n = len(context) + 1
        lower = p(context[1:], word) if context else 1 / len(words)
        table = counts(n)
        d = discounts(table)
        row = {g: c for g, c in table.items() if g[:-1] == context}
        total = sum(row.values())
        if not total:
            return lower
        left = sum(d[min(c, 3) - 1] for c in row.values())
        own = row.get((*context, word), 0)
        share = own - d[min(own, 3) - 1] if own else 0
        return share / total + left / total * lower

    return p(tuple(context), word)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_is_modified_kneser_ney(order):
    lines = TOY[:40]
    judge = KneserNey(lines, order)
    for line in (TOY[50], TOY[60], "two unheard goats"):
        text = ["<s>", *line.split(), "</s>"]
        text = [w if w in judge.ids or w in ("<s>", "</s>") else "<unk>" for w in text]
        for i, nats in enumerate(judge.nats(line), start=1):
            context = text[max(0, i - order + 1) : i]
            slow = slow_probability(lines, order, context, text[i])
            assert math.exp(-nats) == pytest.approx(slow, rel=1e-9)


@settings(max_examples=30)
@given(st.sampled_from(TOY), st.integers(0, 12), st.integers(1, 4))
def test_probabilities_after_any_words_add_up_to_one(line, cut, order):
    judge = KneserNey(TOY, order)
    prefix = " ".join(line.split()[:cut])
    where = len(prefix.split())
    every = [math.exp(-judge.nats(f"{prefix} {word}")[where]) for word in (*judge.ids, "unheard")]
    every.append(math.exp(-judge.nats(prefix)[where]))  # the end
    assert sum(every) == pytest.approx(1.0)


def test_backwards_it_is_the_judge_of_reversed_lines():
    lines, fresh = TOY[:200], TOY[200:]
    backwards = [" ".join(line.split()[::-1]) for line in (*lines, *fresh)]
    judge, other = KneserNey(lines, reverse=True), KneserNey(backwards[:200])
    assert judge.perplexity(fresh) == other.perplexity(backwards[200:])
    assert judge.perplexity(fresh) != KneserNey(lines).perplexity(fresh)
    np.testing.assert_array_equal(judge.nats(fresh[0]), other.nats(backwards[200]))


def test_it_prefers_the_language_to_its_words_in_disorder():
    judge = KneserNey(TOY)
    real = ToyLanguage().lines(200, seed=1)
    rng = np.random.default_rng(0)
    shuffled = [" ".join(rng.permutation(line.split())) for line in real]
    assert judge.perplexity(real) < 0.1 * judge.perplexity(shuffled)
    nats = np.concatenate([judge.nats(line) for line in real])
    assert judge.perplexity(real) == pytest.approx(math.exp(nats.mean()))
    # It is a distribution, so on average it pays at least the entropy.
    assert nats.sum() / len(real) > ToyLanguage().entropy()


def test_an_autoregressive_run_judges_by_its_exact_likelihood(toy_data, toy_run, tmp_path):
    config = small(with_objective(Config(), "autoregressive"), steps=20, samples=1)
    run_training(config, toy_data, tmp_path / "run", quiet=True)
    judge = AutoregressiveJudge(tmp_path / "run")
    corpus = Corpus.of(map(judge.model.tokenizer.encode, TOY[:50]), judge.model.tokenizer.eos_id)
    assert judge.perplexity(TOY[:50]) == pytest.approx(likelihood(judge.model, corpus)["perplexity_per_word"])
    assert judge.perplexity(["the " * 300]) > 1  # what is longer than any text it knows is cut
    with pytest.raises(UserError, match="--objective autoregressive"):
        AutoregressiveJudge(toy_run)
    found = evaluate_run(toy_run, samples=10, judge=tmp_path / "run")
    real, shuffled = (found["lines"][name] for name in ("held-out text", "its words shuffled"))
    assert real["autoregressive_perplexity"] < shuffled["autoregressive_perplexity"]


def test_lines_of_one_word_have_no_long_n_grams():
    judge = KneserNey(["one", "two", "one"])
    assert judge.perplexity(["one"]) < judge.perplexity(["two"]) < judge.perplexity(["one two"]) < math.inf
