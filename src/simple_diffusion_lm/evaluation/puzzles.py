"""Sudoku puzzles given to a model: how many of them does it solve?"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..core.generate import Sampling
from ..tasks.sudoku import BOXES, SOLUTION, Sudoku, template
from ..writing.model import DiffusionLM

CLUES = {4: (4, 5, 6), 6: (10, 12, 16), 9: (26, 32, 40)}  # of the puzzles of each size: hard, medium, easy
COUNT = 200  # puzzles of each number of clues


def sudoku_of(lines: Sequence[str]) -> Sudoku | None:
    """The Sudoku that all of these lines are grids of; None where they are not."""
    tasks = map(Sudoku, BOXES)
    return next((task for task in tasks if lines and all(map(task.is_solved, lines[:100]))), None)


def solve(model: DiffusionLM, puzzles: Sequence[str], sampling: Sampling, seed: int = 0) -> list[str]:
    """Each puzzle as the model fills it."""
    # What writes from left to right has lines of a puzzle, = and the full grid.
    prompts = model.model.writes_length
    templates = [f"{puzzle}{SOLUTION}___" if prompts else template(puzzle) for puzzle in puzzles]
    return model.infill(templates, candidates=1, seed=seed, **asdict(sampling))


def puzzle_scores(
    model: DiffusionLM, sudoku: Sudoku, sampling: Sampling, *, count: int = COUNT, seed: int = 0
) -> list[dict[str, Any]]:
    """How many puzzles a model solves, by their number of clues."""
    scores = []
    for clues in CLUES[sudoku.size]:
        rng = np.random.default_rng([seed, clues])
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
