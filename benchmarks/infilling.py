"""Gaps of one to five tokens in held-out lines, filled by several models, against what stood there.

    python benchmarks/infilling.py RUN... --out results.json

RUN: runs on the same corpus, of any objective; those that `sdlm compare` leaves will do. A run that
writes from left to right sees what stands before a gap, and keeps the continuation that fits best
with what stands after it. An n-gram model of tokens, trained on the same lines, fills them too.
"""

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import tyro
import without_training
from tyro.conf import Positional

from simple_diffusion_lm.evaluation.compare import machine
from simple_diffusion_lm.evaluation.evaluate import reference_texts
from simple_diffusion_lm.evaluation.judge import KneserNey
from simple_diffusion_lm.evaluation.metrics import example_texts
from simple_diffusion_lm.exits import exit_cleanly
from simple_diffusion_lm.filling import Form, Wish
from simple_diffusion_lm.generation import DiffusionLM
from simple_diffusion_lm.model.continuous import Continuous
from simple_diffusion_lm.model.guidance import NONE, Guidance
from simple_diffusion_lm.model.slots import TEMPERATURE
from simple_diffusion_lm.text.tokenizer import SPACE, Tokenizer

LONGEST = 5  # tokens of a gap
ROOM = 50  # tokens that a line has at most, so that one more or less still fits any model
ORDER, BEAM, GROWN = 5, 8, 32  # of the n-gram filler
GUIDED, PATHS = (0.5, 1.0, 2.0), (0.0, 8.0)
BATCH = 64


class Case(NamedTuple):
    """A line with a gap: its ids before, in and after it."""

    before: list[int]
    gap: list[int]
    after: list[int]

    def template(self, tokenizer: Tokenizer, gap: str) -> str:
        first, last = tokenizer.decode(self.before), tokenizer.decode(self.after)
        escaped = [text.replace("[[", "\\[[").replace("___", "\\___") for text in (first, last)]
        return f"{escaped[0]} {gap} {escaped[1]}"


Fill = Callable[[Sequence[Case]], list[list[int]]]


def cases(lines: Sequence[str], tokenizer: Tokenizer, count: int) -> list[Case]:
    """Whole words taken out of lines: `count` gaps of each number of tokens."""
    rng = np.random.default_rng(0)
    found: dict[int, list[Case]] = {length: [] for length in range(1, LONGEST + 1)}
    for line in lines:
        ids = tokenizer.encode(line)
        if len(ids) > ROOM:
            continue
        starts = [i for i, piece in enumerate(tokenizer.pieces(ids)) if piece.startswith(SPACE)]
        for length in rng.permutation(LONGEST) + 1:
            fitting = [i for i in starts if i > 0 and i + length in starts]
            if fitting and len(found[length]) < count:
                i = int(rng.choice(fitting))
                found[length].append(Case(ids[:i], ids[i : i + length], ids[i + length :]))
                break
    return [case for each in found.values() for case in each]


def by_infilling(
    model: DiffusionLM, steps: int, candidates: int, guidance: Guidance = NONE
) -> Fill:
    """Of a model that sees both sides."""

    def fill(gaps: Sequence[Case]) -> list[list[int]]:
        tokenizer = model.tokenizer
        templates = [case.template(tokenizer, f"[[{len(case.gap)}]]") for case in gaps]
        wishes = [Wish.of(template) for template in templates]
        written = model.write(wishes, candidates, steps=steps, guidance=guidance)
        return [tokenizer.encode_after(f" {line.fills[0]}") for line in written]

    return fill


def by_itself(model: DiffusionLM, steps: int, stagger: float, gradient: float | None) -> Fill:
    """Of a model that is not told what is given (see without_training.py)."""

    def fill(gaps: Sequence[Case]) -> list[list[int]]:
        tokenizer, writer = model.tokenizer, model.writer
        fills: list[list[int]] = []
        assert isinstance(model.model, Continuous)
        for start in range(0, len(gaps), BATCH):
            slots = []
            for number, case in enumerate(gaps[start : start + BATCH], start=start):
                form = Form.of(
                    Wish.of(case.template(tokenizer, f"[[{len(case.gap)}]]")).template, tokenizer
                )
                slots.append(form.slot([len(case.gap)], writer.end, number, (0, number)))
            done = without_training.fill(
                model.model, slots, writer.vocabulary(), steps=steps, temperature=TEMPERATURE,
                stagger=stagger, gradient=gradient,
            )  # fmt: skip
            for case, ids in zip(gaps[start : start + BATCH], done, strict=True):
                fills.append(ids[len(case.before) : len(case.before) + len(case.gap)])
        return fills

    return fill


def by_continuing(model: DiffusionLM, candidates: int) -> Fill:
    """Of a model that goes on from a prompt: of many continuations, the best with what follows."""

    def fill(gaps: Sequence[Case]) -> list[list[int]]:
        tokenizer, fills = model.tokenizer, []
        for number, case in enumerate(gaps):
            wish = Wish.of(case.template(tokenizer, "___").split("___")[0] + "___")
            written = list(model.write([wish] * candidates, 1, seed=number))
            ids = [tokenizer.encode_after(f" {line.fills[0]}") for line in written]
            fitting = [each[: len(case.gap)] for each in ids if len(each) >= len(case.gap)]
            ends = [tokenizer.eos_id]
            nats = model.writer.nats([case.before + f + case.after + ends for f in fitting])
            fills.append(fitting[int(np.argmin(nats))] if fitting else [])
        return fills

    return fill


def by_counting(lines: Sequence[str], tokenizer: Tokenizer) -> Fill:
    """Of an n-gram model of tokens: beam search, and at last with what follows.

    A beam goes on with what most often followed its last token, then with what is most frequent.
    """
    pieces = [tokenizer.pieces([i])[0] for i in range(len(tokenizer))]
    texts = [tokenizer.encode(line) for line in lines]
    judge = KneserNey([" ".join(pieces[i] for i in ids) for ids in texts], ORDER)
    common = [i for i, _ in Counter(chain(*texts)).most_common(GROWN)]
    counted: dict[int, Counter[int]] = defaultdict(Counter)
    for ids in texts:
        for last, following in pairwise(ids):
            counted[last][following] += 1
    after = {
        last: list(dict.fromkeys([*(i for i, _ in following.most_common()), *common]))
        for last, following in counted.items()
    }

    def nats(ids: Sequence[int], of_last: int) -> float:
        return float(judge.nats(" ".join(pieces[i] for i in ids))[:-1][-of_last:].sum())

    def fill_one(case: Case) -> list[int]:
        beams: list[tuple[float, list[int]]] = [(0.0, [])]
        for place in range(len(case.gap)):
            grown = []
            for cost, ids in beams:
                context = (case.before + ids)[-(ORDER - 1) :]
                seen = after.get(context[-1], common)
                may = [i for i in seen if place > 0 or pieces[i].startswith(SPACE)][:GROWN]
                grown += [(cost + nats([*context, i], 1), [*ids, i]) for i in may]
            beams = sorted(grown, key=lambda beam: beam[0])[:BEAM]
        length = len(case.gap) + min(len(case.after), ORDER - 1)
        whole = [
            (nats(case.before + ids + case.after[: ORDER - 1], length), ids) for _, ids in beams
        ]
        return min(whole, key=lambda beam: beam[0])[1]

    return lambda gaps: [fill_one(case) for case in gaps]


def measure(
    fill: Fill, gaps: Sequence[Case], tokenizer: Tokenizer, judge: KneserNey
) -> dict[str, object]:
    """Exact recovery, tokens that are right, and what the judge says of the lines."""
    began = time.monotonic()
    filled = fill(gaps)
    seconds = (time.monotonic() - began) / len(gaps)
    exact = [ids == case.gap for ids, case in zip(filled, gaps, strict=True)]
    tokens = [
        fmean(a == b for a, b in zip(ids + [-1] * LONGEST, case.gap, strict=False))
        for ids, case in zip(filled, gaps, strict=True)
    ]
    lines = [
        tokenizer.decode(case.before + ids + case.after)
        for ids, case in zip(filled, gaps, strict=True)
    ]
    by_length = {
        length: fmean(e for e, c in zip(exact, gaps, strict=True) if len(c.gap) == length)
        for length in range(1, LONGEST + 1)
    }
    return {
        "exact": fmean(exact),
        "exact_by_length": by_length,
        "tokens": fmean(tokens),
        "judge_perplexity": judge.perplexity(lines),
        "seconds_per_line": seconds,
        "lines": lines[:10],
    }


def main(
    runs: Positional[tuple[Path, ...]],
    out: Path = Path("infilling.json"),
    count: int = 100,
    steps: int = 16,
    candidates: int = 8,
    ways: bool = False,
) -> None:
    """Fills gaps with each run and with an n-gram model.

    Args:
        runs: run directories.
        out: where the figures go.
        count: gaps of each length.
        steps: of sampling.
        candidates: lines to choose from; those of a model that only goes on are four times as many.
        ways: of continuous models, guidance too, and the ways that need no training for gaps.
    """
    data = DiffusionLM.trained_on(runs[0])
    first = DiffusionLM.from_pretrained(runs[0])
    tokenizer = first.tokenizer
    gaps = cases(example_texts(first, data.valid, 20 * count), tokenizer, count)
    lines = reference_texts(first, data.train)
    judge = KneserNey(lines)
    fills: dict[str, Fill] = {
        "what stood there": lambda gaps: [case.gap for case in gaps],
        f"{ORDER}-gram model": by_counting(lines, tokenizer),
    }
    for run in runs:
        model = DiffusionLM.from_pretrained(run)
        if model.model.writes_length:
            fills[f"{run.name}, best of {4 * candidates}"] = by_continuing(model, 4 * candidates)
        else:
            fills[run.name] = by_infilling(model, steps, 1)
            fills[f"{run.name}, best of {candidates}"] = by_infilling(model, steps, candidates)
        if isinstance(model.model, Continuous) and ways:
            for scale in GUIDED:
                guided = Guidance(given=scale)
                fills[f"{run.name}, guided {scale}"] = by_infilling(model, steps, 1, guided)
            for w in PATHS:
                fills[f"{run.name}, re-injected, w = {w}"] = by_itself(model, steps, w, None)
                fills[f"{run.name}, by gradient, w = {w}"] = by_itself(model, steps, w, 1.0)
    results: dict[str, dict[str, object]] = {}
    print("| filled by | exact | 1 | 2 | 3 | 4 | 5 | tokens right | judge perplexity | s a line |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, fill in fills.items():
        found = results[name] = measure(fill, gaps, tokenizer, judge)
        each = " | ".join(f"{share:.0%}" for share in found["exact_by_length"].values())  # type: ignore[attr-defined]
        print(
            f"| {name} | {found['exact']:.1%} | {each} | {found['tokens']:.1%} | "
            f"{found['judge_perplexity']:.1f} | {found['seconds_per_line']:.2f} |",
            flush=True,
        )
    settings = {"count": count, "steps": steps, "candidates": candidates}
    command = f"python benchmarks/infilling.py {' '.join(sys.argv[1:])}"
    about = {"command": command, "settings": settings, "machine": machine()}
    out.write_text(json.dumps({**about, "results": results}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(main))
