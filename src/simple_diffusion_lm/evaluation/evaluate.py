"""How good is a run? The likelihood of held-out text, figures of its samples, and Sudoku puzzles solved."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..core.data import Corpus
from ..core.generate import Sampling
from ..corpus.prepare import prepare
from ..errors import UserError
from ..runs.checkpoint import run_of
from ..tasks.sudoku import BOXES, CLUES, SOLUTION, Sudoku, template
from ..writing.model import DiffusionLM, seed_of
from .judge import AutoregressiveJudge
from .likelihood import example_texts, likelihood, plain_batches
from .samples import Reference, check_measurable, sample_metrics, shuffled_words

REFERENCE_TOKENS = 5_000_000  # of the training part, for the n-gram judge and for what is copied
PUZZLES = 200  # of each number of clues
EXACT = 0.1  # the usual temperature for puzzles, which have one right answer


def evaluate_run(
    run: Path,
    data: Sequence[str | Path] = (),
    *,
    field: str = "text",
    examples: int = 2000,
    samples: int = 500,
    sampling: Mapping[str, Any] | None = None,
    seed: int = 0,
    judge: Path | None = None,
) -> dict[str, Any]:
    """Measures a run on the given files, or on its own held-out part: the likelihood, the same figures for
    sets of lines (real, shuffled, samples), and, of Sudoku, puzzles solved.

    samples is how many lines are generated at most, 0 for the likelihood alone; they are held against as
    many held-out ones, and need the corpus the run was trained on. judge: an autoregressive run on it.
    sampling: fields of core.generate.Sampling, where they are not as usual. field: of files of records.

    Raises UserError without a run, without held-out text or a file, and, for samples, the extra `eval`.
    """
    model, reader = DiffusionLM.from_pretrained(run), AutoregressiveJudge(judge) if judge else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:  # Windows: it is mapped
        if data:
            options: dict[str, Any] = {"tokenizer": run_of(run), "stream": model.stream, "field": field}
            options |= {"valid": data, "quiet": True}  # valid: none is held out
            made = prepare(data, Path(directory) / "corpus", **options)
            corpus, lost = made.train, made.meta["parts"]["train"]["changed"]
            if lost:
                print(f"{lost:,} lines have what the tokenizer lacks, which costs much", file=sys.stderr)
        else:
            corpus = DiffusionLM.trained_on(run).valid
            if not len(corpus):
                raise UserError(f"{run}: nothing was held out from its corpus; give --data FILE")
        real = example_texts(model, corpus, samples) if samples > 0 else []
        if samples:
            train = DiffusionLM.trained_on(run).train  # what is missing is said before all work
            check_measurable(samples := len(real))  # most figures depend on how many lines there are
        result = likelihood(model, corpus, examples=examples, seed=seed)
    found = {"progress": vars(model.progress), "likelihood": result, "lines": {}, "puzzles": list[Any]()}
    if samples:
        reference = Reference(reference_texts(model, train), real, reader)
        how = model.sampling(sampling or {})
        lines, found["sampling"] = model.generate(samples, seed=seed, **asdict(how)), asdict(how)
        found["lines"] = {**real_rows(reference), "samples": sample_metrics(lines, reference)}
        if sudoku := sudoku_of(real):
            surer = model.sampling({"temperature": EXACT, **(sampling or {})})
            found["puzzles"] = puzzle_scores(model, sudoku, surer, seed=seed)
    return found


def reference_texts(model: DiffusionLM, train: Corpus) -> list[str]:
    """Texts of the training part: all, or as many as have REFERENCE_TOKENS together."""
    return example_texts(model, train, int(REFERENCE_TOKENS / plain_batches(model, train).lengths().mean()))


def real_rows(reference: Reference) -> dict[str, dict[str, Any]]:
    """The rows that every table has: held-out text, and the same with its words shuffled."""
    return {
        "held-out text": sample_metrics(reference.valid, reference),
        "its words shuffled": sample_metrics(shuffled_words(reference.valid, reference.split), reference),
    }


def sudoku_of(lines: Sequence[str]) -> Sudoku | None:
    """The Sudoku that all of these lines are grids of; None where they are not."""
    return next((s for s in map(Sudoku, BOXES) if lines and all(map(s.is_solved, lines[:100]))), None)


def solve(model: DiffusionLM, puzzles: Sequence[str], sampling: Sampling, seed: int = 0) -> list[str]:
    """Each puzzle as the model fills it."""
    # What writes from left to right has lines of a puzzle, = and the full grid.
    prompts = model.model.writes_length
    templates = [f"{puzzle}{SOLUTION}___" if prompts else template(puzzle) for puzzle in puzzles]
    return model.infill(templates, candidates=1, seed=seed, **asdict(sampling))


def puzzle_scores(
    model: DiffusionLM, sudoku: Sudoku, sampling: Sampling, *, count: int = PUZZLES, seed: int = 0
) -> list[dict[str, Any]]:
    """How many puzzles a model solves, by their number of clues."""
    scores = []
    for clues in CLUES[sudoku.size]:
        rng = np.random.default_rng([seed_of(seed), clues])
        pairs = [sudoku.puzzle(rng, clues) for _ in range(count)]
        written = solve(model, [sudoku.text(puzzle) for puzzle, _ in pairs], sampling, seed)
        scores.append(score(sudoku, pairs, written))
    return scores


def score(
    sudoku: Sudoku, pairs: Sequence[tuple[list[int], list[int]]], written: Sequence[str]
) -> dict[str, Any]:
    """Figures of lines that were written for (puzzle, solution) pairs: the shares of puzzles that are solved
    and of empty cells that are right. What is no grid has no cell right."""
    right = []  # of each puzzle, which of its empty cells
    for (puzzle, solution), line in zip(pairs, written, strict=True):
        cells = sudoku.cells(line) or [0] * len(solution)
        right.append((np.array(cells) == solution)[np.array(puzzle) == 0])
    return {
        "clues": len(pairs[0][0]) - len(right[0]),
        "puzzles": len(pairs),
        "solved": float(np.mean([each.all() for each in right])),
        "cells": float(np.concatenate(right).mean()),
    }
