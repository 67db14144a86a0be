"""A toy language whose probabilities are known exactly, to measure a language model against.

Its lines are tokenised English: `yesterday the young farmer fed her goats near the river .`
A line is written from left to right. Draw a shape, such as "TIME PERSON ACTION PLACE .", a tense
and a number. Then replace symbol after symbol: one in upper case becomes words or further symbols,
any other stands for itself. What later symbols must agree with is kept in the `State`, so words far
apart constrain each other, and choosing each word by itself gives visibly wrong lines.

Every draw is uniform over the options listed. To add a word, add it to its list in toy.json, once: listed
twice, it would give a line two derivations. A word that may follow "a" begins with a consonant.
"""

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

# The shapes, and the words of each kind. Nouns are one/many; verbs, by what they are done to ("": nothing),
# infinitive/third person/past; references: how one of these is referred to (any other noun: "it").
GRAMMAR: dict[str, Any] = json.loads(Path(__file__).with_name("toy.json").read_text(encoding="utf-8"))
SHAPES, TIMES, NOUNS, VERBS = (GRAMMAR[kind] for kind in ("shapes", "times", "nouns", "verbs"))
DETERMINERS = GRAMMAR["determiners"]


class State(NamedTuple):
    """What is still to be written, and all that it must agree with."""

    symbols: tuple[str, ...]
    tense: str = ""  # a key of TIMES, or "infinitive"
    number: str = ""  # of the noun phrase being written: "one" or "many"
    category: str = ""  # of the noun last written or about to be: a key of NOUNS
    pronoun: str = ""  # what pronouns and verbs agree with: "she or he" is still undecided

    def push(self, symbols: str) -> "State":
        """The state in which these symbols, separated by spaces, come first."""
        return self._replace(symbols=(*symbols.split(), *self.symbols))


@cache
def options(state: State) -> list[tuple[str, State]]:
    """What the first symbol may become: words (maybe none), and the state after them."""
    if not state.symbols:
        return []
    symbol, rest = state.symbols[0], state._replace(symbols=state.symbols[1:])
    _, tense, number, category, pronoun = state
    lists: dict[str, Sequence[str] | None] = {"TIME": TIMES.get(tense), "DETERMINER": DETERMINERS.get(number)}
    lists |= {"ADJECTIVE": GRAMMAR["adjectives"].get(category)}
    lists |= {"PLACE": GRAMMAR["places"], "FEELING": GRAMMAR["feelings"]}
    words = lists.get(symbol) or [symbol]
    match symbol:
        case "SHAPE":  # one of all that follow
            starts = [State((), tense, number) for tense in TIMES for number in DETERMINERS]
            return [("", start.push(shape)) for shape in rest.symbols for start in starts]
        case "PERSON" | "ANIMAL":
            return [("", rest._replace(category=symbol.lower()).push(p)) for p in GRAMMAR["phrases"]]
        case "OBJECT":
            starts = [rest._replace(number=number) for number in DETERMINERS]
            return [("", start.push(phrase)) for phrase in GRAMMAR["object phrases"] for start in starts]
        case "RELATIVE":  # whom later pronouns refer to
            rest = rest._replace(category="relative", pronoun="").push("NOUN")
            return [("", rest._replace(number=number)) for number in DETERMINERS]
        case "NOUN":
            return [noun_option(noun, rest) for noun in NOUNS[category].split()]
        case "ACTION" | "ANTIC" | "GIVE" | "REST" | "DRESS":
            verbs = [(v, goal) for goal, row in VERBS[symbol].items() for v in row.split()]
            return [verb_option(verb, goal, rest) for verb, goal in verbs]
        case "PRONOUN" | "POSSESSIVE" | "REFLEXIVE":
            return [(GRAMMAR["pronouns"][symbol][p], rest._replace(pronoun=p)) for p in pronoun.split(" or ")]
        case "AUXILIARY":
            present = "does" if number == "one" else "do"
            words = [{"past": "did", "present": present, "future": "will"}[tense]]
            rest = rest._replace(tense="infinitive")
        case "BE":
            one, many = ("was", "were") if tense == "past" else ("is", "are")
            words = [many if pronoun == "they" else one]
        case "before" | "while" if tense == "future":  # "he will eat before he sleeps"
            rest = rest._replace(tense="present")
    return [(word, rest) for word in words]


def noun_option(noun: str, rest: State) -> tuple[str, State]:
    """A noun in its number; the first in a line is what later pronouns refer to."""
    one, many = noun.split("/")
    named = [pronoun for pronoun, nouns in GRAMMAR["references"].items() if one in nouns] or ["it"]
    word, pronoun = (one, named[0]) if rest.number == "one" else (many, "they")
    return word, rest._replace(pronoun=rest.pronoun or pronoun)


def verb_option(verb: str, goal: str, rest: State) -> tuple[str, State]:
    """A verb in the form that agrees, then an object of the category that it acts on, if any."""
    infinitive, third, past = verb.split("/")
    present = infinitive if rest.pronoun == "they" else third
    forms = {"past": past, "present": present, "future": f"will {infinitive}"}
    after = rest._replace(category=goal).push("OBJECT") if goal else rest
    return forms.get(rest.tense, infinitive), after


def prob_of_tail(state: State, tail: str) -> float:
    """The probability that a state becomes the rest of a line, in which each word ends in " "."""
    if not state.symbols:
        return float(tail == "")
    found = [(words and words + " ", after) for words, after in options(state)]
    fits = [prob_of_tail(after, tail[len(w) :]) for w, after in found if tail.startswith(w)]
    return sum(fits) / len(found)


class ToyLanguage:
    """The distribution over lines that the shapes define.

    Entropy is that of derivations (sequences of options). It is exact for lines because with the
    shapes above a line has only one derivation, as the tests verify.
    """

    def __init__(self, shapes: Sequence[str] = SHAPES) -> None:
        self.start = State(("SHAPE", *shapes))

    def sample(self, rng: np.random.Generator) -> str:
        """One random line."""
        line, state = "", self.start
        while found := options(state):
            words, state = found[rng.integers(len(found))]
            line += f" {words}" if words else ""
        return line.strip()

    def lines(self, count: int, seed: int) -> list[str]:
        """Independent random lines: the same for the same seed."""
        rng = np.random.default_rng(seed)
        return [self.sample(rng) for _ in range(count)]

    def log_prob(self, line: str) -> float:
        """The log-probability of a line of single-spaced words, over all derivations: nats, or -inf."""
        total = prob_of_tail(self.start, line + " ")
        return math.log(total) if total > 0 else -math.inf

    def is_grammatical(self, line: str) -> bool:
        """Whether the line is in the language."""
        return self.log_prob(line) > -math.inf

    def entropy(self) -> float:
        """The entropy of a line, in nats."""

        @cache
        def left(state: State) -> float:
            found = options(state)
            return math.log(len(found)) + fmean(left(after) for _, after in found) if found else 0.0

        return left(self.start)
