"""Gaps of one to five tokens in held-out lines, filled by several models.

    python benchmarks/infilling.py RUN... --out results.json

RUN: runs on the same corpus, of any objective; those that `sdlm compare` leaves will do. A run that
writes from left to right sees what stands before a gap, and keeps the continuation that fits best
with what stands after it. An n-gram model of tokens, trained on the same lines, fills them too: it takes
what is most probable, which a model that draws does at a low temperature.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise, product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import measure
import numpy as np
import tyro
from tyro.conf import Positional

from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.core.generate import Sampling
from simple_diffusion_lm.corpus.tokenizer import Tokenizer
from simple_diffusion_lm.evaluation.evaluate import reference_texts
from simple_diffusion_lm.evaluation.judge import KneserNey
from simple_diffusion_lm.evaluation.likelihood import example_texts
from simple_diffusion_lm.writing.model import DiffusionLM
from simple_diffusion_lm.writing.writer import Request

LONGEST = 5  # tokens of a gap
ROOM = 50  # tokens that a line has at most, so that one more or less still fits any model
ORDER, BEAM, GROWN = 5, 8, 32  # of the n-gram filler


class Case(NamedTuple):
    """A line with a gap: its ids before, in and after it."""

    before: list[int]
    gap: list[int]
    after: list[int]

    def request(self, tokenizer: Tokenizer, gap: str, after: bool = True) -> Request:
        """The line as a template, up to its gap or whole."""
        first, last = (measure.literal(tokenizer.decode(ids)) for ids in (self.before, self.after))
        return Request.of(f"{first} {gap} {last}" if after else f"{first} {gap}")


Fill = Callable[[Sequence[Case]], list[list[int]]]


def cases(lines: Sequence[str], tokenizer: Tokenizer, count: int) -> list[Case]:
    """Whole words taken out of lines: `count` gaps of each number of tokens."""
    rng = np.random.default_rng(0)
    found: dict[int, list[Case]] = {length: [] for length in range(1, LONGEST + 1)}
    for line in lines:
        ids = tokenizer.encode(line)
        if len(ids) > ROOM:
            continue
        starts = [i for i, piece in enumerate(tokenizer.spell(ids)) if piece.startswith(" ")]
        for length in rng.permutation(LONGEST) + 1:
            fitting = [i for i in starts if i > 0 and i + length in starts]
            if fitting and len(found[length]) < count:
                i = int(rng.choice(fitting))
                found[length].append(Case(ids[:i], ids[i : i + length], ids[i + length :]))
                break
    return [case for each in found.values() for case in each]


def by_infilling(
    model: DiffusionLM, sampling: Sampling, candidates: int, gaps: Sequence[Case]
) -> list[list[int]]:
    """What a model that sees both sides puts into gaps."""
    tokenizer = model.tokenizer
    requests = [case.request(tokenizer, f"[[{len(case.gap)}]]") for case in gaps]
    written = model.write(requests, candidates, (), 0, sampling)
    return [tokenizer.encode_after(f" {line.fills[0]}") for line in written]


def by_continuing(model: DiffusionLM, how: Sampling, count: int, gaps: Sequence[Case]) -> list[list[int]]:
    """Of a model that predicts the next token: of `count` continuations, the best with what follows."""
    tokenizer, fills = model.tokenizer, []
    for seed, case in enumerate(gaps):
        requests = [case.request(tokenizer, "___", after=False)] * count
        written = model.write(requests, 1, (), seed, how)
        ids = [tokenizer.encode_after(f" {line.fills[0]}") for line in written]
        fitting = [each[: len(case.gap)] for each in ids if len(each) >= len(case.gap)]
        nats = model.nats([case.before + each + case.after + model.end for each in fitting])
        fills.append(fitting[int(np.argmin(nats))] if fitting else [])
    return fills


def by_counting(lines: Sequence[str], tokenizer: Tokenizer) -> Fill:
    """Of an n-gram model of tokens: beam search, and at last with what follows."""
    pieces, texts = tokenizer.texts, [tokenizer.encode(line) for line in lines]
    judge = KneserNey([" ".join(pieces[i] for i in ids) for ids in texts], ORDER)
    followed: dict[int, Counter[int]] = defaultdict(Counter)
    for last, following in chain(*map(pairwise, texts)):
        followed[last][following] += 1
    common = Counter(chain(*texts))

    def nats(ids: Sequence[int], of_last: int) -> float:
        return float(judge.nats(" ".join(pieces[i] for i in ids))[:-1][-of_last:].sum())

    def fill_one(case: Case) -> list[int]:
        beams: list[tuple[float, list[int]]] = [(0.0, [])]
        for place in range(len(case.gap)):
            grown = []
            for cost, ids in beams:
                context = (case.before + ids)[-(ORDER - 1) :]
                likely = [i for i, _ in (followed[context[-1]] or common).most_common()]
                may = [i for i in likely if place > 0 or pieces[i].startswith(" ")] or likely
                grown += [(cost + nats([*context, i], 1), [*ids, i]) for i in may[:GROWN]]
            beams = sorted(grown)[:BEAM]
        after = case.after[: ORDER - 1]
        return min(
            (ids for _, ids in beams), key=lambda ids: nats(case.before + ids + after, len(ids + after))
        )

    return lambda gaps: [fill_one(case) for case in gaps]


def figures(fill: Fill, gaps: Sequence[Case], tokenizer: Tokenizer, judge: KneserNey) -> dict[str, Any]:
    """Exact recovery, tokens that are right, and what the n-gram judge says of the lines."""
    began = time.monotonic()
    pairs = list(zip(fill(gaps), gaps, strict=True))
    seconds = (time.monotonic() - began) / len(gaps)
    exact: dict[int, list[bool]] = defaultdict(list)
    for ids, case in pairs:
        exact[len(case.gap)].append(ids == case.gap)
    right = [[a == b for a, b in zip(ids + [-1] * LONGEST, case.gap, strict=False)] for ids, case in pairs]
    lines = [tokenizer.decode(case.before + ids + case.after) for ids, case in pairs]
    return {
        "exact": fmean(chain(*exact.values())),
        **{f"of {length} tokens": fmean(found) for length, found in exact.items()},
        "tokens right": fmean(map(fmean, right)),
        "ngram_perplexity": judge.perplexity(lines),
        "seconds_per_line": seconds,
        "first": lines[0],
    }


@dataclass(kw_only=True)
class Infilling:
    """Fills gaps with each run and with an n-gram model."""

    runs: Positional[tuple[Path, ...]]  # run directories
    out: Path = Path("infilling.json")  # where the figures go
    count: int = 100  # gaps of each length
    steps: int = 16  # of sampling
    temperatures: tuple[float, ...] = (0.7, 0.1)  # of the models
    candidates: int = 8  # lines to choose from; four times as many of a model that predicts the next token

    def __call__(self) -> None:
        models = {run.name: DiffusionLM.from_pretrained(run) for run in self.runs}
        first, data = next(iter(models.values())), DiffusionLM.trained_on(self.runs[0])
        tokenizer, lines = first.tokenizer, reference_texts(first, data.train)
        gaps = cases(example_texts(first, data.valid, 20 * self.count), tokenizer, self.count)
        judge, many = KneserNey(lines), self.candidates
        fills: dict[str, Fill] = {
            "what stood there": lambda gaps: [case.gap for case in gaps],
            f"{ORDER}-gram model": by_counting(lines, tokenizer),
        }
        for (name, model), temperature in product(models.items(), self.temperatures):
            sampling, label = Sampling(self.steps, temperature=temperature), f"{name} at {temperature}"
            if model.model.writes_length:
                fills[f"{label}, best of {4 * many}"] = partial(by_continuing, model, sampling, 4 * many)
            else:
                fills[label] = partial(by_infilling, model, sampling, 1)
                if temperature == self.temperatures[0]:  # at low ones candidates are alike
                    fills[f"{label}, best of {many}"] = partial(by_infilling, model, sampling, many)
        results: dict[str, Any] = {**measure.about(), "gaps": []}
        for name, fill in fills.items():
            measure.say(name)
            results["gaps"].append({"filled by": name, **figures(fill, gaps, tokenizer, judge)})
            measure.write_results(self.out, results)
        print(measure.shown(results["gaps"]))


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(Infilling)())
