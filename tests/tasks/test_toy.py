"""The toy language: its numbers are exact, and agreement is what its lines have in common."""

import math
from collections import Counter
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest

from simple_diffusion_lm.tasks.toy import SHAPES, State, ToyLanguage, options

LANGUAGE = ToyLanguage()


def derive(language: ToyLanguage, rng: np.random.Generator) -> tuple[str, float]:
    """A line, and the log-probability of the derivation that made it."""
    words, log_prob, state = [], 0.0, language.start
    while found := options(state):
        log_prob -= math.log(len(found))
        chosen, state = found[rng.integers(len(found))]
        words += chosen.split()
    return " ".join(words), log_prob


def enumerate_lines(state: State) -> list[str]:
    """Every line that can follow from a state, once for each derivation."""
    if not state.symbols:
        return [""]
    return [f"{words} {tail}".strip() for words, after in options(state) for tail in enumerate_lines(after)]


def mean_words(state: State) -> float:
    """The expected number of words that follow from a state."""

    @cache
    def mean(state: State) -> float:
        found = options(state)
        total = sum(len(words.split()) + mean(after) for words, after in found)
        return total / len(found) if found else 0.0

    return mean(state)


def vocabulary(language: ToyLanguage) -> set[str]:
    """All words that occur in lines."""
    return {word for state in reachable(language) for words, _ in options(state) for word in words.split()}


def reachable(language: ToyLanguage) -> set[State]:
    """All states that a line may pass."""
    waiting, seen = [language.start], {language.start}
    while waiting:
        new = {state for _, state in options(waiting.pop())} - seen
        seen |= new
        waiting += new
    return seen


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return LANGUAGE.lines(10_000, seed=0)


def test_a_line_has_one_derivation_and_log_prob_is_its_log_probability():
    rng = np.random.default_rng(1)
    for line, expected in (derive(LANGUAGE, rng) for _ in range(2000)):
        assert LANGUAGE.log_prob(line) == pytest.approx(expected, abs=1e-9), line


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_alone_is_unambiguous(shape):
    rng = np.random.default_rng(2)
    language = ToyLanguage([shape])
    for line, expected in (derive(language, rng) for _ in range(50)):
        assert language.log_prob(line) == pytest.approx(expected, abs=1e-9), line


def test_no_two_options_of_any_state_are_the_same():
    for found in map(options, reachable(LANGUAGE)):
        assert len(set(found)) == len(found)


def test_log_prob_sums_over_derivations():
    """Without a time, "they read" may be past or present: the tense is drawn, but not seen."""
    silent = ToyLanguage(["PERSON ."])
    seen = ToyLanguage(["TIME PERSON ."])
    assert silent.log_prob("two kings .") == pytest.approx(
        seen.log_prob("yesterday two kings .") + math.log(3 * 5)
    )


@pytest.mark.parametrize("shapes", [["AUXILIARY ANIMAL ?"], ["ANIMAL .", "ANIMAL BE ."]])
def test_the_probabilities_of_a_small_language_sum_to_one(shapes):
    language = ToyLanguage(shapes)
    every = set(enumerate_lines(language.start))
    assert sum(math.exp(language.log_prob(line)) for line in every) == pytest.approx(1)


def test_entropy_and_mean_words_of_a_small_language_by_enumeration():
    language = ToyLanguage(["AUXILIARY ANIMAL ?", "why AUXILIARY ANIMAL REST ?"])
    every = enumerate_lines(language.start)
    assert len(set(every)) == len(every)
    log_probs = [language.log_prob(line) for line in every]
    assert language.entropy() == pytest.approx(-sum(math.exp(p) * p for p in log_probs))
    words = sum(math.exp(p) * len(line.split()) for line, p in zip(every, log_probs, strict=True))
    assert mean_words(language.start) == pytest.approx(words)


def test_entropy_is_the_mean_of_minus_log_prob(lines):
    nats = -np.array([LANGUAGE.log_prob(line) for line in lines[:2000]])
    assert np.isfinite(nats).all()  # so all are grammatical
    assert abs(nats.mean() - LANGUAGE.entropy()) < 4 * nats.std() / len(nats) ** 0.5


def test_lines_are_as_frequent_as_they_are_probable():
    language = ToyLanguage(["ANIMAL BE ."])
    counts = Counter(language.lines(60_000, seed=7))
    expected = {line: 60_000 * math.exp(language.log_prob(line)) for line in counts}
    chi_squared = sum((counts[line] - n) ** 2 / n for line, n in expected.items())
    assert sum(expected.values()) == pytest.approx(60_000)  # every line was seen
    freedom = len(expected) - 1
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5


def test_mean_words_is_the_mean_number_of_words(lines):
    words = np.array([len(line.split()) for line in lines])
    assert abs(words.mean() - mean_words(LANGUAGE.start)) < 4 * words.std() / len(words) ** 0.5


def test_the_size_of_the_language(lines):
    assert 250 <= len(vocabulary(LANGUAGE)) <= 330
    assert 18 < LANGUAGE.entropy() < 26
    assert 11 < mean_words(LANGUAGE.start) < 14
    lengths = np.array([len(line.split()) for line in lines])
    assert ((lengths >= 8) & (lengths <= 16)).mean() > 0.9


def test_lines_depend_on_the_seed_only():
    assert LANGUAGE.lines(20, seed=3) == ToyLanguage().lines(20, seed=3)
    assert LANGUAGE.lines(20, seed=3) != LANGUAGE.lines(20, seed=4)
    assert LANGUAGE.lines(20, seed=3)[:5] == LANGUAGE.lines(5, seed=3)
    assert LANGUAGE.lines(0, seed=3) == []


def test_the_vocabulary_is_what_lines_are_made_of(lines):
    assert vocabulary(LANGUAGE) == {word for line in lines for word in line.split()}


def test_nearly_all_lines_are_distinct(lines):
    assert len(set(lines)) >= 0.99 * len(lines)


def test_every_word_that_follows_a_begins_with_a_consonant(lines):
    following = {b for line in lines for a, b in pairwise(line.split()) if a == "a"}
    assert following
    assert not [word for word in following if word[0] in "aeiou"]


GOOD = [
    "yesterday the young farmer fed her goats near the river .",
    "yesterday the young farmer fed his goats near the river .",
    "tomorrow a queen will read the letter because she is curious .",
    "every morning these robots wash themselves before they feed their dogs .",
    "last night the king gave a ring to his sister because she was lonely .",
    "sometimes two children eat some cakes while their brother sleeps .",
    "the prince who was tired painted the wooden door last week .",
    "why do these girls write their songs at school ?",
    "next week a fox will steal the pie because it is hungry .",
]

BAD = {
    "number of the noun": "yesterday a young farmers fed her goats near the river .",
    "number of the determiner": "yesterday two young farmer fed her goats near the river .",
    "number of the verb": "every morning the king feed his goats near the river .",
    "number of the auxiliary": "why does these girls write their songs at school ?",
    "gender of the possessive": "yesterday the queen fed his goats near the river .",
    "gender of the pronoun": "tomorrow a queen will read the letter because he is curious .",
    "gender changes": "yesterday a farmer read her letter because he was sad .",
    "number of the pronoun": "the robots read a book and then it danced at school .",
    "number of the reflexive": "every week the kings wash himself before they feed their dogs .",
    "whom the pronoun is": "last night the king gave a ring to his sister because he was sad .",
    "the relative's verb": "sometimes two children eat some cakes while their brother sleep .",
    "tense of the verb": "yesterday the queen feeds her goats near the river .",
    "tense of the time": "tomorrow the queen fed her goats near the river .",
    "tense of the clause": "tomorrow the queen will feed a goat because she was busy .",
    "future in the clause": "tonight a king will wash himself before he will feed his dogs .",
    "what is done to it": "yesterday the queen read her goats near the river .",
    "where": "yesterday the queen fed her goats in the library .",
    "why": "yesterday the queen fed her goats because she was bored .",
    "the adjective": "yesterday the queen fed her wooden goats near the river .",
    "swapped words": "yesterday the farmer young fed her goats near the river .",
    "truncated": "yesterday the young farmer fed her goats near the river",
    "prefix": "yesterday the young farmer",
    "empty": "",
    "space": " ",
    "extra word": "yesterday the young farmer fed her goats near the river . river",
    "doubled word": "yesterday the the young farmer fed her goats near the river .",
    "double space": "yesterday  the young farmer fed her goats near the river .",
    "upper case": "Yesterday the young farmer fed her goats near the river .",
    "unknown word": "yesterday the young astronaut fed her goats near the river .",
    "part of a word": "yesterday the young farmer fed her goats near the rivers .",
}


@pytest.mark.parametrize("line", GOOD)
def test_agreement_is_grammatical(line):
    assert LANGUAGE.is_grammatical(line)


@pytest.mark.parametrize("line", BAD.values(), ids=BAD.keys())
def test_what_does_not_agree_is_not_in_the_language(line):
    assert not LANGUAGE.is_grammatical(line)
    assert LANGUAGE.log_prob(line) == -math.inf


def test_damaged_lines_are_ungrammatical(lines):
    for line in lines[:150]:
        words = line.split()
        assert not LANGUAGE.is_grammatical(" ".join(words[:-1]))
        assert not LANGUAGE.is_grammatical(" ".join(words[1:]))
        assert not LANGUAGE.is_grammatical(line + " .")
        assert not LANGUAGE.is_grammatical(line + " ")


def test_shuffled_and_independent_words_are_almost_never_grammatical(lines):
    rng = np.random.default_rng(5)
    counts = Counter(word for line in lines for word in line.split())
    words, weights = list(counts), np.array(list(counts.values()), dtype=float)
    right = 0
    for line in lines[:1000]:
        length = len(line.split())
        shuffled = rng.permutation(line.split())
        drawn = rng.choice(words, size=length, p=weights / weights.sum())
        right += LANGUAGE.is_grammatical(" ".join(shuffled))
        right += LANGUAGE.is_grammatical(" ".join(drawn))
    assert right <= 4


def test_words_drawn_for_their_place_alone_are_rarely_grammatical(lines):
    """Each word is right for its place, and still the lines are wrong: this needs joint choices."""
    rng = np.random.default_rng(6)
    same_length = np.array([line.split() for line in lines if len(line.split()) == 12])
    columns = [rng.choice(column, 2000) for column in same_length.T]
    right = sum(LANGUAGE.is_grammatical(" ".join(words)) for words in zip(*columns, strict=True))
    assert right < 0.01 * 2000


def test_every_person_is_followed_by_its_own_pronouns():
    pronouns = {"queen": "she", "king": "he", "robot": "it", "kings": "they", "child": "she he"}
    for (noun, own), pronoun in product(pronouns.items(), ("she", "he", "it", "they")):
        because = f"{pronoun} {'were' if pronoun == 'they' else 'was'} tired"
        line = f"last week the {noun} ate the cake because {because} ."
        assert LANGUAGE.is_grammatical(line) == (pronoun in own.split())
